// Attention: softmax(q kᵀ / √d) v and its gradient, everything of one (image, head) pair in cache.
//
//   S = q kᵀ / √d,  P = softmax(S),  out = P v                      Vaswani et al. 2017,
//   dV = Pᵀ dO,  dP = dO Vᵀ,  dS = P ∘ (dP - rowsum(dO ∘ out)),     arXiv:1706.03762
//   dQ = dS K / √d,  dK = dSᵀ Q / √d                                Dao et al. 2022,
//   arXiv:2205.14135
//
// The work is divided by pairs: attention_pairs.cpp; attention_small_*.cpp where the head is too
// small to fill vectors; attention_lanes.cpp, as many as a vector has lanes, where it is tiny.
// Backward computes P again from q, k and log_sum_exp. Gradients are written (=).
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

namespace {

enum class Way { pairs, small, lanes };

// By shape alone, so that a pair's bits do not depend on how many there are.
template <typename Args>
Way way_of(const Args& args) {
  constexpr std::int64_t kMaxTokens = 640;  // all of dS stays in the second-level cache
  const std::int64_t d = args.head_size;
  if (args.dropout.probability > 0.0f || args.window.total > kMaxTokens) return Way::pairs;
  if (d == 4) return Way::lanes;
  return d == 8 || d == 12 || d == 16 ? Way::small : Way::pairs;
}

}  // namespace

void CpuKernels::attention_forward(const AttentionForward& args) {
  check_arguments(args);
  const std::int64_t pairs = args.batch * args.heads;
  const Way way = args.probabilities ? Way::pairs : way_of(args);
  const std::int64_t lanes = way == Way::lanes ? attention_lanes() : 1;
  const auto one = way == Way::lanes   ? attention_lanes_forward
                   : way == Way::small ? attention_small_forward
                                       : attention_pair_forward;
  pool_.parallel_for((pairs + lanes - 1) / lanes, [&](int, std::int64_t i) { one(args, i); });
}

void CpuKernels::attention_backward(const AttentionBackward& args) {
  check_arguments(args);
  const std::int64_t pairs = args.batch * args.heads;
  const Way way = way_of(args);
  const std::int64_t lanes = way == Way::lanes ? attention_lanes() : 1;
  const auto one = way == Way::lanes   ? attention_lanes_backward
                   : way == Way::small ? attention_small_backward
                                       : attention_pair_backward;
  pool_.parallel_for((pairs + lanes - 1) / lanes, [&](int, std::int64_t i) { one(args, i); });
}

}  // namespace vitrine::cpu
