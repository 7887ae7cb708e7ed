// What the layer normalisation's kernels are given: some rows that stay in L1.
#pragma once

#include <cstdint>

namespace vitrine::cpu {

constexpr std::int64_t kMaxTileRows = 256;

/// Pointers to the first row of a tile; null where the operation lacks the tensor.
struct ForwardTile {
  float *y, *mean, *rstd;
  const float *x, *weight, *bias;
  std::int64_t rows, cols;
  float eps;
};

struct BackwardTile {
  float *dx, *dweight, *dbias;
  const float *dy, *dresidual, *x, *mean, *rstd, *weight;
  std::int64_t rows, cols;
};

}  // namespace vitrine::cpu
