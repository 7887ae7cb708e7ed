// Device functions that CUDA's headers declare for nvcc only, those that the kernels use.
//
//   CUDA Math API
#pragma once

#include <bit>
#include <cmath>

inline float rsqrtf(float x) {
  return 1.0f / std::sqrt(x);
}
inline int __popc(unsigned x) {
  return std::popcount(x);
}
inline unsigned __float_as_uint(float x) {
  return std::bit_cast<unsigned>(x);
}
inline float __uint_as_float(unsigned x) {
  return std::bit_cast<float>(x);
}

template <typename T>
constexpr T min(T a, T b) {
  return b < a ? b : a;
}
