// Argument checks of the token sequence and of pooling.
#include "catalogue/check.h"
#include "vitrine/arguments.h"

namespace vitrine {
namespace {

template <typename Args>
void check_common(const char* operation, const Args& args) {
  VITRINE_CHECK(args.batch > 0 && args.num_patches > 0 && args.hidden > 0, operation,
                "batch, num_patches, hidden are " + std::to_string(args.batch) + ", " +
                    std::to_string(args.num_patches) + ", " + std::to_string(args.hidden) +
                    ", expected at least 1");
  VITRINE_CHECK(args.num_registers >= 0, operation,
                "num_registers is " + std::to_string(args.num_registers) + ", expected at least 0");
  VITRINE_CHECK(args.dropout.probability >= 0.0f && args.dropout.probability < 1.0f, operation,
                "dropout.probability is " + std::to_string(args.dropout.probability) +
                    ", expected 0 or more and less than 1");
  VITRINE_CHECK(args.dropout.probability == 0.0f || args.state != nullptr, operation,
                "state is missing, expected with dropout");
}

template <typename Args>
std::int64_t tokens_of(const Args& args) {
  return args.num_patches + args.num_registers + (args.place == ClassToken::none ? 0 : 1);
}

// A position table may be longer than the sequence, by whole rows.
template <typename Args, typename View>
void check_position(const char* operation, const char* field, const Args& args,
                    const View& position) {
  if (!position) return;
  const std::int64_t rows = args.patch_positions ? args.num_patches : tokens_of(args);
  VITRINE_CHECK(position.size >= rows * args.hidden && position.size % args.hidden == 0, operation,
                std::string(field) + " has " + std::to_string(position.size) +
                    " elements, expected " + std::to_string(rows) + " or more rows of " +
                    std::to_string(args.hidden));
}

template <typename Args>
void check_window(const char* operation, const Args& args) {
  const TokenWindow& window = args.window;
  VITRINE_CHECK(args.batch > 0 && args.hidden > 0, operation,
                "batch, hidden are " + std::to_string(args.batch) + ", " +
                    std::to_string(args.hidden) + ", expected at least 1");
  VITRINE_CHECK(
      window.tokens > 0 && window.first >= 0 && window.first + window.tokens <= window.total,
      operation,
      "window has " + std::to_string(window.tokens) + " tokens from " +
          std::to_string(window.first) + ", expected at least 1 inside the total of " +
          std::to_string(window.total));
}

}  // namespace

void check_arguments(const TokensForward& args) {
  constexpr const char* kOperation = "tokens_forward";
  check_common(kOperation, args);
  const std::int64_t tokens = tokens_of(args), hidden = args.hidden;
  check_size(kOperation, "x", args.x, args.batch * tokens * hidden);
  check_size(kOperation, "patches", args.patches, args.batch * args.num_patches * hidden);
  if (args.place != ClassToken::none) {
    check_size(kOperation, "class_token", args.class_token, hidden);
  }
  check_size(kOperation, "registers", args.registers, args.num_registers * hidden,
             args.num_registers == 0);
  check_position(kOperation, "position", args, args.position);
  check_dtypes(kOperation, {{"x", args.x},
                            {"patches", args.patches},
                            {"class_token", args.class_token},
                            {"registers", args.registers},
                            {"position", args.position}});
}

void check_arguments(const TokensBackward& args) {
  constexpr const char* kOperation = "tokens_backward";
  check_common(kOperation, args);
  const std::int64_t tokens = tokens_of(args), hidden = args.hidden;
  check_size(kOperation, "dpatches", args.dpatches, args.batch * args.num_patches * hidden, true);
  check_size(kOperation, "dclass", args.dclass, hidden, true);
  VITRINE_CHECK(!args.dclass || args.place != ClassToken::none, kOperation,
                "dclass is given, expected none without a class token");
  check_size(kOperation, "dregisters", args.dregisters, args.num_registers * hidden, true);
  check_position(kOperation, "dposition", args, args.dposition);
  check_size(kOperation, "dx", args.dx, args.batch * tokens * hidden);
  check_dtypes(kOperation, {{"dpatches", args.dpatches}, {"dx", args.dx}});
}

void check_arguments(const PoolForward& args) {
  constexpr const char* kOperation = "pool_forward";
  check_window(kOperation, args);
  check_size(kOperation, "y", args.y, args.batch * args.hidden);
  check_size(kOperation, "x", args.x, args.batch * args.window.total * args.hidden);
  check_dtypes(kOperation, {{"y", args.y}, {"x", args.x}});
}

void check_arguments(const PoolBackward& args) {
  constexpr const char* kOperation = "pool_backward";
  check_window(kOperation, args);
  check_size(kOperation, "dx", args.dx, args.batch * args.window.total * args.hidden);
  check_size(kOperation, "dy", args.dy, args.batch * args.hidden);
  check_dtypes(kOperation, {{"dx", args.dx}, {"dy", args.dy}});
}

}  // namespace vitrine
