// The per-head linear layer for heads of four elements, on one thread.
#pragma once

#include <cstdint>

namespace vitrine::cpu {

struct PerHeadShape {
  std::int64_t parts, heads, head_size;
  /// Elements of weight and bias together.
  std::int64_t parameters() const { return parts * heads * (head_size + 1) * head_size; }
};

/// Whether the functions below serve this shape.
bool has_per_head_linear_4(const PerHeadShape& shape);

/// y = (weight x + bias) for `rows` rows; `bias` may be null.
void per_head_linear_4_forward(const PerHeadShape& shape, const float* x, const float* weight,
                               const float* bias, std::int64_t rows, float* y);

/// dx = weight^T dy, or += with accumulate.
void per_head_linear_4_input_gradient(const PerHeadShape& shape, const float* dy,
                                      const float* weight, std::int64_t rows, bool accumulate,
                                      float* dx);

/// partial = [dweight | dbias] of `rows` rows; rows may be 0.
void per_head_linear_4_weight_gradient(const PerHeadShape& shape, const float* dy, const float* x,
                                       std::int64_t rows, float* partial);

}  // namespace vitrine::cpu
