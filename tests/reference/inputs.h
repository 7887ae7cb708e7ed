// Random inputs and the error rule that tests and benchmarks of kernels share.
//
//   error(kernel) <= 2 error(naive) + tiny
//
// Errors are the largest absolute differences from a reference in double; `naive` is the plain
// implementation in float, tiny a few float epsilons of the result's magnitude.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "vitrine/random.h"

namespace vitrine {

inline std::vector<float> random_normal(std::int64_t n, std::uint64_t seed, std::uint64_t stream) {
  RandomStream random(seed, stream);
  std::vector<float> values(n);
  for (float& value : values) value = static_cast<float>(random.normal());
  return values;
}

/// An output that no kernel has written.
inline std::vector<float> poisoned(std::int64_t n) {
  return std::vector<float>(n, std::numeric_limits<float>::quiet_NaN());
}

template <typename T>
double largest_error(const std::vector<T>& values, const std::vector<double>& reference) {
  double error = 0.0;
  for (std::size_t i = 0; i < reference.size(); ++i) {
    const double difference = std::abs(static_cast<double>(values[i]) - reference[i]);
    if (std::isnan(difference)) return difference;
    error = std::max(error, difference);
  }
  return error;
}

/// The largest error that the rule allows.
inline double allowed_error(const std::vector<float>& naive, const std::vector<double>& reference) {
  constexpr double kEpsilons = 4.0 * static_cast<double>(std::numeric_limits<float>::epsilon());
  double magnitude = 0.0;
  for (const double r : reference) magnitude = std::max(magnitude, std::abs(r));
  return 2.0 * largest_error(naive, reference) + kEpsilons * magnitude;
}

template <typename To, typename From>
std::vector<To> converted(const std::vector<From>& values) {
  return std::vector<To>(values.begin(), values.end());
}

}  // namespace vitrine
