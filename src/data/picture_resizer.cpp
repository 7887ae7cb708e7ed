// Decoded pictures brought to a size, by the catalogue's resized_crop.
#include "data/picture_resizer.h"

#include <algorithm>

namespace vitrine {

Image PictureResizer::resize(std::span<const std::uint8_t> pixels, const PictureView& view,
                             std::int64_t channels, std::int64_t height, std::int64_t width) {
  Image image{channels, height, width, {}};
  image.pixels.resize(static_cast<std::size_t>(channels * height * width));
  ResizedCrop args;
  args.images = {image.pixels.data(), channels * height * width};
  args.sources = {pixels.data(), static_cast<std::int64_t>(pixels.size())};
  args.views = {&view, 1};
  args.batch = 1;
  args.channels = channels;
  args.height = height;
  args.width = width;
  args.largest_scale = std::max({1.0f, view.crop_height / static_cast<float>(height),
                                 view.crop_width / static_cast<float>(width)});
  kernels_.resized_crop(args);
  return image;
}

}  // namespace vitrine
