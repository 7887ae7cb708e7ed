// Affine maps and erased boxes.
#include <cstring>
#include <vector>

#include "cpu/augment_images.h"
#include "vitrine/pixel_sampling.h"

namespace vitrine::cpu {
namespace {

/// Source columns or rows of the pixels along an axis that is only stretched or shifted: what
/// NearestMap::column and row say of each, added up once.
std::vector<int> sources_along(double start, double step, int size) {
  std::vector<int> sources(size);
  for (int i = 0; i < size; ++i, start += step) sources[i] = pixel::pixel_under(start, size);
  return sources;
}

void stretch(const pixel::NearestMap& map, const std::uint8_t* fill, const std::uint8_t* from,
             std::uint8_t* to, const ImageShape& shape) {
  const std::vector<int> columns = sources_along(map.start_x, map.value[0], shape.width);
  const std::vector<int> rows = sources_along(map.start_y, map.value[4], shape.height);
  for (int c = 0; c < shape.channels; ++c, from += shape.plane()) {
    for (int y = 0; y < shape.height; ++y, to += shape.width) {
      std::memset(to, fill[c], shape.width);
      if (rows[y] < 0) continue;
      const std::uint8_t* row = from + rows[y] * shape.width;
      for (int x = 0; x < shape.width; ++x) {
        if (columns[x] >= 0) to[x] = row[columns[x]];
      }
    }
  }
}

void transform_nearest(const ImageOperation& operation, const std::uint8_t* fill,
                       const std::uint8_t* from, std::uint8_t* to, const ImageShape& shape) {
  const pixel::NearestMap map(operation.value, shape.height, shape.width);
  if (map.separable) return stretch(map, fill, from, to, shape);
  const int plane = shape.plane();
  for (int y = 0; y < shape.height; ++y) {
    for (int x = 0; x < shape.width; ++x, ++to) {
      const pixel::NearestPixel source = map.source(x, y, shape.height, shape.width);
      const int offset = source.y * shape.width + source.x;
      for (int c = 0; c < shape.channels; ++c) {
        to[c * plane] = source.x < 0 ? fill[c] : from[c * plane + offset];
      }
    }
  }
}

/// A colour of its own for each pixel of a row of the box; `first` is the index of its first pixel.
void fill_with_noise(std::uint64_t random, std::uint64_t first, int n, float mean, float std,
                     std::uint8_t* to) {
  for (std::uint64_t index = first; index < first + n;) {
    const pixel::NoiseQuad noise = pixel::erase_noise_quad(random, index / 4);
    for (bool same = true; same && index < first + n; same = index % 4 != 0) {
      *to++ = pixel::noise_level(mean, std, noise.value[index % 4]);
      ++index;
    }
  }
}

}  // namespace

void transform(const ImageOperation& operation, const std::uint8_t* fill, const std::uint8_t* from,
               std::uint8_t* to, const ImageShape& shape) {
  if (operation.filter == ResampleFilter::nearest) {
    transform_nearest(operation, fill, from, to, shape);
  } else {
    transform_smooth({operation.value, operation.filter, fill, from, to, shape});
  }
}

void erase(const ImageOperation& operation, const AugmentImages& args, std::uint8_t* image,
           const ImageShape& shape) {
  const pixel::Box box = pixel::erased_box(operation, shape.height, shape.width);
  const int width = box.right - box.left;
  if (width <= 0) return;
  for (int c = 0; c < shape.channels; ++c) {
    const float mean = args.mean[c], std = args.std[c];
    std::uint8_t color = args.fill[c];
    if (operation.value[4] == 1.0) {
      color = pixel::noise_level(mean, std, pixel::erase_noise(operation.random, c));
    }
    for (int y = box.top; y < box.bottom; ++y) {
      const std::int64_t first = (static_cast<std::int64_t>(c) * shape.height + y) * shape.width;
      std::uint8_t* row = image + first + box.left;
      if (operation.value[4] == 2.0) {
        fill_with_noise(operation.random, first + box.left, width, mean, std, row);
      } else {
        std::memset(row, color, width);
      }
    }
  }
}

}  // namespace vitrine::cpu
