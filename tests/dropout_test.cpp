// Philox against published vectors, and the dropout factors of the CPU against random.h.
#include "cpu/dropout.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "vitrine/random.h"

namespace vitrine::cpu {
namespace {

constexpr std::uint64_t kSeeds[] = {1, 20240229, 0xFFFFFFFF12345678ull};

StepState step_state(std::uint64_t seed, std::uint32_t step = 3) {
  StepState state;
  state.seed = seed;
  state.step = step;
  return state;
}

std::vector<float> draw(std::int64_t n, std::uint64_t first, const Dropout& dropout,
                        const StepState& state) {
  std::vector<float> factors(static_cast<std::size_t>(n), NAN);
  dropout_factors(factors.data(), n, first, dropout, state);
  return factors;
}

/// Correlation of "is kept" between two draws of the same length.
double correlation(const std::vector<float>& a, const std::vector<float>& b, std::size_t shift) {
  const std::size_t n = a.size() - shift;
  double sum_a = 0, sum_b = 0, both = 0;
  for (std::size_t i = 0; i < n; ++i) {
    sum_a += a[i] > 0;
    sum_b += b[i + shift] > 0;
    both += a[i] > 0 && b[i + shift] > 0;
  }
  const double mean_a = sum_a / n, mean_b = sum_b / n;
  return (both / n - mean_a * mean_b) / std::sqrt(mean_a * (1 - mean_a) * mean_b * (1 - mean_b));
}

// Random123's kat_vectors, philox4x32 with 10 rounds.
TEST(Philox, KnownAnswers) {
  struct Answer {
    PhiloxWords counter;
    std::uint64_t key;
    PhiloxWords expected;
  };
  constexpr std::uint32_t kOnes = 0xFFFFFFFFu;
  const Answer answers[] = {{{{0, 0, 0, 0}}, 0, {{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}}},
                            {{{kOnes, kOnes, kOnes, kOnes}},
                             0xFFFFFFFFFFFFFFFFull,
                             {{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}}},
                            {{{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}},
                             0x299f31d0a4093822ull,
                             {{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}}}};
  for (const Answer& answer : answers) {
    const PhiloxWords words = philox4x32(answer.counter, answer.key);
    for (int i = 0; i < 4; ++i) EXPECT_EQ(words.word[i], answer.expected.word[i]);
  }
}

TEST(Dropout, EqualsTheDefinition) {
  for (const std::uint64_t seed : kSeeds) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 rng(seed);
    for (const float p : {0.0f, 0.1f, 0.5f, 0.9f}) {
      const Dropout dropout{p, static_cast<std::uint32_t>(rng())};
      const StepState state = step_state(seed, static_cast<std::uint32_t>(rng()));
      for (const std::int64_t n : {1, 2, 3, 4, 5, 15, 16, 31, 67, 259}) {
        // Odd beginnings, and a beginning from which the quad's low word overflows.
        for (const std::uint64_t first :
             {std::uint64_t{rng() % 1000}, (std::uint64_t{1} << 34) - 4 * (rng() % 8) - 3}) {
          const std::vector<float> factors = draw(n, first, dropout, state);
          for (std::int64_t i = 0; i < n; ++i) {
            const bool keep =
                keep_element(seed, state.step, dropout.operation,
                             first + static_cast<std::uint64_t>(i), drop_threshold(p));
            ASSERT_EQ(factors[i], keep ? 1.0f / (1.0f - p) : 0.0f) << "element " << first + i;
          }
        }
      }
    }
  }
}

TEST(Dropout, WritesNothingBeyond) {
  std::vector<float> factors(40, -1.0f);
  dropout_factors(factors.data() + 1, 37, 5, {0.5f, 1}, step_state(7));
  EXPECT_EQ(factors[0], -1.0f);
  EXPECT_EQ(factors[38], -1.0f);
  EXPECT_EQ(factors[39], -1.0f);
}

TEST(Dropout, AttentionRowsStartOnAQuad) {
  const StepState state = step_state(11, 5);
  const Dropout dropout{0.3f, 9};
  for (const std::int64_t keys : {1, 5, 17, 50, 197}) {
    for (const std::uint64_t row : {0ull, 1ull, 12345678901ull}) {
      std::vector<float> factors(static_cast<std::size_t>(keys), NAN);
      attention_dropout_factors(factors.data(), keys, row, dropout, state);
      for (std::int64_t key = 0; key < keys; ++key) {
        const std::uint64_t quad = attention_quad(row, keys, key);
        const std::uint32_t word =
            random_words(state.seed, state.step, dropout.operation, quad).word[key % 4];
        ASSERT_EQ(factors[key], word >= drop_threshold(0.3f) ? 1.0f / (1.0f - 0.3f) : 0.0f);
      }
    }
  }
}

TEST(Dropout, RateAndScale) {
  constexpr std::int64_t kElements = 100000;
  for (const std::uint64_t seed : kSeeds) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    for (const float p : {0.1f, 0.25f, 0.7f}) {
      double mean = 0;
      for (const float f : draw(kElements, 0, {p, 2}, step_state(seed))) mean += f / kElements;
      // Five standard deviations of the mean of kElements draws.
      EXPECT_NEAR(mean, 1.0, 5 * std::sqrt(p / (1 - p) / kElements)) << "p = " << p;
    }
  }
}

TEST(Dropout, IndependentAcrossPositionsStepsAndOperations) {
  constexpr std::int64_t kElements = 50000;
  const double limit = 5 / std::sqrt(static_cast<double>(kElements));
  for (const std::uint64_t seed : kSeeds) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const auto base = draw(kElements, 0, {0.4f, 2}, step_state(seed, 3));
    for (const std::size_t shift : {1, 2, 3, 4, 5, 16}) {
      EXPECT_LT(std::abs(correlation(base, base, shift)), limit) << "shift " << shift;
    }
    const auto other_step = draw(kElements, 0, {0.4f, 2}, step_state(seed, 4));
    const auto other_operation = draw(kElements, 0, {0.4f, 3}, step_state(seed, 3));
    const auto other_seed = draw(kElements, 0, {0.4f, 2}, step_state(seed + 1, 3));
    EXPECT_LT(std::abs(correlation(base, other_step, 0)), limit);
    EXPECT_LT(std::abs(correlation(base, other_operation, 0)), limit);
    EXPECT_LT(std::abs(correlation(base, other_seed, 0)), limit);
  }
}

TEST(Dropout, PathFactorIsThatOfTheSample) {
  const StepState state = step_state(21, 8);
  const Dropout drop_path{0.2f, 77};
  int dropped = 0;
  for (std::uint64_t sample = 0; sample < 1000; ++sample) {
    const float factor = drop_path_factor(sample, drop_path, state);
    const bool keep = keep_element(state.seed, state.step, 77, sample, drop_threshold(0.2f));
    ASSERT_EQ(factor, keep ? 1.0f / (1.0f - 0.2f) : 0.0f);
    dropped += !keep;
  }
  EXPECT_NEAR(dropped, 200, 5 * std::sqrt(1000 * 0.2 * 0.8));
}

TEST(Dropout, UnprunedElementCountsTheWholeBatch) {
  StepState state;
  state.first_row = 10;
  const TokenWindow window{2, 3, 7};
  EXPECT_EQ(unpruned_element(0, 5, window, state), (10u * 7 + 3) * 5);
  EXPECT_EQ(unpruned_element(3, 5, window, state), (11u * 7 + 4) * 5);
}

}  // namespace
}  // namespace vitrine::cpu
