// Drawing on images in memory, [C, H, W].
#include "vitrine/picture.h"

#include <algorithm>
#include <cmath>

#include "io/color_maps.h"
#include "io/files.h"
#include "vitrine/tensor.h"

namespace vitrine {
namespace {

constexpr std::uint8_t kWhite = 255;

void require(bool holds, const std::string& operation, const std::string& found,
             const std::string& expected) {
  if (!holds) throw BadInput(operation + ": found " + found + ", expected " + expected);
}

std::string shape_of(const Image& image) {
  return Shape({image.channels, image.height, image.width}).str();
}

void require_numbers(std::span<const float> numbers, std::int64_t height, std::int64_t width,
                     const std::string& operation) {
  require(height > 0 && width > 0 && static_cast<std::int64_t>(numbers.size()) == height * width,
          operation, std::to_string(numbers.size()) + " numbers",
          std::to_string(height) + " x " + std::to_string(width));
}

Image blank(std::int64_t channels, std::int64_t height, std::int64_t width) {
  return {channels, height, width,
          std::vector<std::uint8_t>(static_cast<std::size_t>(channels * height * width), kWhite)};
}

bool same_size(const Image& a, const Image& b) {
  return a.channels == b.channels && a.height == b.height && a.width == b.width;
}

/// Copies `image` into `sheet` with its corner at (y, x).
void place(const Image& image, Image& sheet, std::int64_t y, std::int64_t x) {
  for (std::int64_t row = 0; row < image.channels * image.height; ++row) {
    const std::int64_t channel = row / image.height, line = row % image.height;
    std::copy_n(image.pixels.begin() + row * image.width, image.width,
                sheet.pixels.begin() + (channel * sheet.height + y + line) * sheet.width + x);
  }
}

/// Where a pixel of the result lies between two of the source.
struct Between {
  std::int64_t first, second;
  float part;  ///< of the second
};

Between between(std::int64_t i, std::int64_t from, std::int64_t to) {
  const float scale = static_cast<float>(from) / static_cast<float>(to);
  const float place = std::max((static_cast<float>(i) + 0.5f) * scale - 0.5f, 0.0f);
  const auto first = std::min(static_cast<std::int64_t>(place), from - 1);
  return {first, std::min(first + 1, from - 1), place - static_cast<float>(first)};
}

}  // namespace

Image colorize(std::span<const float> numbers, std::int64_t height, std::int64_t width,
               ColorMap colors, float low, float high) {
  require_numbers(numbers, height, width, "colorize");
  Image image = blank(3, height, width);
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    const float above = numbers[i] - low;
    const Color color = color_of(colors, high > low  ? above / (high - low)
                                         : above > 0 ? 1.0f
                                                     : above);
    for (std::size_t c = 0; c < color.size(); ++c) image.pixels[c * numbers.size() + i] = color[c];
  }
  return image;
}

Image enlarge(const Image& image, std::int64_t factor) {
  require(factor > 0, "enlarge", std::to_string(factor), "a factor of at least 1");
  Image large = blank(image.channels, factor * image.height, factor * image.width);
  auto out = large.pixels.begin();
  for (std::int64_t y = 0; y < image.channels * large.height; ++y) {
    const auto line = image.pixels.begin() + y / factor * image.width;
    for (std::int64_t x = 0; x < large.width; ++x) *out++ = line[x / factor];
  }
  return large;
}

Image shrink(const Image& image, std::int64_t longest) {
  require(longest > 0, "shrink", std::to_string(longest), "at least 1 pixel");
  const std::int64_t side = std::max(image.height, image.width);
  if (side <= longest) return image;
  const auto shorter = [&](std::int64_t length) {
    return std::max<std::int64_t>(1, (length * longest + side / 2) / side);
  };
  Image small = blank(image.channels, shorter(image.height), shorter(image.width));
  auto out = small.pixels.begin();
  for (std::int64_t c = 0; c < image.channels; ++c) {
    for (std::int64_t y = 0; y < small.height; ++y) {
      const std::int64_t top = y * image.height / small.height;
      const std::int64_t bottom = (y + 1) * image.height / small.height;
      for (std::int64_t x = 0; x < small.width; ++x) {
        const std::int64_t left = x * image.width / small.width;
        const std::int64_t right = (x + 1) * image.width / small.width;
        std::int64_t sum = 0;
        for (std::int64_t line = top; line < bottom; ++line) {
          const auto pixel = image.pixels.begin() + (c * image.height + line) * image.width;
          for (std::int64_t i = left; i < right; ++i) sum += pixel[i];
        }
        const std::int64_t count = (bottom - top) * (right - left);
        *out++ = static_cast<std::uint8_t>((sum + count / 2) / count);
      }
    }
  }
  return small;
}

std::vector<float> resize_bilinear(std::span<const float> numbers, std::int64_t height,
                                   std::int64_t width, std::int64_t to_height,
                                   std::int64_t to_width) {
  require_numbers(numbers, height, width, "resize_bilinear");
  require(to_height > 0 && to_width > 0, "resize_bilinear",
          std::to_string(to_height) + " x " + std::to_string(to_width), "at least 1 x 1");
  std::vector<float> resized;
  resized.reserve(static_cast<std::size_t>(to_height * to_width));
  for (std::int64_t y = 0; y < to_height; ++y) {
    const Between v = between(y, height, to_height);
    for (std::int64_t x = 0; x < to_width; ++x) {
      const Between h = between(x, width, to_width);
      const auto line = [&](std::int64_t row) {
        const float a = numbers[static_cast<std::size_t>(row * width + h.first)];
        const float b = numbers[static_cast<std::size_t>(row * width + h.second)];
        return (1.0f - h.part) * a + h.part * b;
      };
      resized.push_back((1.0f - v.part) * line(v.first) + v.part * line(v.second));
    }
  }
  return resized;
}

Image blend(const Image& below, const Image& above, float opacity) {
  require(below.channels == 3 && same_size(below, above), "blend",
          shape_of(below) + " and " + shape_of(above), "two images of one size in colour");
  Image image = below;
  for (std::size_t i = 0; i < image.pixels.size(); ++i) {
    const float mixed = (1.0f - opacity) * static_cast<float>(below.pixels[i]) +
                        opacity * static_cast<float>(above.pixels[i]);
    image.pixels[i] = static_cast<std::uint8_t>(std::lround(std::clamp(mixed, 0.0f, 255.0f)));
  }
  return image;
}

Image contact_sheet(std::span<const Image> images, std::int64_t columns, std::int64_t gap) {
  require(!images.empty() && columns > 0 && gap >= 0, "contact_sheet",
          std::to_string(images.size()) + " images in " + std::to_string(columns) + " columns",
          "at least one of each");
  const Image& first = images.front();
  const std::int64_t rows = (static_cast<std::int64_t>(images.size()) + columns - 1) / columns;
  Image sheet =
      blank(first.channels, rows * (first.height + gap) - gap, columns * (first.width + gap) - gap);
  for (std::int64_t i = 0; i < static_cast<std::int64_t>(images.size()); ++i) {
    const Image& image = images[static_cast<std::size_t>(i)];
    require(same_size(image, first), "contact_sheet", shape_of(image), shape_of(first));
    place(image, sheet, i / columns * (first.height + gap), i % columns * (first.width + gap));
  }
  return sheet;
}

void write_png(const std::filesystem::path& path, const Image& image) {
  const std::vector<std::uint8_t> png = encode_png(image);
  write_file(path, {reinterpret_cast<const char*>(png.data()), png.size()});
}

}  // namespace vitrine
