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

#include "cpu/cpu_kernels.h"
#include "hwy/aligned_allocator.h"
#include "vitrine/arguments.h"

namespace vitrine::cpu {

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
  check_arguments(args);
  const std::int64_t pairs = args.batch * args.heads;
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
  check_arguments(args);
  const std::int64_t pairs = args.batch * args.heads;
  if (attention_lanes_suit(args.window.total, args.head_size) && args.dropout.probability == 0.0f) {
    const std::int64_t lanes = attention_lanes();
    pool_.parallel_for((pairs + lanes - 1) / lanes,
                       [&](int, std::int64_t group) { attention_lanes_backward(args, group); });
    return;
  }
  pool_.parallel_for(pairs, [&](int, std::int64_t pair) { attention_pair_backward(args, pair); });
}

}  // namespace vitrine::cpu
