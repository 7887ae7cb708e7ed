// Argument checks of the residual stream and of plain sums.
#include "catalogue/check.h"
#include "vitrine/arguments.h"

namespace vitrine {

void check_arguments(const ResidualForward& args) {
  constexpr const char* kOperation = "residual_forward";
  const std::int64_t n = args.rows * args.cols;
  VITRINE_CHECK(args.rows > 0 && args.cols > 0, kOperation, "rows and cols must be positive");
  check_size(kOperation, "y", args.y, n);
  check_size(kOperation, "x", args.x, n);
  check_size(kOperation, "branch", args.branch, n);
  check_branch(kOperation, args);
  check_dtypes(kOperation, {{"y", args.y}, {"x", args.x}, {"branch", args.branch}});
}

void check_arguments(const ResidualBackward& args) {
  constexpr const char* kOperation = "residual_backward";
  const std::int64_t n = args.rows * args.cols;
  VITRINE_CHECK(args.rows > 0 && args.cols > 0, kOperation, "rows and cols must be positive");
  check_size(kOperation, "dbranch", args.dbranch, n);
  check_size(kOperation, "dy", args.dy, n);
  check_branch(kOperation, args);
  check_dtypes(kOperation, {{"dbranch", args.dbranch}, {"dy", args.dy}});
}

void check_arguments(const Add& args) {
  constexpr const char* kOperation = "add";
  check_size(kOperation, "out", args.out, args.out.size);
  check_size(kOperation, "a", args.a, args.out.size);
  check_size(kOperation, "b", args.b, args.out.size);
  check_dtypes(kOperation, {{"out", args.out}, {"a", args.a}, {"b", args.b}});
}

}  // namespace vitrine
