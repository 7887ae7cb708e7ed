// Argument checks of the activation functions.
#include "catalogue/check.h"
#include "vitrine/arguments.h"

namespace vitrine {

void check_arguments(const ActivationForward& args) {
  constexpr const char* kOperation = "activation_forward";
  const std::int64_t n = args.rows * args.cols;
  const bool saves = args.saved_kind != ActivationSaved::nothing;
  VITRINE_CHECK(args.rows > 0 && args.cols > 0, kOperation, "rows and cols must be positive");
  check_size(kOperation, "y", args.y, n);
  check_size(kOperation, "saved", args.saved, saves ? n : 0, !saves);
  check_size(kOperation, "x", args.x, n);
  check_size(kOperation, "bias", args.bias, args.cols, true);
  VITRINE_CHECK(!saves || args.y.data != args.saved.data, kOperation,
                "saved is y, expected other memory");
  check_dropout(kOperation, "dropout", args.dropout, args.rows, args.window, args.state);
  check_dtypes(kOperation,
               {{"y", args.y}, {"saved", args.saved}, {"x", args.x}, {"bias", args.bias}});
}

void check_arguments(const ActivationBackward& args) {
  constexpr const char* kOperation = "activation_backward";
  const std::int64_t n = args.rows * args.cols;
  VITRINE_CHECK(args.rows > 0 && args.cols > 0, kOperation, "rows and cols must be positive");
  VITRINE_CHECK(args.saved_kind != ActivationSaved::nothing, kOperation,
                "saved_kind is nothing, expected derivative or pre_activation");
  check_size(kOperation, "dx", args.dx, n);
  check_size(kOperation, "dbias", args.dbias, args.cols, true);
  check_size(kOperation, "dy", args.dy, n);
  check_size(kOperation, "saved", args.saved, n);
  VITRINE_CHECK(args.workspace.size % args.cols == 0, kOperation,
                "workspace has " + std::to_string(args.workspace.size) +
                    " elements, expected a multiple of cols = " + std::to_string(args.cols));
  if (args.saved_kind == ActivationSaved::pre_activation) {
    check_dropout(kOperation, "dropout", args.dropout, args.rows, args.window, args.state);
  }
  check_dtypes(kOperation, {{"dx", args.dx}, {"dy", args.dy}, {"saved", args.saved}});
}

}  // namespace vitrine
