// Numbers that change from step to step live in device memory; arguments of the catalogue
// (kernels.h) carry pointers to them. And what many operations say alike.
#pragma once

#include <cstdint>

namespace vitrine {

/// Written by the host before a step (one per chunk).
struct StepState {
  std::uint64_t seed = 0;      ///< key of all random numbers
  std::uint32_t step = 0;      ///< optimiser step, from 0; a skipped step counts
  float learning_rate = 0.0f;  ///< of this step
  float loss_scale = 1.0f;     ///< 1 / valid rows of the whole (accumulated) batch
  float ema_decay = 0.0f;      ///< of this step, where weights are averaged
  std::int64_t first_row = 0;  ///< position of row 0 in the whole (accumulated) batch
};

/// Running sums over the valid rows (label ≥ 0), added to by `cross_entropy`.
struct Metrics {
  double loss = 0.0;         ///< sum of the rows' losses
  double batch_loss = 0.0;   ///< the same, each times loss_scale: the sum of the batches' means
  std::int64_t samples = 0;  ///< valid rows
  std::int64_t top1 = 0;     ///< rows whose label has the largest logit
  std::int64_t top5 = 0;     ///< rows whose label is among the five largest
};

/// Written by `gradient_norm`, read by `adamw`.
struct OptimizerState {
  std::int64_t adam_step = 0;      ///< steps taken; does not advance on a skipped step
  std::int64_t skipped_steps = 0;  ///< steps whose gradient norm was not finite
  double gradient_norm = 0.0;      ///< of the last step, before clipping
};

/// Where a row of the batch comes from. The crop is in source pixels and is resized (bilinear,
/// pixel centres at ½) to the model's image size.
struct BatchRow {
  std::int64_t image = -1;  ///< index into the stored images; -1: an empty row, all zeros
  float crop_x = 0, crop_y = 0, crop_width = 0, crop_height = 0;
  std::int32_t flip = 0;  ///< 1: mirror horizontally
  std::int32_t unused = 0;
};

/// Random zeroing. `operation` tells the places of a model apart and is fixed by `build_vit`.
struct Dropout {
  float probability = 0.0f;
  std::uint32_t operation = 0;
};

/// Which tokens of the full sequence the rows of a tensor [B, tokens, D] are: `tokens` of them,
/// from token `first`, of `total`. Random numbers are counted in the full tensor.
struct TokenWindow {
  std::int64_t tokens = 0;
  std::int64_t first = 0;
  std::int64_t total = 0;
};

}  // namespace vitrine
