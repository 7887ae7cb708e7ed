// Sums and maxima over lanes and over a block, always in the same order.
#pragma once

#include "primitives/cuda.cuh"

namespace vitrine::cuda {

struct Sum {
  template <typename T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Max {
  __device__ __forceinline__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

/// The reduction over each group of kWidth neighbouring lanes, in all of them. All lanes call.
template <int kWidth = kWarpSize, typename T, typename Operation>
__device__ __forceinline__ T lane_reduce(T value, Operation operation) {
#pragma unroll
  for (int offset = kWidth / 2; offset > 0; offset /= 2) {
    value = operation(value, __shfl_xor_sync(kAllLanes, value, offset));
  }
  return value;
}
template <int kWidth = kWarpSize, typename T>
__device__ __forceinline__ T lane_sum(T value) {
  return lane_reduce<kWidth>(value, Sum{});
}
template <int kWidth = kWarpSize>
__device__ __forceinline__ float lane_max(float value) {
  return lane_reduce<kWidth>(value, Max{});
}

/// The reduction over a block of kThreads threads, in all of them. `shared` holds one value a warp
/// and may be used again after the call.
template <int kThreads, typename T, typename Operation>
__device__ __forceinline__ T block_reduce(T value, T* shared, Operation operation) {
  constexpr int kWarps = kThreads / kWarpSize;
  static_assert(kThreads % kWarpSize == 0);
  value = lane_reduce(value, operation);
  if constexpr (kWarps == 1) return value;
  if (threadIdx.x % kWarpSize == 0) shared[threadIdx.x / kWarpSize] = value;
  __syncthreads();
  value = shared[0];
#pragma unroll
  for (int warp = 1; warp < kWarps; ++warp) value = operation(value, shared[warp]);
  __syncthreads();
  return value;
}

}  // namespace vitrine::cuda
