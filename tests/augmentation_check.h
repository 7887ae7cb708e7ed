// What timm and torchvision draw (tests/augmentation/timm.json, by
// tools/make_augmentation_values.py, which also says what the file holds), and how our draws are
// held to it.
//
// Two histograms of the same bins are compared by the chi-square test of two samples; the bound is
// the quantile that a test of equal distributions passes once in 5e7 (Wilson and Hilferty 1931).
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <iostream>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "io/files.h"
#include "vitrine/augmentation.h"

namespace vitrine {

inline const nlohmann::json& timm_values() {
  static const nlohmann::json values = nlohmann::json::parse(
      read_file(std::string(VITRINE_TESTS_DIRECTORY) + "/augmentation/timm.json"));
  return values;
}

inline std::uint64_t fresh_seed() {
  std::random_device device;
  const std::uint64_t seed = std::uint64_t{device()} << 32 | device();
  std::cout << "seed " << seed << "\n";
  return seed;
}

/// The bound of a chi-square statistic.
inline double chi_square_bound(int degrees) {
  constexpr double kDeviations = 5.5;
  const double ninth = 2.0 / (9.0 * degrees);
  const double root = 1.0 - ninth + kDeviations * std::sqrt(ninth);
  return degrees * root * root * root;
}

using Counts = std::vector<double>;

/// Neighbours are put together until they are enough for the statistic.
inline void expect_same_distribution(const Counts& ours, const Counts& theirs,
                                     const std::string& what) {
  constexpr double kEnough = 25;
  ASSERT_EQ(ours.size(), theirs.size()) << what;
  double our_total = 0, their_total = 0;
  for (const double count : ours) our_total += count;
  for (const double count : theirs) their_total += count;
  ASSERT_GT(our_total, 0) << what;
  const double weight = std::sqrt(their_total / our_total);
  double statistic = 0, a = 0, b = 0;
  int bins = 0;
  for (std::size_t i = 0; i < ours.size(); ++i) {
    a += ours[i];
    b += theirs[i];
    if (a + b < kEnough && i + 1 < ours.size()) continue;
    if (a + b > 0) {
      const double difference = a * weight - b / weight;
      statistic += difference * difference / (a + b);
      ++bins;
    }
    a = b = 0;
  }
  ASSERT_GE(bins, 2) << what;
  EXPECT_LT(statistic, chi_square_bound(bins - 1)) << what << ", " << bins << " bins";
}

inline void expect_same_counts(const Counts& ours, const nlohmann::json& theirs,
                               const std::string& what) {
  expect_same_distribution(ours, theirs.get<Counts>(), what);
}

/// Counts by the bins of a stored histogram, whose edges are numpy's.
class Histogram {
 public:
  explicit Histogram(const nlohmann::json& stored)
      : stored_(stored),
        low_(stored.at("bins").at(0).get<double>()),
        count_(stored.at("bins").at(2).get<std::size_t>()),
        step_((stored.at("bins").at(1).get<double>() - low_) / static_cast<double>(count_)),
        counts_(count_) {}
  void add(double value) {
    auto bin = static_cast<std::ptrdiff_t>((value - low_) / step_);
    if (value < edge(bin)) --bin;
    if (value >= edge(bin + 1)) ++bin;
    ASSERT_GE(bin, 0) << value;
    ASSERT_LT(static_cast<std::size_t>(bin), count_) << value;
    ++counts_[static_cast<std::size_t>(bin)];
  }
  void expect_same(const std::string& what) const {
    expect_same_counts(counts_, stored_.at("counts"), what);
  }

 private:
  double edge(std::ptrdiff_t bin) const { return static_cast<double>(bin) * step_ + low_; }

  const nlohmann::json& stored_;
  double low_;
  std::size_t count_;
  double step_;
  Counts counts_;
};

/// A config that leaves pictures as they are.
inline AugmentationConfig plain_augmentation(std::int64_t height, std::int64_t width) {
  AugmentationConfig config;
  config.height = height;
  config.width = width;
  config.crop_mode = CropMode::none;
  config.hflip = 0;
  config.fill = {1, 2, 3};
  return config;
}

}  // namespace vitrine
