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
};

struct Problem {
  Case c;
  std::vector<float> logits, targets;
  std::vector<std::int32_t> labels;
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
    state.loss_scale = 0.37f;
  }
};

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
T target(const Problem& p, std::int64_t row, std::int64_t k) {
  if (p.c.soft_targets) return T(p.targets[row * p.c.classes + k]);
  const T s = T(p.c.label_smoothing);
  return (k == p.labels[row] ? T(1) - s : T(0)) + s / T(p.c.classes);
}

template <typename T>
T row_loss(const Problem& p, std::int64_t row, std::vector<T> z) {
  if (p.labels[row] < 0) return 0;
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
    {5, 10, 0.0f, false, false},   {7, 10, 0.1f, false, false}, {6, 13, 0.0f, false, true},
    {128, 10, 0.0f, true, false},  {9, 11, 0.2f, true, false},  {3, 7, 0.0f, true, true},
    {19, 1000, 0.1f, false, false}};

}  // namespace vitrine::reference::cross_entropy
