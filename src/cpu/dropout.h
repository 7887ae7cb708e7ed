// Dropout and drop-path factors on the CPU: 0 for what is dropped, 1 / (1 - p) for what is kept.
//
//   Srivastava et al. 2014, JMLR 15;  drop-path: Huang et al. 2016, arXiv:1603.09382
//
// The random numbers are those of vitrine/random.h: the same on every device, nothing stored.
#pragma once

#include <cstdint>

#include "vitrine/kernels.h"

namespace vitrine::cpu {

/// factors[i] for the elements first_element + i, i in [0, n), counted in the unpruned tensor of
/// the whole batch.
void dropout_factors(float* factors, std::int64_t n, std::uint64_t first_element,
                     const Dropout& dropout, const StepState& state);

/// factors[j] for the keys j in [0, keys) of one attention row (see `attention_quad`).
void attention_dropout_factors(float* factors, std::int64_t keys, std::uint64_t row,
                               const Dropout& dropout, const StepState& state);

/// The factor of a whole sample; `sample` is counted in the whole batch.
float drop_path_factor(std::uint64_t sample, const Dropout& drop_path, const StepState& state);

/// Index in the unpruned tensor [samples, total, cols] of element 0 of row `row` of a tensor
/// [samples, window.tokens, cols].
inline std::uint64_t unpruned_element(std::int64_t row, std::int64_t cols,
                                      const TokenWindow& window, const StepState& state) {
  const std::int64_t sample = state.first_row + row / window.tokens;
  const std::int64_t token = window.first + row % window.tokens;
  return static_cast<std::uint64_t>((sample * window.total + token) * cols);
}

}  // namespace vitrine::cpu
