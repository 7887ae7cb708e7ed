// Argument checks of the block-diagonal linear layer.
#include "catalogue/check.h"
#include "vitrine/arguments.h"

namespace vitrine {
namespace {

template <typename Args>
void check_shape(const char* operation, const Args& args) {
  VITRINE_CHECK(args.rows > 0 && args.parts > 0 && args.heads > 0 && args.head_size > 0, operation,
                "rows, parts, heads, head_size are " + std::to_string(args.rows) + ", " +
                    std::to_string(args.parts) + ", " + std::to_string(args.heads) + ", " +
                    std::to_string(args.head_size) + ", expected at least 1");
}

}  // namespace

void check_arguments(const PerHeadLinearForward& args) {
  constexpr const char* kOperation = "per_head_linear_forward";
  check_shape(kOperation, args);
  const std::int64_t x_cols = args.heads * args.head_size;
  const std::int64_t y_cols = args.parts * x_cols;
  check_size(kOperation, "y", args.y, args.rows * y_cols);
  check_size(kOperation, "x", args.x, args.rows * x_cols);
  check_size(kOperation, "weight", args.weight, y_cols * args.head_size);
  check_size(kOperation, "bias", args.bias, y_cols, true);
  check_dtypes(kOperation,
               {{"y", args.y}, {"x", args.x}, {"weight", args.weight}, {"bias", args.bias}});
}

void check_arguments(const PerHeadLinearBackward& args) {
  constexpr const char* kOperation = "per_head_linear_backward";
  check_shape(kOperation, args);
  const std::int64_t x_cols = args.heads * args.head_size;
  const std::int64_t y_cols = args.parts * x_cols;
  const std::int64_t parameters = y_cols * args.head_size + y_cols;
  check_size(kOperation, "dx", args.dx, args.rows * x_cols, true);
  check_size(kOperation, "dweight", args.dweight, y_cols * args.head_size, true);
  check_size(kOperation, "dbias", args.dbias, y_cols, true);
  check_size(kOperation, "dy", args.dy, args.rows * y_cols);
  check_size(kOperation, "x", args.x, args.rows * x_cols);
  check_size(kOperation, "weight", args.weight, y_cols * args.head_size);
  VITRINE_CHECK(args.workspace && args.workspace.size > 0 && args.workspace.size % parameters == 0,
                kOperation,
                "workspace has " + std::to_string(args.workspace.size) +
                    " elements, expected a multiple of " + std::to_string(parameters));
  check_dtypes(kOperation,
               {{"dx", args.dx}, {"dy", args.dy}, {"x", args.x}, {"weight", args.weight}});
}

}  // namespace vitrine
