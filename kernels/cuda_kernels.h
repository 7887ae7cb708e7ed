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

/// out[i] = op(a[i]) · op(b[i]) (+ bias[i]) (+ out[i] when accumulate) for i in [0, batch),
/// row-major. A leading dimension is the distance of two rows, a stride that of two matrices, in
/// elements.
struct BatchedMatmul {
  void* out = nullptr;  ///< out  [m, n]  out_dtype
  /// out  [m], optional: Σ_k a[k, i]; as in Matmul, and for a single product only
  float* bias_gradient = nullptr;
  /// Runs that k is cut into where a column_sum writes the bias gradient.
  std::int64_t bias_gradient_partials = 1;
  const void* a = nullptr;     ///< in   [m, k], or [k, m] when transpose_a  dtype
  const void* b = nullptr;     ///< in   [k, n], or [n, k] when transpose_b  dtype
  const void* bias = nullptr;  ///< in   [n]  dtype, optional
  DType dtype = DType::f32, out_dtype = DType::f32;
  std::int64_t m = 0, n = 0, k = 0, batch = 1;
  std::int64_t out_leading = 0, a_leading = 0, b_leading = 0;
  std::int64_t out_stride = 0, a_stride = 0, b_stride = 0, bias_stride = 0;
  bool transpose_a = false, transpose_b = false;
  bool accumulate = false;
  bool tf32 = false;
};

/// Matrix products: cuBLASLt on a GPU, a stand-in of it where kernels are executed on the CPU.
class MatmulLibrary {
 public:
  virtual ~MatmulLibrary() = default;
  /// The arguments are checked. Submits to `stream`. Returns whether a bias_gradient was asked for
  /// and is written too; always the same for the same kind of product.
  virtual bool run(const BatchedMatmul& args, cudaStream_t stream) = 0;
};

/// Convolutions: cuDNN on a GPU, a stand-in of it where kernels are executed on the CPU.
class ConvolutionLibrary {
 public:
  virtual ~ConvolutionLibrary() = default;
  /// The arguments are checked. Submits to `stream`.
  virtual void forward(const PatchConvolutionForward& args, cudaStream_t stream) = 0;
  virtual void backward(const PatchConvolutionBackward& args, cudaStream_t stream) = 0;
};

/// Launches on one stream. Argument views are device memory; launchers read none of it.
/// Throws DeviceError for arguments that contradict each other and for launches CUDA refuses.
class CudaKernels final : public Kernels {
 public:
  /// `scratch` is zero-filled device memory that nobody else uses. The libraries may be null where
  /// nobody asks for them.
  CudaKernels(cudaStream_t stream, const CudaLimits& limits, ScratchMemory* scratch,
              MatmulLibrary* matmul = nullptr, ConvolutionLibrary* convolution = nullptr)
      : stream_(stream),
        limits_(limits),
        scratch_(scratch),
        matmul_(matmul),
        convolution_(convolution) {}

  void matmul(const Matmul& args) override;
  void patch_embed_forward(const PatchEmbedForward& args) override;
  void patch_embed_backward(const PatchEmbedBackward& args) override;
  void patch_convolution_forward(const PatchConvolutionForward& args) override;
  void patch_convolution_backward(const PatchConvolutionBackward& args) override;
  void tokens_forward(const TokensForward& args) override;
  void tokens_backward(const TokensBackward& args) override;
  void pool_forward(const PoolForward& args) override;
  void pool_backward(const PoolBackward& args) override;
  void residual_forward(const ResidualForward& args) override;
  void residual_backward(const ResidualBackward& args) override;
  void add(const Add& args) override;
  void choose_samples(const ChooseSamples& args) override;
  void take_samples(const TakeSamples& args) override;
  void add_samples(const AddSamples& args) override;
  void scale_columns_forward(const ScaleColumnsForward& args) override;
  void scale_columns_backward(const ScaleColumnsBackward& args) override;
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
  void resized_crop(const ResizedCrop& args) override;
  void mix_images(const MixImages& args) override;
  void augment_images(const AugmentImages& args) override;

 private:
  cudaStream_t stream_;
  CudaLimits limits_;
  ScratchMemory* scratch_;
  MatmulLibrary* matmul_;
  ConvolutionLibrary* convolution_;
};

}  // namespace vitrine::cuda
