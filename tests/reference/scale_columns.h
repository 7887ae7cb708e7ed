// A factor for each column and its gradient by their definition, in T.
#pragma once

#include <vector>

#include "reference/inputs.h"

namespace vitrine::reference::scale_columns {

struct Case {
  std::int64_t rows, cols, partials;
  bool accumulate;
};

inline const std::vector<Case> kCases = {
    {1, 1, 1, false},   {5, 3, 1, true},     {35, 8, 4, false}, {196, 50, 3, true},
    {64, 48, 5, false}, {33, 264, 2, false}, {7, 771, 7, true}};

struct Problem {
  Case c;
  std::vector<float> x, scale, dy, dscale;

  Problem(const Case& c_, std::uint64_t seed)
      : c(c_),
        x(random_normal(c.rows * c.cols, seed, 0)),
        scale(random_normal(c.cols, seed, 1)),
        dy(random_normal(c.rows * c.cols, seed, 2)),
        dscale(random_normal(c.cols, seed, 3)) {}
};

/// values · scale: y of x, dx of dy.
template <typename T>
std::vector<T> scaled(const Problem& p, const std::vector<float>& values) {
  std::vector<T> result;
  for (std::size_t i = 0; i < values.size(); ++i) {
    result.push_back(T(values[i]) * T(p.scale[i % p.scale.size()]));
  }
  return result;
}

template <typename T>
std::vector<T> scale_gradient(const Problem& p) {
  std::vector<T> sums(p.scale.size(), T(0));
  for (std::size_t i = 0; i < p.x.size(); ++i) sums[i % sums.size()] += T(p.dy[i]) * T(p.x[i]);
  for (std::size_t c = 0; p.c.accumulate && c < sums.size(); ++c) sums[c] += T(p.dscale[c]);
  return sums;
}

}  // namespace vitrine::reference::scale_columns
