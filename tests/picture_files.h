// Pictures of tests/pictures, and what comes of decoding them.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "io/files.h"
#include "vitrine/decoder.h"

namespace vitrine {

inline std::filesystem::path picture_path(const std::string& name) {
  return std::filesystem::path(VITRINE_TESTS_DIRECTORY) / "pictures" / name;
}

inline std::string picture_file(const std::string& name) {
  return read_file(picture_path(name));
}

inline std::span<const std::byte> bytes_of(const std::string& file) {
  return std::as_bytes(std::span(file));
}

/// What `Decoder::decode` returned.
struct Decoded {
  PictureView view;
  std::vector<std::uint8_t> memory;

  int pixel(std::int64_t y, std::int64_t x, std::int64_t c) const {
    const std::int64_t at = view.offset + y * view.stride_y + x * view.stride_x + c * view.stride_c;
    return memory.at(static_cast<std::size_t>(at));
  }
};

/// Puts something before the pixels, so that offsets matter.
inline Decoded decode(Decoder& decoder, const std::string& file, const DecodeRequest& request,
                      const std::string& name = "test") {
  Decoded decoded;
  decoded.memory.assign(5, 111);
  decoded.view = decoder.decode(bytes_of(file), name, request, decoded.memory);
  return decoded;
}

inline DecodeRequest whole(const PictureInfo& info) {
  return {.crop_height = static_cast<double>(info.height),
          .crop_width = static_cast<double>(info.width)};
}

/// Where the decoded part begins in all that could have been decoded at this scale (pixels of the
/// result for one of the picture).
struct Corner {
  std::int64_t y, x;
};

inline Corner corner_of(const PictureView& view, const DecodeRequest& request, double scale_y,
                        double scale_x) {
  return {std::lround(request.crop_y * scale_y - view.crop_y),
          std::lround(request.crop_x * scale_x - view.crop_x)};
}

/// `part` has the pixels of `all` from `corner` on.
inline void expect_part(const Decoded& part, const Decoded& all, Corner corner,
                        std::int64_t channels) {
  ASSERT_LE(corner.y + part.view.height, all.view.height);
  ASSERT_LE(corner.x + part.view.width, all.view.width);
  for (std::int64_t y = 0; y < part.view.height; ++y) {
    for (std::int64_t x = 0; x < part.view.width; ++x) {
      for (std::int64_t c = 0; c < channels; ++c) {
        ASSERT_EQ(part.pixel(y, x, c), all.pixel(corner.y + y, corner.x + x, c))
            << "y " << y << " x " << x << " channel " << c << ", part of " << part.view.height
            << " x " << part.view.width << " at " << corner.y << ", " << corner.x;
      }
    }
  }
}

}  // namespace vitrine
