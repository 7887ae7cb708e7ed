// Activation functions with the bias before and the dropout behind them, and their gradients.
//
//   y = dropout(f(x + bias)),  f: GELU (erf or tanh form) or ReLU     see cpu/vector_math-inl.h
//   dx = dy · saved                        forward kept the derivative, dropout included
//   dx = dropout(dy · f'(saved))           forward kept x + bias
//
// Gradients: dx is written (=). dbias is summed row by row within a run of rows and run by run
// after that; the runs are a matter of the workspace's size alone.
#include <algorithm>

#include "cpu/branch.h"
#include "cpu/cpu_kernels.h"
#include "vitrine/arguments.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/activation.cpp"
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "cpu/for_vectors-inl.h"
#include "cpu/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace vitrine::cpu::HWY_NAMESPACE {
namespace {

template <ActivationKind kKind, class D, class V>
HWY_INLINE ValueAndDerivative<V> evaluate(D d, V x) {
  if constexpr (kKind == ActivationKind::gelu_erf) {
    return GeluErf(d, x);
  } else if constexpr (kKind == ActivationKind::gelu_tanh) {
    return GeluTanh(d, x);
  } else {
    return Relu(d, x);
  }
}

/// Calls body(kind) with `kind` as a compile-time constant.
template <class Body>
HWY_INLINE void for_kind(ActivationKind kind, const Body& body) {
  using enum ActivationKind;
  switch (kind) {
    case gelu_erf:
      return body(std::integral_constant<ActivationKind, gelu_erf>());
    case gelu_tanh:
      return body(std::integral_constant<ActivationKind, gelu_tanh>());
    case relu:
      return body(std::integral_constant<ActivationKind, relu>());
  }
}

}  // namespace

/// [rows, cols]; bias, factors and saved may be null.
void forward_piece(ActivationKind kind, ActivationSaved saved_kind, float* y, float* saved,
                   const float* x, const float* bias, const float* factors, std::int64_t rows,
                   std::int64_t cols) {
  for_kind(kind, [=](auto kind_constant) HWY_ATTR {
    for (std::int64_t row = 0; row < rows; ++row) {
      const std::int64_t first = row * cols;
      for_vectors(cols, [=](auto d, std::int64_t i) HWY_ATTR {
        const std::int64_t at = first + i;
        auto v = hn::LoadU(d, x + at);
        if (bias != nullptr) v = hn::Add(v, hn::LoadU(d, bias + i));
        auto f = evaluate<kind_constant()>(d, v);
        if (factors != nullptr) {
          const auto factor = hn::LoadU(d, factors + at);
          f = {hn::Mul(f.value, factor), hn::Mul(f.derivative, factor)};
        }
        if (saved_kind == ActivationSaved::derivative) hn::StoreU(f.derivative, d, saved + at);
        if (saved_kind == ActivationSaved::pre_activation) hn::StoreU(v, d, saved + at);
        hn::StoreU(f.value, d, y + at);
      });
    }
  });
}

/// dx = dy · saved
void multiply_piece(float* dx, const float* dy, const float* saved, std::int64_t n) {
  for_vectors(n, [=](auto d, std::int64_t i) HWY_ATTR {
    hn::StoreU(hn::Mul(hn::LoadU(d, dy + i), hn::LoadU(d, saved + i)), d, dx + i);
  });
}

/// dx = dy · f'(saved) · factors; factors may be null.
void backward_piece(ActivationKind kind, float* dx, const float* dy, const float* saved,
                    const float* factors, std::int64_t n) {
  for_kind(kind, [=](auto kind_constant) HWY_ATTR {
    for_vectors(n, [=](auto d, std::int64_t i) HWY_ATTR {
      const auto f = evaluate<kind_constant()>(d, hn::LoadU(d, saved + i));
      auto gradient = hn::Mul(hn::LoadU(d, dy + i), f.derivative);
      if (factors != nullptr) gradient = hn::Mul(gradient, hn::LoadU(d, factors + i));
      hn::StoreU(gradient, d, dx + i);
    });
  });
}

/// sums[c] += Σ_r x[r, c]
void add_rows(float* sums, const float* x, std::int64_t rows, std::int64_t cols) {
  for_vectors(cols, [=](auto d, std::int64_t i) HWY_ATTR {
    auto sum = hn::LoadU(d, sums + i);
    for (std::int64_t r = 0; r < rows; ++r) sum = hn::Add(sum, hn::LoadU(d, x + r * cols + i));
    hn::StoreU(sum, d, sums + i);
  });
}

}  // namespace vitrine::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vitrine::cpu {

HWY_EXPORT(forward_piece);
HWY_EXPORT(multiply_piece);
HWY_EXPORT(backward_piece);
HWY_EXPORT(add_rows);

namespace {

/// Calls body(offset, column, rows, cols, factors) for blocks that cover rows [begin, end): all of
/// them without dropout, when factors are null; otherwise some whole rows of one sample, or a part
/// of one row.
template <typename Args, typename Body>
void for_pieces(const Args& args, std::int64_t begin, std::int64_t end, const Body& body) {
  const std::int64_t cols = args.cols;
  if (args.dropout.probability == 0.0f) return body(begin * cols, 0, end - begin, cols, nullptr);
  constexpr std::int64_t kPiece = 1024;
  float factors[kPiece];
  const std::int64_t tokens = args.window.tokens;
  while (begin < end) {
    const std::int64_t sample_end = std::min(end, (begin / tokens + 1) * tokens);
    const std::int64_t rows = std::clamp<std::int64_t>(kPiece / cols, 1, sample_end - begin);
    const std::uint64_t element = unpruned_element(begin, cols, args.window, *args.state);
    for (std::int64_t c = 0; c < cols; c += kPiece) {
      const std::int64_t n = std::min(kPiece, cols - c);
      dropout_factors(factors, rows * n, element + static_cast<std::uint64_t>(c), args.dropout,
                      *args.state);
      body(begin * cols + c, c, rows, n, factors);
    }
    begin += rows;
  }
}

/// Rows [begin, end) of a backward pass without the bias.
void backward_rows(const ActivationBackward& args, std::int64_t begin, std::int64_t end) {
  float* dx = args.dx.f32().data;
  const float* dy = args.dy.f32().data;
  const float* saved = args.saved.f32().data;
  if (args.saved_kind == ActivationSaved::derivative) {
    const std::int64_t at = begin * args.cols;
    HWY_DYNAMIC_DISPATCH(multiply_piece)(dx + at, dy + at, saved + at, (end - begin) * args.cols);
    return;
  }
  const auto run_piece = HWY_DYNAMIC_DISPATCH(backward_piece);
  for_pieces(args, begin, end,
             [&](std::int64_t at, std::int64_t, std::int64_t rows, std::int64_t cols,
                 const float* factors) {
               run_piece(args.kind, dx + at, dy + at, saved + at, factors, rows * cols);
             });
}

/// The same, adding dx to `dbias` while a tile of it (about 8 KB) is in L1.
void backward_rows_with_bias(const ActivationBackward& args, std::int64_t begin, std::int64_t end,
                             float* dbias) {
  const auto add = HWY_DYNAMIC_DISPATCH(add_rows);
  const float* dx = args.dx.f32().data;
  const std::int64_t tile = std::max<std::int64_t>(2048 / args.cols, 1);
  for (; begin < end; begin += tile) {
    const std::int64_t rows = std::min(tile, end - begin);
    backward_rows(args, begin, begin + rows);
    add(dbias, dx + begin * args.cols, rows, args.cols);
  }
}

}  // namespace

void CpuKernels::activation_forward(const ActivationForward& args) {
  check_arguments(args);
  const auto run_piece = HWY_DYNAMIC_DISPATCH(forward_piece);
  float* y = args.y.f32().data;
  float* saved = args.saved.f32().data;
  const float* x = args.x.f32().data;
  const float* bias = args.bias.f32().data;
  pool_.for_ranges(args.rows, row_grain(args.cols), [&](std::int64_t begin, std::int64_t end) {
    for_pieces(args, begin, end,
               [&](std::int64_t at, std::int64_t column, std::int64_t rows, std::int64_t cols,
                   const float* factors) {
                 run_piece(args.kind, args.saved_kind, y + at, saved ? saved + at : nullptr, x + at,
                           bias ? bias + column : nullptr, factors, rows, cols);
               });
  });
}

void CpuKernels::activation_backward(const ActivationBackward& args) {
  check_arguments(args);
  const std::int64_t rows = args.rows, cols = args.cols;
  if (!args.dbias) {
    pool_.for_ranges(rows, row_grain(cols), [&](std::int64_t begin, std::int64_t end) {
      backward_rows(args, begin, end);
    });
    return;
  }
  if (!args.accumulate) std::fill_n(args.dbias.data, cols, 0.0f);
  const std::int64_t partials = args.workspace.size / cols;
  if (partials <= 1) {
    backward_rows_with_bias(args, 0, rows, args.dbias.data);
    return;
  }
  pool_.parallel_for(partials, [&](int, std::int64_t p) {
    float* sums = args.workspace.data + p * cols;
    std::fill_n(sums, cols, 0.0f);
    backward_rows_with_bias(args, p * rows / partials, (p + 1) * rows / partials, sums);
  });
  HWY_DYNAMIC_DISPATCH(add_rows)(args.dbias.data, args.workspace.data, partials, cols);
}

}  // namespace vitrine::cpu
#endif  // HWY_ONCE
