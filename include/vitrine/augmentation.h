// How training pictures are varied: what a recipe says, and what is drawn from it for one picture.
//
// Every draw is a function of (seed, epoch, position in the epoch), so neither workers nor resumed
// runs change it. Names, defaults and distributions are timm's where timm has the method.
//
//   RandAugment       Cubuk et al. 2020, arXiv:1909.13719; timm's "rand-m9-mstd0.5-inc1",
//                     big_vision's "randaug(2,10)"
//   3-Augment         Touvron et al. 2022, arXiv:2204.07118
//   repeated          Hoffer et al. 2020, arXiv:1901.09335
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "vitrine/augment.h"
#include "vitrine/kernels.h"
#include "vitrine/random.h"

namespace vitrine {

/// How the box of a training image is chosen.
enum class CropMode : std::uint8_t {
  rrc,  ///< RandomResizedCrop: area of `scale`, aspect of `ratio`
  src,  ///< "simple random crop" of 3-Augment: short side to the size, then a crop anywhere
  pad,  ///< the whole picture with `crop_padding` pixels of `fill` around it, then a crop anywhere
  none  ///< the whole picture
};
enum class MixMode : std::uint8_t { batch, pair, elem };  ///< one draw a batch, pair or image
enum class EraseMode : std::uint8_t { constant, rand, pixel };

/// An entry of "rand-m9-n2-mstd0.5-inc1", "randaug(2,10)", "3a" or "": which operations, how many
/// of them for an image, how strong. Kept as the recipe wrote it in `text`.
struct AutoAugment {
  enum class Kind : std::uint8_t { none, rand, big_vision, three } kind = Kind::none;
  std::string text;
  double magnitude = 9, magnitude_std = 0, magnitude_max = 10;
  int num_ops = 2;
  double probability = 0.5;  ///< of each chosen operation
  bool increasing = false;   ///< severities that rise with the magnitude ("inc1")
  bool operator==(const AutoAugment&) const = default;
};
/// Throws BadInput "SOURCE: auto_augment: found …, expected …".
AutoAugment parse_auto_augment(const std::string& text, const std::string& source);

struct AugmentationConfig {
  std::int64_t height = 224, width = 224, channels = 3;  ///< of the model
  CropMode crop_mode = CropMode::rrc;
  double scale[2] = {0.08, 1.0}, ratio[2] = {3.0 / 4.0, 4.0 / 3.0};
  std::int64_t crop_padding = 0;
  /// One of "bilinear", "bicubic", or both: "random" draws one for each image.
  std::string interpolation = "bicubic";
  double hflip = 0.5, vflip = 0.0;
  AutoAugment auto_augment;
  double color_jitter[4] = {0, 0, 0, 0};  ///< brightness, contrast, saturation, hue
  double color_jitter_prob = 1.0;
  double grayscale_prob = 0.0, gaussian_blur_prob = 0.0;
  double reprob = 0.0;
  EraseMode remode = EraseMode::constant;
  std::int64_t recount = 1;
  std::vector<std::uint8_t> fill;  ///< one a channel: the mean, as timm takes it; big_vision's 128
  double mixup = 0.0, cutmix = 0.0;  ///< alpha of Beta(α, α); 0: off
  double mixup_prob = 1.0, mixup_switch_prob = 0.5;
  MixMode mixup_mode = MixMode::batch;
  double crop_pct = 0.875;  ///< of evaluation: the centre crop's share of the resized picture
  std::string crop_mode_eval = "center";  ///< "center"; "squash": the whole picture to the size

  /// The most operations that an image can get.
  std::int64_t operations_per_image() const;
  bool mixes() const { return mixup > 0 || cutmix > 0; }
};

/// What becomes of one picture.
struct DrawnAugmentation {
  double crop_y = 0, crop_x = 0, crop_height = 0, crop_width = 0;  ///< in pixels of the picture
  ResampleFilter filter = ResampleFilter::bicubic;
  bool flip_x = false, flip_y = false;
  std::vector<ImageOperation> operations;
};

DrawnAugmentation draw_augmentation(const AugmentationConfig& config, std::int64_t height,
                                    std::int64_t width, std::uint64_t seed, std::int64_t epoch,
                                    std::int64_t position);

/// Resize so that the centre crop of crop_pct becomes the model's size; torchvision's rounding.
DrawnAugmentation evaluation_view(const AugmentationConfig& config, std::int64_t height,
                                  std::int64_t width);

/// For the images of one step, all micro-batches together; image i is mixed with one of the same
/// micro-batch of `micro_batch` images. `mixes` has an entry an image.
void draw_mixes(const AugmentationConfig& config, std::int64_t micro_batch, std::uint64_t seed,
                std::int64_t step, std::span<ImageMix> mixes);

/// The order of an epoch in which each picture stands `repeats` times in a row of neighbours
/// (timm's RepeatAugSampler): n entries, a function of (seed, epoch). repeats = 1: shuffled().
std::vector<std::int64_t> repeated_order(std::int64_t n, std::int64_t repeats, std::uint64_t seed,
                                         std::int64_t epoch);

}  // namespace vitrine
