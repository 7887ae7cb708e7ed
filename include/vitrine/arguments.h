// The argument checks of the catalogue, the same for every device.
//
// They look at sizes, scalars, dtypes and whether a pointer is null, never at the memory behind a
// view or a pointer: that may be another device's. All views of working type T that are present
// must have one dtype among f32, bf16 and f16. What a device can check besides, by reading its
// memory or because it has fewer types, it checks itself.
#pragma once

#include "vitrine/kernels.h"

namespace vitrine {

/// Throws DeviceError naming operation, field, found and expected if the fields of `args`
/// contradict each other. Reads no memory behind a view or a pointer.
void check_arguments(const Matmul& args);
void check_arguments(const PatchEmbedForward& args);
void check_arguments(const PatchEmbedBackward& args);
void check_arguments(const PatchConvolutionForward& args);
void check_arguments(const PatchConvolutionBackward& args);
void check_arguments(const TokensForward& args);
void check_arguments(const TokensBackward& args);
void check_arguments(const PoolForward& args);
void check_arguments(const PoolBackward& args);
void check_arguments(const ResidualForward& args);
void check_arguments(const ResidualBackward& args);
void check_arguments(const Add& args);
void check_arguments(const ChooseSamples& args);
void check_arguments(const TakeSamples& args);
void check_arguments(const AddSamples& args);
void check_arguments(const ScaleColumnsForward& args);
void check_arguments(const ScaleColumnsBackward& args);
void check_arguments(const LayerNormForward& args);
void check_arguments(const LayerNormBackward& args);
void check_arguments(const ActivationForward& args);
void check_arguments(const ActivationBackward& args);
void check_arguments(const AttentionForward& args);
void check_arguments(const AttentionBackward& args);
void check_arguments(const PerHeadLinearForward& args);
void check_arguments(const PerHeadLinearBackward& args);
void check_arguments(const CrossEntropy& args);
void check_arguments(const ColumnSum& args);
void check_arguments(const SumParts& args);
void check_arguments(const GradientNorm& args);
void check_arguments(const AdamW& args);
void check_arguments(const ResizedCrop& args);
void check_arguments(const MixImages& args);
void check_arguments(const AugmentImages& args);

}  // namespace vitrine
