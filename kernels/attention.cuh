// The three tiers of attention and how one is chosen. Each tier's launchers check nothing but what
// they need themselves: CudaKernels (attention.cu) has checked the arguments.
//
//   short      T ≤ 272, bf16, head sizes and lengths that are instantiated: one block owns an
//              (image, head), or some of its queries; K and V stay in shared memory
//   streaming  any T, bf16, head size a multiple of 8 up to 128: online softmax over key tiles
//   exact      any T, any head size, any type, probabilities on request: arithmetic in float
#pragma once

#include "cuda_kernels.h"

namespace vitrine::cuda {

/// What a tier is chosen by.
struct AttentionShape {
  DType dtype = DType::f32;
  std::int64_t queries = 0, keys = 0, head_size = 0;
  bool aligned = false;  ///< every row of q, k, v, out (…) starts on a 16-byte boundary
  bool dropout = false, probabilities = false;
};

enum class AttentionTier { short_sequence, streaming, exact };

/// The fastest tier that takes the shape on such a chip.
AttentionTier attention_forward_tier(const AttentionShape& shape, const CudaLimits& limits);
AttentionTier attention_backward_tier(const AttentionShape& shape, const CudaLimits& limits);

/// Whether the tier takes the shape. The exact tier takes every shape.
bool attention_short_forward_takes(const AttentionShape& shape, const CudaLimits& limits);
bool attention_short_backward_takes(const AttentionShape& shape, const CudaLimits& limits);
bool attention_streaming_takes(const AttentionShape& shape, const CudaLimits& limits);

void attention_short_forward(const AttentionForward& args, const CudaLimits& limits,
                             cudaStream_t stream);
void attention_short_backward(const AttentionBackward& args, const CudaLimits& limits,
                              cudaStream_t stream);
void attention_streaming_forward(const AttentionForward& args, const CudaLimits& limits,
                                 cudaStream_t stream);
void attention_streaming_backward(const AttentionBackward& args, const CudaLimits& limits,
                                  cudaStream_t stream);
void attention_exact_forward(const AttentionForward& args, const CudaLimits& limits,
                             cudaStream_t stream);
void attention_exact_backward(const AttentionBackward& args, const CudaLimits& limits,
                              cudaStream_t stream);

}  // namespace vitrine::cuda
