// What cuDNN has beside kernels of the catalogue, run and timed as they are.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "harness.h"

namespace vitrine::bench {

// On a CUDA device only; each throws DeviceError on any other, and for what cuDNN refuses.

/// cudnnSoftmaxForward over the last dimension of [rows, cols]: the middle of attention with
/// rows = B·H·Tq and cols = T, and the larger part of cross-entropy.
std::unique_ptr<Case> cudnn_softmax(Device& device, std::int64_t rows, std::int64_t cols,
                                    DType dtype, const Cost& cost);

/// cudnnBatchNormalizationForwardTraining with the rows as channels, [1, rows, cols, 1]: mean and
/// variance of each row, saved, and the normalised row. Its weight and bias are numbers a row,
/// those of layer_norm numbers a column: it reads as much of x and writes as much of y, and does a
/// little less.
std::unique_ptr<Case> cudnn_normalization(Device& device, std::int64_t rows, std::int64_t cols,
                                          DType dtype, const Cost& cost);

/// Names and versions of the CUDA libraries that run; none in a build without CUDA.
std::vector<std::pair<std::string, std::string>> cuda_library_versions();

}  // namespace vitrine::bench
