// Conversions between element types, against their definitions bit by bit.
#include "vitrine/conversion.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <iostream>
#include <limits>

#include "vitrine/random.h"

namespace vitrine {
namespace {

/// The bf16 number nearest to `value`, found among its two neighbours in double precision.
float nearest_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t below = bits & 0xFFFF0000u, above = below + 0x10000u;  // by magnitude
  const double low = std::bit_cast<float>(below);
  const double high = (above & 0x7F800000u) == 0x7F800000u
                          ? std::copysign(std::ldexp(1.0, 128), value)  // where infinity begins
                          : static_cast<double>(std::bit_cast<float>(above));
  const double to_low = std::abs(value - low), to_high = std::abs(high - value);
  const bool up = to_high < to_low || (to_high == to_low && (below >> 16 & 1u) == 1u);
  return std::bit_cast<float>(up ? above : below);
}

TEST(Conversion, Bf16IsTheNearestTiesToEven) {
  constexpr std::uint64_t kSeed = 17;
  std::cout << "seed " << kSeed << "\n";
  RandomStream random(kSeed, 0);
  for (int i = 0; i < 200000; ++i) {
    const auto bits = random.next_u32();
    const auto value = std::bit_cast<float>(i % 3 == 0 ? (bits & 0xFFFF0000u) | 0x8000u : bits);
    if (!std::isfinite(value)) continue;
    ASSERT_EQ(bf16_to_f32(f32_to_bf16(value)), nearest_bf16(value)) << value;
  }
}

TEST(Conversion, Bf16KeepsWhatIsNoNumber) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(bf16_to_f32(f32_to_bf16(kInfinity)), kInfinity);
  EXPECT_EQ(bf16_to_f32(f32_to_bf16(-kInfinity)), -kInfinity);
  EXPECT_EQ(f32_to_bf16(-0.0f), 0x8000u);
  for (const std::uint32_t nan : {0x7FC00000u, 0x7F800001u, 0xFFFFFFFFu}) {
    EXPECT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(std::bit_cast<float>(nan)))));
  }
}

TEST(Conversion, F16HasItsValues) {
  EXPECT_EQ(f16_to_f32(0x3C00), 1.0f);
  EXPECT_EQ(f16_to_f32(0xC500), -5.0f);
  EXPECT_EQ(f16_to_f32(0x7BFF), 65504.0f);
  EXPECT_EQ(f16_to_f32(0x0001), 0x1p-24f);
  EXPECT_EQ(f16_to_f32(0x03FF), 1023 * 0x1p-24f);
  EXPECT_EQ(f16_to_f32(0xFC00), -std::numeric_limits<float>::infinity());
}

TEST(Conversion, ArraysGoThereAndBack) {
  const std::vector<float> numbers = {0.5f, -3.0f, 1e30f, 0.1f};
  EXPECT_EQ(as_floats(converted(numbers, DType::f32), DType::f32), numbers);
  const std::vector<char> bf16 = converted(numbers, DType::bf16);
  EXPECT_EQ(bf16.size(), 8u);
  std::uint16_t last = 0;
  std::memcpy(&last, bf16.data() + 6, sizeof last);
  EXPECT_EQ(last, f32_to_bf16(0.1f));
  EXPECT_EQ(as_floats(bf16, DType::bf16)[1], -3.0f);
  EXPECT_TRUE(converted({}, DType::bf16).empty());
  EXPECT_THROW(converted(numbers, DType::u8), DeviceError);
  EXPECT_THROW(as_floats(bf16, DType::i32), DeviceError);
}

}  // namespace
}  // namespace vitrine
