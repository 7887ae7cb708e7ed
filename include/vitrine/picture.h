// Drawing: numbers as colours, images beside and over each other.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "vitrine/image.h"

namespace vitrine {

/// An image with a line about it, for reports.
struct Picture {
  Image image;
  std::string caption;
};

/// viridis is for what is read as a quantity, hot as heat maps are usually shown.
enum class ColorMap : std::uint8_t { viridis, hot };

/// [height, width] numbers as colours; `low` and below is the first colour, `high` and above the
/// last. NaN is grey. Throws BadInput when the sizes contradict each other, as all below do.
Image colorize(std::span<const float> numbers, std::int64_t height, std::int64_t width,
               ColorMap colors, float low, float high);

/// Each pixel `factor` times in both directions.
Image enlarge(const Image& image, std::int64_t factor);
/// Means of the pixels that fall together, so that neither side is longer than `longest`; an image
/// that is not stays as it is.
Image shrink(const Image& image, std::int64_t longest);
/// Bilinear, centres of pixels at half numbers (torch's align_corners=False), edges repeated.
std::vector<float> resize_bilinear(std::span<const float> numbers, std::int64_t height,
                                   std::int64_t width, std::int64_t to_height,
                                   std::int64_t to_width);
/// (1 − opacity) · below + opacity · above; both of one size and three channels.
Image blend(const Image& below, const Image& above, float opacity);

/// Images of one size in rows of `columns`, `gap` white pixels between them; white where the last
/// row is short.
Image contact_sheet(std::span<const Image> images, std::int64_t columns, std::int64_t gap);

/// Written whole or not at all. Throws IoError.
void write_png(const std::filesystem::path& path, const Image& image);

}  // namespace vitrine
