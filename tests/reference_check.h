// What the tests of kernels expect: results by the error rule, equal bits, refused arguments.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "reference/inputs.h"
#include "vitrine/error.h"

namespace vitrine {

/// The error rule. `naive` and `reference` come from one template, in float and in double.
inline void expect_close(const std::vector<float>& values, const std::vector<float>& naive,
                         const std::vector<double>& reference, const char* what) {
  ASSERT_EQ(values.size(), reference.size()) << what;
  EXPECT_LE(largest_error(values, reference), allowed_error(naive, reference)) << what;
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
