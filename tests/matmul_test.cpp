// Matrix product against a double-precision reference, in every combination of its options, and the
// bias gradient beside it.
#include "reference/matmul.h"

#include <gtest/gtest.h>

#include <array>
#include <utility>

#include "cpu/cpu_kernels.h"
#include "for_targets.h"
#include "reference/reduce.h"
#include "reference_check.h"
#include "shapes.h"

namespace vitrine::cpu {
namespace {

struct Case {
  std::int64_t m, n, k;
  bool transpose_a, transpose_b, accumulate, bias;
  int row_blocks;
};

struct Inputs {
  std::vector<float> a, b, bias, out;
  Inputs(const Case& c, std::uint64_t seed)
      : a(random_normal(c.m * c.k, seed, 0)),
        b(random_normal(c.k * c.n, seed, 1)),
        bias(random_normal(c.n, seed, 2)),
        out(c.accumulate ? random_normal(c.m * c.n, seed, 3) : poisoned(c.m * c.n)) {}
};

template <typename T>
std::vector<T> reference(const Case& c, const Inputs& in) {
  const auto a = [&](std::int64_t i, std::int64_t l) {
    return in.a[c.transpose_a ? l * c.m + i : i * c.k + l];
  };
  const auto b = [&](std::int64_t l, std::int64_t j) {
    return in.b[c.transpose_b ? j * c.k + l : l * c.n + j];
  };
  std::vector<T> out;
  for (std::int64_t i = 0; i < c.m; ++i) {
    for (std::int64_t j = 0; j < c.n; ++j) {
      T sum = reference::product_element<T>(i, j, c.k, a, b);
      if (c.bias) sum += T(in.bias[j]);
      if (c.accumulate) sum += T(in.out[i * c.n + j]);
      out.push_back(sum);
    }
  }
  return out;
}

Matmul arguments(const Case& c, Inputs& in) {
  const auto size = [](const std::vector<float>& v) { return static_cast<std::int64_t>(v.size()); };
  Matmul args;
  args.out = View<float>(in.out.data(), size(in.out));
  args.a = View<float>(in.a.data(), size(in.a));
  args.b = View<float>(in.b.data(), size(in.b));
  if (c.bias) args.bias = View<float>(in.bias.data(), size(in.bias));
  args.m = c.m, args.n = c.n, args.k = c.k;
  args.transpose_a = c.transpose_a, args.transpose_b = c.transpose_b;
  args.accumulate = c.accumulate;
  args.row_blocks = c.row_blocks;
  return args;
}

std::vector<float> run(const Case& c, std::uint64_t seed, int threads) {
  ThreadPool pool(threads);
  Inputs in(c, seed);
  CpuKernels(pool).matmul(arguments(c, in));
  return in.out;
}

// Shapes for each way a product can take: few and many vectors of columns, whole and cut short, for
// vectors of every length; half a vector with k in pairs; narrow weight gradients; oneDNN's.
TEST(Matmul, AgreesWithDoublePrecision) {
  std::vector<std::array<std::int64_t, 3>> sizes = {
      {1, 1, 1},   {3, 10, 7},   {17, 5, 33},   {65, 24, 8},  {8, 32, 61}, {101, 13, 129},
      {15, 8, 32}, {9, 4, 6},    {32, 8, 75},   {48, 10, 50}, {7, 48, 20}, {11, 50, 9},
      {6, 96, 5},  {5, 100, 12}, {66, 130, 75}, {40, 40, 70}, {2, 20, 3},
  };
  for (const shapes::Model& m : {shapes::kMnistTutorial, shapes::kCifar10Small}) {
    sizes.push_back({m.tokens(), m.intermediate, m.hidden});  // one image of a preset
    sizes.push_back({m.patches(), m.hidden, m.pixels()});
  }
  std::uint64_t seed = 40;
  for (const auto& shape : sizes) {
    for (int options = 0; options < 16; ++options) {
      const Case c{shape[0],           shape[1],           shape[2],           (options & 1) != 0,
                   (options & 2) != 0, (options & 4) != 0, (options & 8) != 0, 1 + options % 4};
      SCOPED_TRACE("seed " + std::to_string(++seed) + " options " + std::to_string(options));
      const Inputs in(c, seed);
      const auto naive = reference<float>(c, in);
      const auto exact = reference<double>(c, in);
      for_targets([&] { expect_close(run(c, seed, 2), naive, exact, "out"); });
    }
  }
}

// Rows of a product are the same however many of them are computed together.
TEST(Matmul, BitsDoNotDependOnRowBlocks) {
  for (const auto& [n, k] : {std::pair{10, 8}, {8, 32}, {32, 8}, {48, 192}, {50, 33}}) {
    for_targets([&, n = n, k = k] {
      const Case whole{67, n, k, false, true, false, true, 1};
      Case pieces = whole;
      pieces.row_blocks = 7;
      EXPECT_TRUE(same_bits(run(whole, 8, 1), run(pieces, 8, 2))) << n << " x " << k;
    });
  }
}

// Nothing is written beside the output, nothing read beside the factors: their neighbours are NaN.
TEST(Matmul, StaysInside) {
  constexpr std::int64_t kShapes[][3] = {{7, 8, 6},   {9, 10, 8},  {13, 24, 5},
                                         {32, 8, 40}, {10, 8, 33}, {3, 50, 7}};
  for (const auto& shape : kShapes) {
    for (int options = 0; options < 8; ++options) {
      const Case c{shape[0],           shape[1],           shape[2],           (options & 1) != 0,
                   (options & 2) != 0, (options & 4) != 0, (options & 1) == 0, 1};
      SCOPED_TRACE("seed 90 options " + std::to_string(options));
      for_targets([&] {
        const auto padded = [](const std::vector<float>& values) {
          auto with_neighbours = poisoned(static_cast<std::int64_t>(values.size()) + 64);
          std::copy(values.begin(), values.end(), with_neighbours.begin() + 32);
          return with_neighbours;
        };
        Inputs in(c, 90);
        const auto a = padded(in.a), b = padded(in.b), bias = padded(in.bias);
        auto out = padded(in.out);
        Matmul args = arguments(c, in);
        args.out = View<float>(out.data() + 32, args.out.size);
        args.a = ConstView<float>(a.data() + 32, args.a.size);
        args.b = ConstView<float>(b.data() + 32, args.b.size);
        if (c.bias) args.bias = ConstView<float>(bias.data() + 32, args.bias.size);
        ThreadPool pool(1);
        CpuKernels(pool).matmul(args);
        const std::vector<float> inside(out.begin() + 32, out.end() - 32);
        EXPECT_TRUE(same_bits(inside, run(c, 90, 1)));
        const auto is_nan = [](float value) { return std::isnan(value); };
        EXPECT_TRUE(std::all_of(out.begin(), out.begin() + 32, is_nan));
        EXPECT_TRUE(std::all_of(out.end() - 32, out.end(), is_nan));
      });
    }
  }
}

TEST(Matmul, BitsDoNotDependOnThreads) {
  for (const int row_blocks : {1, 2, 3, 7}) {
    for (const bool transposed : {false, true}) {
      const Case c{67, 10, 35, transposed, true, false, true, row_blocks};
      const std::vector<float> one = run(c, 7, 1);
      EXPECT_TRUE(same_bits(one, run(c, 7, 2)));
      EXPECT_TRUE(same_bits(one, run(c, 7, 3)));
    }
  }
}

TEST(Matmul, WritesTheBiasGradient) {
  std::uint64_t seed = 70;
  for (const auto& [m, n, k] : {std::array{1, 1, 1}, {3, 10, 7}, {17, 5, 33}, {65, 24, 130}}) {
    for (const int partials : {1, 3}) {
      SCOPED_TRACE("seed " + std::to_string(++seed));
      const Case c{m, n, k, true, false, false, false, 2};
      Inputs in(c, seed);
      std::vector<float> gradient = poisoned(m + 1), workspace = poisoned(partials * m);
      ThreadPool pool(2);
      Matmul args = arguments(c, in);
      args.bias_gradient = {gradient.data(), m};
      args.workspace = {workspace.data(), partials * m};
      CpuKernels(pool).matmul(args);
      EXPECT_TRUE(same_bits(in.out, run(c, seed, 2)));
      EXPECT_TRUE(std::isnan(gradient.back()));
      gradient.pop_back();
      expect_close(gradient, reference::column_sum(in.a, std::vector<float>(m)),
                   reference::column_sum(in.a, std::vector<double>(m)), "bias_gradient");
    }
  }
}

TEST(Matmul, RefusesContradictions) {
  ThreadPool pool(1);
  CpuKernels kernels(pool);
  const Case c{5, 3, 4, false, false, false, true, 1};
  Inputs in(c, 9);
  const auto refused = [&](const char* field, auto change) {
    Matmul args = arguments(c, in);
    change(args);
    expect_refused([&] { kernels.matmul(args); }, field);
  };
  refused("out", [](Matmul& args) { args.out.size = 14; });
  refused("a has", [](Matmul& args) { args.a.size = 19; });
  refused("b has", [](Matmul& args) { args.b = {}; });
  refused("bias", [](Matmul& args) { args.bias.size = 5; });
  refused("k are", [](Matmul& args) { args.k = 0; });
  refused("row_blocks", [](Matmul& args) { args.row_blocks = 0; });
}

}  // namespace
}  // namespace vitrine::cpu
