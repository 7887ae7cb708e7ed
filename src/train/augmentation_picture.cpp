// What a recipe makes of its images, to look at.
#include <optional>

#include "train/augmented_images.h"
#include "vitrine/attention_maps.h"
#include "vitrine/picture.h"

namespace vitrine {

std::optional<Picture> augmentation_picture(Device& device, const RunConfig& config,
                                            const Dataset& data) {
  constexpr std::int64_t kImages = 8, kDraws = 3, kGap = 2, kLongest = 128;
  const BatchImagesOptions options{.batch = std::min(kImages, data.size()), .training = true};
  if (!augmented(config, data, options)) return {};
  const std::vector<std::int64_t> all = shuffled(data.size(), config.recipe.seed, /*epoch=*/0);
  const std::vector<std::int64_t> shown(all.begin(), all.begin() + options.batch);
  std::vector<Image> tiles;
  for (const std::int64_t i : shown) {
    Image image = evaluation_image(config, data, i);
    if (image.height != config.model.image_height || image.width != config.model.image_width) {
      return {};  // stored images of another size stand in no row with the model's
    }
    tiles.push_back(display_image(image, kLongest));
  }
  AugmentedImages images(device, config, data, options);
  const Image blank{data.channels, config.model.image_height, config.model.image_width, {}};
  const auto bytes = static_cast<std::size_t>(blank.channels * blank.height * blank.width);
  std::vector<std::uint8_t> pixels(bytes * shown.size());
  for (std::int64_t draw = 0; draw < kDraws; ++draw) {
    images.begin(shown, /*epoch=*/draw, /*position=*/0);
    images.load(shown, {.step = draw, .epoch = draw});
    images.submitted();
    device.download(pixels.data(), images.data(), pixels.size());
    for (std::size_t i = 0; i < shown.size(); ++i) {
      Image image = blank;
      image.pixels.assign(pixels.begin() + static_cast<std::ptrdiff_t>(i * bytes),
                          pixels.begin() + static_cast<std::ptrdiff_t>((i + 1) * bytes));
      tiles.push_back(display_image(image, kLongest));
    }
  }
  return Picture{contact_sheet(tiles, options.batch, kGap),
                 "Above images as an evaluation sees them, below each what the recipe made of it "
                 "in three epochs."};
}

}  // namespace vitrine
