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

#include <array>
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
  src,  ///< "simple random crop" of 3-Augment: short side to the size, then as `pad`
  pad,  ///< the picture at the size, `crop_padding` pixels of `fill` around it, a crop anywhere
  none  ///< the whole picture
};
enum class MixMode : std::uint8_t { batch, pair, elem };  ///< one draw a batch, pair or image
enum class EraseMode : std::uint8_t { constant, rand, pixel };

/// "rand-m9-n2-mstd0.5-inc1", "randaug(2,10)", "3a" or "": which operations, how many of them for
/// an image, how strong. Kept as the recipe wrote it in `text`.
struct AutoAugment {
  enum class Kind : std::uint8_t { none, rand, big_vision, three } kind = Kind::none;
  std::string text;
  double magnitude = 10, magnitude_max = 10;  ///< tenths of the strongest
  double magnitude_std = 0;  ///< of a normal distribution; infinite: uniform in [0, magnitude]
  int num_ops = 2;
  double probability = 0.5;  ///< of each chosen operation
  bool increasing = false;   ///< severities that rise with the magnitude ("inc1")
  bool operator==(const AutoAugment&) const = default;
};
/// Throws BadInput "SOURCE: aa: found …, expected …".
AutoAugment parse_auto_augment(const std::string& text, const std::string& source);

struct AugmentationConfig {
  std::int64_t height = 224, width = 224, channels = 3;  ///< of the model
  CropMode crop_mode = CropMode::rrc;
  /// Of rrc; a scale of {1, 1} is the whole picture, as in Transform.
  std::array<double, 2> scale = {0.08, 1.0}, ratio = {3.0 / 4.0, 4.0 / 3.0};
  std::int64_t crop_padding = 0;  ///< of src and pad, in pixels of the model
  /// "bilinear", "bicubic", or "random": one of both, drawn for the crop and again for each
  /// operation; evaluation is bicubic then.
  std::string interpolation = "bicubic";
  double hflip = 0.5, vflip = 0.0;
  AutoAugment auto_augment;
  /// Brightness, contrast and saturation are multiplied by U(max(0, 1 − j), 1 + j), hue is turned
  /// by U(−j, j), in random order.
  std::array<double, 4> color_jitter = {0, 0, 0, 0};
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
  /// "center": resized so that it covers size / crop_pct; "squash": to exactly that, whatever its
  /// aspect.
  std::string crop_mode_eval = "center";

  /// The most operations that an image can get.
  std::int64_t operations_per_image() const;
  bool mixes() const { return mixup > 0 || cutmix > 0; }
};

/// What becomes of one picture. `src` and `pad` move what their box cannot show (a crop that
/// reaches into the padding) by an `affine` of whole pixels, the first of the operations.
struct DrawnAugmentation {
  double crop_y = 0, crop_x = 0, crop_height = 0, crop_width = 0;  ///< in pixels of the picture
  ResampleFilter filter = ResampleFilter::bicubic;
  bool flip_x = false, flip_y = false;
  std::vector<ImageOperation> operations;
};

DrawnAugmentation draw_augmentation(const AugmentationConfig& config, std::int64_t height,
                                    std::int64_t width, std::uint64_t seed, std::int64_t epoch,
                                    std::int64_t position);

/// The centre crop, as a box of the picture; sizes and places are rounded as torchvision does.
DrawnAugmentation evaluation_view(const AugmentationConfig& config, std::int64_t height,
                                  std::int64_t width);

/// For the images of one step, all micro-batches together; `mixes` has an entry an image, and
/// partners are counted as its entries are. Image i of the n of a micro-batch is mixed with its
/// image n − 1 − i. λ ~ Beta(α, α); of cutmix, what the box leaves of the image once it is clipped.
void draw_mixes(const AugmentationConfig& config, std::int64_t micro_batch, std::uint64_t seed,
                std::int64_t step, std::span<ImageMix> mixes);

/// The order of an epoch in which each picture stands `repeats` times in a row of neighbours: n
/// entries, a function of (seed, epoch). repeats = 0 or 1: shuffled(). It is timm's
/// RepeatAugSampler on one device, but for its rounding of n to a multiple of 256.
std::vector<std::int64_t> repeated_order(std::int64_t n, std::int64_t repeats, std::uint64_t seed,
                                         std::int64_t epoch);

}  // namespace vitrine
