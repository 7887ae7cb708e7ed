// Argument checks of the patches' way in and back. The rows' contents are the device's to check.
#include "catalogue/check.h"
#include "vitrine/arguments.h"

namespace vitrine {
namespace {

template <typename Args>
void check_geometry(const char* operation, const Args& args) {
  VITRINE_CHECK(args.channels > 0 && args.height > 0 && args.width > 0 && args.patch_size > 0,
                operation,
                "channels, height, width, patch_size are " + std::to_string(args.channels) + ", " +
                    std::to_string(args.height) + ", " + std::to_string(args.width) + ", " +
                    std::to_string(args.patch_size) + ", expected at least 1");
  VITRINE_CHECK(args.height % args.patch_size == 0 && args.width % args.patch_size == 0, operation,
                "patch_size is " + std::to_string(args.patch_size) +
                    ", expected a divisor of height " + std::to_string(args.height) +
                    " and width " + std::to_string(args.width));
  check_size(operation, "std", args.std, args.channels);
}

}  // namespace

void check_arguments(const PatchEmbedForward& args) {
  constexpr const char* kOperation = "patch_embed_forward";
  check_geometry(kOperation, args);
  check_size(kOperation, "mean", args.mean, args.channels);
  VITRINE_CHECK(args.rows && args.rows.size > 0, kOperation,
                "rows has 0 elements, expected at least 1");
  check_size(kOperation, "patches", args.patches,
             args.rows.size * args.channels * args.height * args.width);
  VITRINE_CHECK(args.source_height > 0 && args.source_width > 0, kOperation,
                "source_height, source_width are " + std::to_string(args.source_height) + ", " +
                    std::to_string(args.source_width) + ", expected at least 1");
  const std::int64_t elements = args.channels * args.source_height * args.source_width;
  VITRINE_CHECK(args.images && args.images.size > 0 && args.images.size % elements == 0, kOperation,
                "images has " + std::to_string(args.images.size) +
                    " elements, expected a multiple of " + std::to_string(elements));
  VITRINE_CHECK(args.images.dtype == DType::u8 || args.images.dtype == DType::f32, kOperation,
                "images has elements of type " + std::string(to_string(args.images.dtype)) +
                    ", expected U8 or F32");
  check_dtypes(kOperation, {{"patches", args.patches}});
}

void check_arguments(const PatchEmbedBackward& args) {
  constexpr const char* kOperation = "patch_embed_backward";
  check_geometry(kOperation, args);
  const std::int64_t elements = args.channels * args.height * args.width;
  VITRINE_CHECK(args.dimages && args.dimages.size > 0 && args.dimages.size % elements == 0,
                kOperation,
                "dimages has " + std::to_string(args.dimages.size) +
                    " elements, expected a multiple of " + std::to_string(elements));
  check_size(kOperation, "dpatches", args.dpatches, args.dimages.size);
  check_dtypes(kOperation, {{"dimages", args.dimages}, {"dpatches", args.dpatches}});
}

}  // namespace vitrine
