// The token sequence, pooling and their gradients, element by element. The random factors of
// dropout are those of vitrine/random.h.
#pragma once

#include <algorithm>
#include <vector>

#include "reference/inputs.h"
#include "vitrine/kernels.h"
#include "vitrine/random.h"

namespace vitrine::reference::tokens {

struct Case {
  std::int64_t batch, num_patches, hidden;
  ClassToken place;
  std::int64_t position_rows;  // 0: no positions
  float dropout;
  bool accumulate;
  std::int64_t registers = 0;
  bool patch_positions = false;

  std::int64_t tokens() const {
    return num_patches + registers + (place == ClassToken::none ? 0 : 1);
  }
  std::int64_t class_index() const {
    return place == ClassToken::none ? -1 : place == ClassToken::first ? 0 : tokens() - 1;
  }
  std::int64_t first_register() const { return place == ClassToken::first ? 1 : 0; }
  bool is_register(std::int64_t t) const {
    return t >= first_register() && t < first_register() + registers;
  }
  bool is_patch(std::int64_t t) const { return t != class_index() && !is_register(t); }
  /// The patch that token t is.
  std::int64_t patch(std::int64_t t) const { return t - first_register() - registers; }
  /// The row of token t's position, -1 without one.
  std::int64_t position(std::int64_t t) const {
    if (position_rows == 0) return -1;
    return !patch_positions ? t : is_patch(t) ? patch(t) : -1;
  }
  std::int64_t positions() const { return patch_positions ? num_patches : tokens(); }
};

inline const std::vector<Case> kCases = {{3, 4, 7, ClassToken::first, 5, 0.0f, false},
                                         {2, 16, 13, ClassToken::last, 20, 0.3f, true},
                                         {5, 49, 8, ClassToken::first, 50, 0.1f, false},
                                         {4, 9, 5, ClassToken::none, 9, 0.0f, true},
                                         {3, 3, 33, ClassToken::none, 0, 0.5f, false},
                                         {1, 1, 1, ClassToken::last, 2, 0.0f, false},
                                         {3, 4, 7, ClassToken::first, 9, 0.2f, false, 4},
                                         {2, 9, 8, ClassToken::first, 9, 0.0f, true, 2, true},
                                         {3, 6, 16, ClassToken::last, 8, 0.3f, true, 1, true},
                                         {2, 4, 24, ClassToken::last, 8, 0.0f, false, 3},
                                         {2, 5, 5, ClassToken::none, 5, 0.1f, false, 2, true},
                                         {2, 4, 12, ClassToken::first, 4, 0.0f, true, 0, true},
                                         {2, 4, 3, ClassToken::none, 0, 0.0f, false, 1}};

struct Problem {
  Case c;
  std::vector<float> patches, class_token, position, dx, dclass, dposition, registers, dregisters;
  StepState state;

  Problem(const Case& c_, std::uint64_t seed)
      : c(c_),
        patches(random_normal(c.batch * c.num_patches * c.hidden, seed, 0)),
        class_token(random_normal(c.hidden, seed, 1)),
        position(random_normal(c.position_rows * c.hidden, seed, 2)),
        dx(random_normal(c.batch * c.tokens() * c.hidden, seed, 3)),
        dclass(random_normal(c.hidden, seed, 4)),
        dposition(random_normal(c.position_rows * c.hidden, seed, 5)),
        registers(random_normal(c.registers * c.hidden, seed, 6)),
        dregisters(random_normal(c.registers * c.hidden, seed, 7)) {
    state.seed = seed;
    state.step = 17;
    state.first_row = 29;
  }

  template <typename T>
  T factor(std::int64_t b, std::int64_t t, std::int64_t i) const {
    if (c.dropout == 0.0f) return 1;
    const std::int64_t element = ((state.first_row + b) * c.tokens() + t) * c.hidden + i;
    return keep_element(state.seed, state.step, 6, element, drop_threshold(c.dropout))
               ? T(1) / (T(1) - T(c.dropout))
               : T(0);
  }
};

template <typename T>
std::vector<T> reference_forward(const Problem& p) {
  std::vector<T> x;
  const Case& c = p.c;
  for (std::int64_t b = 0; b < c.batch; ++b) {
    for (std::int64_t t = 0; t < c.tokens(); ++t) {
      const std::int64_t patch = b * c.num_patches + c.patch(t);
      for (std::int64_t i = 0; i < c.hidden; ++i) {
        T value = T(t == c.class_index() ? p.class_token[i]
                    : c.is_register(t)   ? p.registers[(t - c.first_register()) * c.hidden + i]
                                         : p.patches[patch * c.hidden + i]);
        if (c.position(t) >= 0) value += T(p.position[c.position(t) * c.hidden + i]);
        x.push_back(value * p.factor<T>(b, t, i));
      }
    }
  }
  return x;
}

template <typename T>
struct ReferenceGradients {
  std::vector<T> dpatches, dclass, dposition, dregisters;

  explicit ReferenceGradients(const Problem& p)
      : dpatches(p.patches.size()),
        dclass(converted<T>(p.dclass)),
        dposition(converted<T>(p.dposition)),
        dregisters(converted<T>(p.dregisters)) {
    const Case& c = p.c;
    const std::int64_t tokens = c.tokens();
    if (!c.accumulate) {
      std::fill(dclass.begin(), dclass.end(), T(0));
      std::fill(dregisters.begin(), dregisters.end(), T(0));
      if (c.position_rows > 0) std::fill_n(dposition.begin(), c.positions() * c.hidden, T(0));
    }
    for (std::int64_t b = 0; b < c.batch; ++b) {
      for (std::int64_t e = 0; e < tokens * c.hidden; ++e) {
        const std::int64_t t = e / c.hidden, i = e % c.hidden;
        const T d = T(p.dx[b * tokens * c.hidden + e]) * p.factor<T>(b, t, i);
        if (c.position(t) >= 0) dposition[c.position(t) * c.hidden + i] += d;
        if (t == c.class_index()) {
          dclass[i] += d;
        } else if (c.is_register(t)) {
          dregisters[(t - c.first_register()) * c.hidden + i] += d;
        } else {
          dpatches[(b * c.num_patches + c.patch(t)) * c.hidden + i] = d;
        }
      }
    }
  }
};

}  // namespace vitrine::reference::tokens

namespace vitrine::reference::pool {

struct Case {
  std::int64_t batch, hidden;
  TokenWindow window;
};

inline const std::vector<Case> kCases = {{3, 7, {1, 0, 5}},   {2, 13, {1, 16, 17}},
                                         {5, 8, {49, 1, 50}}, {4, 33, {9, 0, 9}},
                                         {1, 1, {2, 3, 7}},   {2, 48, {64, 1, 65}}};

struct Problem {
  Case c;
  std::vector<float> x, dy, dx;
  Problem(const Case& c_, std::uint64_t seed)
      : c(c_),
        x(random_normal(c.batch * c.window.total * c.hidden, seed, 0)),
        dy(random_normal(c.batch * c.hidden, seed, 1)),
        dx(random_normal(c.batch * c.window.total * c.hidden, seed, 2)) {}
};

template <typename T>
std::vector<T> reference_forward(const Problem& p) {
  const auto& [batch, hidden, window] = p.c;
  std::vector<T> y(batch * hidden);
  for (std::int64_t b = 0; b < batch; ++b) {
    for (std::int64_t t = window.first; t < window.first + window.tokens; ++t) {
      for (std::int64_t i = 0; i < hidden; ++i) {
        y[b * hidden + i] += T(p.x[(b * window.total + t) * hidden + i]);
      }
    }
  }
  for (T& value : y) value /= T(window.tokens);
  return y;
}

template <typename T>
std::vector<T> reference_backward(const Problem& p, bool accumulate) {
  const auto& [batch, hidden, window] = p.c;
  std::vector<T> dx = accumulate ? converted<T>(p.dx) : std::vector<T>(p.dx.size());
  for (std::int64_t b = 0; b < batch; ++b) {
    for (std::int64_t t = window.first; t < window.first + window.tokens; ++t) {
      for (std::int64_t i = 0; i < hidden; ++i) {
        dx[(b * window.total + t) * hidden + i] += T(p.dy[b * hidden + i]) / T(window.tokens);
      }
    }
  }
  return dx;
}

}  // namespace vitrine::reference::pool
