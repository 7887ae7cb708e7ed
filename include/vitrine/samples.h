// samples: a branch that runs on a random subset of a chunk's samples alone. Part of the catalogue
// (kernels.h).
//
//   y = x;   y[s_i] += (B / k) · branch(x[s])[i]   for the k samples s_0 < … < s_{k−1} of the
//   subset
//
// Drop-path of a fixed count: the others are not computed, which saves their work (Oquab et al.
// 2023, DINOv2, arXiv:2304.07193, section 5, "Efficient stochastic depth").
#pragma once

#include <cstdint>

#include "vitrine/step_state.h"
#include "vitrine/tensor.h"

namespace vitrine {

/// The subset: the `count` samples with the largest of the random words by which drop_path keeps or
/// drops them (element = the sample in the whole accumulated batch); of equal words the earlier
/// sample's is larger.
struct ChooseSamples {
  View<std::int32_t> samples;  ///< out  [count], rising
  View<std::int32_t> slots;    ///< out  [batch]: slots[samples[i]] = i, −1 for the others
  std::int64_t batch = 0, count = 0;
  std::uint32_t operation = 0;  ///< as Dropout's
  const StepState* state = nullptr;
};

/// out[i] = scale · x[samples[i]]
struct TakeSamples {
  View<void> out;                   ///< out  [count, cols]  T
  ConstView<void> x;                ///< in   [batch, cols]  T
  ConstView<std::int32_t> samples;  ///< in   [count]
  std::int64_t batch = 0, count = 0;
  std::int64_t cols = 0;  ///< elements of a sample
  float scale = 1.0f;
};

/// out[b] = x[b] + scale · part[slots[b]], or x[b] where slots[b] is −1.
struct AddSamples {
  View<void> out;                 ///< out  [batch, cols]  T; may be x
  ConstView<void> x;              ///< in   [batch, cols]  T, optional: zeros
  ConstView<void> part;           ///< in   [count, cols]  T
  ConstView<std::int32_t> slots;  ///< in   [batch]
  std::int64_t batch = 0, count = 0;
  std::int64_t cols = 0;
  float scale = 1.0f;
};

}  // namespace vitrine
