// Argument checks of the augment family. What the views and mixes hold is the device's to check.
#include <cmath>

#include "catalogue/check.h"
#include "vitrine/arguments.h"

namespace vitrine {
namespace {

/// Elements of images [B, C, height, width]; throws unless each size is at least 1.
template <typename Args>
std::int64_t image_elements(const char* operation, const Args& args) {
  VITRINE_CHECK(args.batch > 0 && args.channels > 0 && args.height > 0 && args.width > 0, operation,
                "batch, channels, height, width are " + std::to_string(args.batch) + ", " +
                    std::to_string(args.channels) + ", " + std::to_string(args.height) + ", " +
                    std::to_string(args.width) + ", expected at least 1");
  return args.batch * args.channels * args.height * args.width;
}

}  // namespace

void check_arguments(const ResizedCrop& args) {
  constexpr const char* kOperation = "resized_crop";
  check_size(kOperation, "images", args.images, image_elements(kOperation, args));
  check_size(kOperation, "views", args.views, args.batch);
  VITRINE_CHECK(args.sources.size == 0 || (args.sources && args.sources.size > 0), kOperation,
                "sources is null with " + std::to_string(args.sources.size) + " elements");
  VITRINE_CHECK(
      args.largest_scale > 0.0f && std::isfinite(args.largest_scale), kOperation,
      "largest_scale is " + std::to_string(args.largest_scale) + ", expected a number above 0");
}

void check_arguments(const MixImages& args) {
  constexpr const char* kOperation = "mix_images";
  const std::int64_t elements = image_elements(kOperation, args);
  check_size(kOperation, "out", args.out, elements);
  check_size(kOperation, "images", args.images, elements);
  check_size(kOperation, "mixes", args.mixes, args.batch);
  const auto apart = reinterpret_cast<std::uintptr_t>(args.out.data) -
                     reinterpret_cast<std::uintptr_t>(args.images.data);
  const auto size = static_cast<std::uintptr_t>(elements);
  VITRINE_CHECK(apart >= size && -apart >= size, kOperation,
                "out overlaps images, which are read for more than one of its elements");
}

}  // namespace vitrine
