// Argument checks of a branch on a subset of the samples.
#include <limits>

#include "catalogue/check.h"
#include "vitrine/arguments.h"

namespace vitrine {
namespace {

void check_counts(const char* operation, std::int64_t batch, std::int64_t count) {
  VITRINE_CHECK(batch > 0 && batch <= std::numeric_limits<std::int32_t>::max(), operation,
                "batch is " + std::to_string(batch) + ", expected 1 to 2147483647");
  VITRINE_CHECK(
      count > 0 && count <= batch, operation,
      "count is " + std::to_string(count) + ", expected 1 to batch = " + std::to_string(batch));
}

}  // namespace

void check_arguments(const ChooseSamples& args) {
  constexpr const char* kOperation = "choose_samples";
  check_counts(kOperation, args.batch, args.count);
  check_size(kOperation, "samples", args.samples, args.count);
  check_size(kOperation, "slots", args.slots, args.batch);
  VITRINE_CHECK(args.state != nullptr, kOperation, "state is missing");
}

void check_arguments(const TakeSamples& args) {
  constexpr const char* kOperation = "take_samples";
  check_counts(kOperation, args.batch, args.count);
  VITRINE_CHECK(args.cols > 0, kOperation, "cols must be positive");
  check_size(kOperation, "out", args.out, args.count * args.cols);
  check_size(kOperation, "x", args.x, args.batch * args.cols);
  check_size(kOperation, "samples", args.samples, args.count);
  check_dtypes(kOperation, {{"out", args.out}, {"x", args.x}});
}

void check_arguments(const AddSamples& args) {
  constexpr const char* kOperation = "add_samples";
  check_counts(kOperation, args.batch, args.count);
  VITRINE_CHECK(args.cols > 0, kOperation, "cols must be positive");
  check_size(kOperation, "out", args.out, args.batch * args.cols);
  check_size(kOperation, "x", args.x, args.batch * args.cols, true);
  check_size(kOperation, "part", args.part, args.count * args.cols);
  check_size(kOperation, "slots", args.slots, args.batch);
  check_dtypes(kOperation, {{"out", args.out}, {"x", args.x}, {"part", args.part}});
}

}  // namespace vitrine
