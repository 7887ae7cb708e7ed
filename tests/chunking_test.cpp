// How a plan cuts a batch into chunks and what it says of memory and cost, without a device.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <iostream>

#include "vitrine/plan.h"
#include "vitrine/random.h"
#include "vitrine/recipe.h"
#include "vitrine/vit.h"

namespace vitrine {
namespace {

TEST(LargestThatFits, IsTheThreshold) {
  for (std::int64_t limit = 0; limit <= 40; ++limit) {
    for (std::int64_t threshold = 0; threshold <= limit + 2; ++threshold) {
      const std::int64_t found = largest_that_fits(limit, [&](std::int64_t n) {
        EXPECT_TRUE(n >= 1 && n <= limit) << "asked for " << n << " of " << limit;
        return n <= threshold;
      });
      EXPECT_EQ(found, std::min(limit, threshold)) << limit << " " << threshold;
    }
  }
  const std::int64_t huge = std::int64_t{1} << 40;
  EXPECT_EQ(largest_that_fits(huge, [](std::int64_t n) { return n <= 123456789012; }),
            123456789012);
}

TEST(ChooseChunking, CoversTheBatch) {
  const std::uint64_t seed = 5;
  std::cout << "seed " << seed << "\n";
  RandomStream random(seed, 0);
  int cut = 0;
  for (int round = 0; round < 3000; ++round) {
    const auto batch = static_cast<std::int64_t>(1 + random.below(400));
    const auto bytes = static_cast<std::int64_t>(std::exp(random.uniform(0, 18)));
    const auto parameters = static_cast<std::int64_t>(std::exp(random.uniform(0, 18)));
    const Chunking c = choose_chunking(batch, bytes, parameters, {});
    EXPECT_EQ(c.batch, batch);
    EXPECT_GE(c.rows * c.count, batch);
    EXPECT_LT(c.rows * (c.count - 1), batch) << "a chunk without rows";
    EXPECT_TRUE(c.rows >= 1 && c.lanes >= 1 && c.lanes <= c.count);
    EXPECT_EQ(c, choose_chunking(batch, bytes, parameters, {.max_partials = 8}));
    const Chunking whole = choose_chunking(batch, bytes, parameters, {.chunks = false});
    EXPECT_EQ(whole, (Chunking{.batch = batch, .rows = batch, .count = 1, .lanes = 1}));
    cut += c.count > 1;
  }
  EXPECT_GT(cut, 500);
}

TEST(ChooseChunking, DoesNotDependOnThreads) {
  for (const char* name : {"mnist-tutorial", "cifar10-small", "notes-encoder"}) {
    const VitConfig config = preset(name).model;
    const Chunking one = plan_vit(config, {}, 128, make_cpu_device(1)->traits()).chunking();
    EXPECT_EQ(plan_vit(config, {}, 128, make_cpu_device(2)->traits()).chunking(), one) << name;
    EXPECT_EQ(plan_vit(config, {}, 128, make_cpu_device(5)->traits()).chunking(), one) << name;
  }
}

TEST(ChooseChunking, CutsSmallModelsOnly) {
  const DeviceTraits traits;
  EXPECT_GT(plan_vit(preset("cifar10-small").model, {}, 256, traits).chunking().count, 1);
  const Chunking base = plan_vit(preset("vit_base_patch16_224").model, {}, 8, traits).chunking();
  EXPECT_EQ(base, (Chunking{.batch = 8, .rows = 8, .count = 1, .lanes = 1}));
}

TEST(MemoryReport, AddsUpAndGrowsWithTheBatch) {
  DeviceTraits traits;
  traits.chunks = false;
  const VitConfig config = preset("vit_tiny_patch16_224").model;
  std::int64_t before = 0;
  for (std::int64_t batch : {1, 2, 3, 8, 64}) {
    const Plan plan = plan_vit(config, {.probabilities = true}, batch, traits);
    const MemoryReport report = plan.memory(1);
    EXPECT_EQ(report.total(), report.weights + report.gradients + report.moments +
                                  report.activations + report.outputs + report.runtime);
    EXPECT_EQ(report.weights, plan.parameter_elements() * 4);
    EXPECT_EQ(report.gradients, report.weights);
    EXPECT_EQ(report.moments, 2 * report.weights);
    EXPECT_EQ(report.activations, plan.arena_bytes());
    EXPECT_GE(report.outputs, 2 * batch * config.num_classes * 4) << "logits and probabilities";
    EXPECT_GT(report.total(), before);
    before = report.total();
  }
}

TEST(MemoryReport, CountsLanesAndWorkers) {
  const Plan plan = plan_vit(preset("cifar10-small").model, {}, 256, {});
  const std::int64_t lanes = plan.chunking().lanes;
  ASSERT_GT(lanes, 1);
  EXPECT_EQ(plan.memory(1).gradients, lanes * plan.memory(1).weights);
  EXPECT_EQ(plan.memory(2).activations, 2 * plan.arena_bytes());
  EXPECT_EQ(plan.memory(1000).activations, lanes * plan.arena_bytes());
  const Plan evaluation = plan_vit(preset("cifar10-small").model, {.training = false}, 256, {});
  EXPECT_EQ(evaluation.memory(1).gradients + evaluation.memory(1).moments, 0);
  EXPECT_LT(evaluation.arena_bytes() / evaluation.chunking().rows,
            plan.arena_bytes() / plan.chunking().rows);
}

TEST(Plan, StartsTensorsAtMultiplesOf256Bytes) {
  const Plan plan = plan_vit(preset("mnist-tutorial").model, {}, 4, {});
  std::int64_t end = 0;
  for (std::size_t p = 0; p < plan.graph().parameters().size(); ++p) {
    const std::int64_t offset = plan.parameter_offset(static_cast<int>(p));
    EXPECT_EQ(offset % 64, 0);
    EXPECT_GE(offset, end);
    end = offset + plan.graph().parameters()[p].shape.elements();
  }
  EXPECT_GE(plan.parameter_elements(), end);
  EXPECT_EQ(plan.parameter_elements() % 64, 0);
}

TEST(Plan, CostIsThatOfTheWholeBatch) {
  const VitConfig config = preset("cifar10-small").model;
  const Plan one(build_vit(config, {.rows = 1}), {}, {.batch = 1, .rows = 1});
  const Plan many = plan_vit(config, {}, 64, {});
  const auto images = static_cast<double>(many.chunking().rows * many.chunking().count);
  EXPECT_NEAR(many.forward_flops(), images * one.forward_flops(), 1e-6 * many.forward_flops());
  EXPECT_GT(many.cost().flops, 2.5 * many.forward_flops());
  EXPECT_LT(many.cost().flops, 3.5 * many.forward_flops());
  EXPECT_GT(many.cost().bytes, 0.0);
}

}  // namespace
}  // namespace vitrine
