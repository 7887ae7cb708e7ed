// Argument checks of the sums: of columns, of parts, and the norm of all gradients.
#include "catalogue/check.h"
#include "vitrine/arguments.h"

namespace vitrine {

void check_arguments(const ColumnSum& args) {
  constexpr const char* kOperation = "column_sum";
  VITRINE_CHECK(args.rows > 0 && args.cols > 0, kOperation,
                "rows, cols are " + std::to_string(args.rows) + ", " + std::to_string(args.cols) +
                    ", expected at least 1");
  check_size(kOperation, "out", args.out, args.cols);
  check_size(kOperation, "x", args.x, args.rows * args.cols);
  VITRINE_CHECK(args.workspace && args.workspace.size > 0 && args.workspace.size % args.cols == 0,
                kOperation,
                "workspace has " + std::to_string(args.workspace.size) +
                    " elements, expected a multiple of " + std::to_string(args.cols));
  check_dtypes(kOperation, {{"x", args.x}});
}

void check_arguments(const SumParts& args) {
  constexpr const char* kOperation = "sum_parts";
  VITRINE_CHECK(args.num_parts > 0 && args.n > 0, kOperation,
                "num_parts, n are " + std::to_string(args.num_parts) + ", " +
                    std::to_string(args.n) + ", expected at least 1");
  check_size(kOperation, "out", args.out, args.n);
  check_size(kOperation, "parts", args.parts, args.num_parts * args.n);
}

void check_arguments(const GradientNorm& args) {
  constexpr const char* kOperation = "gradient_norm";
  VITRINE_CHECK(args.optimizer != nullptr, kOperation, "optimizer is missing, expected a state");
  VITRINE_CHECK(args.gradients && args.gradients.size > 0, kOperation,
                "gradients has 0 elements, expected at least 1");
}

}  // namespace vitrine
