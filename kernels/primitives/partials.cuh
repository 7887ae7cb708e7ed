// The second stage of a column reduction: partial sums that blocks wrote to memory are added up.
//
//   out[i] (+)= Σ_p partials[p, i]
//
// A block owns some neighbouring columns, eight of them (one 32-byte sector) where there are many
// partials: then 32 slices of threads share a column, slice s adding partials s, s + 32, … in that
// order, and the slices are added in order. So the order is fixed by the number of partials.
//
// A kernel of its own and not the last block of the first stage: 264 partials of 2 · 768 sums are
// 1.6 MB, still in L2. 192 blocks read them in two or three round trips, 2 to 3 µs; one block on
// one multiprocessor, at about 100 bytes a clock, would need 9 µs. (Expectations: not measured.)
#pragma once

#include "primitives/cuda.cuh"

namespace vitrine::cuda {

constexpr int kPartialsThreads = 256;
constexpr int kManySlices = 32;

/// Partial p of element i is partials[p · stride + i]. Sums of elements from `split` on go to
/// `second`, from its beginning.
struct PartialSums {
  const float* partials = nullptr;
  std::int64_t num_partials = 0, stride = 0, n = 0;
  float *first = nullptr, *second = nullptr;
  std::int64_t split = 0;
  bool accumulate = false;
};

template <int kSlices>
__global__ void __launch_bounds__(kPartialsThreads) sum_partials_kernel(PartialSums args) {
  constexpr int kColumns = kPartialsThreads / kSlices;
  const int column = static_cast<int>(threadIdx.x) % kColumns;
  const int slice = static_cast<int>(threadIdx.x) / kColumns;
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kColumns + column;
  float sum = 0.0f;
  if (i < args.n) {
#pragma unroll 8
    for (std::int64_t p = slice; p < args.num_partials; p += kSlices) {
      sum += args.partials[p * args.stride + i];
    }
  }
  if constexpr (kSlices > 1) {
    SHARED_ARRAY(float, sums, [kSlices][kColumns]);
    sums[slice][column] = sum;
    __syncthreads();
    sum = sums[0][column];
#pragma unroll
    for (int s = 1; s < kSlices; ++s) sum += sums[s][column];
  }
  if (slice != 0 || i >= args.n) return;
  float* out = i < args.split ? args.first + i : args.second + (i - args.split);
  *out = args.accumulate ? *out + sum : sum;
}

inline void launch_sum_partials(const char* operation, cudaStream_t stream,
                                const PartialSums& args) {
  const auto blocks = [&](int columns) {
    return dim3(static_cast<unsigned>(ceil_div(args.n, std::int64_t{columns})));
  };
  if (args.num_partials < kManySlices) {
    launch(operation, stream, blocks(kPartialsThreads), kPartialsThreads, 0, sum_partials_kernel<1>,
           args);
  } else {
    launch(operation, stream, blocks(kPartialsThreads / kManySlices), kPartialsThreads, 0,
           sum_partials_kernel<kManySlices>, args);
  }
}

/// out[i] (+)= Σ_p partials[p · stride + i] for i in [0, n); `out` may be partials.
inline void sum_partials(const char* operation, cudaStream_t stream, float* out,
                         const float* partials, std::int64_t num_partials, std::int64_t n,
                         std::int64_t stride, bool accumulate) {
  launch_sum_partials(operation, stream,
                      {partials, num_partials, stride, n, out, nullptr, n, accumulate});
}

/// The same for partials [num_partials, 2, cols] into two arrays, in one launch; either may be
/// nullptr.
inline void sum_partial_pairs(const char* operation, cudaStream_t stream, float* first,
                              float* second, const float* partials, std::int64_t num_partials,
                              std::int64_t cols, bool accumulate) {
  if (first == nullptr || second == nullptr) {
    if (first == nullptr && second == nullptr) return;
    sum_partials(operation, stream, first != nullptr ? first : second,
                 first != nullptr ? partials : partials + cols, num_partials, cols, 2 * cols,
                 accumulate);
    return;
  }
  launch_sum_partials(
      operation, stream,
      {partials, num_partials, 2 * cols, 2 * cols, first, second, cols, accumulate});
}

/// Rows of run `partial` of `partials`: all rows are cut into runs of nearly the same length.
struct RowRun {
  std::int64_t begin, end;
};
__host__ __device__ __forceinline__ RowRun row_run(std::int64_t rows, std::int64_t partial,
                                                   std::int64_t partials) {
  return {partial * rows / partials, (partial + 1) * rows / partials};
}

/// values = Σ over the threads t, t + width, t + 2 · width, … of the block, in thread t < width;
/// the others' values are lost. Added in halves: the order depends on the width alone. All threads
/// of the block call; `width` is a power of two, `shared` holds kCount · kThreads / 2 values.
template <int kThreads, int kCount>
__device__ __forceinline__ void sum_over_block(float (&values)[kCount], int width, float* shared) {
  constexpr int kHalf = kThreads / 2;
  const int thread = static_cast<int>(threadIdx.x);
  for (int half = kHalf; half >= width; half /= 2) {
    if (thread >= half && thread < 2 * half) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) shared[i * kHalf + thread - half] = values[i];
    }
    __syncthreads();
    if (thread < half) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) values[i] += shared[i * kHalf + thread];
    }
    __syncthreads();
  }
}

}  // namespace vitrine::cuda
