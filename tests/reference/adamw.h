// Several optimiser steps by the algorithms of torch.optim.Adam and torch.optim.AdamW, written from
// the PyTorch documentation, and the problem they are tried on.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "reference/inputs.h"
#include "vitrine/kernels.h"

namespace vitrine::reference {

struct AdamWRecipe {
  bool decoupled;
  float clip_norm, ema_decay, beta1, beta2, eps;
};

inline const std::vector<AdamWRecipe> kAdamWRecipes = {{true, 0.0f, 0.99f, 0.9f, 0.999f, 1e-8f},
                                                       {true, 1.0f, 0.9f, 0.9f, 0.95f, 1e-6f},
                                                       {false, 0.0f, 0.5f, 0.8f, 0.999f, 1e-8f},
                                                       {false, 1e4f, 0.99f, 0.9f, 0.99f, 1e-3f}};

constexpr std::int64_t kAdamWElements = 40003;
constexpr int kAdamWSteps = 7;

// Decayed, not decayed, frozen, slower; holes between them and at the end.
inline const std::vector<ParameterRegion> kAdamWRegions = {{0, 33, 0.05f, 1.0f},
                                                           {64, 20001, 0.0f, 1.0f},
                                                           {20001, 20030, 0.1f, 0.0f},
                                                           {20100, 39999, 0.1f, 0.65f}};

/// Whether element i is in a region that is not frozen.
inline bool is_trained(const std::vector<ParameterRegion>& regions, std::int64_t i) {
  return std::any_of(regions.begin(), regions.end(), [i](const ParameterRegion& region) {
    return i >= region.begin && i < region.end && region.learning_rate_scale != 0.0f;
  });
}

inline float learning_rate_of(int step) {
  return 0.01f * static_cast<float>(1 + step % 3);
}

/// The moving average warms up.
inline float ema_decay_of(const AdamWRecipe& recipe, int step) {
  return recipe.ema_decay * std::min(1.0f, 0.25f * static_cast<float>(step));
}

inline std::vector<float> initial_weights(std::uint64_t seed) {
  return random_normal(kAdamWElements, seed, 0);
}

inline std::vector<float> gradients_of(std::uint64_t seed, int step) {
  return random_normal(kAdamWElements, seed, 10 + step);
}

/// torch.nn.utils.clip_grad_norm_
template <typename T>
T clip_factor(const AdamWRecipe& recipe, const std::vector<float>& gradients) {
  double sum = 0.0;
  for (const float g : gradients) sum += static_cast<double>(g) * static_cast<double>(g);
  if (recipe.clip_norm == 0.0f) return T(1);
  return T(std::min(1.0, static_cast<double>(recipe.clip_norm) / (std::sqrt(sum) + 1e-6)));
}

/// One parameter and its moments.
template <typename T>
struct AdamWElement {
  T weight, first_moment, second_moment;
};

/// Step `step`, counted from 0; g is the clipped gradient.
template <typename T>
void adamw_step(const AdamWRecipe& recipe, const ParameterRegion& region, T learning_rate,
                std::int64_t step, T g, AdamWElement<T>& element) {
  const T lr = learning_rate * T(region.learning_rate_scale);
  const T beta1 = T(recipe.beta1), beta2 = T(recipe.beta2);
  if (recipe.decoupled) {
    element.weight -= lr * T(region.weight_decay) * element.weight;
  } else {
    g += T(region.weight_decay) * element.weight;
  }
  element.first_moment = beta1 * element.first_moment + (1 - beta1) * g;
  element.second_moment = beta2 * element.second_moment + (1 - beta2) * g * g;
  const T m_hat = element.first_moment / (1 - std::pow(beta1, T(step + 1)));
  const T v_hat = element.second_moment / (1 - std::pow(beta2, T(step + 1)));
  element.weight -= lr * m_hat / (std::sqrt(v_hat) + T(recipe.eps));
}

/// The state after kAdamWSteps steps from the initial weights, computed in T.
template <typename T>
struct AdamWResult {
  std::vector<T> weights, first_moment, second_moment, ema;

  AdamWResult(const AdamWRecipe& recipe, const std::vector<ParameterRegion>& regions,
              std::uint64_t seed)
      : weights(converted<T>(initial_weights(seed))),
        first_moment(kAdamWElements),
        second_moment(kAdamWElements),
        ema(weights) {
    for (int step = 0; step < kAdamWSteps; ++step) {
      const std::vector<float> gradients = gradients_of(seed, step);
      const T clip = clip_factor<T>(recipe, gradients);
      for (const ParameterRegion& region : regions) {
        if (region.learning_rate_scale == 0.0f) continue;
        for (std::int64_t i = region.begin; i < region.end; ++i) {
          update(recipe, region, step, clip * T(gradients[i]), i);
        }
      }
    }
  }

  void update(const AdamWRecipe& recipe, const ParameterRegion& region, int step, T g,
              std::int64_t i) {
    AdamWElement<T> element{weights[i], first_moment[i], second_moment[i]};
    adamw_step(recipe, region, T(learning_rate_of(step)), step, g, element);
    weights[i] = element.weight;
    first_moment[i] = element.first_moment;
    second_moment[i] = element.second_moment;
    const T decay = T(ema_decay_of(recipe, step));
    ema[i] = decay * ema[i] + (1 - decay) * element.weight;
  }
};

}  // namespace vitrine::reference
