// RandAugment as timm and as big_vision draw it, and 3-Augment.
//
//   timm          "rand-m9-mstd0.5-inc1": n operations of fifteen, each with its own probability
//   and
//                 magnitude; auto_augment.py of timm 1.0
//   big_vision    "randaug(n,m)": n operations of sixteen, always, at magnitude m;
//                 pp/archive/autoaugment.py
//   3-Augment     one of solarize, grey and blur; augment.py of DeiT, Touvron et al. 2022
//
// big_vision resamples rotations, shears and translations by the nearest pixel and counts pixels by
// their corners' indices, so that a shear leaves row and column 0 where they are; Pillow leaves
// their upper and left edges. Three of its numbers are not Pillow's, and ours are Pillow's:
// contrast blends with the grey of (pixels of the image) / 256 in place of the mean; color and
// contrast use TensorFlow's luma; autocontrast rounds down.
#include "data/rand_augment.h"

#include <algorithm>
#include <cmath>

namespace vitrine {
namespace {

constexpr double kLevels = 10.0;  // the level at which an operation is strongest
constexpr double kPi = 3.14159265358979323846;

using Kind = ImageOperationKind;

ImageOperation plain(Kind kind) {
  return {.kind = kind};
}

ImageOperation with_value(Kind kind, double value) {
  return {.kind = kind, .value = {value}};
}

ImageOperation affine(ResampleFilter filter, double a, double b, double c, double d, double e,
                      double f) {
  return {.kind = Kind::affine, .filter = filter, .value = {a, b, c, d, e, f}};
}

// PIL's Image.rotate: about the centre, cosine and sine to 15 digits, so that quarters are exact.
ImageOperation rotation(double degrees, const ImageSize& size, ResampleFilter filter) {
  constexpr double kDigits = 1e15;
  const double angle = -degrees * (kPi / 180.0);
  const double cosine = std::nearbyint(std::cos(angle) * kDigits) / kDigits;
  const double sine = std::nearbyint(std::sin(angle) * kDigits) / kDigits;
  const double x = static_cast<double>(size.width) / 2, y = static_cast<double>(size.height) / 2;
  return affine(filter, cosine, sine, x - cosine * x - sine * y, -sine, cosine,
                y + sine * x - cosine * y);
}

ImageOperation shear(bool along_x, double factor, double offset, ResampleFilter filter) {
  return along_x ? affine(filter, 1, factor, offset, 0, 1, 0)
                 : affine(filter, 1, 0, 0, factor, 1, offset);
}

ImageOperation translation(bool along_x, double pixels, ResampleFilter filter) {
  return along_x ? affine(filter, 1, 0, pixels, 0, 1, 0) : affine(filter, 1, 0, 0, 0, 1, pixels);
}

// Where the level rises towards no change at ten, or moves away from it.
double enhancement(double level, double sign, bool increasing) {
  if (increasing) return std::max(0.1, 1.0 + sign * (level / kLevels * 0.9));
  return level / kLevels * 1.8 + 0.1;
}

Kind enhancement_kind(RandOperation operation) {
  switch (operation) {
    case RandOperation::color:
      return Kind::color;
    case RandOperation::contrast:
      return Kind::contrast;
    case RandOperation::brightness:
      return Kind::brightness;
    default:
      return Kind::sharpness;
  }
}

double draw_level(const AutoAugment& rule, RandomStream& random) {
  double level = rule.magnitude;
  if (std::isinf(rule.magnitude_std)) {
    level = random.uniform(0, rule.magnitude);
  } else if (rule.magnitude_std > 0) {
    level += rule.magnitude_std * random.normal();
  }
  return std::clamp(level, 0.0, rule.magnitude_max);
}

double draw_sign(RandomStream& random) {
  return random.uniform() < 0.5 ? -1.0 : 1.0;
}

void draw_timm(const AugmentationConfig& config, RandomStream& random,
               std::vector<ImageOperation>& operations) {
  const AutoAugment& rule = config.auto_augment;
  for (int i = 0; i < rule.num_ops; ++i) {
    const auto operation = static_cast<RandOperation>(random.below(kTimmOperations));
    if (random.uniform() >= rule.probability) continue;
    const double level = draw_level(rule, random);
    const double sign = draw_sign(random);
    operations.push_back(timm_operation(operation, level, sign, rule.increasing,
                                        {config.height, config.width},
                                        draw_filter(config, random)));
  }
}

void draw_big_vision(const AugmentationConfig& config, RandomStream& random,
                     std::vector<ImageOperation>& operations) {
  const AutoAugment& rule = config.auto_augment;
  const ImageSize size{config.height, config.width};
  for (int i = 0; i < rule.num_ops; ++i) {
    const auto operation = static_cast<RandOperation>(random.below(kBigVisionOperations));
    if (operation == RandOperation::cutout) {
      const auto y = static_cast<std::int64_t>(random.below(config.height));
      const auto x = static_cast<std::int64_t>(random.below(config.width));
      operations.push_back(big_vision_cutout(rule.magnitude, y, x, size));
    } else {
      const double sign = draw_sign(random);
      operations.push_back(big_vision_operation(operation, rule.magnitude, sign, size));
    }
  }
}

void draw_three(RandomStream& random, std::vector<ImageOperation>& operations) {
  constexpr double kThreshold = 128, kLeastSigma = 0.1, kLargestSigma = 2.0;
  switch (random.below(3)) {
    case 0:
      operations.push_back(plain(Kind::grayscale));
      break;
    case 1:
      operations.push_back(with_value(Kind::solarize, kThreshold));
      break;
    default:
      operations.push_back(
          with_value(Kind::gaussian_blur, random.uniform(kLeastSigma, kLargestSigma)));
  }
}

}  // namespace

ImageOperation timm_operation(RandOperation operation, double level, double sign, bool increasing,
                              const ImageSize& size, ResampleFilter filter) {
  const double share = level / kLevels;
  switch (operation) {
    case RandOperation::auto_contrast:
      return plain(Kind::auto_contrast);
    case RandOperation::equalize:
      return plain(Kind::equalize);
    case RandOperation::invert:
      return plain(Kind::invert);
    case RandOperation::rotate:
      return rotation(sign * share * 30.0, size, filter);
    case RandOperation::posterize: {
      const double bits = std::trunc(share * 4);
      return with_value(Kind::posterize,
                        increasing ? std::max(0.0, 4 - bits) : std::min(8.0, bits));
    }
    case RandOperation::solarize: {
      const double threshold = std::min(256.0, std::trunc(share * 256));
      return with_value(Kind::solarize, increasing ? 256 - threshold : threshold);
    }
    case RandOperation::solarize_add:
      return {.kind = Kind::solarize_add, .value = {std::min(128.0, std::trunc(share * 110)), 128}};
    case RandOperation::color:
    case RandOperation::contrast:
    case RandOperation::brightness:
    case RandOperation::sharpness:
      return with_value(enhancement_kind(operation), enhancement(level, sign, increasing));
    case RandOperation::shear_x:
    case RandOperation::shear_y:
      return shear(operation == RandOperation::shear_x, sign * share * 0.3, 0, filter);
    case RandOperation::translate_x:
      return translation(true, sign * share * 0.45 * static_cast<double>(size.width), filter);
    case RandOperation::translate_y:
      return translation(false, sign * share * 0.45 * static_cast<double>(size.height), filter);
    case RandOperation::cutout:
      break;
  }
  return {};
}

ImageOperation big_vision_operation(RandOperation operation, double level, double sign,
                                    const ImageSize& size) {
  constexpr double kTranslation = 100, kShear = 0.3;
  const double share = level / kLevels;
  const ResampleFilter filter = ResampleFilter::nearest;
  switch (operation) {
    case RandOperation::solarize_add:  // not limited to 128
      return {.kind = Kind::solarize_add, .value = {std::trunc(share * 110), 128}};
    case RandOperation::shear_x:
    case RandOperation::shear_y: {
      const double factor = sign * share * kShear;
      return shear(operation == RandOperation::shear_x, factor, -0.5 * factor, filter);
    }
    case RandOperation::translate_x:
    case RandOperation::translate_y:
      return translation(operation == RandOperation::translate_x, sign * share * kTranslation,
                         filter);
    default:
      return timm_operation(operation, level, sign, false, size, filter);
  }
}

ImageOperation big_vision_cutout(double level, std::int64_t y, std::int64_t x,
                                 const ImageSize& size) {
  constexpr double kHalfSide = 40;
  const auto half = static_cast<std::int64_t>(level / kLevels * kHalfSide);
  const std::int64_t top = std::max<std::int64_t>(0, y - half);
  const std::int64_t left = std::max<std::int64_t>(0, x - half);
  const std::int64_t height = std::min(size.height, y + half) - top;
  const std::int64_t width = std::min(size.width, x + half) - left;
  if (height <= 0 || width <= 0) return {};
  return {
      .kind = Kind::erase,
      .value = {static_cast<double>(top), static_cast<double>(left), static_cast<double>(height),
                static_cast<double>(width), static_cast<double>(EraseMode::constant)}};
}

ResampleFilter draw_filter(const AugmentationConfig& config, RandomStream& random) {
  if (config.interpolation == "bilinear") return ResampleFilter::bilinear;
  if (config.interpolation == "bicubic") return ResampleFilter::bicubic;
  return random.uniform() < 0.5 ? ResampleFilter::bilinear : ResampleFilter::bicubic;
}

void draw_auto_augment(const AugmentationConfig& config, RandomStream& random,
                       std::vector<ImageOperation>& operations) {
  switch (config.auto_augment.kind) {
    case AutoAugment::Kind::none:
      break;
    case AutoAugment::Kind::rand:
      return draw_timm(config, random, operations);
    case AutoAugment::Kind::big_vision:
      return draw_big_vision(config, random, operations);
    case AutoAugment::Kind::three:
      return draw_three(random, operations);
  }
}

}  // namespace vitrine
