// The catalogue in CUDA. Each family's methods are defined in the file of that name, beside their
// kernels; matrix products come from a library.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

#include "vitrine/kernels.h"

namespace vitrine::cuda {

/// What launchers choose a kernel and a grid by.
struct CudaLimits {
  int multiprocessors = 132;
  int shared_memory_per_block = 227 * 1024;  ///< bytes a block may opt in to
  int compute_capability = 90;               ///< 10 · major + minor
};

/// Device memory for sums that a kernel finishes in its last block (see primitives/last_block.cuh).
/// `blocks_done` is 0 between launches.
struct ScratchMemory {
  static constexpr int kMaxBlocks = 1024;
  static constexpr int kValuesPerBlock = 8;

  double partials[kMaxBlocks][kValuesPerBlock];
  unsigned blocks_done;
};

/// Matrix products: cuBLASLt on a GPU, another library where kernels are executed on the CPU.
class MatmulLibrary {
 public:
  virtual ~MatmulLibrary() = default;
  /// The arguments are checked.
  virtual void run(const Matmul& args, cudaStream_t stream) = 0;
};

/// Launches on one stream. Argument views are device memory; launchers read none of it.
/// Throws DeviceError for arguments that contradict each other and for launches CUDA refuses.
class CudaKernels final : public Kernels {
 public:
  /// `scratch` is zero-filled device memory that nobody else uses. `matmul` may be null where no
  /// product is asked for.
  CudaKernels(cudaStream_t stream, const CudaLimits& limits, ScratchMemory* scratch,
              MatmulLibrary* matmul = nullptr)
      : stream_(stream), limits_(limits), scratch_(scratch), matmul_(matmul) {}

  void matmul(const Matmul& args) override;
  void patch_embed_forward(const PatchEmbedForward& args) override;
  void patch_embed_backward(const PatchEmbedBackward& args) override;
  void tokens_forward(const TokensForward& args) override;
  void tokens_backward(const TokensBackward& args) override;
  void pool_forward(const PoolForward& args) override;
  void pool_backward(const PoolBackward& args) override;
  void residual_forward(const ResidualForward& args) override;
  void residual_backward(const ResidualBackward& args) override;
  void add(const Add& args) override;
  void layer_norm_forward(const LayerNormForward& args) override;
  void layer_norm_backward(const LayerNormBackward& args) override;
  void activation_forward(const ActivationForward& args) override;
  void activation_backward(const ActivationBackward& args) override;
  void attention_forward(const AttentionForward& args) override;
  void attention_backward(const AttentionBackward& args) override;
  void per_head_linear_forward(const PerHeadLinearForward& args) override;
  void per_head_linear_backward(const PerHeadLinearBackward& args) override;
  void cross_entropy(const CrossEntropy& args) override;
  void column_sum(const ColumnSum& args) override;
  void sum_parts(const SumParts& args) override;
  void gradient_norm(const GradientNorm& args) override;
  void adamw(const AdamW& args) override;

 private:
  cudaStream_t stream_;
  CudaLimits limits_;
  ScratchMemory* scratch_;
  MatmulLibrary* matmul_;
};

}  // namespace vitrine::cuda
