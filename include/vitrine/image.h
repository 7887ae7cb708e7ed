// Reading single images.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

namespace vitrine {

/// Pixels [C, H, W], C = 1 (grey) or 3 (red, green, blue).
struct Image {
  std::int64_t channels = 0, height = 0, width = 0;
  std::vector<std::uint8_t> pixels;
};

/// Decodes PNG, JPEG, PGM (P2, P5) or PPM (P3, P6), told apart by their first bytes. 16-bit
/// samples are scaled to 8, palettes expanded, alpha laid over white, EXIF orientations followed.
/// Throws BadInput naming the file and what is wrong with it.
Image read_image(const std::filesystem::path& path);

/// Grey ↔ colour: luma by ITU-R BT.601 (0.299, 0.587, 0.114), or the grey repeated.
Image convert_channels(const Image& image, std::int64_t channels);

/// PNG bytes, for embedding in a report.
std::vector<std::uint8_t> encode_png(const Image& image);

}  // namespace vitrine
