// LayerNorm on one thread, forward with the residual and backward, at the shapes models train.
//
// bytes_per_second counts every tensor once. Each case is checked before it is timed.
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
  Case(std::int64_t rows_, std::int64_t cols_)
      : rows(rows_),
        cols(cols_),
        x(random_values(rows * cols, 1)),
        branch(random_values(rows * cols, 2)),
        dy(random_values(rows * cols, 3)),
        x_out(rows * cols),
        y(rows * cols),
        dx(rows * cols),
        weight(cols, 1.0f),
        bias(cols, 0.0f),
        dweight(cols),
        dbias(cols),
        mean(rows),
        rstd(rows) {}

  LayerNormForward forward() {
    LayerNormForward args;
    args.y = view(y);
    args.x_out = view(x_out);
    args.mean = view(mean);
    args.rstd = view(rstd);
    args.x = view(x);
    args.branch = view(branch);
    args.weight = view(weight);
    args.bias = view(bias);
    args.rows = rows;
    args.cols = cols;
    return args;
  }
  LayerNormBackward backward() {
    LayerNormBackward args;
    args.dx = view(dx);
    args.dweight = view(dweight);
    args.dbias = view(dbias);
    args.dy = view(dy);
    args.dresidual = view(branch);
    args.x = view(x_out);
    args.mean = view(mean);
    args.rstd = view(rstd);
    args.weight = view(weight);
    args.rows = rows;
    args.cols = cols;
    return args;
  }

  std::int64_t rows, cols;
  std::vector<float> x, branch, dy, x_out, y, dx, weight, bias, dweight, dbias, mean, rstd;
};

/// With weight 1 and bias 0 every row of y has mean 0 and variance 1, every row of dx - dresidual
/// sum 0.
bool verified(Case& c, CpuKernels& kernels) {
  kernels.layer_norm_forward(c.forward());
  kernels.layer_norm_backward(c.backward());
  for (std::int64_t r = 0; r < c.rows; ++r) {
    double sum = 0, squares = 0, gradient = 0;
    for (std::int64_t i = r * c.cols; i < (r + 1) * c.cols; ++i) {
      sum += c.y[i];
      squares += double(c.y[i]) * c.y[i];
      gradient += double(c.dx[i]) - c.branch[i];
    }
    const bool right = std::abs(sum) < 1e-4 * c.cols && std::abs(gradient) < 1e-4 * c.cols &&
                       std::abs(squares / c.cols - 1) < 1e-3;
    if (!right) return false;
  }
  return true;
}

void forward(benchmark::State& state) {
  ThreadPool pool(1);
  CpuKernels kernels(pool);
  Case c(state.range(0), state.range(1));
  if (!verified(c, kernels)) return state.SkipWithError("wrong result");
  const LayerNormForward args = c.forward();
  for (auto _ : state) kernels.layer_norm_forward(args);
  state.SetBytesProcessed(state.iterations() * 4 * 4 * c.rows * c.cols);
}

void backward(benchmark::State& state) {
  ThreadPool pool(1);
  CpuKernels kernels(pool);
  Case c(state.range(0), state.range(1));
  if (!verified(c, kernels)) return state.SkipWithError("wrong result");
  const LayerNormBackward args = c.backward();
  for (auto _ : state) kernels.layer_norm_backward(args);
  state.SetBytesProcessed(state.iterations() * 4 * 4 * c.rows * c.cols);
}

void shapes(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"rows", "cols"});
  for (const auto& [rows, cols] : {std::pair{1600, 8}, {650, 48}, {260, 192}, {197, 768}}) {
    benchmark->Args({rows, cols});
  }
}
BENCHMARK(forward)->Apply(shapes);
BENCHMARK(backward)->Apply(shapes);

}  // namespace
}  // namespace vitrine::cpu

BENCHMARK_MAIN();
