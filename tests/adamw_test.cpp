// Several optimiser steps against the algorithms of torch.optim.Adam and torch.optim.AdamW.
#include "reference/adamw.h"

#include <gtest/gtest.h>

#include "cpu/cpu_kernels.h"
#include "reference_check.h"

namespace vitrine::cpu {
namespace {

using namespace reference;  // adamw.h: the problem

View<float> view(std::vector<float>& values) {
  return {values.data(), static_cast<std::int64_t>(values.size())};
}

struct Result {
  std::vector<float> weights, first_moment, second_moment, ema, working_copy;
  OptimizerState optimizer;
};

Result fresh(std::uint64_t seed) {
  Result r;
  r.weights = r.ema = initial_weights(seed);
  r.first_moment = r.second_moment = std::vector<float>(kAdamWElements, 0.0f);
  r.working_copy = r.weights;
  return r;
}

AdamW arguments(const AdamWRecipe& recipe, Result& r, std::vector<float>& gradients,
                const StepState& state) {
  AdamW args;
  args.weights = view(r.weights);
  args.first_moment = view(r.first_moment);
  args.second_moment = view(r.second_moment);
  args.ema = view(r.ema);
  args.working_copy = view(r.working_copy);
  args.gradients = view(gradients);
  args.regions = {kAdamWRegions.data(), static_cast<std::int64_t>(kAdamWRegions.size())};
  args.optimizer = &r.optimizer;
  args.state = &state;
  args.beta1 = recipe.beta1, args.beta2 = recipe.beta2, args.eps = recipe.eps;
  args.clip_norm = recipe.clip_norm;
  args.decoupled = recipe.decoupled;
  return args;
}

Result run(const AdamWRecipe& recipe, std::uint64_t seed, int threads) {
  ThreadPool pool(threads);
  CpuKernels kernels(pool);
  Result r = fresh(seed);
  for (int step = 0; step < kAdamWSteps; ++step) {
    std::vector<float> gradients = gradients_of(seed, step);
    StepState state;
    state.learning_rate = learning_rate_of(step);
    state.ema_decay = ema_decay_of(recipe, step);
    kernels.gradient_norm({&r.optimizer, view(gradients)});
    kernels.adamw(arguments(recipe, r, gradients, state));
  }
  return r;
}

TEST(AdamW, SeveralStepsAgreeWithDoublePrecision) {
  std::uint64_t seed = 1900;
  for (const AdamWRecipe& recipe : kAdamWRecipes) {
    SCOPED_TRACE("seed " + std::to_string(++seed));
    const Result r = run(recipe, seed, 2);
    const AdamWResult<float> naive(recipe, kAdamWRegions, seed);
    const AdamWResult<double> exact(recipe, kAdamWRegions, seed);
    expect_close(r.weights, naive.weights, exact.weights, "weights");
    expect_close(r.first_moment, naive.first_moment, exact.first_moment, "first_moment");
    expect_close(r.second_moment, naive.second_moment, exact.second_moment, "second_moment");
    expect_close(r.ema, naive.ema, exact.ema, "ema");
    EXPECT_TRUE(same_bits(r.working_copy, r.weights));
    EXPECT_EQ(r.optimizer.adam_step, kAdamWSteps);
  }
}

TEST(AdamW, LeavesFrozenAndUncoveredElementsAlone) {
  const Result before = fresh(2000);
  const Result after = run(kAdamWRecipes[1], 2000, 2);
  for (std::int64_t i = 0; i < kAdamWElements; ++i) {
    const bool trained = is_trained(kAdamWRegions, i);
    ASSERT_EQ(after.weights[i] != before.weights[i], trained) << i;
    ASSERT_EQ(after.first_moment[i] != 0.0f, trained) << i;
    ASSERT_EQ(after.ema[i] != before.ema[i], trained) << i;
  }
}

TEST(AdamW, DoesNothingWhenTheNormIsNotFinite) {
  ThreadPool pool(2);
  CpuKernels kernels(pool);
  Result r = fresh(2100);
  const Result before = r;
  std::vector<float> gradients = gradients_of(2100, 0);
  gradients[777] = std::numeric_limits<float>::infinity();
  StepState state;
  state.learning_rate = 0.1f;
  kernels.gradient_norm({&r.optimizer, view(gradients)});
  kernels.adamw(arguments(kAdamWRecipes[0], r, gradients, state));
  EXPECT_TRUE(same_bits(r.weights, before.weights));
  EXPECT_TRUE(same_bits(r.first_moment, before.first_moment));
  EXPECT_TRUE(same_bits(r.second_moment, before.second_moment));
  EXPECT_TRUE(same_bits(r.ema, before.ema));
  EXPECT_EQ(r.optimizer.skipped_steps, 1);
}

TEST(AdamW, BitsDoNotDependOnThreads) {
  const Result one = run(kAdamWRecipes[1], 2200, 1);
  for (const int threads : {2, 3}) {
    const Result many = run(kAdamWRecipes[1], 2200, threads);
    EXPECT_TRUE(same_bits(one.weights, many.weights));
    EXPECT_TRUE(same_bits(one.second_moment, many.second_moment));
  }
}

TEST(AdamW, RefusesContradictions) {
  ThreadPool pool(1);
  CpuKernels kernels(pool);
  Result r = fresh(2300);
  r.optimizer.adam_step = 1;
  std::vector<float> gradients = gradients_of(2300, 0);
  const StepState state;
  const auto refused = [&](const char* field, auto change) {
    AdamW args = arguments(kAdamWRecipes[0], r, gradients, state);
    change(args);
    expect_refused([&] { kernels.adamw(args); }, field);
  };
  refused("weights", [](AdamW& args) { args.weights = {}; });
  refused("first_moment", [](AdamW& args) { args.first_moment.size = 5; });
  refused("second_moment", [](AdamW& args) { args.second_moment.size = 5; });
  refused("ema", [](AdamW& args) { args.ema.size = 5; });
  refused("working_copy", [](AdamW& args) { args.working_copy.size = 5; });
  refused("gradients", [](AdamW& args) { args.gradients.size = 5; });
  refused("optimizer", [](AdamW& args) { args.optimizer = nullptr; });
  refused("state", [](AdamW& args) { args.state = nullptr; });
  refused("regions", [](AdamW& args) { args.regions = {}; });
  const OptimizerState unused;
  refused("adam_step", [&](AdamW& args) { args.optimizer = &unused; });
  std::vector<ParameterRegion> regions = kAdamWRegions;
  regions[1].begin = 30;
  refused("regions[1]", [&](AdamW& args) { args.regions.data = regions.data(); });
  regions = kAdamWRegions;
  regions[3].end = kAdamWElements + 1;
  refused("regions[3]", [&](AdamW& args) { args.regions.data = regions.data(); });
}

}  // namespace
}  // namespace vitrine::cpu
