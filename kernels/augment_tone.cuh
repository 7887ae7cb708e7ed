// Tones by a table a channel, and changes of colour, in place. Statistics are counts in shared
// memory by integer atomics, so their order does not matter.
#pragma once

#include "augment_images.cuh"

namespace vitrine::cuda::augment {

/// Fills the histograms' summaries. Ends with a barrier.
inline __device__ void summarize(const std::uint8_t* image, const Shape& shape,
                                 Statistics& statistics) {
  const int thread = static_cast<int>(threadIdx.x);
  for (int i = thread; i < kChannels * pixel::kLevels; i += kThreads) {
    statistics.counts[i / pixel::kLevels][i % pixel::kLevels] = 0;
  }
  __syncthreads();
  for (int c = 0; c < shape.channels; ++c) {
    const std::uint8_t* plane = image + c * shape.plane();
    for_elements<1>(shape.plane(), [&](int i) { atomicAdd(&statistics.counts[c][plane[i]], 1u); });
  }
  __syncthreads();
  if (thread < shape.channels) {
    statistics.histograms[thread] = pixel::summary_of(statistics.counts[thread]);
  }
  __syncthreads();
}

/// The mean luma of the image, in all threads.
inline __device__ int mean_luma(const std::uint8_t* image, const Shape& shape,
                                Statistics& statistics) {
  const int n = shape.plane();
  unsigned long long sum = 0;
  for_elements<1>(n, [&](int i) {
    sum += shape.channels == 1 ? image[i] : pixel::luma(image[i], image[n + i], image[2 * n + i]);
  });
  sum = block_reduce<kThreads>(sum, statistics.sums, Sum{});
  return pixel::mean_luma(sum, static_cast<unsigned>(n));
}

/// Fills the channels' tables. Ends with a barrier.
inline __device__ void make_tables(const ImageOperation& operation, const std::uint8_t* image,
                                   const Shape& shape, Statistics& statistics) {
  const bool reads_histogram = pixel::reads_histogram(operation.kind);
  int mean = 0;
  if (reads_histogram) summarize(image, shape, statistics);
  if (operation.kind == ImageOperationKind::contrast) mean = mean_luma(image, shape, statistics);
  for (int i = static_cast<int>(threadIdx.x); i < shape.channels * pixel::kLevels; i += kThreads) {
    const int c = i / pixel::kLevels, x = i % pixel::kLevels;
    if (reads_histogram) {
      std::uint32_t below = 0;
      for (int level = 0; level < x; ++level) below += statistics.counts[c][level];
      statistics.tables[c][x] =
          pixel::histogram_tone(operation.kind, statistics.histograms[c], below, x);
    } else {
      statistics.tables[c][x] = pixel::plain_tone(operation, mean, x);
    }
  }
  __syncthreads();
}

template <int kVector>
__device__ void change_tones(const ImageOperation& operation, std::uint8_t* image,
                             const Shape& shape, Statistics& statistics) {
  make_tables(operation, image, shape, statistics);
  for (int c = 0; c < shape.channels; ++c) {
    std::uint8_t* plane = image + c * shape.plane();
    const std::uint8_t* table = statistics.tables[c];
    for_elements<kVector>(shape.plane(), [&](int i) {
      Pixels<kVector> pixels = load_pixels<kVector>(plane + i);
#pragma unroll
      for (std::uint8_t& level : pixels.element) level = table[level];
      store_pixels(plane + i, pixels);
    });
  }
}

template <int kVector, typename Change>
__device__ __forceinline__ void for_colors(std::uint8_t* image, int n, const Change& change) {
  for_elements<kVector>(n, [&](int i) {
    auto red = load_pixels<kVector>(image + i), green = load_pixels<kVector>(image + n + i);
    auto blue = load_pixels<kVector>(image + 2 * n + i);
#pragma unroll
    for (int j = 0; j < kVector; ++j) {
      const pixel::Rgb changed =
          change(pixel::Rgb{red.element[j], green.element[j], blue.element[j]});
      red.element[j] = changed.r;
      green.element[j] = changed.g;
      blue.element[j] = changed.b;
    }
    store_pixels(image + i, red);
    store_pixels(image + n + i, green);
    store_pixels(image + 2 * n + i, blue);
  });
}

/// color, hue and grayscale. The hue is arithmetic, not memory: a pixel at a time.
template <int kVector>
__device__ void change_colors(const ImageOperation& operation, std::uint8_t* image,
                              const Shape& shape) {
  if (shape.channels != kChannels) return;
  if (operation.kind == ImageOperationKind::hue) {
    const std::uint8_t shift = pixel::hue_shift(operation.value[0]);
    for_colors<1>(image, shape.plane(),
                  [&](pixel::Rgb color) { return pixel::with_hue_shifted(color, shift); });
    return;
  }
  const bool gray = operation.kind == ImageOperationKind::grayscale;
  const float factor = gray ? 0.0f : static_cast<float>(operation.value[0]);
  for_colors<kVector>(image, shape.plane(), [&](pixel::Rgb color) {
    const int luma = pixel::luma(color.r, color.g, color.b);
    return pixel::Rgb{pixel::blend(luma, color.r, factor), pixel::blend(luma, color.g, factor),
                      pixel::blend(luma, color.b, factor)};
  });
}

}  // namespace vitrine::cuda::augment
