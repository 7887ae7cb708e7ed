// Attention: softmax(q kᵀ / √d) v and its gradient, everything of one (image, head) pair in cache.
//
//   S = q kᵀ / √d,  P = softmax(S),  out = P v                      Vaswani et al. 2017,
//   dV = Pᵀ dO,  dP = dO Vᵀ,  dS = P ∘ (dP - rowsum(dO ∘ out)),     arXiv:1706.03762
//   dQ = dS K / √d,  dK = dSᵀ Q / √d                                Dao et al. 2022,
//   arXiv:2205.14135
//
// The work is divided by pairs: one at a time in attention_pairs.cpp, or, where the head is too
// small to fill vectors, as many as a vector has lanes in attention_lanes.cpp. Backward computes P
// again from q, k and log_sum_exp. Gradients are written (=).
#include "cpu/attention.h"

#include <string>

#include "cpu/check.h"
#include "cpu/cpu_kernels.h"
#include "hwy/aligned_allocator.h"

namespace vitrine::cpu {
namespace {

void check_view(const char* operation, const char* field, const View<const void>& view,
                std::int64_t expected) {
  check_size(operation, field, view, expected);
  VITRINE_CHECK(
      view.dtype == DType::f32, operation,
      std::string(field) + " is " + std::string(to_string(view.dtype)) + ", expected F32");
}

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
  check_view(operation, "q", args.q, q_size);
  check_view(operation, "k", args.k, kv_size);
  check_view(operation, "v", args.v, kv_size);
  check_view(operation, "out", args.out, args.batch * args.window.tokens * cols);
}

}  // namespace

float* attention_scratch(std::int64_t floats) {
  thread_local hwy::AlignedFreeUniquePtr<float[]> memory;
  thread_local std::int64_t size = 0;
  if (floats > size) {
    size = 0;
    memory = hwy::AllocateAligned<float>(static_cast<std::size_t>(floats));
    if (!memory) {
      throw OutOfMemory("attention: no memory for " + std::to_string(floats) + " floats");
    }
    size = floats;
  }
  return memory.get();
}

void CpuKernels::attention_forward(const AttentionForward& args) {
  constexpr const char* kName = "attention_forward";
  check_common(kName, args);
  const std::int64_t pairs = args.batch * args.heads;
  const std::int64_t rows = pairs * args.window.tokens;
  check_size(kName, "log_sum_exp", args.log_sum_exp, rows, true);
  check_size(kName, "probabilities", args.probabilities, rows * args.window.total, true);
  if (attention_lanes_suit(args.window.total, args.head_size) && !args.probabilities &&
      args.dropout.probability == 0.0f) {
    const std::int64_t lanes = attention_lanes();
    pool_.parallel_for((pairs + lanes - 1) / lanes,
                       [&](int, std::int64_t group) { attention_lanes_forward(args, group); });
    return;
  }
  pool_.parallel_for(pairs, [&](int, std::int64_t pair) { attention_pair_forward(args, pair); });
}

void CpuKernels::attention_backward(const AttentionBackward& args) {
  constexpr const char* kName = "attention_backward";
  check_common(kName, args);
  const std::int64_t pairs = args.batch * args.heads;
  check_view(kName, "dout", args.dout, args.out.size);
  check_size(kName, "log_sum_exp", args.log_sum_exp, pairs * args.window.tokens);
  check_view(kName, "dq", args.dq, args.q.size);
  check_view(kName, "dk", args.dk, args.k.size);
  check_view(kName, "dv", args.dv, args.v.size);
  if (attention_lanes_suit(args.window.total, args.head_size) && args.dropout.probability == 0.0f) {
    const std::int64_t lanes = attention_lanes();
    pool_.parallel_for((pairs + lanes - 1) / lanes,
                       [&](int, std::int64_t group) { attention_lanes_backward(args, group); });
    return;
  }
  pool_.parallel_for(pairs, [&](int, std::int64_t pair) { attention_pair_backward(args, pair); });
}

}  // namespace vitrine::cpu
