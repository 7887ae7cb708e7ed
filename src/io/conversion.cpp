#include "vitrine/conversion.h"

#include <bit>
#include <cmath>
#include <cstring>

namespace vitrine {

std::uint16_t f32_to_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if (std::isnan(value)) return static_cast<std::uint16_t>(bits >> 16 | 0x40u);  // quiet
  const std::uint32_t half_and_odd = 0x7FFFu + (bits >> 16 & 1u);
  return static_cast<std::uint16_t>((bits + half_and_odd) >> 16);
}

float bf16_to_f32(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

float f16_to_f32(std::uint16_t bits) {
  const std::uint32_t sign = (bits & 0x8000u) << 16;
  const std::uint32_t exponent = (bits >> 10) & 0x1Fu;
  const std::uint32_t mantissa = bits & 0x3FFu;
  if (exponent == 0) {
    constexpr float kSmallest = 1.0f / 16777216.0f;  // 2^-24
    const float value = static_cast<float>(mantissa) * kSmallest;
    return sign ? -value : value;
  }
  const std::uint32_t wide = exponent == 31 ? 255u : exponent + 112u;
  return std::bit_cast<float>(sign | wide << 23 | mantissa << 13);
}

std::vector<char> converted(std::span<const float> numbers, DType dtype) {
  std::vector<char> elements(numbers.size() * static_cast<std::size_t>(size_of(dtype)));
  if (dtype == DType::f32) {
    if (!numbers.empty()) std::memcpy(elements.data(), numbers.data(), elements.size());
    return elements;
  }
  if (dtype != DType::bf16) {
    throw DeviceError("expected F32 or BF16 elements, found " + std::string(to_string(dtype)));
  }
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    const std::uint16_t bits = f32_to_bf16(numbers[i]);
    std::memcpy(elements.data() + i * sizeof bits, &bits, sizeof bits);
  }
  return elements;
}

void to_floats(std::span<const char> elements, DType dtype, float* numbers) {
  if (dtype == DType::f32) {
    if (!elements.empty()) std::memcpy(numbers, elements.data(), elements.size());
    return;
  }
  if (dtype != DType::bf16 && dtype != DType::f16) {
    throw DeviceError("expected F32, BF16 or F16 elements, found " + std::string(to_string(dtype)));
  }
  std::uint16_t bits = 0;
  for (std::size_t i = 0; i < elements.size() / sizeof bits; ++i) {
    std::memcpy(&bits, elements.data() + i * sizeof bits, sizeof bits);
    numbers[i] = dtype == DType::f16 ? f16_to_f32(bits) : bf16_to_f32(bits);
  }
}

std::vector<float> as_floats(std::span<const char> elements, DType dtype) {
  std::vector<float> numbers(elements.size() / static_cast<std::size_t>(size_of(dtype)));
  to_floats(elements, dtype, numbers.data());
  return numbers;
}

}  // namespace vitrine
