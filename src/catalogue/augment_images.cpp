// Argument checks of augment_images: shapes and sizes.
#include <limits>

#include "catalogue/check.h"
#include "vitrine/arguments.h"

namespace vitrine {

void check_arguments(const AugmentImages& args) {
  constexpr const char* kOperation = "augment_images";
  constexpr std::int64_t kLimit = std::numeric_limits<std::int32_t>::max();
  VITRINE_CHECK(args.batch > 0 && args.height > 0 && args.width > 0, kOperation,
                "batch, height and width must be positive");
  VITRINE_CHECK(args.channels == 1 || args.channels == 3, kOperation,
                "channels is " + std::to_string(args.channels) + ", expected 1 or 3");
  VITRINE_CHECK(args.height <= kLimit / args.width / args.channels, kOperation,
                "channels · height · width is " + std::to_string(args.channels) + " · " +
                    std::to_string(args.height) + " · " + std::to_string(args.width) +
                    ", expected less than 2^31");
  VITRINE_CHECK(args.operations_per_image >= 0, kOperation,
                "operations_per_image is " + std::to_string(args.operations_per_image) +
                    ", expected 0 or more");
  const std::int64_t elements = args.batch * args.channels * args.height * args.width;
  check_size(kOperation, "images", args.images, elements);
  check_size(kOperation, "workspace", args.workspace, elements);
  VITRINE_CHECK(args.images.data != args.workspace.data, kOperation,
                "workspace is images, expected other memory");
  check_size(kOperation, "operations", args.operations, args.batch * args.operations_per_image,
             args.operations_per_image == 0);
  check_size(kOperation, "fill", args.fill, args.channels);
  check_size(kOperation, "mean", args.mean, args.channels);
  check_size(kOperation, "std", args.std, args.channels);
}

}  // namespace vitrine
