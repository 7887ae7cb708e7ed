// Several optimiser steps against the algorithms of torch.optim.Adam and torch.optim.AdamW, written
// from the PyTorch documentation.
#include <gtest/gtest.h>

#include "cpu/cpu_kernels.h"
#include "reference_check.h"

namespace vitrine::cpu {
namespace {

constexpr std::int64_t kElements = 40003;
constexpr int kSteps = 7;

View<float> view(std::vector<float>& values) {
  return {values.data(), static_cast<std::int64_t>(values.size())};
}

// Decayed, not decayed, frozen, slower; holes between them and at the end.
const std::vector<ParameterRegion> kRegions = {{0, 33, 0.05f, 1.0f},
                                               {64, 20001, 0.0f, 1.0f},
                                               {20001, 20030, 0.1f, 0.0f},
                                               {20100, 39999, 0.1f, 0.65f}};

struct Recipe {
  bool decoupled;
  float clip_norm, ema_decay, beta1, beta2, eps;
};

float learning_rate_of(int step) {
  return 0.01f * static_cast<float>(1 + step % 3);
}

std::vector<float> gradients_of(std::uint64_t seed, int step) {
  return random_normal(kElements, seed, 10 + step);
}

struct Result {
  std::vector<float> weights, first_moment, second_moment, ema, working_copy;
  OptimizerState optimizer;
};

Result fresh(std::uint64_t seed) {
  Result r;
  r.weights = r.ema = random_normal(kElements, seed, 0);
  r.first_moment = r.second_moment = std::vector<float>(kElements, 0.0f);
  r.working_copy = r.weights;
  return r;
}

AdamW arguments(const Recipe& recipe, Result& r, std::vector<float>& gradients,
                const StepState& state) {
  AdamW args;
  args.weights = view(r.weights);
  args.first_moment = view(r.first_moment);
  args.second_moment = view(r.second_moment);
  args.ema = view(r.ema);
  args.working_copy = view(r.working_copy);
  args.gradients = view(gradients);
  args.regions = {kRegions.data(), static_cast<std::int64_t>(kRegions.size())};
  args.optimizer = &r.optimizer;
  args.state = &state;
  args.beta1 = recipe.beta1, args.beta2 = recipe.beta2, args.eps = recipe.eps;
  args.clip_norm = recipe.clip_norm;
  args.ema_decay = recipe.ema_decay;
  args.decoupled = recipe.decoupled;
  return args;
}

Result run(const Recipe& recipe, std::uint64_t seed, int threads) {
  ThreadPool pool(threads);
  CpuKernels kernels(pool);
  Result r = fresh(seed);
  for (int step = 0; step < kSteps; ++step) {
    std::vector<float> gradients = gradients_of(seed, step);
    StepState state;
    state.learning_rate = learning_rate_of(step);
    kernels.gradient_norm({&r.optimizer, view(gradients)});
    kernels.adamw(arguments(recipe, r, gradients, state));
  }
  return r;
}

// torch.nn.utils.clip_grad_norm_
template <typename T>
T clip_factor(const Recipe& recipe, const std::vector<float>& gradients) {
  double sum = 0.0;
  for (const float g : gradients) sum += static_cast<double>(g) * static_cast<double>(g);
  if (recipe.clip_norm == 0.0f) return T(1);
  return T(std::min(1.0, static_cast<double>(recipe.clip_norm) / (std::sqrt(sum) + 1e-6)));
}

template <typename T>
struct Reference {
  std::vector<T> weights, first_moment, second_moment, ema;

  Reference(const Recipe& recipe, std::uint64_t seed)
      : weights(converted<T>(fresh(seed).weights)),
        first_moment(kElements),
        second_moment(kElements),
        ema(weights) {
    for (int step = 0; step < kSteps; ++step) {
      const std::vector<float> gradients = gradients_of(seed, step);
      const T clip = clip_factor<T>(recipe, gradients);
      for (const ParameterRegion& region : kRegions) {
        if (region.learning_rate_scale == 0.0f) continue;
        for (std::int64_t i = region.begin; i < region.end; ++i) {
          update(recipe, region, step, clip * T(gradients[i]), i);
        }
      }
    }
  }

  void update(const Recipe& recipe, const ParameterRegion& region, int step, T g, std::int64_t i) {
    const T lr = T(learning_rate_of(step)) * T(region.learning_rate_scale);
    const T beta1 = T(recipe.beta1), beta2 = T(recipe.beta2);
    T& w = weights[i];
    if (recipe.decoupled) {
      w -= lr * T(region.weight_decay) * w;
    } else {
      g += T(region.weight_decay) * w;
    }
    first_moment[i] = beta1 * first_moment[i] + (1 - beta1) * g;
    second_moment[i] = beta2 * second_moment[i] + (1 - beta2) * g * g;
    const T m_hat = first_moment[i] / (1 - std::pow(beta1, T(step + 1)));
    const T v_hat = second_moment[i] / (1 - std::pow(beta2, T(step + 1)));
    w -= lr * m_hat / (std::sqrt(v_hat) + T(recipe.eps));
    ema[i] = T(recipe.ema_decay) * ema[i] + (1 - T(recipe.ema_decay)) * w;
  }
};

const std::vector<Recipe> kRecipes = {{true, 0.0f, 0.99f, 0.9f, 0.999f, 1e-8f},
                                      {true, 1.0f, 0.9f, 0.9f, 0.95f, 1e-6f},
                                      {false, 0.0f, 0.5f, 0.8f, 0.999f, 1e-8f},
                                      {false, 1e4f, 0.99f, 0.9f, 0.99f, 1e-3f}};

TEST(AdamW, SeveralStepsAgreeWithDoublePrecision) {
  std::uint64_t seed = 1900;
  for (const Recipe& recipe : kRecipes) {
    SCOPED_TRACE("seed " + std::to_string(++seed));
    const Result r = run(recipe, seed, 2);
    const Reference<float> naive(recipe, seed);
    const Reference<double> exact(recipe, seed);
    expect_close(r.weights, naive.weights, exact.weights, "weights");
    expect_close(r.first_moment, naive.first_moment, exact.first_moment, "first_moment");
    expect_close(r.second_moment, naive.second_moment, exact.second_moment, "second_moment");
    expect_close(r.ema, naive.ema, exact.ema, "ema");
    EXPECT_TRUE(same_bits(r.working_copy, r.weights));
    EXPECT_EQ(r.optimizer.adam_step, kSteps);
  }
}

TEST(AdamW, LeavesFrozenAndUncoveredElementsAlone) {
  const Result before = fresh(2000);
  const Result after = run(kRecipes[1], 2000, 2);
  for (std::int64_t i = 0; i < kElements; ++i) {
    const bool trained = std::any_of(kRegions.begin(), kRegions.end(), [i](const auto& region) {
      return i >= region.begin && i < region.end && region.learning_rate_scale != 0.0f;
    });
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
  kernels.adamw(arguments(kRecipes[0], r, gradients, state));
  EXPECT_TRUE(same_bits(r.weights, before.weights));
  EXPECT_TRUE(same_bits(r.first_moment, before.first_moment));
  EXPECT_TRUE(same_bits(r.second_moment, before.second_moment));
  EXPECT_TRUE(same_bits(r.ema, before.ema));
  EXPECT_EQ(r.optimizer.skipped_steps, 1);
}

TEST(AdamW, BitsDoNotDependOnThreads) {
  const Result one = run(kRecipes[1], 2200, 1);
  for (const int threads : {2, 3}) {
    const Result many = run(kRecipes[1], 2200, threads);
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
    AdamW args = arguments(kRecipes[0], r, gradients, state);
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
  std::vector<ParameterRegion> regions = kRegions;
  regions[1].begin = 30;
  refused("regions[1]", [&](AdamW& args) { args.regions.data = regions.data(); });
  regions = kRegions;
  regions[3].end = kElements + 1;
  refused("regions[3]", [&](AdamW& args) { args.regions.data = regions.data(); });
}

}  // namespace
}  // namespace vitrine::cpu
