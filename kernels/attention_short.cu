// Attention for short sequences: which kernel runs.
//
// Forward. rows_32 where it has an instance: its K and V fragments serve twice as many products,
// and shared memory is what rows_16 waits for from T = 197 on; below, both wait for DRAM, and the
// blocks of rows_32 have more loads under way. With 16 queries or fewer (a last block whose class
// token is pooled) half of each of its tiles would be padding, so rows_16 takes those.
//
// Backward. Five products beat seven, so the fused kernels wherever dS fits beside Q and dO: up to
// T = 208 with d ≤ 64 in 163 KB or more, up to T = 112 (d = 80: 80) everywhere. At 192 < T ≤ 208
// one block fills a multiprocessor and nobody computes while it loads: there the persistent kernel
// goes first if it has its 223 KB. What is left is two_pass, in less than 99 KB always.
#include <algorithm>

#include "attention_short.cuh"

namespace vitrine::cuda {
namespace {

/// What all kernels of the tier ask for: bf16 rows on 16-byte boundaries, mma.sync and cp.async.
bool possible(const AttentionShape& shape, const CudaLimits& limits) {
  return shape.dtype == DType::bf16 && shape.aligned && !shape.dropout && !shape.probabilities &&
         limits.compute_capability >= 80;
}

template <typename Kernel>
bool fits(Kernel kernel, const AttentionShape& shape, const CudaLimits& limits) {
  const int bytes = short_instance(kernel, shape.head_size, shape.keys).shared_bytes;
  return bytes > 0 && bytes <= limits.shared_memory_per_block;
}

}  // namespace

ShortInstance short_instance(ShortForward kernel, std::int64_t head_size, std::int64_t keys) {
  switch (kernel) {
    case ShortForward::none:
      return {};
    case ShortForward::rows_16:
      return short_forward_16_instance(head_size, keys);
    case ShortForward::rows_32:
      return short_forward_32_instance(head_size, keys);
  }
  return {};
}

ShortInstance short_instance(ShortBackward kernel, std::int64_t head_size, std::int64_t keys) {
  switch (kernel) {
    case ShortBackward::none:
      return {};
    case ShortBackward::two_pass:
      return short_backward_two_pass_instance(head_size, keys);
    case ShortBackward::fused:
      return short_backward_fused_instance(head_size, keys);
    case ShortBackward::persistent:
      return short_backward_persistent_instance(head_size, keys);
  }
  return {};
}

ShortForward short_forward_kernel(const AttentionShape& shape, const CudaLimits& limits) {
  if (!possible(shape, limits)) return ShortForward::none;
  if (shape.queries > 16 && fits(ShortForward::rows_32, shape, limits)) {
    return ShortForward::rows_32;
  }
  return fits(ShortForward::rows_16, shape, limits) ? ShortForward::rows_16 : ShortForward::none;
}

ShortBackward short_backward_kernel(const AttentionShape& shape, const CudaLimits& limits) {
  if (!possible(shape, limits)) return ShortBackward::none;
  for (const ShortBackward kernel :
       {ShortBackward::persistent, ShortBackward::fused, ShortBackward::two_pass}) {
    if (fits(kernel, shape, limits)) return kernel;
  }
  return ShortBackward::none;
}

int short_forward_splits(ShortForward kernel, const AttentionForward& args,
                         const CudaLimits& limits) {
  const int block_rows = short_instance(kernel, args.head_size, args.window.total).block_rows;
  const std::int64_t rounds = (args.window.tokens + block_rows - 1) / block_rows;
  const std::int64_t idle = limits.multiprocessors / (args.batch * args.heads);
  return static_cast<int>(std::clamp<std::int64_t>(idle, 1, rounds));
}

void short_forward(ShortForward kernel, const AttentionForward& args, int splits,
                   cudaStream_t stream) {
  switch (kernel) {
    case ShortForward::none:
      return;
    case ShortForward::rows_16:
      return short_forward_16(args, splits, stream);
    case ShortForward::rows_32:
      return short_forward_32(args, splits, stream);
  }
}

void short_backward(ShortBackward kernel, const AttentionBackward& args, int blocks,
                    cudaStream_t stream) {
  switch (kernel) {
    case ShortBackward::none:
      return;
    case ShortBackward::two_pass:
      return short_backward_two_pass(args, stream);
    case ShortBackward::fused:
      return short_backward_fused(args, stream);
    case ShortBackward::persistent:
      return short_backward_persistent(args, blocks, stream);
  }
}

bool attention_short_forward_takes(const AttentionShape& shape, const CudaLimits& limits) {
  return short_forward_kernel(shape, limits) != ShortForward::none;
}

bool attention_short_backward_takes(const AttentionShape& shape, const CudaLimits& limits) {
  return short_backward_kernel(shape, limits) != ShortBackward::none;
}

void attention_short_forward(const AttentionForward& args, const CudaLimits& limits,
                             cudaStream_t stream) {
  const ShortForward kernel = short_forward_kernel({.dtype = args.q.dtype,
                                                    .queries = args.window.tokens,
                                                    .keys = args.window.total,
                                                    .head_size = args.head_size,
                                                    .aligned = true},
                                                   limits);
  short_forward(kernel, args, short_forward_splits(kernel, args, limits), stream);
}

void attention_short_backward(const AttentionBackward& args, const CudaLimits& limits,
                              cudaStream_t stream) {
  const ShortBackward kernel = short_backward_kernel({.dtype = args.q.dtype,
                                                      .queries = args.window.tokens,
                                                      .keys = args.window.total,
                                                      .head_size = args.head_size,
                                                      .aligned = true},
                                                     limits);
  short_backward(kernel, args, limits.multiprocessors, stream);
}

}  // namespace vitrine::cuda
