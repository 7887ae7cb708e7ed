// Affine maps, from one image to another, and erased boxes.
#pragma once

#include "augment_images.cuh"
#include "vitrine/pixel_sampling.h"

namespace vitrine::cuda::augment {

/// Columns and rows that each are the source of an axis wait in shared memory.
inline __device__ void stretch(const pixel::NearestMap& map, const std::uint8_t* fill,
                               const std::uint8_t* from, std::uint8_t* to, const Shape& shape,
                               const Shared& shared) {
  auto* columns = reinterpret_cast<int*>(shared.line);
  int* rows = columns + shape.width;
  for (int i = static_cast<int>(threadIdx.x); i < shape.width + shape.height; i += kThreads) {
    columns[i] =
        i < shape.width ? map.column(i, shape.width) : map.row(i - shape.width, shape.height);
  }
  __syncthreads();
  for_rows(shape.channels * shape.height, shape.width, [&](int row, int x) {
    const int y = row % shape.height;
    const bool inside = rows[y] >= 0 && columns[x] >= 0;
    to[row * shape.width + x] =
        inside ? from[(row - y + rows[y]) * shape.width + columns[x]] : fill[row / shape.height];
  });
}

inline __device__ void transform_nearest(const ImageOperation& operation, const std::uint8_t* fill,
                                         const std::uint8_t* from, std::uint8_t* to,
                                         const Shape& shape, const Shared& shared) {
  const pixel::NearestMap map(operation.value, shape.height, shape.width);
  if (map.separable) return stretch(map, fill, from, to, shape, shared);
  for_rows(shape.height, shape.width, [&](int y, int x) {
    const pixel::NearestPixel source = map.source(x, y, shape.height, shape.width);
    for (int c = 0; c < shape.channels; ++c) {
      const int plane = c * shape.plane();
      to[plane + y * shape.width + x] =
          source.x < 0 ? fill[c] : from[plane + source.y * shape.width + source.x];
    }
  });
}

template <typename Sample>
__device__ void transform_smooth(const ImageOperation& operation, const std::uint8_t* fill,
                                 const std::uint8_t* from, std::uint8_t* to, const Shape& shape,
                                 const Sample& sample) {
  for_rows(shape.height, shape.width, [&](int y, int x) {
    const pixel::SamplePoint at =
        pixel::sample_point(operation.value, x, y, shape.height, shape.width);
#pragma unroll 1
    for (int c = 0; c < shape.channels; ++c) {
      const int plane = c * shape.plane();
      to[plane + y * shape.width + x] =
          at.inside ? sample(from + plane, shape.height, shape.width, at) : fill[c];
    }
  });
}

inline __device__ void transform(const ImageOperation& operation, const std::uint8_t* fill,
                                 const std::uint8_t* from, std::uint8_t* to, const Shape& shape,
                                 const Shared& shared) {
  if (operation.filter == ResampleFilter::nearest) {
    transform_nearest(operation, fill, from, to, shape, shared);
  } else if (operation.filter == ResampleFilter::bilinear) {
    transform_smooth(
        operation, fill, from, to, shape,
        [](const std::uint8_t* plane, int height, int width, const pixel::SamplePoint& at) {
          return pixel::bilinear(plane, height, width, at);
        });
  } else {
    transform_smooth(
        operation, fill, from, to, shape,
        [](const std::uint8_t* plane, int height, int width, const pixel::SamplePoint& at) {
          return pixel::bicubic(plane, height, width, at);
        });
  }
}

inline __device__ void erase(const ImageOperation& operation, const AugmentImages& args,
                             std::uint8_t* image, const Shape& shape) {
  const pixel::Box box = pixel::erased_box(operation, shape.height, shape.width);
  const bool noise = operation.value[4] == 1.0 || operation.value[4] == 2.0;
  const bool by_pixel = operation.value[4] == 2.0;
  for (int c = 0; c < shape.channels; ++c) {
    const float mean = args.mean.data[c], std = args.std.data[c];
    for_rows(box.bottom - box.top, box.right - box.left, [&](int row, int column) {
      const int pixel_index = (c * shape.height + box.top + row) * shape.width + box.left + column;
      image[pixel_index] =
          noise ? pixel::noise_level(
                      mean, std,
                      pixel::erase_noise(operation.random,
                                         static_cast<unsigned>(by_pixel ? pixel_index : c)))
                : args.fill.data[c];
    });
  }
}

}  // namespace vitrine::cuda::augment
