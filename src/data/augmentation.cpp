// What is drawn for one picture, in the order of timm's transforms_factory.py: flips and crop,
// RandAugment or 3-Augment, colour jitter, grey, blur, erasing.
//
//   RandomResizedCrop    see draws.h
//   SimpleRandomCrop     Touvron et al. 2022, arXiv:2204.07118: resized, padded, cropped anywhere
//   ColorJitter          torchvision: factors and their order at random
//   random erasing       Zhong et al. 2020, arXiv:1708.04896: timm's random_erasing.py
//
// Everything comes from one stream of (seed, epoch, position); its first draws are random_view's,
// so the same boxes and flips are seen with and without what follows.
#include "vitrine/augmentation.h"

#include <algorithm>
#include <cmath>

#include "data/draws.h"
#include "data/rand_augment.h"
#include "vitrine/dataset.h"

namespace vitrine {
namespace {

using Kind = ImageOperationKind;

bool happens(double probability, RandomStream& random) {
  return random.uniform() < probability;
}

/// The smallest size of a picture's aspect that covers a size: torchvision's Resize for squares,
/// timm's ResizeKeepRatio for others, which round differently.
ImageSize covering(const ImageSize& picture, const ImageSize& size) {
  const auto height = static_cast<double>(picture.height);
  const auto width = static_cast<double>(picture.width);
  if (size.height == size.width) {
    const auto side = static_cast<double>(size.height);
    if (picture.width <= picture.height) {
      return {static_cast<std::int64_t>(side * height / width), size.width};
    }
    return {size.height, static_cast<std::int64_t>(side * width / height)};
  }
  const double ratio =
      std::min(height / static_cast<double>(size.height), width / static_cast<double>(size.width));
  return {std::max(size.height, round_half_even(height / ratio)),
          std::max(size.width, round_half_even(width / ratio))};
}

/// The box of the picture that becomes rows top, top + 1, … of the model's image, columns likewise,
/// once the picture has been resized.
void set_box(const AugmentationConfig& config, const ImageSize& picture, const ImageSize& resized,
             std::int64_t top, std::int64_t left, DrawnAugmentation& drawn) {
  const double down = static_cast<double>(picture.height) / static_cast<double>(resized.height);
  const double across = static_cast<double>(picture.width) / static_cast<double>(resized.width);
  drawn.crop_y = static_cast<double>(top) * down;
  drawn.crop_x = static_cast<double>(left) * across;
  drawn.crop_height = std::min(static_cast<double>(config.height) * down,
                               static_cast<double>(picture.height) - drawn.crop_y);
  drawn.crop_width = std::min(static_cast<double>(config.width) * across,
                              static_cast<double>(picture.width) - drawn.crop_x);
}

/// A crop anywhere in a resized picture with padding around it. Where it reaches into the padding
/// the box stays inside and the image, which is flipped by then, is moved by the rest.
void draw_padded_crop(const AugmentationConfig& config, const ImageSize& picture,
                      const ImageSize& resized, RandomStream& random, DrawnAugmentation& drawn) {
  const std::int64_t padding = config.crop_padding;
  auto draw = [&](std::int64_t side, std::int64_t crop) {
    return static_cast<std::int64_t>(random.below(side + 2 * padding - crop + 1)) - padding;
  };
  const std::int64_t y = draw(resized.height, config.height);
  const std::int64_t x = draw(resized.width, config.width);
  const std::int64_t top = std::clamp<std::int64_t>(y, 0, resized.height - config.height);
  const std::int64_t left = std::clamp<std::int64_t>(x, 0, resized.width - config.width);
  set_box(config, picture, resized, top, left, drawn);
  if (y == top && x == left) return;
  const auto down = static_cast<double>(drawn.flip_y ? top - y : y - top);
  const auto across = static_cast<double>(drawn.flip_x ? left - x : x - left);
  drawn.operations.push_back({.kind = Kind::affine,
                              .filter = ResampleFilter::nearest,
                              .value = {1, 0, across, 0, 1, down}});
}

void draw_crop(const AugmentationConfig& config, const ImageSize& picture, RandomStream& random,
               DrawnAugmentation& drawn) {
  const ImageSize size{config.height, config.width};
  if (config.crop_mode == CropMode::src) {
    draw_padded_crop(config, picture, covering(picture, size), random, drawn);
  } else if (config.crop_mode == CropMode::pad) {
    draw_padded_crop(config, picture, size, random, drawn);
  } else if (config.crop_mode == CropMode::rrc &&
             (config.scale[0] != 1.0 || config.scale[1] != 1.0)) {
    const Crop crop =
        random_resized_crop(picture.height, picture.width, config.scale, config.ratio, random);
    drawn.crop_y = static_cast<double>(crop.y);
    drawn.crop_x = static_cast<double>(crop.x);
    drawn.crop_height = static_cast<double>(crop.height);
    drawn.crop_width = static_cast<double>(crop.width);
  } else {
    drawn.crop_height = static_cast<double>(picture.height);
    drawn.crop_width = static_cast<double>(picture.width);
  }
}

void draw_color_jitter(const AugmentationConfig& config, RandomStream& random,
                       std::vector<ImageOperation>& operations) {
  constexpr std::array<Kind, 4> kKinds = {Kind::brightness, Kind::contrast, Kind::color, Kind::hue};
  std::array<std::size_t, 4> order = {0, 1, 2, 3};
  for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.below(i)]);
  for (const std::size_t i : order) {
    const double strength = config.color_jitter[i];
    if (strength <= 0) continue;
    const double value = kKinds[i] == Kind::hue
                             ? random.uniform(-strength, strength)
                             : random.uniform(std::max(0.0, 1.0 - strength), 1.0 + strength);
    operations.push_back({.kind = kKinds[i], .value = {value}});
  }
}

// One of `count` boxes; ten draws, the first that is smaller than the image along both axes.
void draw_erased_box(const AugmentationConfig& config, std::int64_t count, RandomStream& random,
                     std::vector<ImageOperation>& operations) {
  constexpr int kTries = 10;
  constexpr double kLeastArea = 0.02, kLargestArea = 1.0 / 3.0, kLeastAspect = 0.3;
  const double log_aspect = std::log(kLeastAspect);
  const double area = static_cast<double>(config.height * config.width) / double(count);
  for (int i = 0; i < kTries; ++i) {
    const double target = area * random.uniform(kLeastArea, kLargestArea);
    const double aspect = std::exp(random.uniform(log_aspect, -log_aspect));
    const std::int64_t h = round_half_even(std::sqrt(target * aspect));
    const std::int64_t w = round_half_even(std::sqrt(target / aspect));
    if (h >= config.height || w >= config.width) continue;
    const auto y = static_cast<double>(random.below(config.height - h + 1));
    const auto x = static_cast<double>(random.below(config.width - w + 1));
    const std::uint64_t noise = std::uint64_t{random.next_u32()} << 32 | random.next_u32();
    if (h == 0 || w == 0) return;
    operations.push_back({.kind = Kind::erase,
                          .value = {y, x, static_cast<double>(h), static_cast<double>(w),
                                    static_cast<double>(config.remode)},
                          .random = noise});
    return;
  }
}

void draw_erasing(const AugmentationConfig& config, RandomStream& random,
                  std::vector<ImageOperation>& operations) {
  const std::int64_t count = 1 + static_cast<std::int64_t>(random.below(config.recount));
  for (std::int64_t i = 0; i < count; ++i) draw_erased_box(config, count, random, operations);
}

void draw_operations(const AugmentationConfig& config, RandomStream& random,
                     std::vector<ImageOperation>& operations) {
  constexpr double kLeastSigma = 0.1, kLargestSigma = 2.0;  // torchvision's GaussianBlur
  draw_auto_augment(config, random, operations);
  if (happens(config.color_jitter_prob, random)) draw_color_jitter(config, random, operations);
  if (happens(config.grayscale_prob, random)) operations.push_back({.kind = Kind::grayscale});
  if (happens(config.gaussian_blur_prob, random)) {
    const double sigma = random.uniform(kLeastSigma, kLargestSigma);
    operations.push_back({.kind = Kind::gaussian_blur, .value = {sigma}});
  }
  if (happens(config.reprob, random)) draw_erasing(config, random, operations);
}

std::int64_t auto_augment_operations(const AutoAugment& rule) {
  if (rule.kind == AutoAugment::Kind::none) return 0;
  return rule.kind == AutoAugment::Kind::three ? 1 : rule.num_ops;
}

}  // namespace

std::int64_t AugmentationConfig::operations_per_image() const {
  std::int64_t count = auto_augment_operations(auto_augment);
  if (crop_padding > 0 && (crop_mode == CropMode::src || crop_mode == CropMode::pad)) ++count;
  if (color_jitter_prob > 0) {
    for (const double strength : color_jitter) count += strength > 0 ? 1 : 0;
  }
  if (grayscale_prob > 0) ++count;
  if (gaussian_blur_prob > 0) ++count;
  if (reprob > 0) count += recount;
  return count;
}

DrawnAugmentation draw_augmentation(const AugmentationConfig& config, std::int64_t height,
                                    std::int64_t width, std::uint64_t seed, std::int64_t epoch,
                                    std::int64_t position) {
  RandomStream random(seed, stream_of(Use::view, epoch, position));
  DrawnAugmentation drawn;
  drawn.flip_x = happens(config.hflip, random);
  if (config.vflip > 0) drawn.flip_y = happens(config.vflip, random);
  draw_crop(config, {height, width}, random, drawn);
  drawn.filter = draw_filter(config, random);
  draw_operations(config, random, drawn.operations);
  return drawn;
}

DrawnAugmentation evaluation_view(const AugmentationConfig& config, std::int64_t height,
                                  std::int64_t width) {
  auto enlarged = [&](std::int64_t side) {
    return static_cast<std::int64_t>(std::floor(static_cast<double>(side) / config.crop_pct));
  };
  const ImageSize picture{height, width};
  const ImageSize size{enlarged(config.height), enlarged(config.width)};
  const ImageSize resized = config.crop_mode_eval == "squash" ? size : covering(picture, size);
  DrawnAugmentation drawn;
  drawn.filter =
      config.interpolation == "bilinear" ? ResampleFilter::bilinear : ResampleFilter::bicubic;
  set_box(config, picture, resized,
          round_half_even(static_cast<double>(resized.height - config.height) / 2),
          round_half_even(static_cast<double>(resized.width - config.width) / 2), drawn);
  return drawn;
}

std::vector<std::int64_t> repeated_order(std::int64_t n, std::int64_t repeats, std::uint64_t seed,
                                         std::int64_t epoch) {
  std::vector<std::int64_t> order = shuffled(n, seed, epoch);
  if (repeats <= 1) return order;
  const auto times = static_cast<std::size_t>(repeats);
  for (std::size_t i = order.size(); i-- > 0;) order[i] = order[i / times];
  return order;
}

}  // namespace vitrine
