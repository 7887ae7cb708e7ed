// Matrix products of the reference models' linear layers: forward, dx and dW.
#include <benchmark/benchmark.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "cpu/cpu_kernels.h"
#include "vitrine/random.h"

namespace vitrine::cpu {
namespace {

std::vector<float> random_normal(std::int64_t n, std::uint64_t stream) {
  RandomStream random(1, stream);
  std::vector<float> values(n);
  for (float& value : values) value = static_cast<float>(random.normal());
  return values;
}

// Whether a sample of the products agrees with sums in double.
bool verified(const Matmul& args) {
  const float* a = args.a.f32().data;
  const float* b = args.b.f32().data;
  for (std::int64_t e = 0; e < args.m * args.n; e += 1 + args.m * args.n / 101) {
    const std::int64_t i = e / args.n, j = e % args.n;
    double sum = args.bias ? static_cast<double>(args.bias.f32()[j]) : 0.0;
    for (std::int64_t l = 0; l < args.k; ++l) {
      sum += static_cast<double>(args.transpose_a ? a[l * args.m + i] : a[i * args.k + l]) *
             static_cast<double>(args.transpose_b ? b[j * args.k + l] : b[l * args.n + j]);
    }
    const double tolerance = 1e-5 * static_cast<double>(args.k);
    if (!(std::abs(sum - static_cast<double>(args.out.f32()[e])) <= tolerance)) return false;
  }
  return true;
}

void matmul(benchmark::State& state, bool transpose_a, bool transpose_b, bool with_bias) {
  Matmul args;
  args.m = state.range(0), args.n = state.range(1), args.k = state.range(2);
  args.transpose_a = transpose_a, args.transpose_b = transpose_b;
  args.row_blocks = static_cast<int>(state.range(3));
  const std::vector<float> a = random_normal(args.m * args.k, 1);
  const std::vector<float> b = random_normal(args.k * args.n, 2);
  const std::vector<float> bias = random_normal(args.n, 3);
  std::vector<float> out(args.m * args.n, std::nanf(""));
  args.out = View<float>(out.data(), args.m * args.n);
  args.a = ConstView<float>(a.data(), args.m * args.k);
  args.b = ConstView<float>(b.data(), args.k * args.n);

  if (with_bias) args.bias = ConstView<float>(bias.data(), args.n);

  ThreadPool pool(1);
  CpuKernels kernels(pool);
  kernels.matmul(args);
  if (!verified(args)) return state.SkipWithError("wrong product");
  for (auto _ : state) kernels.matmul(args);
  state.counters["FLOP/s"] = benchmark::Counter(2.0 * static_cast<double>(args.m * args.n * args.k),
                                                benchmark::Counter::kIsIterationInvariantRate);
}

BENCHMARK_CAPTURE(matmul, forward, false, true, true)
    ->ArgNames({"m", "n", "k", "blocks"})
    ->Args({1600, 32, 8, 1})
    ->Args({1600, 8, 32, 1})
    ->Args({1568, 8, 16, 1})
    ->Args({32, 32, 8, 1})
    ->Args({32, 10, 8, 1})
    ->Args({325, 144, 48, 1})
    ->Args({325, 192, 48, 1})
    ->Args({325, 48, 192, 1})
    ->Args({325, 48, 48, 1})
    ->Args({350, 64, 64, 1})
    ->Args({1576, 192, 192, 32})
    ->Args({1576, 576, 192, 32})
    ->Args({1576, 768, 192, 32})
    ->Args({1576, 192, 768, 32});
BENCHMARK_CAPTURE(matmul, dx, false, false, false)
    ->ArgNames({"m", "n", "k", "blocks"})
    ->Args({1600, 8, 32, 1})
    ->Args({1600, 32, 8, 1})
    ->Args({32, 8, 10, 1})
    ->Args({325, 48, 144, 1})
    ->Args({325, 48, 192, 1})
    ->Args({325, 192, 48, 1})
    ->Args({325, 48, 48, 1})
    ->Args({350, 64, 64, 1})
    ->Args({1576, 192, 576, 32})
    ->Args({1576, 192, 768, 32})
    ->Args({1576, 768, 192, 32});
BENCHMARK_CAPTURE(matmul, dweight, true, false, false)
    ->ArgNames({"m", "n", "k", "blocks"})
    ->Args({32, 8, 1600, 1})
    ->Args({8, 32, 1600, 1})
    ->Args({8, 16, 1568, 1})
    ->Args({10, 8, 32, 1})
    ->Args({144, 48, 325, 1})
    ->Args({192, 48, 325, 1})
    ->Args({48, 192, 325, 1})
    ->Args({48, 48, 325, 1})
    ->Args({64, 64, 350, 1})
    ->Args({576, 192, 1576, 8})
    ->Args({768, 192, 1576, 16})
    ->Args({192, 768, 1576, 4});

}  // namespace
}  // namespace vitrine::cpu

BENCHMARK_MAIN();
