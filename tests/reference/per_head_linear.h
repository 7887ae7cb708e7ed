// The block-diagonal linear layer and its gradients by their definition.
#pragma once

#include <cstdint>
#include <vector>

#include "reference/inputs.h"

namespace vitrine::reference {

struct PerHeadLinearCase {
  std::int64_t rows, parts, heads, head_size;
  bool bias, accumulate_dx, accumulate;
  std::int64_t partials;

  /// Elements of weight and bias together.
  std::int64_t parameters() const { return parts * heads * head_size * (head_size + 1); }
};

/// Random inputs, and what lies in the gradients before.
struct PerHeadLinearProblem {
  PerHeadLinearCase c;
  std::int64_t maps;
  std::vector<float> x, weight, bias, dy, dx, dweight, dbias;

  PerHeadLinearProblem(const PerHeadLinearCase& c_, std::uint64_t seed)
      : c(c_),
        maps(c.parts * c.heads),
        x(random_normal(c.rows * c.heads * c.head_size, seed, 0)),
        weight(random_normal(maps * c.head_size * c.head_size, seed, 1)),
        bias(random_normal(c.bias ? maps * c.head_size : 0, seed, 2)),
        dy(random_normal(c.rows * maps * c.head_size, seed, 3)),
        dx(random_normal(c.rows * c.heads * c.head_size, seed, 4)),
        dweight(random_normal(maps * c.head_size * c.head_size, seed, 5)),
        dbias(random_normal(c.bias ? maps * c.head_size : 0, seed, 6)) {}
};

/// Outputs computed in T.
template <typename T>
struct PerHeadLinearResult {
  std::vector<T> y, dx, dweight, dbias;

  explicit PerHeadLinearResult(const PerHeadLinearProblem& p)
      : dx(start(p.dx, p.c.accumulate_dx)),
        dweight(start(p.dweight, p.c.accumulate)),
        dbias(start(p.dbias, p.c.accumulate)) {
    const std::int64_t heads = p.c.heads, d = p.c.head_size;
    for (std::int64_t i = 0; i < p.c.rows * p.maps * d; ++i) {
      const std::int64_t row = i / (p.maps * d), map = i / d % p.maps, o = i % d;
      const std::int64_t from = (row * heads + map % heads) * d, w = (map * d + o) * d;
      T sum = p.c.bias ? T(p.bias[map * d + o]) : T(0);
      for (std::int64_t j = 0; j < d; ++j) {
        sum += T(p.weight[w + j]) * T(p.x[from + j]);
        dx[from + j] += T(p.weight[w + j]) * T(p.dy[i]);
        dweight[w + j] += T(p.dy[i]) * T(p.x[from + j]);
      }
      if (p.c.bias) dbias[map * d + o] += T(p.dy[i]);
      y.push_back(sum);
    }
  }

 private:
  static std::vector<T> start(const std::vector<float>& values, bool accumulate) {
    return accumulate ? converted<T>(values) : std::vector<T>(values.size());
  }
};

}  // namespace vitrine::reference
