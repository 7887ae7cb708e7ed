// Argument checks of a factor for each column.
#include "catalogue/check.h"
#include "vitrine/arguments.h"

namespace vitrine {

void check_arguments(const ScaleColumnsForward& args) {
  constexpr const char* kOperation = "scale_columns_forward";
  const std::int64_t n = args.rows * args.cols;
  VITRINE_CHECK(args.rows > 0 && args.cols > 0, kOperation, "rows and cols must be positive");
  check_size(kOperation, "y", args.y, n);
  check_size(kOperation, "x", args.x, n);
  check_size(kOperation, "scale", args.scale, args.cols);
  check_dtypes(kOperation, {{"y", args.y}, {"x", args.x}, {"scale", args.scale}});
}

void check_arguments(const ScaleColumnsBackward& args) {
  constexpr const char* kOperation = "scale_columns_backward";
  const std::int64_t n = args.rows * args.cols;
  VITRINE_CHECK(args.rows > 0 && args.cols > 0, kOperation, "rows and cols must be positive");
  VITRINE_CHECK(args.dx || args.dscale, kOperation, "dx and dscale are missing, expected one");
  check_size(kOperation, "dx", args.dx, n, true);
  check_size(kOperation, "dscale", args.dscale, args.cols, true);
  check_size(kOperation, "dy", args.dy, n);
  check_size(kOperation, "x", args.x, n);
  check_size(kOperation, "scale", args.scale, args.cols);
  VITRINE_CHECK(!args.dscale || (args.workspace.size > 0 && args.workspace.size % args.cols == 0),
                kOperation,
                "workspace has " + std::to_string(args.workspace.size) +
                    " elements, expected a multiple of cols = " + std::to_string(args.cols));
  check_dtypes(kOperation,
               {{"dx", args.dx}, {"dy", args.dy}, {"x", args.x}, {"scale", args.scale}});
}

}  // namespace vitrine
