// Layer normalisation by its definition, in any precision.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

namespace vitrine::reference {

template <typename T>
struct LayerNormValues {
  std::vector<T> y, mean, rstd;
};

template <typename T>
LayerNormValues<T> layer_norm(const std::vector<T>& x, const std::vector<T>& weight,
                              const std::vector<T>& bias, std::int64_t cols, float eps) {
  const std::int64_t rows = static_cast<std::int64_t>(x.size()) / cols;
  LayerNormValues<T> out{std::vector<T>(x.size()), std::vector<T>(rows), std::vector<T>(rows)};
  for (std::int64_t r = 0; r < rows; ++r) {
    const T* row = &x[r * cols];
    T sum = 0, squares = 0;
    for (std::int64_t i = 0; i < cols; ++i) sum += row[i];
    const T mean = sum / cols;
    for (std::int64_t i = 0; i < cols; ++i) squares += (row[i] - mean) * (row[i] - mean);
    const T rstd = T(1) / std::sqrt(squares / cols + T(eps));
    for (std::int64_t i = 0; i < cols; ++i) {
      out.y[r * cols + i] = (row[i] - mean) * rstd * weight[i] + bias[i];
    }
    out.mean[r] = mean;
    out.rstd[r] = rstd;
  }
  return out;
}

template <typename T>
struct LayerNormGradients {
  std::vector<T> dx, dweight, dbias;
};

/// `residual`, added to dx, may be empty.
template <typename T>
LayerNormGradients<T> layer_norm_gradients(const std::vector<T>& dy, const std::vector<T>& x,
                                           const std::vector<T>& weight,
                                           const std::vector<T>& residual, std::int64_t cols,
                                           float eps) {
  const LayerNormValues<T> forward = layer_norm(x, weight, weight, cols, eps);
  const std::int64_t rows = static_cast<std::int64_t>(x.size()) / cols;
  LayerNormGradients<T> out{std::vector<T>(x.size()), std::vector<T>(cols), std::vector<T>(cols)};
  for (std::int64_t r = 0; r < rows; ++r) {
    const T mean = forward.mean[r], rstd = forward.rstd[r];
    T mean_g = 0, mean_gx = 0;
    for (std::int64_t i = 0; i < cols; ++i) {
      const T normalised = (x[r * cols + i] - mean) * rstd;
      mean_g += dy[r * cols + i] * weight[i] / cols;
      mean_gx += dy[r * cols + i] * weight[i] * normalised / cols;
      out.dweight[i] += dy[r * cols + i] * normalised;
      out.dbias[i] += dy[r * cols + i];
    }
    for (std::int64_t i = 0; i < cols; ++i) {
      const T normalised = (x[r * cols + i] - mean) * rstd;
      out.dx[r * cols + i] = rstd * (dy[r * cols + i] * weight[i] - mean_g - normalised * mean_gx);
      if (!residual.empty()) out.dx[r * cols + i] += residual[r * cols + i];
    }
  }
  return out;
}

}  // namespace vitrine::reference
