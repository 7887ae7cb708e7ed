// What the operations of augment_images share: one block, one image.
#pragma once

#include "primitives/cuda.cuh"
#include "primitives/reduce.cuh"
#include "primitives/vector.cuh"
#include "vitrine/pixel_math.h"

namespace vitrine::cuda::augment {

constexpr int kThreads = 256;
constexpr int kBlocks = 3;  ///< a multiprocessor: all that fit without spills
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kChannels = 3;
constexpr int kMinLine = 4096;  ///< elements of `line`: some rows of a usual image

/// An image [channels, height, width].
struct Shape {
  int channels, height, width;

  __device__ __forceinline__ int plane() const { return height * width; }
};

/// A block's statistics, and the tables made of them.
struct Statistics {
  std::uint32_t counts[kChannels][pixel::kLevels];
  pixel::Histogram histograms[kChannels];
  std::uint8_t tables[kChannels][pixel::kLevels];
  unsigned long long sums[kWarps];
  double gaussians[pixel::kLargestBlurRadius + 1];
  std::uint32_t weights[pixel::kLargestBlurRadius + 1];
};

/// A block's shared memory. `line` is as long as height + width and holds a row of pixels at least.
struct Shared {
  Statistics& statistics;
  std::uint32_t* line;
  int line_elements;
};

/// Calls body(row, x) for the pixels of rows [0, rows): a warp takes a row.
template <typename Body>
__device__ __forceinline__ void for_rows(int rows, int width, const Body& body) {
  for (int row = static_cast<int>(threadIdx.x) / kWarpSize; row < rows; row += kWarps) {
    for (int x = static_cast<int>(threadIdx.x) % kWarpSize; x < width; x += kWarpSize) {
      body(row, x);
    }
  }
}

/// Calls body(i) for every kVector-th element of [0, n).
template <int kVector, typename Body>
__device__ __forceinline__ void for_elements(int n, const Body& body) {
  for (std::int64_t i = std::int64_t{threadIdx.x} * kVector; i < n; i += kThreads * kVector) {
    body(static_cast<int>(i));
  }
}

template <int kVector>
using Pixels = Packed<std::uint8_t, kVector>;

template <int kVector>
__device__ __forceinline__ Pixels<kVector> load_pixels(const std::uint8_t* from) {
  return *reinterpret_cast<const Pixels<kVector>*>(from);
}
template <int kVector>
__device__ __forceinline__ void store_pixels(std::uint8_t* to, Pixels<kVector> pixels) {
  *reinterpret_cast<Pixels<kVector>*>(to) = pixels;
}

}  // namespace vitrine::cuda::augment
