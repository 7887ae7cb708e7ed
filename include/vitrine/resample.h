// Where the pixels of a resized picture come from: the arithmetic of Pillow for 8-bit images.
//
//   weight of pixel x in output i   f((x − c + ½) / s) / Σ, rounded to 22 bits after the point
//   c = first + (i + ½) · scale     s = max(scale, 1): the filter is as wide as an output pixel
//   bilinear                        f(x) = 1 − |x|
//   bicubic                         Keys 1981, "Cubic convolution interpolation for digital image
//                                   processing", a = −½
//
// The two axes are independent: rows first, rounded to u8, then columns. Every device calls these
// functions, and all of them round where Pillow does, so every device computes the same bits.
#pragma once

#include <cmath>
#include <cstdint>

#include "vitrine/augment.h"
#include "vitrine/unfused.h"

namespace vitrine {

constexpr int kResampleBits = 22;                                 ///< of a weight, after the point
constexpr std::int32_t kResampleHalf = 1 << (kResampleBits - 1);  ///< what a sum begins with

/// How many pixels to each side of its centre a filter reaches.
VITRINE_HOST_DEVICE constexpr double filter_support(ResampleFilter filter) {
  return filter == ResampleFilter::bicubic ? 2.0 : 1.0;
}

/// One axis of a box, clipped to the picture: `outputs` pixels are made of pixels [0, size).
struct ResampleAxis {
  double first;    ///< where the box begins
  double scale;    ///< pixels of the picture an output
  double support;  ///< pixels of the picture to each side of an output's centre
  double inverse;  ///< of the factor by which the filter is widened
  std::int32_t size;
  ResampleFilter filter;
};

/// Pixels [first, first + count) of the picture.
struct ResampleWindow {
  std::int32_t first, count;
};

/// `size` is at least 1. What is no number counts as 0.
VITRINE_HOST_DEVICE inline ResampleAxis resample_axis(float crop, float extent, std::int32_t size,
                                                      std::int64_t outputs, ResampleFilter filter) {
  const auto end = static_cast<float>(size);
  const float first = fminf(fmaxf(crop, 0.0f), end);
  const float last = fminf(fmaxf(crop + extent, first), end);
  const double scale = static_cast<double>(last - first) / static_cast<double>(outputs);
  const double widened = fmax(scale, 1.0);
  const double support = unfused_product(filter_support(filter), widened);
  return {static_cast<double>(first), scale, support, 1.0 / widened, size, filter};
}

/// No window has more pixels.
VITRINE_HOST_DEVICE inline std::int32_t most_taps(double support) {
  return static_cast<std::int32_t>(ceil(support)) * 2 + 1;
}

VITRINE_HOST_DEVICE inline double resample_centre(const ResampleAxis& axis, std::int32_t i) {
  return axis.first + unfused_product(i + 0.5, axis.scale);
}

/// What output i is made of, at least one pixel. Not for `nearest`.
VITRINE_HOST_DEVICE inline ResampleWindow resample_window(const ResampleAxis& axis,
                                                          std::int32_t i) {
  const double centre = resample_centre(axis, i);
  const auto low = static_cast<std::int32_t>(centre - axis.support + 0.5);
  const auto high = static_cast<std::int32_t>(centre + axis.support + 0.5);
  const std::int32_t first = low > 0 ? low : 0;
  return {first, (high < axis.size ? high : axis.size) - first};
}

VITRINE_HOST_DEVICE inline double filter_value(ResampleFilter filter, double x) {
  x = fabs(x);
  if (filter == ResampleFilter::bilinear) return x < 1.0 ? 1.0 - x : 0.0;
  if (x < 1.0) {
    return unfused_product(unfused_product(unfused_product(1.5, x) - 2.5, x), x) + 1.0;
  }
  if (x >= 2.0) return 0.0;
  return unfused_product(unfused_product(unfused_product(x - 5.0, x) + 8.0, x) - 4.0, -0.5);
}

/// Calls put(tap, weight) with the weight of each pixel of output i's window.
template <typename Put>
VITRINE_HOST_DEVICE inline void resample_weights(const ResampleAxis& axis, std::int32_t i,
                                                 const ResampleWindow& window, const Put& put) {
  const double centre = resample_centre(axis, i);
  const auto value = [&](std::int32_t tap) {
    return filter_value(axis.filter,
                        unfused_product(tap + window.first - centre + 0.5, axis.inverse));
  };
  double sum = 0.0;
  for (std::int32_t tap = 0; tap < window.count; ++tap) sum += value(tap);
  for (std::int32_t tap = 0; tap < window.count; ++tap) {
    const double weight = sum != 0.0 ? value(tap) / sum : value(tap);
    const double scaled = unfused_product(weight, 1 << kResampleBits);
    put(tap, static_cast<std::int32_t>(weight < 0.0 ? scaled - 0.5 : scaled + 0.5));
  }
}

/// Σ pixel · weight, begun with kResampleHalf, as a pixel.
VITRINE_HOST_DEVICE inline std::uint8_t resampled_pixel(std::int32_t sum) {
  const std::int32_t pixel = sum >> kResampleBits;
  return static_cast<std::uint8_t>(pixel < 0 ? 0 : pixel > 255 ? 255 : pixel);
}

/// Calls put(i, pixel) for the outputs [0, count) of `nearest`: the pixel under each centre. Pillow
/// goes from one centre to the next by a sum, and what that rounds decides ties.
template <typename Put>
VITRINE_HOST_DEVICE inline void nearest_pixels(const ResampleAxis& axis, std::int32_t count,
                                               const Put& put) {
  double centre = axis.first + unfused_product(axis.scale, 0.5);
  for (std::int32_t i = 0; i < count; ++i, centre += axis.scale) {
    const auto pixel = static_cast<std::int32_t>(centre);
    put(i, pixel < axis.size ? pixel : axis.size - 1);
  }
}

/// Whether every pixel of a view with a picture lies in [0, size), whatever the view holds.
VITRINE_HOST_DEVICE inline bool is_inside(const PictureView& view, std::int64_t channels,
                                          std::int64_t size) {
  if (view.height < 1 || view.width < 1 || view.offset < 0 || view.offset >= size) return false;
  std::int64_t low = view.offset, high = view.offset;
  const std::int64_t last[3] = {view.height - 1, view.width - 1, channels - 1};
  const std::int64_t stride[3] = {view.stride_y, view.stride_x, view.stride_c};
  for (int axis = 0; axis < 3; ++axis) {
    if (last[axis] == 0) continue;
    const std::int64_t farthest = size / last[axis];  // no larger stride fits, no product overflows
    if (stride[axis] > farthest || stride[axis] < -farthest) return false;
    (stride[axis] < 0 ? low : high) += last[axis] * stride[axis];
  }
  return low >= 0 && high < size;
}

}  // namespace vitrine
