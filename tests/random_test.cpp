// Normal numbers many at a time against one after the other, on every instruction set.
#include "vitrine/random.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "for_targets.h"

namespace vitrine {
namespace {

constexpr std::uint64_t kSeed = 0xABCDEF0123456789ull;
constexpr std::uint64_t kStream = 0x7123456789ABCDEFull;

// A number of RandomStream from its own place, whichever that is.
double normal_at(std::int64_t i) {
  const PhiloxWords w =
      philox4x32({{static_cast<std::uint32_t>(i), static_cast<std::uint32_t>(i >> 32),
                   static_cast<std::uint32_t>(kStream),
                   0x80000000u | static_cast<std::uint32_t>(kStream >> 32)}},
                 kSeed);
  const auto uniform = [](std::uint32_t high, std::uint32_t low) {
    return (static_cast<double>(high >> 5) * 67108864.0 + static_cast<double>(low >> 6)) * 0x1p-53;
  };
  return std::sqrt(-2.0 * std::log(1.0 - uniform(w.word[0], w.word[1]))) *
         std::cos(6.283185307179586 * uniform(w.word[2], w.word[3]));
}

TEST(FillNormal, IsTheStreamsSequence) {
  std::cout << "seed " << kSeed << " stream " << kStream << "\n";
  cpu::for_targets([] {
    constexpr std::int64_t kCount = 5000;
    std::vector<float> numbers(kCount, NAN);
    fill_normal(kSeed, kStream, 0, kCount, 0.02, numbers.data());
    RandomStream stream(kSeed, kStream);
    for (std::int64_t i = 0; i < kCount; ++i) {
      const double expected = 0.02 * stream.normal();
      EXPECT_NEAR(numbers[static_cast<std::size_t>(i)], expected, 1e-7 * std::abs(expected) + 1e-15)
          << i;
    }
  });
}

TEST(FillNormal, BeginsAndEndsAnywhere) {
  cpu::for_targets([] {
    for (const std::int64_t first : {std::int64_t{0}, std::int64_t{1}, std::int64_t{13},
                                     (std::int64_t{1} << 32) - 3, std::int64_t{5} << 33}) {
      for (const std::int64_t count : {1, 2, 7, 8, 9, 33}) {
        std::vector<float> numbers(static_cast<std::size_t>(count) + 1, 42.0f);
        fill_normal(kSeed, kStream, first, count, 1.0, numbers.data());
        for (std::int64_t i = 0; i < count; ++i) {
          EXPECT_NEAR(numbers[static_cast<std::size_t>(i)], normal_at(first + i), 1e-6)
              << first << " + " << i << " of " << count;
        }
        EXPECT_EQ(numbers.back(), 42.0f) << "written beyond the end";
      }
    }
  });
}

}  // namespace
}  // namespace vitrine
