// The patch projection as the sum that defines it, and the gradient of its weights.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "reference/inputs.h"

namespace vitrine::reference::patch_convolution {

struct Case {
  std::int64_t batch, channels, height, width, patch_size, hidden;
  std::int64_t rows() const { return height / patch_size; }
  std::int64_t cols() const { return width / patch_size; }
  std::int64_t patches() const { return rows() * cols(); }
  std::int64_t image_size() const { return batch * channels * height * width; }
  std::int64_t weight_size() const { return hidden * channels * patch_size * patch_size; }
  std::int64_t y_size() const { return batch * patches() * hidden; }
};

inline constexpr std::array<Case, 10> kCases = {{{1, 1, 1, 1, 1, 1},
                                                 {2, 3, 2, 3, 1, 8},
                                                 {3, 1, 4, 6, 2, 1},
                                                 {2, 3, 8, 4, 2, 65},
                                                 {2, 3, 12, 8, 4, 48},
                                                 {1, 1, 28, 28, 4, 65},
                                                 {2, 3, 14, 21, 7, 8},
                                                 {2, 3, 28, 14, 14, 48},
                                                 {3, 3, 16, 48, 16, 65},
                                                 {5, 1, 16, 16, 16, 1}}};

struct Problem {
  Case c;
  std::vector<float> images, weight, bias, dy, dweight_before;

  Problem(const Case& c_, std::uint64_t seed)
      : c(c_),
        images(random_normal(c.image_size(), seed, 0)),
        weight(random_normal(c.weight_size(), seed, 1)),
        bias(random_normal(c.hidden, seed, 2)),
        dy(random_normal(c.y_size(), seed, 3)),
        dweight_before(random_normal(c.weight_size(), seed, 4)) {}

  /// Offset of the pixel (c, i, j) of patch p of image b.
  std::int64_t pixel(std::int64_t b, std::int64_t p, std::int64_t channel, std::int64_t i,
                     std::int64_t j) const {
    const std::int64_t y = p / c.cols() * c.patch_size + i, x = p % c.cols() * c.patch_size + j;
    return ((b * c.channels + channel) * c.height + y) * c.width + x;
  }
};

/// Calls body(o, channel, i, j, offset in the weights) for each weight.
template <typename Body>
void for_weights(const Case& c, const Body& body) {
  std::int64_t at = 0;
  for (std::int64_t o = 0; o < c.hidden; ++o) {
    for (std::int64_t channel = 0; channel < c.channels; ++channel) {
      for (std::int64_t i = 0; i < c.patch_size; ++i) {
        for (std::int64_t j = 0; j < c.patch_size; ++j) body(o, channel, i, j, at++);
      }
    }
  }
}

/// y [B, P, D]
template <typename T>
std::vector<T> forward(const Problem& p, bool with_bias) {
  const Case& c = p.c;
  std::vector<T> y(c.y_size(), T(0));
  for (std::int64_t b = 0; b < c.batch; ++b) {
    for (std::int64_t patch = 0; patch < c.patches(); ++patch) {
      T* row = y.data() + (b * c.patches() + patch) * c.hidden;
      for_weights(c, [&](auto o, auto channel, auto i, auto j, auto at) {
        row[o] += T(p.weight[at]) * T(p.images[p.pixel(b, patch, channel, i, j)]);
      });
      for (std::int64_t o = 0; with_bias && o < c.hidden; ++o) row[o] += T(p.bias[o]);
    }
  }
  return y;
}

/// dweight [D, C, s, s], added to what was there before on request
template <typename T>
std::vector<T> weight_gradient(const Problem& p, bool accumulate) {
  const Case& c = p.c;
  std::vector<T> dweight(c.weight_size());
  for_weights(c, [&](auto o, auto channel, auto i, auto j, auto at) {
    T sum = 0;
    for (std::int64_t row = 0; row < c.batch * c.patches(); ++row) {
      const std::int64_t b = row / c.patches(), patch = row % c.patches();
      sum += T(p.dy[row * c.hidden + o]) * T(p.images[p.pixel(b, patch, channel, i, j)]);
    }
    dweight[at] = accumulate ? T(p.dweight_before[at]) + sum : sum;
  });
  return dweight;
}

}  // namespace vitrine::reference::patch_convolution
