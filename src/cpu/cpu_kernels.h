// The catalogue on the CPU. Each family's methods are defined in the file of that name.
#pragma once

#include "cpu/thread_pool.h"
#include "vitrine/kernels.h"

namespace vitrine::cpu {

class CpuKernels final : public Kernels {
 public:
  explicit CpuKernels(ThreadPool& pool) : pool_(pool) {}

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
  ThreadPool& pool_;
};

}  // namespace vitrine::cpu
