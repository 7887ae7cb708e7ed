// Telling image formats apart, and converting between grey and colour.

#include "vitrine/image.h"

#include <string_view>

#include "io/files.h"
#include "io/image_formats.h"
#include "io/one_line.h"

namespace vitrine {

Image read_image(const std::filesystem::path& path) {
  const std::string bytes = read_file(path);
  const std::string name = one_line(path.string());
  const std::string_view start = std::string_view(bytes).substr(0, 8);
  if (start.substr(0, 4) == "\x89PNG") return decode_png(bytes, name);
  if (start.substr(0, 3) == "\xFF\xD8\xFF") return decode_jpeg(bytes, name);
  if (start.size() >= 2 && start[0] == 'P' && std::string_view("2356").find(start[1]) < 4) {
    return decode_pnm(bytes, name);
  }
  throw BadInput(name + ": not an image: expected PNG, JPEG, PGM or PPM");
}

Image convert_channels(const Image& image, std::int64_t channels) {
  if (channels == image.channels) return image;
  const std::size_t plane = static_cast<std::size_t>(image.height * image.width);
  Image converted{channels, image.height, image.width, {}};
  if (image.channels == 1 && channels == 3) {
    for (int c = 0; c < 3; ++c) {
      converted.pixels.insert(converted.pixels.end(), image.pixels.begin(), image.pixels.end());
    }
    return converted;
  }
  if (image.channels != 3 || channels != 1) {
    throw BadInput("cannot convert an image of " + std::to_string(image.channels) +
                   " channels to " + std::to_string(channels) + ", expected 1 or 3");
  }
  // 0.299, 0.587 and 0.114 times 2^16; the same integers as Pillow's "L".
  constexpr std::uint32_t kRed = 19595, kGreen = 38470, kBlue = 7471, kHalf = 1u << 15;
  const std::uint8_t* red = image.pixels.data();
  const std::uint8_t *green = red + plane, *blue = green + plane;
  converted.pixels.resize(plane);
  for (std::size_t i = 0; i < plane; ++i) {
    converted.pixels[i] = static_cast<std::uint8_t>(
        (red[i] * kRed + green[i] * kGreen + blue[i] * kBlue + kHalf) >> 16);
  }
  return converted;
}

}  // namespace vitrine
