// Operations on the colours and the geometry of u8 images, by a table of them for each image.
//
// An image belongs to one thread, which does its operations in order; tones wait in a table until
// another operation needs the pixels. What cannot be done in place goes to the workspace, and what
// is there at the end comes back.
#include "cpu/augment_images.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "catalogue/check.h"
#include "cpu/cpu_kernels.h"
#include "vitrine/arguments.h"

namespace vitrine::cpu {
namespace {

constexpr const char* kOperation = "augment_images";

/// The range of value[0], where an operation does not take any number.
struct ValueRange {
  double low, high;
  const char* name;
};

ValueRange first_value_of(ImageOperationKind kind) {
  constexpr double kAny = 1 << 24;
  switch (kind) {
    case ImageOperationKind::posterize:
      return {0, 8, "posterize's bits"};
    case ImageOperationKind::gaussian_blur:
      return {pixel::kSmallestBlurSigma, pixel::kLargestBlurSigma, "gaussian_blur's sigma"};
    default:
      return {-kAny, kAny, "value[0]"};
  }
}

/// Throws DeviceError naming the operation's place in the table. CUDA cannot look: there such
/// numbers are taken to the nearest that can be used.
void check_operation(const ImageOperation& operation, std::int64_t index) {
  const auto found = [&](const std::string& what) {
    return "operations[" + std::to_string(index) + "]: " + what;
  };
  const auto kind = static_cast<int>(operation.kind), filter = static_cast<int>(operation.filter);
  VITRINE_CHECK(kind >= 0 && kind <= static_cast<int>(ImageOperationKind::erase), kOperation,
                found("kind is " + std::to_string(kind)));
  VITRINE_CHECK(filter >= 0 && filter <= static_cast<int>(ResampleFilter::bicubic), kOperation,
                found("filter is " + std::to_string(filter)));
  VITRINE_CHECK(std::ranges::all_of(operation.value, [](double v) { return std::isfinite(v); }),
                kOperation, found("a value is not a finite number"));
  const ValueRange range = first_value_of(operation.kind);
  const double value = operation.value[0];
  VITRINE_CHECK(value >= range.low && value <= range.high, kOperation,
                found(std::string(range.name) + " is " + std::to_string(value) + ", expected " +
                      std::to_string(range.low) + " to " + std::to_string(range.high)));
}

/// The two places of one image and the operations on it.
class ImageAugmentation {
 public:
  ImageAugmentation(const AugmentImages& args, std::int64_t image)
      : args_(args),
        shape_{static_cast<int>(args.channels), static_cast<int>(args.height),
               static_cast<int>(args.width)},
        current_(args.images.data + image * shape_.elements()),
        other_(args.workspace.data + image * shape_.elements()),
        image_(current_) {}

  void apply(const ImageOperation& operation) {
    const ImageOperationKind kind = operation.kind;
    if (kind == ImageOperationKind::none) return;
    if (pixel::is_tone(kind)) return tones_.append(operation, current_, shape_);
    tones_.apply(current_, shape_);
    switch (kind) {
      case ImageOperationKind::sharpness:
        sharpen(static_cast<float>(operation.value[0]), current_, other_, shape_);
        return std::swap(current_, other_);
      case ImageOperationKind::gaussian_blur:
        blur(pixel::blur_sigma(operation), current_, other_, shape_);
        return std::swap(current_, other_);
      case ImageOperationKind::affine:
        transform(operation, args_.fill.data, current_, other_, shape_);
        return std::swap(current_, other_);
      case ImageOperationKind::erase:
        return erase(operation, args_, current_, shape_);
      default:
        return change_colors(operation, current_, shape_);
    }
  }

  void finish() {
    tones_.apply(current_, shape_);
    if (current_ != image_) std::copy_n(current_, shape_.elements(), image_);
  }

 private:
  const AugmentImages& args_;
  const ImageShape shape_;
  std::uint8_t *current_, *other_;
  std::uint8_t* const image_;
  ToneTable tones_;
};

}  // namespace

void CpuKernels::augment_images(const AugmentImages& args) {
  check_arguments(args);
  const std::int64_t operations = args.operations_per_image;
  for (std::int64_t i = 0; i < args.batch * operations; ++i) check_operation(args.operations[i], i);
  pool_.parallel_for(args.batch, [&](int, std::int64_t image) {
    ImageAugmentation augmentation(args, image);
    for (std::int64_t i = 0; i < operations; ++i) {
      augmentation.apply(args.operations[image * operations + i]);
    }
    augmentation.finish();
  });
}

}  // namespace vitrine::cpu
