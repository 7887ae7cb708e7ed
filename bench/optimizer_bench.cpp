// The optimiser over flat buffers: the gradient norm and one AdamW step, in bytes of memory moved.
#include <benchmark/benchmark.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "cpu/cpu_kernels.h"
#include "vitrine/random.h"

namespace vitrine::cpu {
namespace {

std::vector<float> random_normal(std::int64_t n, std::uint64_t stream) {
  RandomStream random(1, stream);
  std::vector<float> values(n);
  for (float& value : values) value = static_cast<float>(random.normal());
  return values;
}

View<float> view(std::vector<float>& values) {
  return {values.data(), static_cast<std::int64_t>(values.size())};
}

void gradient_norm(benchmark::State& state) {
  std::vector<float> gradients = random_normal(state.range(0), 1);
  ThreadPool pool(static_cast<int>(state.range(1)));
  CpuKernels kernels(pool);
  OptimizerState optimizer;
  kernels.gradient_norm({&optimizer, view(gradients)});
  double sum = 0.0;
  for (const float g : gradients) sum += static_cast<double>(g) * static_cast<double>(g);
  if (!(std::abs(optimizer.gradient_norm / std::sqrt(sum) - 1.0) < 1e-9)) {
    return state.SkipWithError("wrong norm");
  }
  for (auto _ : state) kernels.gradient_norm({&optimizer, view(gradients)});
  state.SetBytesProcessed(state.iterations() * state.range(0) * 4);
}

void adamw(benchmark::State& state) {
  const std::int64_t n = state.range(0);
  std::vector<float> weights = random_normal(n, 1), gradients = random_normal(n, 2);
  std::vector<float> first_moment(n), second_moment(n);
  const std::vector<float> before = weights;
  const ParameterRegion region{0, n, 0.05f, 1.0f};
  OptimizerState optimizer{1, 0, 1.0};
  StepState step;
  step.learning_rate = 1e-3f;
  AdamW args;
  args.weights = view(weights);
  args.first_moment = view(first_moment), args.second_moment = view(second_moment);
  args.gradients = view(gradients);
  args.regions = {&region, 1};
  args.optimizer = &optimizer;
  args.state = &step;

  ThreadPool pool(static_cast<int>(state.range(1)));
  CpuKernels kernels(pool);
  kernels.adamw(args);
  for (std::int64_t i = 0; i < n; ++i) {
    const auto g = static_cast<double>(gradients[i]);
    const double expected =
        static_cast<double>(before[i]) * (1.0 - 5e-5) - 1e-3 * g / (std::abs(g) + 1e-8);
    if (!(std::abs(static_cast<double>(weights[i]) - expected) < 1e-5)) {
      return state.SkipWithError("wrong step");
    }
  }
  for (auto _ : state) kernels.adamw(args);
  state.SetBytesProcessed(state.iterations() * n * 7 * 4);
}

// Elements, threads: the parameters of the tutorial model, cifar10-small and ViT-Ti/16.
BENCHMARK(gradient_norm)
    ->ArgNames({"n", "threads"})
    ->Args({2500, 1})
    ->Args({120000, 1})
    ->Args({5717416, 1})
    ->Args({5717416, 2})
    ->UseRealTime();
BENCHMARK(adamw)
    ->ArgNames({"n", "threads"})
    ->Args({2500, 1})
    ->Args({120000, 1})
    ->Args({5717416, 1})
    ->Args({5717416, 2})
    ->UseRealTime();

}  // namespace
}  // namespace vitrine::cpu

BENCHMARK_MAIN();
