// Activation functions with the bias before and the dropout behind them, and their gradients.
//
//   y  = dropout(f(x + bias))                 f: GELU (erf or tanh form) or ReLU
//   dx = dy · saved                           forward kept the derivative, dropout included
//   dx = dropout(dy · f'(saved))              forward kept x + bias
//   dbias = Σ_rows dx                         of dx before it is rounded to T
//
//   gelu_erf(x)  = x Φ(x)                 Hendrycks and Gimpel 2016, arXiv:1606.08415
//   gelu_tanh(x) = x σ(2u),  u = √(2/π) (x + 0.044715 x³);  ½ (1 + tanh u) = σ(2u)
//   Φ(-|x|)      = exp(-x²/2) · t P(t),  t = 1 / (1 + 0.33 |x|)     form: Abramowitz, Stegun 7.1.26
//
// The forms and coefficients are those of cpu/vector_math-inl.h: one exp and one quotient serve a
// function and its derivative, and neither loses its sign or size in the left tail.
//
// A block owns a run of rows and a slice of columns, at most 32 accesses of 16 bytes wide. A thread
// walks down the run in one access-wide column, four rows under way, so that it reads its piece of
// the bias once and can sum its piece of dbias in registers. y, saved and dx are written (=); dbias
// is written, or added to with `accumulate`: as many runs as the workspace has partials, added in
// order by primitives/partials.cuh.
//
// Page of account (H200: 132 multiprocessors, 4.3 TB/s copy rate; expectations: not measured, not
// run on a GPU). ViT-B, batch 256, bf16: [50432, 3072], 310 MB a tensor.
//   forward with derivative  3 tensors (x, y, saved): 930 MB, 216 µs
//   backward                 3 tensors (dy, saved, dx): 930 MB, 216 µs; 264 runs: 3.2 MB, 3 µs
// At that rate a multiprocessor finishes 3.1 elements a clock: it has 41 instructions for each.
// erff and expf would take about as many. gelu_erf with the derivative takes 27, counted in the
// SASS, addresses and conversions included; 2 of them on the special function unit, which has time
// for 5. With dropout it takes 61, most of them Philox: about two thirds of the copy rate.
// nvcc for sm_90a, bf16, without dropout, no spills: 80 registers, 3 blocks of 8 warps on a
// multiprocessor, 64 bytes a thread under way forward, 128 backward: 48 KB and 96 KB, where 23 KB
// hide 700 ns (Little). Expected without dropout: 90 % of the copy rate.
#include <algorithm>
#include <bit>

#include "cuda_kernels.h"
#include "primitives/dropout.cuh"
#include "primitives/partials.cuh"
#include "primitives/ptx.cuh"
#include "primitives/vector.cuh"
#include "vitrine/arguments.h"

namespace vitrine::cuda {
namespace {

constexpr int kLog2Threads = 8;
constexpr int kThreads = 1 << kLog2Threads;
constexpr int kRowsUnderWay = 4;

struct ValueAndDerivative {
  float value, derivative;
};

/// Absolute error of Φ 2e-7.
__device__ __forceinline__ ValueAndDerivative gelu_erf(float x) {
  constexpr float kInvSqrt2Pi = 0.398942280f;
  const float gauss = ptx::exp2_approx(x * x * (-0.5f * kLog2E));
  const float t = ptx::reciprocal_approx(fmaf(fabsf(x), 0.33f, 1.0f));
  float polynomial = 0.0462358221f;
  polynomial = fmaf(polynomial, t, -0.223795608f);
  polynomial = fmaf(polynomial, t, 0.337411910f);
  polynomial = fmaf(polynomial, t, -0.0955820158f);
  polynomial = fmaf(polynomial, t, 0.184600160f);
  polynomial = fmaf(polynomial, t, 0.118378744f);
  polynomial = fmaf(polynomial, t, 0.132751003f);
  const float tail = polynomial * t * gauss;  // Φ(-|x|)
  const float phi = x < 0.0f ? tail : 1.0f - tail;
  return {x * phi, fmaf(x, gauss * kInvSqrt2Pi, phi)};
}

__device__ __forceinline__ ValueAndDerivative gelu_tanh(float x) {
  constexpr float kLinear = 1.59576912f;   // 2 √(2/π)
  constexpr float kCubic = 0.0713548163f;  // 2 √(2/π) · 0.044715
  const float x2 = x * x;
  const float u2 = x * fmaf(x2, kCubic, kLinear);
  const float du2 = fmaf(x2, 3 * kCubic, kLinear);
  const float e = ptx::exp2_approx(-kLog2E * fabsf(u2));  // at most 1: no quotient overflows
  const float inverse = ptx::reciprocal_approx(1.0f + e);
  const float small = e * inverse;  // σ(-|2u|)
  const float sigmoid = x < 0.0f ? small : inverse;
  const float slope = small * inverse * du2;
  return {x * sigmoid, fmaf(x, slope, sigmoid)};
}

/// 0 at 0, and derivative 0 there.
__device__ __forceinline__ ValueAndDerivative relu(float x) {
  return {x < 0.0f ? 0.0f : x, x > 0.0f ? 1.0f : 0.0f};
}

/// value = f(x), derivative = f'(x). A branch that all threads take alike.
template <int kVector>
__device__ __forceinline__ void evaluate(ActivationKind kind, float (&value)[kVector],
                                         float (&derivative)[kVector], const float (&x)[kVector]) {
  const auto each = [&](const auto& f) {
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      const ValueAndDerivative result = f(x[i]);
      value[i] = result.value;
      derivative[i] = result.derivative;
    }
  };
  switch (kind) {
    case ActivationKind::gelu_erf:
      return each([](float v) { return gelu_erf(v); });
    case ActivationKind::gelu_tanh:
      return each([](float v) { return gelu_tanh(v); });
    case ActivationKind::relu:
      return each([](float v) { return relu(v); });
  }
}

/// How blocks lie over the rows and columns, and the threads of a block: 2^log2_lanes accesses side
/// by side.
struct Layout {
  int log2_lanes = 0;
  std::int64_t slices = 0;    ///< of columns
  std::int64_t runs = 0;      ///< of rows
  std::int64_t run_rows = 0;  ///< of a run; the last ones may be shorter, or empty

  dim3 grid() const { return dim3(static_cast<unsigned>(slices * runs)); }
};

/// With `runs` runs, or, if that is 0, with runs that give every thread kRowsUnderWay rows.
Layout layout_of(std::int64_t rows, std::int64_t cols, int vector, std::int64_t runs) {
  const std::int64_t accesses = cols / vector;
  const auto lanes =
      std::bit_ceil(static_cast<unsigned>(std::min<std::int64_t>(accesses, kWarpSize)));
  Layout layout{std::countr_zero(lanes), ceil_div(accesses, std::int64_t{lanes}), runs, 0};
  if (runs == 0) layout.runs = ceil_div(rows, std::int64_t{kThreads / lanes} * kRowsUnderWay);
  layout.run_rows = ceil_div(rows, layout.runs);
  return layout;
}

/// A thread's place: one column of accesses, and every step-th row of the block's run. Neighbouring
/// blocks are neighbours in a row.
template <int kVector>
struct Place {
  std::int64_t column, row;  ///< of the first access
  std::int64_t at, stride;   ///< element of the first access, and from row to row
  std::int64_t run;
  int rows, step;

  __device__ Place(const Layout& layout, std::int64_t all_rows, std::int64_t cols) {
    const int lanes = 1 << layout.log2_lanes;
    const int thread = static_cast<int>(threadIdx.x);
    const auto slices = static_cast<unsigned>(layout.slices);
    run = blockIdx.x / slices;
    const int log2_step = kLog2Threads - layout.log2_lanes;
    step = 1 << log2_step;
    column = (std::int64_t{blockIdx.x % slices} * lanes + (thread & (lanes - 1))) * kVector;
    const std::int64_t begin = run * layout.run_rows;
    const std::int64_t end = min(begin + layout.run_rows, all_rows);
    row = begin + (thread >> layout.log2_lanes);
    const std::int64_t left = end - row;
    rows = column < cols && left > 0 ? (static_cast<int>(left) + step - 1) >> log2_step : 0;
    at = row * cols + column;
    stride = step * cols;
  }
};

/// Dropout as a Branch without drop-path.
template <bool kDropout, typename Args>
__device__ __forceinline__ Branch<kDropout> dropout_of(const Args& args, const Dropout& dropout) {
  struct {
    Dropout dropout, drop_path;
    std::int64_t cols;
    TokenWindow window;
    const StepState* state;
  } const fields{dropout, {}, args.cols, args.window, args.state};
  return Branch<kDropout>(fields);
}

template <typename T, int kVector, bool kDropout>
__global__ void __launch_bounds__(kThreads, kDropout ? 2 : 3)
    activation_forward_kernel(ActivationForward args, Layout layout) {
  const Place<kVector> place(layout, args.rows, args.cols);
  if (place.rows == 0) return;
  const auto dropout = dropout_of<kDropout>(args, args.dropout);
  float bias[kVector] = {};
  if (args.bias.data != nullptr) load(bias, elements<T>(args.bias) + place.column);

  for (int done = 0; done < place.rows; done += kRowsUnderWay) {
    const std::int64_t first = place.at + done * place.stride;
    Held<T, kVector> held[kRowsUnderWay];
#pragma unroll
    for (int k = 0; k < kRowsUnderWay; ++k) {
      if (done + k < place.rows) held[k].load(elements<T>(args.x) + first + k * place.stride);
    }
#pragma unroll
    for (int k = 0; k < kRowsUnderWay; ++k) {
      if (done + k >= place.rows) break;
      const std::int64_t at = first + k * place.stride;
      float x[kVector], value[kVector], derivative[kVector], factors[kVector];
#pragma unroll
      for (int i = 0; i < kVector; ++i) x[i] = held[k][i] + bias[i];
      evaluate(args.kind, value, derivative, x);
      dropout.factors(factors, place.row + (done + k) * place.step, place.column);
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        value[i] *= factors[i];
        derivative[i] *= factors[i];
      }
      if (args.saved_kind == ActivationSaved::derivative) {
        Held<T, kVector>(derivative).store(elements<T>(args.saved) + at);
      } else if (args.saved_kind == ActivationSaved::pre_activation) {
        Held<T, kVector>(x).store(elements<T>(args.saved) + at);
      }
      Held<T, kVector>(value).store(elements<T>(args.y) + at);
    }
  }
}

/// x = dropout's factors · f'(x)
template <int kVector, bool kDropout>
__device__ __forceinline__ void recompute(float (&x)[kVector], ActivationKind kind,
                                          const Branch<kDropout>& dropout, std::int64_t row,
                                          std::int64_t column) {
  float value[kVector], derivative[kVector], factors[kVector];
  evaluate(kind, value, derivative, x);
  dropout.factors(factors, row, column);
#pragma unroll
  for (int i = 0; i < kVector; ++i) x[i] = derivative[i] * factors[i];
}

template <typename T, int kVector, bool kDropout>
__global__ void __launch_bounds__(kThreads, kDropout ? 2 : 3)
    activation_backward_kernel(ActivationBackward args, Layout layout) {
  SHARED_ARRAY(float, shared, [kVector * kThreads / 2]);
  const Place<kVector> place(layout, args.rows, args.cols);
  const bool recomputes = args.saved_kind == ActivationSaved::pre_activation;
  const auto dropout = dropout_of<kDropout>(args, recomputes ? args.dropout : Dropout{});
  float dbias[kVector] = {};
  for (int done = 0; done < place.rows; done += kRowsUnderWay) {
    const std::int64_t first = place.at + done * place.stride;
    Held<T, kVector> dy[kRowsUnderWay], saved[kRowsUnderWay];
#pragma unroll
    for (int k = 0; k < kRowsUnderWay; ++k) {
      if (done + k >= place.rows) break;
      dy[k].load(elements<T>(args.dy) + first + k * place.stride);
      saved[k].load(elements<T>(args.saved) + first + k * place.stride);
    }
#pragma unroll
    for (int k = 0; k < kRowsUnderWay; ++k) {
      if (done + k >= place.rows) break;
      float dx[kVector], slope[kVector];
#pragma unroll
      for (int i = 0; i < kVector; ++i) slope[i] = saved[k][i];
      if (recomputes) {
        recompute(slope, args.kind, dropout, place.row + (done + k) * place.step, place.column);
      }
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        dx[i] = dy[k][i] * slope[i];
        dbias[i] += dx[i];
      }
      Held<T, kVector>(dx).store(elements<T>(args.dx) + first + k * place.stride);
    }
  }
  if (args.dbias.data == nullptr) return;

  sum_over_block<kThreads>(dbias, 1 << layout.log2_lanes, &shared[0]);
  if (threadIdx.x >> layout.log2_lanes != 0 || place.column >= args.cols) return;
  const bool alone = layout.runs == 1;
  float* const out =
      (alone ? args.dbias.data : args.workspace.data + place.run * args.cols) + place.column;
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    out[i] = alone && args.accumulate ? out[i] + dbias[i] : dbias[i];
  }
}

/// Calls `body(vector, dropout)` with the widest access that fits and whether anything is dropped.
template <typename T, typename Body>
void choose(bool wide, bool dropout, const Body& body) {
  if (!wide) return body(Constant<1>{}, Constant<true>{});
  for_bool(dropout, [&](auto is_dropout) { body(Constant<kVectorWidth<T>>{}, is_dropout); });
}

}  // namespace

void CudaKernels::activation_forward(const ActivationForward& args) {
  constexpr const char* kOperation = "activation_forward";
  check_arguments(args);
  for_float_type(kOperation, args.x.dtype, [&]<typename T>() {
    const bool wide =
        vectorizable<T>(args.cols, args.y.data, args.saved.data, args.x.data, args.bias.data);
    choose<T>(wide, args.dropout.probability > 0.0f, [&](auto vector, auto dropout) {
      const Layout layout = layout_of(args.rows, args.cols, vector.value, 0);
      launch(kOperation, stream_, layout.grid(), kThreads, 0,
             activation_forward_kernel<T, vector.value, dropout.value>, args, layout);
    });
  });
}

void CudaKernels::activation_backward(const ActivationBackward& args) {
  constexpr const char* kOperation = "activation_backward";
  check_arguments(args);
  const bool sums = args.dbias.data != nullptr;
  const std::int64_t partials = std::max<std::int64_t>(args.workspace.size / args.cols, 1);
  const bool dropout =
      args.saved_kind == ActivationSaved::pre_activation && args.dropout.probability > 0.0f;
  for_float_type(kOperation, args.dx.dtype, [&]<typename T>() {
    const bool wide = vectorizable<T>(args.cols, args.dx.data, args.dy.data, args.saved.data);
    choose<T>(wide, dropout, [&](auto vector, auto is_dropout) {
      const Layout layout = layout_of(args.rows, args.cols, vector.value, sums ? partials : 0);
      launch(kOperation, stream_, layout.grid(), kThreads, 0,
             activation_backward_kernel<T, vector.value, is_dropout.value>, args, layout);
    });
  });
  if (sums && partials > 1) {
    sum_partials(kOperation, stream_, args.dbias.data, args.workspace.data, partials, args.cols,
                 args.cols, args.accumulate);
  }
}

}  // namespace vitrine::cuda
