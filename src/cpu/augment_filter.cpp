// Sharpness and Gaussian blur, a row at a time. The loops of the blur are left to the compiler,
// once for each target.
#include <algorithm>
#include <cstring>
#include <vector>

#include "cpu/augment_images.h"

#ifndef VITRINE_CPU_AUGMENT_FILTER_BLUR
#define VITRINE_CPU_AUGMENT_FILTER_BLUR
namespace vitrine::cpu {

/// What a blur needs besides the pixels.
struct Blur {
  int radius;
  std::uint32_t weights[pixel::kLargestBlurRadius + 1];
  std::vector<std::uint32_t> row;  ///< columns' sums, with `radius` mirrored ones on each side

  Blur(double sigma, int width) : radius(pixel::blur_radius(sigma)), row(width + 2 * radius) {
    double gaussians[pixel::kLargestBlurRadius + 1];
    for (int i = 0; i <= radius; ++i) gaussians[i] = pixel::gaussian(i, sigma);
    pixel::blur_weights(gaussians, radius, weights);
  }
};

}  // namespace vitrine::cpu
#endif  // VITRINE_CPU_AUGMENT_FILTER_BLUR

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/augment_filter.cpp"
#include "hwy/foreach_target.h"
// clang-format off: the line above decides what the next one compiles for
#include "hwy/highway.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace vitrine::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// pixel::smooth and pixel::blend of neighbouring pixels; the row above is `width` bytes away.
template <class D>
HWY_INLINE void sharpen_pixels(D d, const std::uint8_t* from, int width, float factor,
                               std::uint8_t* to) {
  const hn::Rebind<std::uint8_t, D> bytes;
  const hn::Rebind<std::uint16_t, D> sums;
  const hn::Rebind<std::int16_t, D> differences;
  const hn::Rebind<std::int32_t, D> words;
  const auto pixels = [&](int offset) {
    return hn::PromoteTo(sums, hn::LoadU(bytes, from + offset));
  };
  const auto three = [&](int offset) {
    return hn::Add(hn::Add(pixels(offset - 1), pixels(offset)), pixels(offset + 1));
  };
  const auto centre = pixels(0);
  const auto sum =
      hn::Add(hn::Add(three(-width), three(width)), hn::Add(three(0), hn::ShiftLeft<2>(centre)));
  // (sum + 6) / 13, exact for sums of 13 levels.
  const auto smooth =
      hn::MulHigh(hn::Add(sum, hn::Set(sums, 6)), hn::Set(sums, (1 << 16) / 13 + 1));
  const auto difference = hn::BitCast(differences, hn::Sub(centre, smooth));
  const auto step = hn::Mul(hn::Set(d, factor), hn::ConvertTo(d, hn::PromoteTo(words, difference)));
  const auto level = hn::Add(hn::ConvertTo(d, hn::PromoteTo(words, smooth)), step);
  const auto bright = hn::Min(level, hn::Set(d, float{pixel::kLevels - 1}));
  hn::StoreU(hn::DemoteTo(bytes, hn::ConvertTo(words, bright)), bytes, to);  // saturates at 0
}

// A row between its border pixels; the last vector overlaps the one before it.
void sharpen_row(const std::uint8_t* __restrict from, int width, float factor,
                 std::uint8_t* __restrict to) {
  const hn::ScalableTag<float> d;
  const int lanes = static_cast<int>(hn::Lanes(d)), end = width - 1;
  if (HWY_TARGET != HWY_SCALAR && end - 1 >= lanes) {
    for (int x = 1; x < end; x += lanes) {
      const int begin = std::min(x, end - lanes);
      sharpen_pixels(d, from + begin, width, factor, to + begin);
    }
    return;
  }
  const std::uint8_t *upper = from - width, *lower = from + width;
  for (int x = 1; x < end; ++x) {
    const int neighbours = upper[x - 1] + upper[x] + upper[x + 1] + from[x - 1] + from[x + 1] +
                           lower[x - 1] + lower[x] + lower[x + 1];
    to[x] = pixel::blend(pixel::smooth(neighbours, from[x]), from[x], factor);
  }
}

/// Fills blur.row for row y of the plane.
void blur_columns(const std::uint8_t* plane, int height, int width, int y, Blur& blur) {
  std::uint32_t* __restrict sums = blur.row.data() + blur.radius;
  const std::uint8_t* centre = plane + y * width;
  for (int x = 0; x < width; ++x) sums[x] = blur.weights[0] * centre[x];
  for (int i = 1; i <= blur.radius; ++i) {
    const std::uint8_t* upper = plane + pixel::mirrored(y - i, height) * width;
    const std::uint8_t* lower = plane + pixel::mirrored(y + i, height) * width;
    const std::uint32_t weight = blur.weights[i];
    for (int x = 0; x < width; ++x) sums[x] += weight * (upper[x] + lower[x]);
  }
  for (int x = 0; x < width; ++x) sums[x] = pixel::blurred_column(sums[x]);
  for (int i = 1; i <= blur.radius; ++i) {
    sums[-i] = sums[pixel::mirrored(-i, width)];
    sums[width - 1 + i] = sums[pixel::mirrored(width - 1 + i, width)];
  }
}

void blur_row(const Blur& blur, int width, std::uint8_t* __restrict to) {
  constexpr int kRun = 64;  // sums that stay in registers or the nearest cache
  const std::uint32_t* columns = blur.row.data() + blur.radius;
  for (int begin = 0; begin < width; begin += kRun) {
    const int n = std::min(kRun, width - begin);
    std::uint32_t sums[kRun];
    for (int x = 0; x < n; ++x) sums[x] = blur.weights[0] * columns[begin + x];
    for (int i = 1; i <= blur.radius; ++i) {
      const std::uint32_t* left = columns + begin - i;
      const std::uint32_t* right = columns + begin + i;
      const std::uint32_t weight = blur.weights[i];
      for (int x = 0; x < n; ++x) sums[x] += weight * (left[x] + right[x]);
    }
    for (int x = 0; x < n; ++x) to[begin + x] = pixel::blurred_level(sums[x]);
  }
}

}  // namespace vitrine::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vitrine::cpu {

HWY_EXPORT(sharpen_row);
HWY_EXPORT(blur_columns);
HWY_EXPORT(blur_row);

void sharpen(float factor, const std::uint8_t* from, std::uint8_t* to, const ImageShape& shape) {
  const int width = shape.width;
  for (int row = 0; row < shape.channels * shape.height; ++row, from += width, to += width) {
    const int y = row % shape.height;
    if (y == 0 || y == shape.height - 1) {
      std::memcpy(to, from, width);
      continue;
    }
    to[0] = from[0];
    to[width - 1] = from[width - 1];
    HWY_DYNAMIC_DISPATCH(sharpen_row)(from, width, factor, to);
  }
}

void blur(double sigma, const std::uint8_t* from, std::uint8_t* to, const ImageShape& shape) {
  Blur blur(sigma, shape.width);
  for (int c = 0; c < shape.channels; ++c) {
    for (int y = 0; y < shape.height; ++y, to += shape.width) {
      HWY_DYNAMIC_DISPATCH(blur_columns)
      (from + c * shape.plane(), shape.height, shape.width, y, blur);
      HWY_DYNAMIC_DISPATCH(blur_row)(blur, shape.width, to);
    }
  }
}

}  // namespace vitrine::cpu
#endif  // HWY_ONCE
