// The operations of RandAugment and 3-Augment, one by one.
#pragma once

#include <string>
#include <vector>

#include "vitrine/augmentation.h"

namespace vitrine {

/// timm's list in its order, and big_vision's cutout.
enum class RandOperation : std::uint8_t {
  auto_contrast,
  equalize,
  invert,
  rotate,
  posterize,
  solarize,
  solarize_add,
  color,
  contrast,
  brightness,
  sharpness,
  shear_x,
  shear_y,
  translate_x,
  translate_y,
  cutout
};
inline constexpr int kTimmOperations = 15, kBigVisionOperations = 16;

/// The size of the images that operations work on.
struct ImageSize {
  std::int64_t height = 0, width = 0;
};

/// The operation at a level of 0 to 10 (0 to any, where the recipe says mmax); `sign`, −1 or 1,
/// turns rotations, shears, translations and, with `increasing`, enhancements the other way.
ImageOperation timm_operation(RandOperation operation, double level, double sign, bool increasing,
                              const ImageSize& size, ResampleFilter filter);

/// The same of big_vision, for all operations but cutout.
ImageOperation big_vision_operation(RandOperation operation, double level, double sign,
                                    const ImageSize& size);
/// The square around (y, x), as far as it lies in the image; `none` where it is empty.
ImageOperation big_vision_cutout(double level, std::int64_t y, std::int64_t x,
                                 const ImageSize& size);

/// One of both where the config says "random".
ResampleFilter draw_filter(const AugmentationConfig& config, RandomStream& random);

/// Appends what the config's `auto_augment` draws for an image.
void draw_auto_augment(const AugmentationConfig& config, RandomStream& random,
                       std::vector<ImageOperation>& operations);

}  // namespace vitrine
