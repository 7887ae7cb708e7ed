// Sharpness and Gaussian blur, from one image to another.
#pragma once

#include "augment_images.cuh"

namespace vitrine::cuda::augment {

inline __device__ void sharpen(float factor, const std::uint8_t* from, std::uint8_t* to,
                               const Shape& shape) {
  const int width = shape.width;
  for_rows(shape.channels * shape.height, width, [&](int row, int x) {
    const int y = row % shape.height;
    const std::uint8_t* at = from + row * width + x;
    int level = *at;
    if (y > 0 && y < shape.height - 1 && x > 0 && x < width - 1) {
      const std::uint8_t *upper = at - width, *lower = at + width;
      const int neighbours =
          upper[-1] + upper[0] + upper[1] + at[-1] + at[1] + lower[-1] + lower[0] + lower[1];
      level = pixel::blend(pixel::smooth(neighbours, level), level, factor);
    }
    to[row * width + x] = static_cast<std::uint8_t>(level);
  });
}

/// A row's columns are summed into shared memory, then the row; as many rows at a time as fit.
inline __device__ void blur(double sigma, const std::uint8_t* from, std::uint8_t* to,
                            const Shape& shape, const Shared& shared) {
  Statistics& statistics = shared.statistics;
  const std::uint32_t* weights = statistics.weights;
  const int radius = pixel::blur_radius(sigma), thread = static_cast<int>(threadIdx.x);
  if (thread <= radius) statistics.gaussians[thread] = pixel::gaussian(thread, sigma);
  __syncthreads();
  if (thread == 0) pixel::blur_weights(statistics.gaussians, radius, statistics.weights);
  __syncthreads();

  const int width = shape.width, rows = shape.channels * shape.height;
  const int rows_at_once = shared.line_elements / width;
  for (int first = 0; first < rows; first += rows_at_once) {
    const int count = min(rows_at_once, rows - first);
    for_rows(count, width, [&](int i, int x) {
      const int y = (first + i) % shape.height;
      const std::uint8_t* column = from + (first + i - y) * width + x;
      std::uint32_t sum = weights[0] * column[y * width];
      for (int j = 1; j <= radius; ++j) {
        sum += weights[j] * (column[pixel::mirrored(y - j, shape.height) * width] +
                             column[pixel::mirrored(y + j, shape.height) * width]);
      }
      shared.line[i * width + x] = pixel::blurred_column(sum);
    });
    __syncthreads();
    for_rows(count, width, [&](int i, int x) {
      const std::uint32_t* line = shared.line + i * width;
      std::uint32_t sum = weights[0] * line[x];
      for (int j = 1; j <= radius; ++j) {
        sum += weights[j] *
               (line[pixel::mirrored(x - j, width)] + line[pixel::mirrored(x + j, width)]);
      }
      to[(first + i) * width + x] = pixel::blurred_level(sum);
    });
    __syncthreads();
  }
}

}  // namespace vitrine::cuda::augment
