// Single-precision matrix product on the calling thread, for matrices with row strides.
#pragma once

#include <cstdint>

namespace vitrine::cpu {

/// A row-major matrix, or its transpose: element (i, j) is data[i · stride + j], or
/// data[j · stride + i] when transposed.
struct GemmOperand {
  const float* data;
  std::int64_t stride;
  bool transposed = false;
};

/// c = a · b + beta · c with a [m, k], b [k, n], c [m, n]; m, n and k are at least 1.
/// Throws DeviceError when oneDNN refuses.
void sgemm(std::int64_t m, std::int64_t n, std::int64_t k, const GemmOperand& a,
           const GemmOperand& b, float beta, float* c, std::int64_t c_stride);

}  // namespace vitrine::cpu
