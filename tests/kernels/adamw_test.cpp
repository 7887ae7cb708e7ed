// Several optimiser steps in CUDA against the algorithms of torch.optim.Adam and torch.optim.AdamW.
#include "reference/adamw.h"

#include "kernels/kernel_device.h"

namespace vitrine::cuda {
namespace {

using reference::AdamWRecipe;
using reference::kAdamWElements;
using reference::kAdamWRecipes;
using reference::kAdamWRegions;

/// The flat buffers on the host.
struct Buffers {
  std::vector<float> weights, first_moment, second_moment, ema, working_copy;
  OptimizerState optimizer;
};

struct Options {
  std::vector<ParameterRegion> regions = kAdamWRegions;
  std::int64_t first = 0;  ///< element at which the views start: off a 16-byte boundary
  bool ema = true, working_copy = true;
  int multiprocessors = 132;
};

/// The flat buffers on the device, `first` elements into their memory.
class DeviceBuffers {
 public:
  DeviceBuffers(DType dtype, std::uint64_t seed, const Options& options)
      : options_(options),
        weights_(shifted(reference::initial_weights(seed))),
        ema_(shifted(reference::initial_weights(seed))),
        first_moment_(shifted(std::vector<float>(kAdamWElements))),
        second_moment_(shifted(std::vector<float>(kAdamWElements))),
        working_copy_(dtype, shifted(reference::initial_weights(seed))),
        regions_(options.regions),
        optimizer_(OptimizerState{}) {}

  AdamW arguments(const AdamWRecipe& recipe, const DeviceArray<float>& gradients,
                  const DeviceArray<StepState>& state) const {
    AdamW args;
    args.weights = view(weights_);
    args.first_moment = view(first_moment_);
    args.second_moment = view(second_moment_);
    if (options_.ema) args.ema = view(ema_);
    if (options_.working_copy) {
      args.working_copy = working_copy_.view(options_.first, kAdamWElements);
    }
    args.gradients = view(gradients);
    args.regions = regions_.view();
    args.optimizer = optimizer_.data();
    args.state = state.data();
    args.beta1 = recipe.beta1, args.beta2 = recipe.beta2, args.eps = recipe.eps;
    args.clip_norm = recipe.clip_norm;
    args.decoupled = recipe.decoupled;
    return args;
  }

  OptimizerState* optimizer() const { return optimizer_.data(); }
  View<float> view(const DeviceArray<float>& array) const {
    return {array.data() + options_.first, kAdamWElements};
  }
  std::vector<float> shifted(std::vector<float> values) const {
    values.insert(values.begin(), options_.first, 1.0f);
    return values;
  }
  Buffers values() const {
    return {back(weights_.values()), back(first_moment_.values()), back(second_moment_.values()),
            back(ema_.values()),     back(working_copy_.values()), optimizer_.values()[0]};
  }

 private:
  std::vector<float> back(std::vector<float> values) const {
    values.erase(values.begin(), values.begin() + options_.first);
    return values;
  }

  Options options_;
  DeviceArray<float> weights_, ema_, first_moment_, second_moment_;
  DeviceTensor working_copy_;
  DeviceArray<ParameterRegion> regions_;
  DeviceArray<OptimizerState> optimizer_;
};

class AdamWKernel : public KernelTest {
 protected:
  Buffers run(DType dtype, const AdamWRecipe& recipe, std::uint64_t seed,
              const Options& options = {}, int steps = reference::kAdamWSteps) {
    CudaKernels chip = kernels_with({.multiprocessors = options.multiprocessors});
    const DeviceBuffers buffers(dtype, seed, options);
    for (int step = 0; step < steps; ++step) {
      const DeviceArray<float> gradients(buffers.shifted(reference::gradients_of(seed, step)));
      const DeviceArray<StepState> state(
          StepState{.learning_rate = reference::learning_rate_of(step),
                    .ema_decay = reference::ema_decay_of(recipe, step)});
      chip.gradient_norm({buffers.optimizer(), buffers.view(gradients)});
      chip.adamw(buffers.arguments(recipe, gradients, state));
    }
    return buffers.values();
  }
};

/// What training leaves in the working copy: weights rounded to its type, or what was there.
std::vector<float> expected_copy(DType dtype, const Buffers& after, const Options& options,
                                 std::uint64_t seed) {
  std::vector<float> copy = reference::initial_weights(seed);
  for (std::int64_t i = 0; i < kAdamWElements; ++i) {
    if (reference::is_trained(options.regions, i)) copy[i] = after.weights[i];
  }
  return rounded_to(dtype, copy);
}

void expect_same(const Buffers& a, const Buffers& b) {
  EXPECT_TRUE(same_bits(a.weights, b.weights));
  EXPECT_TRUE(same_bits(a.first_moment, b.first_moment));
  EXPECT_TRUE(same_bits(a.second_moment, b.second_moment));
  EXPECT_TRUE(same_bits(a.ema, b.ema));
  EXPECT_TRUE(same_bits(a.working_copy, b.working_copy));
}

/// Regions of one to nine elements, some frozen, some with a hole in front.
std::vector<ParameterRegion> small_regions() {
  std::vector<ParameterRegion> regions;
  std::int64_t begin = 0;
  for (int i = 0; begin + 12 < kAdamWElements; ++i) {
    begin += i % 5 == 3 ? 1 + i % 3 : 0;
    const std::int64_t end = begin + 1 + i % 9;
    regions.push_back({begin, end, 0.01f * static_cast<float>(i % 4), i % 7 == 2 ? 0.0f : 1.0f});
    begin = end;
  }
  return regions;
}

TEST_F(AdamWKernel, SeveralStepsAgreeWithDoublePrecision) {
  std::uint64_t seed = 1900;
  for (const AdamWRecipe& recipe : kAdamWRecipes) {
    if (kReduced && &recipe != &kAdamWRecipes[1]) continue;
    SCOPED_TRACE("seed " + std::to_string(++seed));
    const reference::AdamWResult<float> naive(recipe, kAdamWRegions, seed);
    const reference::AdamWResult<double> exact(recipe, kAdamWRegions, seed);
    for (const DType dtype : kFloatTypes) {
      SCOPED_TRACE("type " + std::string(to_string(dtype)));
      const Buffers r = run(dtype, recipe, seed);
      expect_close(r.weights, naive.weights, exact.weights, "weights");
      expect_close(r.first_moment, naive.first_moment, exact.first_moment, "first_moment");
      expect_close(r.second_moment, naive.second_moment, exact.second_moment, "second_moment");
      expect_close(r.ema, naive.ema, exact.ema, "ema");
      EXPECT_TRUE(same_bits(r.working_copy, expected_copy(dtype, r, {}, seed)));
      EXPECT_EQ(r.optimizer.adam_step, reference::kAdamWSteps);
      if (kReduced) break;
    }
  }
}

TEST_F(AdamWKernel, TakesRegionsOfAnyLength) {
  const Options options{.regions = small_regions()};
  for (const AdamWRecipe& recipe : {kAdamWRecipes[1], kAdamWRecipes[2]}) {
    const reference::AdamWResult<float> naive(recipe, options.regions, 1950);
    const reference::AdamWResult<double> exact(recipe, options.regions, 1950);
    const Buffers r = run(DType::bf16, recipe, 1950, options);
    expect_close(r.weights, naive.weights, exact.weights, "weights");
    expect_close(r.second_moment, naive.second_moment, exact.second_moment, "second_moment");
    EXPECT_TRUE(same_bits(r.working_copy, expected_copy(DType::bf16, r, options, 1950)));
    if (kReduced) break;
  }
}

TEST_F(AdamWKernel, LeavesFrozenAndUncoveredElementsAlone) {
  for (const auto& regions : {kAdamWRegions, small_regions()}) {
    const Options options{.regions = regions};
    const Buffers before = run(DType::f16, kAdamWRecipes[1], 2000, options, 0);
    const Buffers after = run(DType::f16, kAdamWRecipes[1], 2000, options, 1);
    for (std::int64_t i = 0; i < kAdamWElements; ++i) {
      const bool trained = reference::is_trained(regions, i);
      ASSERT_EQ(after.weights[i] != before.weights[i], trained) << i;
      ASSERT_EQ(after.first_moment[i] != 0.0f, trained) << i;
      ASSERT_EQ(after.second_moment[i] != 0.0f, trained) << i;
      ASSERT_EQ(after.ema[i] != before.ema[i], trained) << i;
      ASSERT_TRUE(trained || after.working_copy[i] == before.working_copy[i]) << i;
    }
  }
}

// One element or four at a time, one tile a block or sixteen, with and without what is optional.
TEST_F(AdamWKernel, BitsDoNotDependOnTheWayThere) {
  for (const DType dtype : kFloatTypes) {
    const Buffers expected = run(dtype, kAdamWRecipes[1], 2100, {}, 3);
    in_another_order([&] { expect_same(expected, run(dtype, kAdamWRecipes[1], 2100, {}, 3)); });
    expect_same(expected, run(dtype, kAdamWRecipes[1], 2100, {.first = 1}, 3));
    expect_same(expected, run(dtype, kAdamWRecipes[1], 2100, {.multiprocessors = 1}, 3));
    expect_same(expected, run(dtype, kAdamWRecipes[1], 2100, {.multiprocessors = 9}, 3));
    const Options bare{.ema = false, .working_copy = false};
    const Buffers found = run(dtype, kAdamWRecipes[1], 2100, bare, 3);
    EXPECT_TRUE(same_bits(found.weights, expected.weights));
    EXPECT_TRUE(same_bits(found.ema, reference::initial_weights(2100)));
    EXPECT_TRUE(same_bits(found.working_copy, rounded_to(dtype, reference::initial_weights(2100))));
  }
}

TEST_F(AdamWKernel, DoesNothingWhenTheNormIsNotFinite) {
  const Options options;
  const DeviceBuffers buffers(DType::bf16, 2200, options);
  const Buffers before = buffers.values();
  std::vector<float> values = reference::gradients_of(2200, 0);
  values[777] = std::numeric_limits<float>::infinity();
  const DeviceArray<float> gradients(values);
  const DeviceArray<StepState> state(StepState{.learning_rate = 0.1f});
  kernels().gradient_norm({buffers.optimizer(), gradients.view()});
  kernels().adamw(buffers.arguments(kAdamWRecipes[0], gradients, state));
  const Buffers after = buffers.values();
  expect_same(before, after);
  EXPECT_EQ(after.optimizer.skipped_steps, 1);
  EXPECT_EQ(after.optimizer.adam_step, 0);
}

TEST_F(AdamWKernel, RefusesContradictions) {
  const DeviceBuffers buffers(DType::f32, 2300, {});
  const DeviceArray<float> gradients(reference::gradients_of(2300, 0));
  const DeviceArray<StepState> state(StepState{});
  const auto refused = [&](const char* field, auto change) {
    AdamW args = buffers.arguments(kAdamWRecipes[0], gradients, state);
    change(args);
    expect_refused([&] { kernels().adamw(args); }, field);
  };
  refused("weights", [](AdamW& args) { args.weights = {}; });
  refused("first_moment", [](AdamW& args) { args.first_moment.size = 5; });
  refused("second_moment", [](AdamW& args) { args.second_moment.size = 5; });
  refused("ema", [](AdamW& args) { args.ema.size = 5; });
  refused("working_copy", [](AdamW& args) { args.working_copy.size = 5; });
  refused("working_copy", [](AdamW& args) { args.working_copy.dtype = DType::i64; });
  refused("gradients", [](AdamW& args) { args.gradients.size = 5; });
  refused("optimizer", [](AdamW& args) { args.optimizer = nullptr; });
  refused("state", [](AdamW& args) { args.state = nullptr; });
  refused("regions", [](AdamW& args) { args.regions = {}; });
}

}  // namespace
}  // namespace vitrine::cuda
