// Argument checks of attention. q, k and v may begin inside a packed buffer; each view reaches to
// the end of its own last row.
#include "catalogue/check.h"
#include "vitrine/arguments.h"

namespace vitrine {
namespace {

// Elements from the first of a view to the end of the last one used.
std::int64_t span_of(std::int64_t rows, std::int64_t stride, std::int64_t cols) {
  return (rows - 1) * stride + cols;
}

template <typename Args>
void check_common(const char* operation, const Args& args) {
  const auto at_least = [&](const char* field, std::int64_t found, std::int64_t least) {
    VITRINE_CHECK(found >= least, operation,
                  std::string(field) + " is " + std::to_string(found) + ", expected at least " +
                      std::to_string(least));
  };
  at_least("batch", args.batch, 1);
  at_least("heads", args.heads, 1);
  at_least("head_size", args.head_size, 1);
  at_least("window.tokens", args.window.tokens, 1);
  at_least("window.first", args.window.first, 0);
  at_least("window.total", args.window.total, args.window.first + args.window.tokens);
  at_least("q_stride", args.q_stride, args.heads * args.head_size);
  at_least("kv_stride", args.kv_stride, args.heads * args.head_size);
  VITRINE_CHECK(args.dropout.probability >= 0.0f && args.dropout.probability < 1.0f, operation,
                "dropout.probability is " + std::to_string(args.dropout.probability) +
                    ", expected 0 or more and less than 1");
  VITRINE_CHECK(args.dropout.probability == 0.0f || args.state != nullptr, operation,
                "state is missing, expected with dropout");
  const std::int64_t cols = args.heads * args.head_size;
  const std::int64_t q_size = span_of(args.batch * args.window.tokens, args.q_stride, cols);
  const std::int64_t kv_size = span_of(args.batch * args.window.total, args.kv_stride, cols);
  check_size(operation, "q", args.q, q_size);
  check_size(operation, "k", args.k, kv_size);
  check_size(operation, "v", args.v, kv_size);
  check_size(operation, "out", args.out, args.batch * args.window.tokens * cols);
}

}  // namespace

void check_arguments(const AttentionForward& args) {
  constexpr const char* kOperation = "attention_forward";
  check_common(kOperation, args);
  const std::int64_t rows = args.batch * args.heads * args.window.tokens;
  check_size(kOperation, "log_sum_exp", args.log_sum_exp, rows, true);
  check_size(kOperation, "probabilities", args.probabilities, rows * args.window.total, true);
  check_dtypes(kOperation, {{"out", args.out}, {"q", args.q}, {"k", args.k}, {"v", args.v}});
}

void check_arguments(const AttentionBackward& args) {
  constexpr const char* kOperation = "attention_backward";
  check_common(kOperation, args);
  check_size(kOperation, "dout", args.dout, args.out.size);
  check_size(kOperation, "log_sum_exp", args.log_sum_exp,
             args.batch * args.heads * args.window.tokens);
  check_size(kOperation, "dq", args.dq, args.q.size);
  check_size(kOperation, "dk", args.dk, args.k.size);
  check_size(kOperation, "dv", args.dv, args.v.size);
  check_dtypes(kOperation, {{"dq", args.dq},
                            {"dk", args.dk},
                            {"dv", args.dv},
                            {"dout", args.dout},
                            {"out", args.out},
                            {"q", args.q},
                            {"k", args.k},
                            {"v", args.v}});
}

}  // namespace vitrine
