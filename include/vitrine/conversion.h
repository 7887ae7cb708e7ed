// Numbers from f32 to other element types and back, on the host.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "vitrine/tensor.h"

namespace vitrine {

/// Rounds to nearest, ties to even; NaN stays NaN.
std::uint16_t f32_to_bf16(float value);
float bf16_to_f32(std::uint16_t bits);
float f16_to_f32(std::uint16_t bits);

/// The numbers as elements of type f32 or bf16.
std::vector<char> converted(std::span<const float> numbers, DType dtype);
/// Elements of type f32, bf16 or f16 as numbers; `numbers` has room for as many.
void to_floats(std::span<const char> elements, DType dtype, float* numbers);
std::vector<float> as_floats(std::span<const char> elements, DType dtype);

}  // namespace vitrine
