// Whole images by the decoders of pictures, and converting between grey and colour.

#include "vitrine/image.h"

#include "io/files.h"
#include "io/row_sink.h"
#include "vitrine/decoder.h"
#include "vitrine/error.h"

namespace vitrine {

Image read_image(const std::filesystem::path& path) {
  const std::string bytes = read_file(path);
  const std::span<const std::byte> file = std::as_bytes(std::span(bytes));
  Decoder decoder;
  const PictureInfo info = decoder.read_info(file, path.string());
  Image image{info.channels == 1 ? 1 : 3, info.height, info.width, {}};
  std::vector<std::uint8_t> decoded;
  const PictureView view = decoder.decode(file, path.string(),
                                          {.crop_height = static_cast<double>(info.height),
                                           .crop_width = static_cast<double>(info.width),
                                           .channels = image.channels},
                                          decoded);
  image.pixels.resize(decoded.size());
  std::uint8_t* pixel = image.pixels.data();
  for (std::int64_t c = 0; c < image.channels; ++c) {
    for (std::int64_t y = 0; y < image.height; ++y) {
      const std::uint8_t* row =
          decoded.data() + (view.offset + y * view.stride_y + c * view.stride_c);
      for (std::int64_t x = 0; x < image.width; ++x) *pixel++ = row[x * view.stride_x];
    }
  }
  return image;
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
  const std::uint8_t* red = image.pixels.data();
  const std::uint8_t *green = red + plane, *blue = green + plane;
  converted.pixels.resize(plane);
  for (std::size_t i = 0; i < plane; ++i) converted.pixels[i] = luma(red[i], green[i], blue[i]);
  return converted;
}

}  // namespace vitrine
