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

/// kCount neighbouring elements, moved in one access.
template <typename T, int kCount>
struct alignas(sizeof(T) * kCount) Packed {
  static_assert(sizeof(T) * kCount <= 16 && std::has_single_bit(sizeof(T) * kCount));
  T element[kCount];
};

/// values = source[0 … kCount). `source` is aligned to sizeof(T) · kCount, at most 16 bytes.
template <typename T, int kCount>
__device__ __forceinline__ void load(float (&values)[kCount], const T* source) {
  constexpr int kPiece = kCount < kVectorWidth<T> ? kCount : kVectorWidth<T>;
  static_assert(kCount % kPiece == 0);
#pragma unroll
  for (int piece = 0; piece < kCount; piece += kPiece) {
    const auto packed = *reinterpret_cast<const Packed<T, kPiece>*>(source + piece);
#pragma unroll
    for (int i = 0; i < kPiece; ++i) values[piece + i] = to_float(packed.element[i]);
  }
}

/// target[0 … kCount) = values, rounded to T.
template <typename T, int kCount>
__device__ __forceinline__ void store(T* target, const float (&values)[kCount]) {
  constexpr int kPiece = kCount < kVectorWidth<T> ? kCount : kVectorWidth<T>;
  static_assert(kCount % kPiece == 0);
#pragma unroll
  for (int piece = 0; piece < kCount; piece += kPiece) {
    Packed<T, kPiece> packed;
#pragma unroll
    for (int i = 0; i < kPiece; ++i) packed.element[i] = from_float<T>(values[piece + i]);
    *reinterpret_cast<Packed<T, kPiece>*>(target + piece) = packed;
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
