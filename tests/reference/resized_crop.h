// Boxes of pictures resampled pixel by pixel: the formula of Pillow's Image.resize, and random
// views.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "vitrine/augment.h"
#include "vitrine/random.h"

namespace vitrine::reference::resized_crop {

using Bytes = std::vector<std::uint8_t>;

/// Images [B, channels, height, width] of views into `sources`.
struct Problem {
  std::int64_t channels, height, width;
  Bytes sources;
  std::vector<PictureView> views;

  std::int64_t image_elements() const { return channels * height * width; }
  std::int64_t elements() const { return std::ssize(views) * image_elements(); }
};

/// The largest box, as `ResizedCrop` wants to know it.
inline float largest_scale(const Problem& p) {
  float largest = 0.01f;
  for (const PictureView& view : p.views) {
    largest = std::max({largest, view.crop_height / static_cast<float>(p.height),
                        view.crop_width / static_cast<float>(p.width)});
  }
  return largest;
}

inline ResizedCrop arguments(const Problem& p, View<std::uint8_t> images,
                             ConstView<std::uint8_t> sources, ConstView<PictureView> views) {
  ResizedCrop args{images, sources, views};
  args.batch = std::ssize(p.views), args.channels = p.channels;
  args.height = p.height, args.width = p.width;
  args.largest_scale = largest_scale(p);
  return args;
}

/// What an output along one axis is made of: Σ weights[i] · pixel[first + i].
struct Window {
  std::int64_t first;
  std::vector<std::int64_t> weights;
};

inline double filter_at(ResampleFilter filter, double x) {
  x = std::abs(x);
  if (filter == ResampleFilter::bilinear) return x < 1 ? 1 - x : 0;
  constexpr double a = -0.5;
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

inline std::vector<Window> windows_of(float crop, float extent, std::int64_t size,
                                      std::int64_t outputs, ResampleFilter filter) {
  crop = std::clamp(crop, 0.0f, static_cast<float>(size));
  const float end = std::clamp(crop + extent, crop, static_cast<float>(size));
  const double scale = static_cast<double>(end - crop) / static_cast<double>(outputs);
  std::vector<Window> windows;
  if (filter == ResampleFilter::nearest) {
    double at = crop + scale * 0.5;
    for (std::int64_t i = 0; i < outputs; ++i, at += scale) {
      windows.push_back({std::min(static_cast<std::int64_t>(at), size - 1), {1 << 22}});
    }
    return windows;
  }
  const double wide = std::max(scale, 1.0);
  const double support = wide * (filter == ResampleFilter::bicubic ? 2.0 : 1.0);
  for (std::int64_t i = 0; i < outputs; ++i) {
    const double centre = crop + (static_cast<double>(i) + 0.5) * scale;
    const auto low = std::max<std::int64_t>(0, static_cast<std::int64_t>(centre - support + 0.5));
    const auto high = std::min(size, static_cast<std::int64_t>(centre + support + 0.5));
    std::vector<double> values;
    double sum = 0;
    for (std::int64_t x = low; x < high; ++x) {
      values.push_back(filter_at(filter, (static_cast<double>(x) - centre + 0.5) * (1.0 / wide)));
      sum += values.back();
    }
    Window window{low, {}};
    for (const double value : values) {
      window.weights.push_back(std::llround(value / sum * (1 << 22)));
    }
    windows.push_back(window);
  }
  return windows;
}

template <typename Pixel>
std::uint8_t weighted(const Window& window, const Pixel& pixel) {
  std::int64_t sum = 1 << 21;
  for (std::int64_t i = 0; i < std::ssize(window.weights); ++i) {
    sum += window.weights[i] * pixel(window.first + i);
  }
  return static_cast<std::uint8_t>(std::clamp<std::int64_t>(sum >> 22, 0, 255));
}

/// The image of one view, [channels, height, width].
inline Bytes image_of(const Problem& p, const PictureView& view) {
  Bytes image(p.image_elements(), 0);
  if (view.offset < 0) return image;
  const auto xs = windows_of(view.crop_x, view.crop_width, view.width, p.width, view.filter);
  const auto ys = windows_of(view.crop_y, view.crop_height, view.height, p.height, view.filter);
  for (std::int64_t c = 0; c < p.channels; ++c) {
    for (std::int64_t x = 0; x < p.width; ++x) {
      Bytes column(view.height);
      for (std::int64_t y = 0; y < view.height; ++y) {
        column[y] = weighted(xs[x], [&](std::int64_t at) {
          return p
              .sources[view.offset + y * view.stride_y + at * view.stride_x + c * view.stride_c];
        });
      }
      for (std::int64_t y = 0; y < p.height; ++y) {
        const std::int64_t to_y = view.flip_y != 0 ? p.height - 1 - y : y;
        const std::int64_t to_x = view.flip_x != 0 ? p.width - 1 - x : x;
        image[(c * p.height + to_y) * p.width + to_x] =
            weighted(ys[y], [&](std::int64_t at) { return column[at]; });
      }
    }
  }
  return image;
}

inline Bytes images_of(const Problem& p) {
  Bytes images;
  for (const PictureView& view : p.views) {
    const Bytes image = image_of(p, view);
    images.insert(images.end(), image.begin(), image.end());
  }
  return images;
}

// Random views -----------------------------------------------------------------------------------

inline Bytes random_bytes(std::int64_t n, RandomStream& random) {
  Bytes bytes(n);
  for (std::uint8_t& byte : bytes) {
    const std::uint64_t value = random.below(512);  // black and white as often as all the rest
    byte = static_cast<std::uint8_t>(value < 256 ? value : value % 2 * 255);
  }
  return bytes;
}

/// The view of a stored picture as EXIF orientation 1 … 8 shows it.
inline PictureView oriented(PictureView view, int orientation) {
  const auto mirror = [&](std::int64_t& stride, std::int32_t size) {
    view.offset += stride * (size - 1);
    stride = -stride;
  };
  if (orientation >= 5) {
    std::swap(view.stride_y, view.stride_x);
    std::swap(view.height, view.width);
  }
  const int kind = orientation;
  if (kind == 2 || kind == 3 || kind == 6 || kind == 7) mirror(view.stride_x, view.width);
  if (kind == 3 || kind == 4 || kind == 7 || kind == 8) mirror(view.stride_y, view.height);
  return view;
}

/// A picture [height, width, channels] or [channels, height, width] from `offset` on, whole.
inline PictureView whole(std::int64_t offset, std::int64_t channels, std::int32_t height,
                         std::int32_t width, bool planar) {
  PictureView view;
  view.offset = offset, view.height = height, view.width = width;
  view.stride_x = planar ? 1 : channels;
  view.stride_y = view.stride_x * width;
  view.stride_c = planar ? view.stride_y * height : 1;
  view.crop_height = static_cast<float>(height), view.crop_width = static_cast<float>(width);
  return view;
}

inline float random_box(std::int32_t size, RandomStream& random, float& crop) {
  const double extent = random.uniform(0.02, 1.0) * size;
  switch (random.below(4)) {
    case 0:
      crop = 0.0f;
      return static_cast<float>(size);
    case 1:  // whole pixels, at an edge
      crop = static_cast<float>(size - std::max(1, static_cast<int>(extent)));
      return static_cast<float>(size) - crop;
    default:
      crop = static_cast<float>(random.uniform() * (size - extent));
      return static_cast<float>(extent);
  }
}

inline Problem random_problem(std::uint64_t seed, std::int64_t largest) {
  RandomStream random(seed, 0);
  const auto below = [&](std::int64_t n) { return static_cast<std::int32_t>(random.below(n)); };
  Problem p{below(3) == 0 ? 1 + below(4) : 3, 1 + below(largest), 1 + below(largest), {}, {}};
  const int batch = 1 + below(5);
  for (int b = 0; b < batch; ++b) {
    const std::int32_t height = 1 + below(2 * largest), width = 1 + below(2 * largest);
    PictureView view = oriented(
        whole(std::ssize(p.sources), p.channels, height, width, below(2) == 0), 1 + below(8));
    if (below(8) == 0) view.stride_c = 0;  // a grey picture in all channels
    view.crop_width = random_box(view.width, random, view.crop_x);
    view.crop_height = random_box(view.height, random, view.crop_y);
    view.filter = static_cast<ResampleFilter>(below(3));
    view.flip_x = below(2), view.flip_y = below(2);
    const Bytes picture = random_bytes(p.channels * height * width, random);
    p.sources.insert(p.sources.end(), picture.begin(), picture.end());
    p.views.push_back(below(8) == 0 ? PictureView{} : view);
  }
  return p;
}

}  // namespace vitrine::reference::resized_crop
