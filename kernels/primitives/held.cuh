// Elements that a thread holds packed, as they lie in memory.
//
// 16 bytes of bf16 are four registers; as eight Packed elements they would be eight, and as floats
// eight again. Elements are unpacked when they are asked for: a shift or a mask for bf16. And what
// is held as words is certain to be read and written in one access, wherever the code branches.
#pragma once

#include "primitives/cuda.cuh"
#include "primitives/vector.cuh"

namespace vitrine::cuda {

/// The kVector elements of one 16-byte access.
template <typename T, int kVector>
struct Held {
  static_assert(kVector * sizeof(T) == 16);
  static constexpr int kPerWord = 4 / sizeof(T);
  unsigned word[4] = {0, 0, 0, 0};

  Held() = default;
  /// Rounds to T.
  __device__ __forceinline__ explicit Held(const float (&values)[kVector]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (std::is_same_v<T, float>) {
        word[i] = __float_as_uint(values[i]);
      } else {
        const auto pair = rounded_pair(values[2 * i], values[2 * i + 1]);
        word[i] = *reinterpret_cast<const unsigned*>(&pair);
      }
    }
  }

  __device__ __forceinline__ void load(const T* source) {
    const uint4 words = *reinterpret_cast<const uint4*>(source);
    word[0] = words.x, word[1] = words.y, word[2] = words.z, word[3] = words.w;
  }
  __device__ __forceinline__ void store(T* target) const {
#ifdef __CUDACC__
    // An assignment becomes four stores, or eight, where the compiler reorders across branches.
    asm volatile("st.global.v4.b32 [%0],{%1,%2,%3,%4};\n" ::"l"(target), "r"(word[0]), "r"(word[1]),
                 "r"(word[2]), "r"(word[3])
                 : "memory");
#else
    *reinterpret_cast<uint4*>(target) = make_uint4(word[0], word[1], word[2], word[3]);
#endif
  }
  __device__ __forceinline__ float operator[](int i) const {
    const unsigned bits = word[i / kPerWord];
    if constexpr (std::is_same_v<T, float>) {
      return __uint_as_float(bits);
    } else if constexpr (std::is_same_v<T, bf16>) {
      return __uint_as_float(i % 2 == 0 ? bits << 16 : bits & 0xffff0000u);
    } else {
      const auto half = static_cast<unsigned short>(i % 2 == 0 ? bits : bits >> 16);
      return __half2float(__ushort_as_half(half));
    }
  }
  /// Makes the compiler forget elements that it has unpacked: it would keep them in registers.
  __device__ __forceinline__ void forget() {
#ifdef __CUDACC__
    asm volatile("" : "+r"(word[0]), "+r"(word[1]), "+r"(word[2]), "+r"(word[3]));
#endif
  }

 private:
  __device__ __forceinline__ static auto rounded_pair(float low, float high) {
    if constexpr (std::is_same_v<T, bf16>) {
      return __floats2bfloat162_rn(low, high);
    } else {
      return __floats2half2_rn(low, high);
    }
  }
};

/// The element of an access that is not wide.
template <typename T>
struct Held<T, 1> {
  float value = 0.0f;

  Held() = default;
  __device__ __forceinline__ explicit Held(const float (&values)[1])
      : value(rounded<T>(values[0])) {}

  __device__ __forceinline__ void load(const T* source) { value = to_float(*source); }
  __device__ __forceinline__ void store(T* target) const { *target = from_float<T>(value); }
  __device__ __forceinline__ float operator[](int) const { return value; }
  __device__ __forceinline__ void forget() {}
};

}  // namespace vitrine::cuda
