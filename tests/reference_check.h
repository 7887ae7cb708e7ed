// Random inputs, poisoned outputs and the error rule that the tests of kernels share.
//
//   error(kernel) <= 2 error(naive) + tiny
//
// Errors are the largest absolute differences from a reference in double; `naive` is the plain
// implementation in float, tiny a few float epsilons of the result's magnitude.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "vitrine/error.h"
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

/// The error rule. `naive` and `reference` come from one template, in float and in double.
inline void expect_close(const std::vector<float>& values, const std::vector<float>& naive,
                         const std::vector<double>& reference, const char* what) {
  constexpr double kEpsilons = 4.0 * static_cast<double>(std::numeric_limits<float>::epsilon());
  ASSERT_EQ(values.size(), reference.size()) << what;
  double magnitude = 0.0;
  for (const double r : reference) magnitude = std::max(magnitude, std::abs(r));
  EXPECT_LE(largest_error(values, reference),
            2.0 * largest_error(naive, reference) + kEpsilons * magnitude)
      << what;
}

template <typename To, typename From>
std::vector<To> converted(const std::vector<From>& values) {
  return std::vector<To>(values.begin(), values.end());
}

/// Same bits, NaN included.
inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  const auto equal = [](float x, float y) {
    return x == y ? std::signbit(x) == std::signbit(y) : std::isnan(x) && std::isnan(y);
  };
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(), equal);
}

/// Expects `call` to throw a DeviceError whose message names `field`.
template <typename Call>
void expect_refused(const Call& call, const std::string& field) {
  try {
    call();
    ADD_FAILURE() << "accepted a wrong " << field;
  } catch (const DeviceError& error) {
    EXPECT_NE(std::string(error.what()).find(field), std::string::npos) << error.what();
  }
}

}  // namespace vitrine
