// Argument checks of the optimiser. Regions and states are the device's to look into.
#include "catalogue/check.h"
#include "vitrine/arguments.h"

namespace vitrine {

void check_arguments(const AdamW& args) {
  constexpr const char* kOperation = "adamw";
  const std::int64_t n = args.weights.size;
  VITRINE_CHECK(args.weights && n > 0, kOperation, "weights has 0 elements, expected at least 1");
  check_size(kOperation, "first_moment", args.first_moment, n);
  check_size(kOperation, "second_moment", args.second_moment, n);
  check_size(kOperation, "ema", args.ema, n, true);
  check_size(kOperation, "working_copy", args.working_copy, n, true);
  check_size(kOperation, "gradients", args.gradients, n);
  VITRINE_CHECK(static_cast<bool>(args.regions), kOperation,
                "regions is missing, expected a table");
  VITRINE_CHECK(args.optimizer != nullptr, kOperation, "optimizer is missing, expected a state");
  VITRINE_CHECK(args.state != nullptr, kOperation, "state is missing, expected a step state");
  check_dtypes(kOperation, {{"working_copy", args.working_copy}});
}

}  // namespace vitrine
