// Element types in memory and float in registers; accesses of up to 16 bytes a thread.
//
//   float x[kVectorWidth<T>];
//   load(x, row + 8 * lane);  …  store(row + 8 * lane, x);
//
// A launcher takes the wide path only where `vectorizable` says that every row of every tensor
// starts on a 16-byte boundary; else it launches the same kernel with one element per access.
#pragma once

#include <bit>

#include "primitives/cuda.cuh"
#include "primitives/ptx.cuh"
#include "vitrine/tensor.h"

namespace vitrine::cuda {

/// Elements of a 16-byte access: 4 for float, 8 for bf16 and f16.
template <typename T>
inline constexpr int kVectorWidth = 16 / static_cast<int>(sizeof(T));

__device__ __forceinline__ float to_float(float x) {
  return x;
}
__device__ __forceinline__ float to_float(bf16 x) {
  return __bfloat162float(x);
}
__device__ __forceinline__ float to_float(f16 x) {
  return __half2float(x);
}

/// Rounds to nearest, ties to even.
template <typename T>
__device__ __forceinline__ T from_float(float x) {
  if constexpr (std::is_same_v<T, bf16>) {
    return __float2bfloat16_rn(x);
  } else if constexpr (std::is_same_v<T, f16>) {
    return __float2half_rn(x);
  } else {
    return x;
  }
}

/// The value x takes when it goes through memory as T.
template <typename T>
__device__ __forceinline__ float rounded(float x) {
  return to_float(from_float<T>(x));
}

/// Elements that a thread holds packed, as they lie in memory: the kVector of one 16-byte access.
/// 16 bytes of bf16 are four registers, as floats they are eight. An element is unpacked when it is
/// asked for: a shift or a mask for bf16.
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
    const uint4 words = ptx::load_16(source);
    word[0] = words.x, word[1] = words.y, word[2] = words.z, word[3] = words.w;
  }
  __device__ __forceinline__ uint4 words() const {
    return make_uint4(word[0], word[1], word[2], word[3]);
  }
  /// To global memory.
  __device__ __forceinline__ void store(T* target) const {
    ptx::store_global_16(target, words());
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
#pragma unroll
    for (int i = 0; i < 4; ++i) ptx::forget(word[i]);
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

/// kCount neighbouring elements, moved in one access of 8 bytes or less.
template <typename T, int kCount>
struct alignas(sizeof(T) * kCount) Packed {
  static_assert(sizeof(T) * kCount <= 8 && std::has_single_bit(sizeof(T) * kCount));
  T element[kCount];
};

/// values = source[0 … kCount). `source` is aligned to sizeof(T) · kCount, at most 16 bytes.
template <typename T, int kCount>
__device__ __forceinline__ void load(float (&values)[kCount], const T* source) {
  constexpr int kWide = kVectorWidth<T>;
  if constexpr (kCount >= kWide) {
    static_assert(kCount % kWide == 0);
#pragma unroll
    for (int piece = 0; piece < kCount; piece += kWide) {
      Held<T, kWide> held;
      held.load(source + piece);
#pragma unroll
      for (int i = 0; i < kWide; ++i) values[piece + i] = held[i];
    }
  } else {
    const auto packed = *reinterpret_cast<const Packed<T, kCount>*>(source);
#pragma unroll
    for (int i = 0; i < kCount; ++i) values[i] = to_float(packed.element[i]);
  }
}

/// target[0 … kCount) = values, rounded to T.
template <typename T, int kCount>
__device__ __forceinline__ void store(T* target, const float (&values)[kCount]) {
  constexpr int kWide = kVectorWidth<T>;
  if constexpr (kCount >= kWide) {
    static_assert(kCount % kWide == 0);
#pragma unroll
    for (int piece = 0; piece < kCount; piece += kWide) {
      float part[kWide];
#pragma unroll
      for (int i = 0; i < kWide; ++i) part[i] = values[piece + i];
      ptx::store_16(target + piece, Held<T, kWide>(part).words());
    }
  } else {
    Packed<T, kCount> packed;
#pragma unroll
    for (int i = 0; i < kCount; ++i) packed.element[i] = from_float<T>(values[i]);
    *reinterpret_cast<Packed<T, kCount>*>(target) = packed;
  }
}

/// Whether rows of `cols` elements of T, from each of the pointers (null ones do not count), can be
/// moved 16 bytes at a time.
template <typename T, typename... Pointers>
bool vectorizable(std::int64_t cols, Pointers... pointers) {
  const auto aligned = [](const void* pointer) {
    return reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0;
  };
  return cols % kVectorWidth<T> == 0 && (aligned(pointers) && ...);
}

/// A view's elements as T; the launcher has looked at the type.
template <typename T>
__host__ __device__ __forceinline__ T* elements(const View<void>& view) {
  return static_cast<T*>(view.data);
}
template <typename T>
__host__ __device__ __forceinline__ const T* elements(const View<const void>& view) {
  return static_cast<const T*>(view.data);
}

/// Calls `body.template operator()<T>()` with the type that `dtype` names: float, bf16 or f16.
/// Throws DeviceError naming the operation for any other.
template <typename Body>
void for_float_type(const char* operation, DType dtype, const Body& body) {
  switch (dtype) {
    case DType::f32:
      return body.template operator()<float>();
    case DType::bf16:
      return body.template operator()<bf16>();
    case DType::f16:
      return body.template operator()<f16>();
    default:
      throw DeviceError(std::string(operation) + ": elements are " + std::string(to_string(dtype)) +
                        ", expected F32, BF16 or F16");
  }
}

}  // namespace vitrine::cuda
