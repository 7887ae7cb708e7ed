// Argument checks of layer normalisation.
#include "catalogue/check.h"
#include "vitrine/arguments.h"

namespace vitrine {

void check_arguments(const LayerNormForward& args) {
  constexpr const char* kOperation = "layer_norm_forward";
  const std::int64_t n = args.rows * args.cols;
  VITRINE_CHECK(args.rows > 0 && args.cols > 0, kOperation, "rows and cols must be positive");
  check_size(kOperation, "y", args.y, n);
  check_size(kOperation, "x", args.x, n);
  check_size(kOperation, "branch", args.branch, n, true);
  check_size(kOperation, "x_out", args.x_out, args.branch ? n : 0, !args.branch);
  check_size(kOperation, "weight", args.weight, args.cols);
  check_size(kOperation, "bias", args.bias, args.cols);
  check_size(kOperation, "mean", args.mean, args.rows, true);
  check_size(kOperation, "rstd", args.rstd, args.rows, true);
  check_branch(kOperation, args);
  check_dtypes(kOperation, {{"y", args.y},
                            {"x_out", args.x_out},
                            {"x", args.x},
                            {"branch", args.branch},
                            {"weight", args.weight},
                            {"bias", args.bias}});
}

void check_arguments(const LayerNormBackward& args) {
  constexpr const char* kOperation = "layer_norm_backward";
  const std::int64_t n = args.rows * args.cols;
  VITRINE_CHECK(args.rows > 0 && args.cols > 0, kOperation, "rows and cols must be positive");
  check_size(kOperation, "dx", args.dx, n);
  check_size(kOperation, "dbranch", args.dbranch, n, true);
  check_size(kOperation, "dweight", args.dweight, args.cols, true);
  check_size(kOperation, "dbias", args.dbias, args.cols, true);
  check_size(kOperation, "dy", args.dy, n);
  check_size(kOperation, "dresidual", args.dresidual, n, true);
  check_size(kOperation, "x", args.x, n);
  check_size(kOperation, "mean", args.mean, args.rows);
  check_size(kOperation, "rstd", args.rstd, args.rows);
  check_size(kOperation, "weight", args.weight, args.cols);
  VITRINE_CHECK(
      args.workspace.size % (2 * args.cols) == 0, kOperation,
      "workspace has " + std::to_string(args.workspace.size) +
          " elements, expected a multiple of 2 * cols = " + std::to_string(2 * args.cols));
  VITRINE_CHECK((args.dweight && args.dbias) || args.workspace.size > 0, kOperation,
                "workspace has 0 elements, expected a run where dweight or dbias is not given");
  check_branch(kOperation, args);
  check_dtypes(kOperation, {{"dx", args.dx},
                            {"dbranch", args.dbranch},
                            {"dy", args.dy},
                            {"dresidual", args.dresidual},
                            {"x", args.x},
                            {"weight", args.weight}});
}

}  // namespace vitrine
