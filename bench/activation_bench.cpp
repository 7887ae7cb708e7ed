// Bias and activation on one thread, at the shapes models train, and the way back.
//
// bytes_per_second counts every tensor once; items are elements. Checked before timed.
#include <benchmark/benchmark.h>

#include <cmath>
#include <vector>

#include "cpu/cpu_kernels.h"
#include "vitrine/random.h"

namespace vitrine::cpu {
namespace {

View<float> view(std::vector<float>& v) {
  return {v.data(), static_cast<std::int64_t>(v.size())};
}

std::vector<float> random_values(std::int64_t n, std::uint64_t stream) {
  RandomStream random(1, stream);
  std::vector<float> values(n);
  for (float& value : values) value = static_cast<float>(random.normal());
  return values;
}

struct Case {
  Case(std::int64_t rows_, std::int64_t cols_, ActivationKind kind_, float dropout)
      : rows(rows_),
        cols(cols_),
        kind(kind_),
        probability(dropout),
        x(random_values(rows * cols, 1)),
        bias(random_values(cols, 2)),
        y(rows * cols),
        saved(rows * cols),
        dx(rows * cols),
        dbias(cols) {}

  ActivationForward forward() {
    ActivationForward args;
    args.y = view(y);
    args.saved = view(saved);
    args.x = view(x);
    args.bias = view(bias);
    args.rows = rows;
    args.cols = cols;
    args.kind = kind;
    args.dropout.probability = probability;
    args.window = {1, 0, 1};
    args.state = &state;
    return args;
  }
  ActivationBackward backward() {
    ActivationBackward args;
    args.dx = view(dx);
    args.dbias = view(dbias);
    args.dy = view(x);
    args.saved = view(saved);
    args.rows = rows;
    args.cols = cols;
    args.kind = kind;
    return args;
  }

  std::int64_t rows, cols;
  ActivationKind kind;
  float probability;
  std::vector<float> x, bias, y, saved, dx, dbias;
  StepState state;
};

double reference(ActivationKind kind, double x) {
  if (kind == ActivationKind::relu) return x > 0 ? x : 0;
  if (kind == ActivationKind::gelu_erf) return 0.5 * x * (1 + std::erf(x * std::sqrt(0.5)));
  return 0.5 * x * (1 + std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
}

bool verified(Case& c, CpuKernels& kernels) {
  kernels.activation_forward(c.forward());
  kernels.activation_backward(c.backward());
  for (std::int64_t i = 0; i < c.rows * c.cols; ++i) {
    const double y = reference(c.kind, double(c.x[i]) + c.bias[i % c.cols]);
    const bool dropped = c.probability > 0 && c.y[i] == 0.0f;
    const bool right = std::abs(c.y[i] - y / (1.0 - c.probability)) < 1e-5 || dropped;
    if (!right || c.dx[i] != c.x[i] * c.saved[i]) return false;
  }
  return true;
}

void forward(benchmark::State& state, ActivationKind kind, float dropout) {
  ThreadPool pool(1);
  CpuKernels kernels(pool);
  Case c(state.range(0), state.range(1), kind, dropout);
  if (!verified(c, kernels)) return state.SkipWithError("wrong result");
  const ActivationForward args = c.forward();
  for (auto _ : state) kernels.activation_forward(args);
  state.SetBytesProcessed(state.iterations() * 3 * 4 * c.rows * c.cols);
  state.SetItemsProcessed(state.iterations() * c.rows * c.cols);
}

void backward(benchmark::State& state) {
  ThreadPool pool(1);
  CpuKernels kernels(pool);
  Case c(state.range(0), state.range(1), ActivationKind::gelu_erf, 0.0f);
  if (!verified(c, kernels)) return state.SkipWithError("wrong result");
  const ActivationBackward args = c.backward();
  for (auto _ : state) kernels.activation_backward(args);
  state.SetBytesProcessed(state.iterations() * 3 * 4 * c.rows * c.cols);
  state.SetItemsProcessed(state.iterations() * c.rows * c.cols);
}

void shapes(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"rows", "cols"});
  for (const auto& [rows, cols] : {std::pair{1600, 32}, {260, 192}, {65, 768}}) {
    benchmark->Args({rows, cols});
  }
}
BENCHMARK_CAPTURE(forward, gelu_erf, ActivationKind::gelu_erf, 0.0f)->Apply(shapes);
BENCHMARK_CAPTURE(forward, gelu_tanh, ActivationKind::gelu_tanh, 0.0f)->Apply(shapes);
BENCHMARK_CAPTURE(forward, relu, ActivationKind::relu, 0.0f)->Apply(shapes);
BENCHMARK_CAPTURE(forward, gelu_erf_dropout, ActivationKind::gelu_erf, 0.1f)->Apply(shapes);
BENCHMARK(backward)->Apply(shapes);

}  // namespace
}  // namespace vitrine::cpu

BENCHMARK_MAIN();
