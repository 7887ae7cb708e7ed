// Patches from stored images, each pixel by itself, and the way back.
#pragma once

#include <algorithm>
#include <vector>

#include "reference/inputs.h"
#include "vitrine/kernels.h"

namespace vitrine::reference::patch_embed {

struct Case {
  std::int64_t channels, height, width, patch_size, source_height, source_width;
  std::vector<BatchRow> rows;
};

inline const std::vector<Case> kCases = {
    // The whole image at the model's size, an empty row, and crops at each border.
    {3,
     8,
     12,
     4,
     8,
     12,
     {{2, 0, 0, 12, 8, 0, 0},
      {1, 0, 0, 12, 8, 1, 0},
      {-1, 0, 0, 0, 0, 0, 0},
      {0, 0, 0, 5, 8, 0, 0},
      {2, 7, 0, 5, 3, 1, 0},
      {1, 11, 7, 1, 1, 0, 0},
      {0, 1, 1, 11, 7, 1, 0}}},
    {1, 28, 28, 4, 28, 28, {{0, 0, 0, 28, 28, 0, 0}, {1, 0, 0, 28, 28, 1, 0}}},
    // Larger, smaller and odd sources.
    {3, 14, 21, 7, 33, 17, {{0, 0, 0, 17, 33, 0, 0}, {1, 2.5f, 3.25f, 9.5f, 20.75f, 1, 0}}},
    {1, 6, 9, 3, 3, 5, {{0, 0, 0, 5, 3, 1, 0}, {0, 4.5f, 2.5f, 0.5f, 0.5f, 0, 0}}},
    {3, 16, 16, 16, 16, 40, {{0, 12, 0, 16, 16, 0, 0}, {1, 24, 0, 16, 16, 1, 0}}}};

struct Problem {
  Case c;
  std::int64_t num_images = 3;
  std::vector<std::uint8_t> bytes;
  std::vector<float> floats, mean, std;

  Problem(const Case& c_, std::uint64_t seed) : c(c_) {
    RandomStream random(seed, 0);
    const std::int64_t n = num_images * c.channels * c.source_height * c.source_width;
    for (std::int64_t i = 0; i < n; ++i) {
      bytes.push_back(static_cast<std::uint8_t>(random.below(256)));
      floats.push_back(static_cast<float>(random.uniform()));
    }
    for (std::int64_t i = 0; i < c.channels; ++i) {
      mean.push_back(static_cast<float>(random.uniform(0.3, 0.6)));
      std.push_back(static_cast<float>(random.uniform(0.2, 0.5)));
    }
  }
  std::int64_t image_elements() const { return c.channels * c.height * c.width; }
};

// Sample position along one axis, clamped to the crop.
inline double position(std::int64_t i, float crop, float crop_size, std::int64_t size) {
  const auto first = static_cast<double>(crop), extent = static_cast<double>(crop_size);
  const double at = first + (static_cast<double>(i) + 0.5) * extent / static_cast<double>(size);
  return std::min(std::max(at - 0.5, first), std::max(first, first + extent - 1.0));
}

template <typename T, typename Pixel>
T pixel(const Problem& p, const std::vector<Pixel>& images, const BatchRow& row, std::int64_t c,
        std::int64_t y, std::int64_t x) {
  if (row.image < 0) return 0;
  if (row.flip != 0) x = p.c.width - 1 - x;
  const double sx = position(x, row.crop_x, row.crop_width, p.c.width);
  const double sy = position(y, row.crop_y, row.crop_height, p.c.height);
  const auto x0 = static_cast<std::int64_t>(sx), y0 = static_cast<std::int64_t>(sy);
  const T wx = T(sx - static_cast<double>(x0)), wy = T(sy - static_cast<double>(y0));
  const auto at = [&](std::int64_t yy, std::int64_t xx) {
    yy = std::min(yy, p.c.source_height - 1), xx = std::min(xx, p.c.source_width - 1);
    const std::int64_t plane = (row.image * p.c.channels + c) * p.c.source_height;
    return T(images[(plane + yy) * p.c.source_width + xx]);
  };
  const T top = at(y0, x0) * (1 - wx) + at(y0, x0 + 1) * wx;
  const T bottom = at(y0 + 1, x0) * (1 - wx) + at(y0 + 1, x0 + 1) * wx;
  const T scale = sizeof(Pixel) == 1 ? T(1) / T(255) : T(1);
  return ((top * (1 - wy) + bottom * wy) * scale - T(p.mean[c])) / T(p.std[c]);
}

template <typename T, typename Pixel>
std::vector<T> patches_of(const Problem& p, const std::vector<Pixel>& images) {
  const std::int64_t s = p.c.patch_size;
  std::vector<T> patches;
  for (const BatchRow& row : p.c.rows) {
    for (std::int64_t py = 0; py < p.c.height / s; ++py) {
      for (std::int64_t px = 0; px < p.c.width / s; ++px) {
        for (std::int64_t i = 0; i < p.c.channels * s * s; ++i) {
          const std::int64_t y = py * s + i / s % s, x = px * s + i % s;
          patches.push_back(pixel<T>(p, images, row, i / (s * s), y, x));
        }
      }
    }
  }
  return patches;
}

/// The gradient of the normalised images: fold, divided by std.
template <typename T>
std::vector<T> folded(const Problem& p, const std::vector<float>& dpatches) {
  const Case& c = p.c;
  const std::int64_t s = c.patch_size;
  std::vector<T> dimages;
  for (std::int64_t i = 0; i < std::ssize(dpatches); ++i) {
    const std::int64_t x = i % c.width, y = i / c.width % c.height;
    const std::int64_t channel = i / (c.width * c.height) % c.channels;
    const std::int64_t patch = y / s * (c.width / s) + x / s;
    const std::int64_t inside = (channel * s + y % s) * s + x % s;
    const std::int64_t image = i / p.image_elements() * p.image_elements();
    const float d = dpatches[image + patch * c.channels * s * s + inside];
    dimages.push_back(T(d) / T(p.std[channel]));
  }
  return dimages;
}

}  // namespace vitrine::reference::patch_embed
