// Affine maps and erased boxes.
#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "cpu/augment_images.h"
#include "vitrine/pixel_sampling.h"

namespace vitrine::cpu {
namespace {

/// Where the pixels of an output row take their values from: offsets from `begin` to `end`, what
/// lies before and after is outside. A straight line enters an image once.
class RowSources {
 public:
  explicit RowSources(int width) : width_(width), offsets_(width + kSpareOffsets) {}

  /// offset_of(x) is called once for each x, in order; −1 is outside.
  template <typename Offset>
  void find(const Offset& offset_of) {
    for (int x = 0; x < width_; ++x) offsets_[x] = offset_of(x);
    find_ends();
  }
  void find(const FixedPointRow& row) {
    fixed_point_offsets(row, offsets_.data());
    find_ends();
  }

  /// The row of all channels; `from` is what the offsets count from in the first one.
  void copy(const std::uint8_t* fill, const std::uint8_t* from, std::uint8_t* to,
            const ImageShape& shape) const {
    const int plane = shape.plane();
    for (int c = 0; c < shape.channels; ++c) {
      std::memset(to + c * plane, fill[c], begin_);
      std::memset(to + c * plane + end_, fill[c], width_ - end_);
    }
    if (neighbours_ && begin_ < end_) {
      for (int c = 0; c < shape.channels; ++c, from += plane, to += plane) {
        std::memcpy(to + begin_, from + offsets_[begin_], end_ - begin_);
      }
    } else if (shape.channels == 3) {
      copy_pixels<3>(from, to, plane);
    } else {
      copy_pixels<1>(from, to, plane);
    }
  }

 private:
  void find_ends() {
    begin_ = 0, end_ = width_;
    while (begin_ < end_ && offsets_[begin_] < 0) ++begin_;
    while (end_ > begin_ && offsets_[end_ - 1] < 0) --end_;
    const auto not_next = [](int a, int b) { return b != a + 1; };
    const auto first = offsets_.begin() + begin_, last = offsets_.begin() + end_;
    neighbours_ = std::adjacent_find(first, last, not_next) == last;
  }

  template <int kChannels>
  void copy_pixels(const std::uint8_t* from, std::uint8_t* __restrict to, int plane) const {
    const std::int32_t* __restrict offsets = offsets_.data();
    for (int x = begin_, end = end_; x < end; ++x) {
      for (int c = 0; c < kChannels; ++c) to[c * plane + x] = from[c * plane + offsets[x]];
    }
  }

  int width_;
  std::vector<std::int32_t> offsets_;  // [width + kSpareOffsets]
  int begin_ = 0, end_ = 0;
  bool neighbours_ = false;
};

/// Axes stay apart: all rows have the same columns. Positions are added up as NearestMap::column
/// and row do for each pixel.
void stretch(const pixel::NearestMap& map, const std::uint8_t* fill, const std::uint8_t* from,
             std::uint8_t* to, const ImageShape& shape) {
  RowSources columns(shape.width), outside(shape.width);
  double position_x = map.start_x, position_y = map.start_y;
  columns.find([&](int) {
    return pixel::pixel_under(std::exchange(position_x, position_x + map.value[0]), shape.width);
  });
  outside.find([](int) { return -1; });
  for (int y = 0; y < shape.height; ++y, to += shape.width, position_y += map.value[4]) {
    const int row = pixel::pixel_under(position_y, shape.height);
    if (row < 0) {
      outside.copy(fill, from, to, shape);
    } else {
      columns.copy(fill, from + row * shape.width, to, shape);
    }
  }
}

void transform_nearest(const ImageOperation& operation, const std::uint8_t* fill,
                       const std::uint8_t* from, std::uint8_t* to, const ImageShape& shape) {
  const pixel::NearestMap map(operation.value, shape.height, shape.width);
  if (map.separable) return stretch(map, fill, from, to, shape);
  const int height = shape.height, width = shape.width;
  RowSources sources(width);
  double row_x = map.start_x, row_y = map.start_y;
  for (int y = 0; y < height; ++y, to += width, row_x += map.value[1], row_y += map.value[4]) {
    if (map.fixed) {
      const auto row = static_cast<std::uint32_t>(y);
      sources.find({.x = map.fixed_x[0] + map.fixed_x[2] * row,
                    .y = map.fixed_y[0] + map.fixed_y[2] * row,
                    .step_x = map.fixed_x[1],
                    .step_y = map.fixed_y[1],
                    .height = height,
                    .width = width});
    } else {
      // What map.source says, added up along the row.
      double position_x = row_x, position_y = row_y;
      sources.find([&](int) {
        const int x =
            pixel::pixel_under(std::exchange(position_x, position_x + map.value[0]), width);
        const int y =
            pixel::pixel_under(std::exchange(position_y, position_y + map.value[3]), height);
        return x < 0 || y < 0 ? -1 : y * width + x;
      });
    }
    sources.copy(fill, from, to, shape);
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
