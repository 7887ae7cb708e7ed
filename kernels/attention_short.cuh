// Attention for short sequences: the kernels behind the tier and how one of them is chosen. Tests
// call the launchers to run each kernel wherever it is able to run.
#pragma once

#include "attention.cuh"

namespace vitrine::cuda {

enum class ShortForward {
  none,
  rows_16,  ///< a warp keeps the score rows of 16 queries; every head size and length
  rows_32,  ///< online softmax, 32 queries a warp: half the traffic from shared memory; d = 64
};

enum class ShortBackward {
  none,
  two_pass,    ///< 7 products, least shared memory: T > 192
  fused,       ///< 5 products, dS in shared memory
  persistent,  ///< fused, and the next head is loaded meanwhile; 192 < T ≤ 208, d = 64
};

/// What a launcher and a choice need to know of an instance; all 0 where there is none.
struct ShortInstance {
  int shared_bytes = 0;  ///< of a block
  int block_rows = 0;    ///< queries that a block works on at a time
};

ShortInstance short_instance(ShortForward kernel, std::int64_t head_size, std::int64_t keys);
ShortInstance short_instance(ShortBackward kernel, std::int64_t head_size, std::int64_t keys);

/// The kernel that runs for the shape on such a chip; `none` where no instance fits.
ShortForward short_forward_kernel(const AttentionShape& shape, const CudaLimits& limits);
ShortBackward short_backward_kernel(const AttentionShape& shape, const CudaLimits& limits);

/// Blocks over which the queries of one (image, head) are split: more than one where the pairs
/// alone would leave multiprocessors idle. Bits do not depend on it.
int short_forward_splits(ShortForward kernel, const AttentionForward& args,
                         const CudaLimits& limits);

/// Launches that kernel, which must have an instance. `blocks`: of the persistent kernel at most.
void short_forward(ShortForward kernel, const AttentionForward& args, int splits,
                   cudaStream_t stream);
void short_backward(ShortBackward kernel, const AttentionBackward& args, int blocks,
                    cudaStream_t stream);

// ---------------------------------------------------------------------------------------------
// One kernel each

ShortInstance short_forward_16_instance(std::int64_t head_size, std::int64_t keys);
ShortInstance short_forward_32_instance(std::int64_t head_size, std::int64_t keys);
ShortInstance short_backward_two_pass_instance(std::int64_t head_size, std::int64_t keys);
ShortInstance short_backward_fused_instance(std::int64_t head_size, std::int64_t keys);
ShortInstance short_backward_persistent_instance(std::int64_t head_size, std::int64_t keys);

void short_forward_16(const AttentionForward& args, int splits, cudaStream_t stream);
void short_forward_32(const AttentionForward& args, int splits, cudaStream_t stream);
void short_backward_two_pass(const AttentionBackward& args, cudaStream_t stream);
void short_backward_fused(const AttentionBackward& args, cudaStream_t stream);
void short_backward_persistent(const AttentionBackward& args, int blocks, cudaStream_t stream);

}  // namespace vitrine::cuda
