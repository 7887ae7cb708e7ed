// The drawn digits: balanced, reproducible, and neither trivial nor arbitrary.

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <iostream>
#include <vector>

#include "vitrine/dataset.h"

namespace vitrine {
namespace {

constexpr std::size_t kPixels = 28 * 28, kClasses = 10;

/// Multinomial logistic regression, y = softmax(W x + b), by gradient descent on small batches.
class LogisticRegression {
 public:
  void train(const Dataset& data, int epochs, std::uint64_t seed) {
    constexpr std::int64_t kBatch = 50;
    for (int epoch = 0; epoch < epochs; ++epoch) {
      const float rate = 0.08f / (1.0f + 0.25f * static_cast<float>(epoch));
      const std::vector<std::int64_t> order = shuffled(data.size(), seed, epoch);
      for (std::int64_t start = 0; start < data.size(); start += kBatch) {
        const std::int64_t end = std::min(start + kBatch, data.size());
        std::vector<Scores> errors;
        for (std::int64_t i = start; i < end; ++i) errors.push_back(error(data, order[i]));
        for (std::int64_t i = start; i < end; ++i) {
          descend(data.image(order[i]), errors[i - start], rate / static_cast<float>(kBatch));
        }
      }
    }
  }

  double accuracy(const Dataset& data) const {
    std::int64_t right = 0;
    for (std::int64_t i = 0; i < data.size(); ++i) {
      const Scores s = scores(data.image(i));
      right += std::max_element(s.begin(), s.end()) - s.begin() == data.labels[i];
    }
    return static_cast<double>(right) / static_cast<double>(data.size());
  }

 private:
  using Scores = std::array<float, kClasses>;

  Scores scores(const std::uint8_t* image) const {
    Scores s = bias_;
    for (std::size_t p = 0; p < kPixels; ++p) {
      if (image[p] == 0) continue;
      const float x = static_cast<float>(image[p]) / 255.0f;
      for (std::size_t k = 0; k < kClasses; ++k) s[k] += x * weight_[p][k];
    }
    return s;
  }

  /// Gradient of the cross-entropy with respect to the scores: softmax − one-hot.
  Scores error(const Dataset& data, std::int64_t i) const {
    Scores s = scores(data.image(i));
    const float top = *std::max_element(s.begin(), s.end());
    float sum = 0;
    for (float& v : s) sum += v = std::exp(v - top);
    for (float& v : s) v /= sum;
    s[static_cast<std::size_t>(data.labels[i])] -= 1.0f;
    return s;
  }

  void descend(const std::uint8_t* image, const Scores& error, float rate) {
    for (std::size_t p = 0; p < kPixels; ++p) {
      if (image[p] == 0) continue;
      const float x = rate * static_cast<float>(image[p]) / 255.0f;
      for (std::size_t k = 0; k < kClasses; ++k) weight_[p][k] -= x * error[k];
    }
    for (std::size_t k = 0; k < kClasses; ++k) bias_[k] -= rate * error[k];
  }

  std::vector<Scores> weight_ = std::vector<Scores>(kPixels, Scores{});
  Scores bias_{};
};

TEST(Digits, HaveTheirSizeAndAreBalanced) {
  for (std::int64_t count : {0, 1, 37, 1003}) {
    const Dataset data = make_digits(count, 7);
    ASSERT_EQ(data.size(), count);
    EXPECT_EQ(data.channels, 1);
    EXPECT_EQ(data.height, 28);
    EXPECT_EQ(data.width, 28);
    EXPECT_EQ(data.num_classes(), 10);
    ASSERT_EQ(data.images.size(), static_cast<std::size_t>(count) * kPixels);
    std::array<std::int64_t, kClasses> seen{};
    for (std::int32_t label : data.labels) ++seen.at(static_cast<std::size_t>(label));
    for (std::int64_t n : seen) {
      EXPECT_GE(n, count / 10);
      EXPECT_LE(n, (count + 9) / 10);
    }
  }
  EXPECT_THROW(make_digits(-1, 7), BadInput);
}

TEST(Digits, AreAFunctionOfSeedAndIndex) {
  const Dataset few = make_digits(53, 11), many = make_digits(131, 11),
                other = make_digits(131, 12);
  EXPECT_TRUE(std::equal(few.images.begin(), few.images.end(), many.images.begin()));
  EXPECT_TRUE(std::equal(few.labels.begin(), few.labels.end(), many.labels.begin()));
  EXPECT_NE(many.images, other.images);
  EXPECT_NE(many.labels, other.labels);
}

TEST(Digits, AreWhiteInkOnBlackInsideTheImage) {
  const Dataset data = make_digits(2000, 5);
  std::int64_t ink_on_border = 0, total = 0;
  for (std::int64_t i = 0; i < data.size(); ++i) {
    std::int64_t ink = 0, inked = 0;
    for (std::size_t p = 0; p < kPixels; ++p) {
      const std::uint8_t value = data.image(i)[p];
      const std::size_t x = p % 28, y = p / 28;
      ink += value;
      inked += value > 0;
      if (x == 0 || y == 0 || x == 27 || y == 27) ink_on_border += value;
    }
    total += ink;
    EXPECT_GT(ink, 255 * 8) << i;
    EXPECT_LT(inked, 500) << i;
  }
  EXPECT_LT(ink_on_border, total / 100);
  const double mean = static_cast<double>(total) / static_cast<double>(data.images.size()) / 255.0;
  EXPECT_GT(mean, 0.07);
  EXPECT_LT(mean, 0.20);
}

TEST(Digits, ALinearClassifierIsNotEnough) {
  constexpr std::uint64_t kSeed = 3;
  const Dataset train = load_dataset("digits", "", Split::train);
  const Dataset test = load_dataset("digits", "", Split::test);
  ASSERT_EQ(train.size(), 10000);
  ASSERT_EQ(test.size(), 2000);
  LogisticRegression model;
  model.train(train, 12, kSeed);
  const double on_train = model.accuracy(train), on_test = model.accuracy(test);
  std::cout << "seed " << kSeed << ", accuracy of a linear classifier: train " << on_train
            << ", test " << on_test << "\n";
  EXPECT_LT(on_test, 0.90);
  EXPECT_GT(on_test, 0.50);
}

}  // namespace
}  // namespace vitrine
