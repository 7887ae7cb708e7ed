// Attention: which of the three tiers runs (see attention.cuh).
//
//   out = softmax(q kᵀ / √d) v                       Vaswani et al. 2017, arXiv:1706.03762
#include "attention.cuh"
#include "primitives/cuda.cuh"
#include "primitives/vector.cuh"
#include "vitrine/arguments.h"

namespace vitrine::cuda {
namespace {

template <typename Args>
AttentionShape shape_of(const Args& args, std::initializer_list<const void*> tensors) {
  AttentionShape shape;
  shape.dtype = args.q.dtype;
  shape.queries = args.window.tokens;
  shape.keys = args.window.total;
  shape.head_size = args.head_size;
  shape.aligned = args.q_stride % 8 == 0 && args.kv_stride % 8 == 0 && args.head_size % 8 == 0;
  for (const void* tensor : tensors) shape.aligned &= vectorizable<bf16>(0, tensor);
  shape.dropout = args.dropout.probability > 0.0f;
  return shape;
}

}  // namespace

AttentionTier attention_forward_tier(const AttentionShape& shape, const CudaLimits& limits) {
  if (attention_short_forward_takes(shape, limits)) return AttentionTier::short_sequence;
  if (attention_streaming_takes(shape, limits)) return AttentionTier::streaming;
  return AttentionTier::exact;
}

AttentionTier attention_backward_tier(const AttentionShape& shape, const CudaLimits& limits) {
  if (attention_short_backward_takes(shape, limits)) return AttentionTier::short_sequence;
  if (attention_streaming_takes(shape, limits)) return AttentionTier::streaming;
  return AttentionTier::exact;
}

void CudaKernels::attention_forward(const AttentionForward& args) {
  check_arguments(args);
  AttentionShape shape = shape_of(args, {args.q.data, args.k.data, args.v.data, args.out.data});
  shape.probabilities = static_cast<bool>(args.probabilities);
  switch (attention_forward_tier(shape, limits_)) {
    case AttentionTier::short_sequence:
      return attention_short_forward(args, limits_, stream_);
    case AttentionTier::streaming:
      return attention_streaming_forward(args, limits_, stream_);
    case AttentionTier::exact:
      return attention_exact_forward(args, limits_, stream_);
  }
}

void CudaKernels::attention_backward(const AttentionBackward& args) {
  check_arguments(args);
  const AttentionShape shape =
      shape_of(args, {args.q.data, args.k.data, args.v.data, args.out.data, args.dout.data,
                      args.dq.data, args.dk.data, args.dv.data});
  switch (attention_backward_tier(shape, limits_)) {
    case AttentionTier::short_sequence:
      return attention_short_backward(args, limits_, stream_);
    case AttentionTier::streaming:
      return attention_streaming_backward(args, limits_, stream_);
    case AttentionTier::exact:
      return attention_exact_backward(args, limits_, stream_);
  }
}

}  // namespace vitrine::cuda
