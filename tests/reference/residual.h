// The residual stream by its definition, in double.
#pragma once

#include <vector>

#include "cpu/dropout.h"
#include "vitrine/kernels.h"
#include "vitrine/random.h"

namespace vitrine::reference {

/// The factor of element i of a branch [rows, cols]: dropout times drop-path, in double.
template <typename Args>
double branch_factor(const Args& args, const StepState& state, std::int64_t i) {
  double factor = 1.0;
  const auto draw = [&](const Dropout& dropout, std::uint64_t element) {
    if (dropout.probability == 0.0f) return;
    const bool keep = keep_element(state.seed, state.step, dropout.operation, element,
                                   drop_threshold(dropout.probability));
    factor *= keep ? 1.0 / (1.0 - static_cast<double>(dropout.probability)) : 0.0;
  };
  const std::int64_t row = i / args.cols;
  if (args.dropout.probability > 0.0f) {
    draw(args.dropout, cpu::unpruned_element(row, args.cols, args.window, state) + i % args.cols);
  }
  if (args.drop_path.probability > 0.0f) {
    draw(args.drop_path, state.first_row + row / args.window.tokens);
  }
  return factor;
}

}  // namespace vitrine::reference
