// Cross-entropy by its definition, row by row.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "reference/inputs.h"
#include "vitrine/kernels.h"

namespace vitrine::reference::cross_entropy {

struct Case {
  std::int64_t batch, classes;
  float label_smoothing;
  bool head_softmax, soft_targets;
  bool mixed = false;
  LossKind kind = LossKind::softmax;
  float target_threshold = -1.0f;
  bool sum_classes = false;
};

struct Problem {
  Case c;
  std::vector<float> logits, targets;
  std::vector<std::int32_t> labels;
  std::vector<LabelMix> mixes;
  StepState state;

  Problem(const Case& c_, std::uint64_t seed)
      : c(c_), logits(random_normal(c.batch * c.classes, seed, 0)), labels(c.batch) {
    RandomStream random(seed, 1);
    for (float& z : logits) z *= 3.0f;
    for (std::int32_t& label : labels) label = static_cast<std::int32_t>(random.below(c.classes));
    labels[c.batch / 2] = -1;
    if (c.soft_targets) {
      for (std::int64_t i = 0; i < c.batch * c.classes; ++i) {
        targets.push_back(static_cast<float>(random.uniform(0.1, 1.0)));
      }
    }
    if (c.mixed) mix(seed);
    state.loss_scale = 0.37f;
  }

  /// Every third row stays as it is; one is mixed with an image of its own class.
  void mix(std::uint64_t seed) {
    RandomStream random(seed, 2);
    for (std::int64_t row = 0; row < c.batch; ++row) {
      LabelMix mix{.other = static_cast<std::int32_t>(random.below(c.classes)),
                   .weight = static_cast<float>(random.uniform(0.0, 1.0))};
      if (row % 3 == 2) mix = {};
      if (row == 1) mix.other = labels[1];
      mixes.push_back(mix);
    }
  }

  /// The arguments but for the views, which are the device's.
  CrossEntropy options() const {
    CrossEntropy args;
    args.batch = c.batch, args.classes = c.classes;
    args.kind = c.kind;
    args.label_smoothing = c.label_smoothing;
    args.target_threshold = c.target_threshold;
    args.sum_classes = c.sum_classes;
    args.head_softmax = c.head_softmax;
    return args;
  }
};

/// The label that counts are those of.
inline std::int32_t counted_label(const Problem& p, std::int64_t row) {
  if (!p.c.mixed || p.labels[row] < 0 || p.mixes[row].other < 0) return p.labels[row];
  return p.mixes[row].weight < 0.5f ? p.mixes[row].other : p.labels[row];
}

template <typename T>
std::vector<T> softmax(const std::vector<T>& z) {
  const T maximum = *std::max_element(z.begin(), z.end());
  std::vector<T> p;
  T sum = 0;
  for (const T v : z) sum += std::exp(v - maximum);
  for (const T v : z) p.push_back(std::exp(v - maximum) / sum);
  return p;
}

template <typename T>
T soft_target(const Problem& p, std::int64_t row, std::int64_t k) {
  if (p.c.soft_targets) return T(p.targets[row * p.c.classes + k]);
  const T s = T(p.c.label_smoothing);
  const auto smoothed = [&](std::int64_t label) {
    return (k == label ? T(1) - s : T(0)) + s / T(p.c.classes);
  };
  if (!p.c.mixed || p.mixes[row].other < 0) return smoothed(p.labels[row]);
  const T weight = T(p.mixes[row].weight);
  return weight * smoothed(p.labels[row]) + (T(1) - weight) * smoothed(p.mixes[row].other);
}

template <typename T>
T target(const Problem& p, std::int64_t row, std::int64_t k) {
  const T soft = soft_target<T>(p, row, k);
  if (p.c.target_threshold < 0.0f) return soft;
  return soft > T(p.c.target_threshold) ? T(1) : T(0);
}

/// What the binary loss multiplies the sum over the classes with.
template <typename T>
T share(const Problem& p) {
  return p.c.sum_classes ? T(1) : T(1) / T(p.c.classes);
}

template <typename T>
T binary_loss(const Problem& p, std::int64_t row, const std::vector<T>& z) {
  T loss = 0;
  for (std::int64_t k = 0; k < p.c.classes; ++k) {
    const T t = target<T>(p, row, k);
    loss += t * std::log(T(1) + std::exp(-z[k])) + (T(1) - t) * std::log(T(1) + std::exp(z[k]));
  }
  return loss * share<T>(p);
}

template <typename T>
std::vector<T> binary_gradient(const Problem& p, std::int64_t row, const std::vector<T>& z) {
  std::vector<T> gradient;
  for (std::int64_t k = 0; k < p.c.classes; ++k) {
    const T sigmoid = T(1) / (T(1) + std::exp(-z[k]));
    gradient.push_back((sigmoid - target<T>(p, row, k)) * share<T>(p) * T(p.state.loss_scale));
  }
  return gradient;
}

template <typename T>
T row_loss(const Problem& p, std::int64_t row, std::vector<T> z) {
  if (p.labels[row] < 0) return 0;
  if (p.c.kind == LossKind::bce) return binary_loss(p, row, z);
  if (p.c.head_softmax) z = softmax(z);
  const T maximum = *std::max_element(z.begin(), z.end());
  T sum = 0, loss = 0;
  for (const T v : z) sum += std::exp(v - maximum);
  for (std::int64_t k = 0; k < p.c.classes; ++k) {
    loss += target<T>(p, row, k) * (maximum + std::log(sum) - z[k]);
  }
  return loss;
}

template <typename T>
std::vector<T> row_gradient(const Problem& p, std::int64_t row, const std::vector<T>& logits) {
  const std::int64_t classes = p.c.classes;
  std::vector<T> gradient(classes);
  if (p.labels[row] < 0) return gradient;
  if (p.c.kind == LossKind::bce) return binary_gradient(p, row, logits);
  const std::vector<T> head = softmax(logits);
  const std::vector<T> q = p.c.head_softmax ? softmax(head) : head;
  T target_sum = 0, mean = 0;
  for (std::int64_t k = 0; k < classes; ++k) target_sum += target<T>(p, row, k);
  for (std::int64_t k = 0; k < classes; ++k) {
    gradient[k] = q[k] * target_sum - target<T>(p, row, k);
    mean += head[k] * gradient[k];
  }
  for (std::int64_t k = 0; k < classes; ++k) {
    if (p.c.head_softmax) gradient[k] = head[k] * (gradient[k] - mean);
    gradient[k] *= T(p.state.loss_scale);
  }
  return gradient;
}

template <typename T>
struct Reference {
  std::vector<T> loss, probabilities, dlogits;
  explicit Reference(const Problem& p) {
    for (std::int64_t row = 0; row < p.c.batch; ++row) {
      const auto first = p.logits.begin() + row * p.c.classes;
      const std::vector<T> z(first, first + p.c.classes);
      loss.push_back(row_loss(p, row, z));
      for (const T v : softmax(z)) probabilities.push_back(v);
      for (const T v : row_gradient(p, row, z)) dlogits.push_back(v);
    }
  }
};

inline const std::vector<Case> kCases = {
    {5, 10, 0.0f, false, false},
    {7, 10, 0.1f, false, false},
    {6, 13, 0.0f, false, true},
    {128, 10, 0.0f, true, false},
    {9, 11, 0.2f, true, false},
    {3, 7, 0.0f, true, true},
    {19, 1000, 0.1f, false, false},
    // Mixed labels, then the binary loss: mean and sum, smoothed, mixed, with a threshold.
    {8, 10, 0.0f, false, false, true},
    {9, 12, 0.2f, false, false, true},
    {7, 11, 0.1f, true, false, true},
    {7, 10, 0.0f, false, false, false, LossKind::bce},
    {6, 13, 0.1f, false, false, false, LossKind::bce, -1.0f, true},
    {5, 16, 0.0f, false, true, false, LossKind::bce, 0.6f},
    {17, 10, 0.1f, false, false, true, LossKind::bce},
    {16, 12, 0.0f, false, false, true, LossKind::bce, 0.2f, true},
    {16, 12, 0.0f, false, false, true, LossKind::bce, 0.0f},
    {19, 1000, 0.1f, false, false, true, LossKind::bce}};

}  // namespace vitrine::reference::cross_entropy
