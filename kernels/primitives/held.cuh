// Elements that a thread has read and will use later, packed as they lie in memory.
//
// 16 bytes of bf16 are four registers; as eight Packed elements they would be eight, and as floats
// eight again. Elements are unpacked when they are asked for: a shift or a mask for bf16.
#pragma once

#include "primitives/cuda.cuh"
#include "primitives/vector.cuh"

namespace vitrine::cuda {

/// The kVector elements of one 16-byte access.
template <typename T, int kVector>
struct Held {
  static_assert(kVector * sizeof(T) == 16);
  uint4 words = {0, 0, 0, 0};

  __device__ __forceinline__ void load(const T* source) {
    words = *reinterpret_cast<const uint4*>(source);
  }
  /// Makes the compiler forget elements that it has unpacked: it would keep them in registers.
  __device__ __forceinline__ void forget() {
#ifdef __CUDACC__
    asm volatile("" : "+r"(words.x), "+r"(words.y), "+r"(words.z), "+r"(words.w));
#endif
  }
  __device__ __forceinline__ float operator[](int i) const {
    const int word = i * static_cast<int>(sizeof(T)) / 4;
    const unsigned bits = word == 0 ? words.x : word == 1 ? words.y : word == 2 ? words.z : words.w;
    if constexpr (std::is_same_v<T, float>) {
      return __uint_as_float(bits);
    } else if constexpr (std::is_same_v<T, bf16>) {
      return __uint_as_float(i % 2 == 0 ? bits << 16 : bits & 0xffff0000u);
    } else {
      const auto half = static_cast<unsigned short>(i % 2 == 0 ? bits : bits >> 16);
      return __half2float(__ushort_as_half(half));
    }
  }
};

/// The element of an access that is not wide.
template <typename T>
struct Held<T, 1> {
  float value = 0.0f;

  __device__ __forceinline__ void load(const T* source) { value = to_float(*source); }
  __device__ __forceinline__ void forget() {}
  __device__ __forceinline__ float operator[](int) const { return value; }
};

}  // namespace vitrine::cuda
