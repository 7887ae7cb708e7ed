// The decoders behind `read_image`. Each takes a whole file and throws BadInput "FILE: …".
#pragma once

#include <string>

#include "vitrine/error.h"
#include "vitrine/image.h"

namespace vitrine {

/// A file may claim any size; more than this is refused before memory is asked for.
constexpr std::int64_t kMaxImagePixels = std::int64_t{1} << 27;

/// `name` is the file's name in messages.
Image decode_png(const std::string& bytes, const std::string& name);
Image decode_jpeg(const std::string& bytes, const std::string& name);
Image decode_pnm(const std::string& bytes, const std::string& name);

/// An image of this size, zero. Throws BadInput when it is empty or too large.
inline Image new_image(std::int64_t channels, std::int64_t height, std::int64_t width,
                       const std::string& name) {
  if (height < 1 || width < 1 || height > kMaxImagePixels / width) {
    throw BadInput(name + ": " + std::to_string(width) + " x " + std::to_string(height) +
                   " pixels, expected 1 to " + std::to_string(kMaxImagePixels) + " in all");
  }
  Image image{channels, height, width, {}};
  image.pixels.resize(static_cast<std::size_t>(channels * height * width));
  return image;
}

}  // namespace vitrine
