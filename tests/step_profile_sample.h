// A profile made by hand.
#pragma once

#include <algorithm>

#include "vitrine/step_profile.h"

namespace vitrine {

inline constexpr double kMillisecond = 1e-3;

/// Two workers, three layers, four chunks; each operation takes as many ms as it has a number.
inline StepProfile sample() {
  StepProfile p;
  p.model = "a <model>";
  p.device = "cpu";
  p.description = "2 threads";
  p.precision = "fp32";
  p.data = "stripes";
  p.images_per_step = 64;
  p.chunking = {.batch = 64, .rows = 16, .count = 4, .lanes = 4};
  p.model_flops = 1e9;
  p.planned_bytes = 1 << 20;
  p.times.operations = {{"patch_embed_forward", "patch_embed", "forward", 1e6, 1e6, 2},
                        {"matmul", "blocks.0.mlp.fc1", "forward", 4e8, 1e6, 2},
                        {"attention_backward", "blocks.0.attn", "backward", 2e8, 2e6, 2},
                        {"cross_entropy", "loss", "forward", 0, 1e4, 2},
                        {"adamw", "", "update", 12e6, 28e6, 1}};
  p.times.sums.resize(p.times.operations.size());
  p.times.steps = 2;
  p.times.workers = 2;
  const int last = static_cast<int>(p.times.operations.size()) - 1;
  for (int step = 0; step < 2; ++step) {
    p.times.last_step.clear();
    double at[2] = {0, 0};
    const auto add = [&](int operation, int worker) {
      const double begin = at[worker], end = begin + (operation + 1) * kMillisecond;
      p.times.last_step.push_back({operation, worker, begin, end});
      p.times.sums[static_cast<std::size_t>(operation)].calls += 1;
      p.times.sums[static_cast<std::size_t>(operation)].seconds += end - begin;
      at[worker] = end;
    };
    for (int chunk = 0; chunk < 4; ++chunk) {
      for (int operation = 0; operation < last; ++operation) add(operation, chunk % 2);
    }
    at[0] = std::max(at[0], at[1]);
    add(last, 0);
    p.timed_seconds.push_back(at[0] + 2 * kMillisecond);
  }
  p.plain_seconds = {26 * kMillisecond, 25 * kMillisecond};
  p.wall_seconds = {25 * kMillisecond, 26 * kMillisecond, 30 * kMillisecond};
  p.roof = {
      .copies = {{1e4, 2e11}, {1e6, 1e11}, {1e8, 1e10}}, .flops_per_second = 1e12, .workers = 2};
  return p;
}

}  // namespace vitrine
