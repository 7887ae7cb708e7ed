// Argument checks of the patch projection as a convolution.
#include "catalogue/check.h"
#include "vitrine/arguments.h"

namespace vitrine {
namespace {

struct Sizes {
  std::int64_t images = 0, weight = 0, y = 0;
};

template <typename Args>
Sizes checked_sizes(const char* operation, const Args& args) {
  VITRINE_CHECK(args.batch > 0 && args.channels > 0 && args.hidden > 0, operation,
                "batch, channels, hidden are " + std::to_string(args.batch) + ", " +
                    std::to_string(args.channels) + ", " + std::to_string(args.hidden) +
                    ", expected at least 1");
  VITRINE_CHECK(args.height > 0 && args.width > 0 && args.patch_size > 0, operation,
                "height, width, patch_size are " + std::to_string(args.height) + ", " +
                    std::to_string(args.width) + ", " + std::to_string(args.patch_size) +
                    ", expected at least 1");
  VITRINE_CHECK(args.height % args.patch_size == 0 && args.width % args.patch_size == 0, operation,
                "patch_size is " + std::to_string(args.patch_size) +
                    ", expected a divisor of height " + std::to_string(args.height) +
                    " and width " + std::to_string(args.width));
  const std::int64_t patch = args.patch_size * args.patch_size;
  return {.images = args.batch * args.channels * args.height * args.width,
          .weight = args.hidden * args.channels * patch,
          .y = args.batch * args.hidden * (args.height * args.width / patch)};
}

}  // namespace

void check_arguments(const PatchConvolutionForward& args) {
  constexpr const char* kOperation = "patch_convolution_forward";
  const Sizes sizes = checked_sizes(kOperation, args);
  check_size(kOperation, "y", args.y, sizes.y);
  check_size(kOperation, "images", args.images, sizes.images);
  check_size(kOperation, "weight", args.weight, sizes.weight);
  check_size(kOperation, "bias", args.bias, args.hidden, true);
  check_size(kOperation, "workspace", args.workspace, sizes.y);
  check_dtypes(
      kOperation,
      {{"y", args.y}, {"images", args.images}, {"weight", args.weight}, {"bias", args.bias}});
}

void check_arguments(const PatchConvolutionBackward& args) {
  constexpr const char* kOperation = "patch_convolution_backward";
  const Sizes sizes = checked_sizes(kOperation, args);
  check_size(kOperation, "dweight", args.dweight, sizes.weight);
  check_size(kOperation, "dy", args.dy, sizes.y);
  check_size(kOperation, "images", args.images, sizes.images);
  check_size(kOperation, "workspace", args.workspace, sizes.y + sizes.weight);
  check_dtypes(kOperation, {{"dy", args.dy}, {"images", args.images}});
}

}  // namespace vitrine
