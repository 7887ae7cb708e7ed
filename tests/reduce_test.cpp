// Column sums, sums of parts and the gradient norm against double-precision references.
#include "reference/reduce.h"

#include <gtest/gtest.h>

#include "cpu/cpu_kernels.h"
#include "for_targets.h"
#include "reference_check.h"

namespace vitrine::cpu {
namespace {

View<float> view(std::vector<float>& values) {
  return {values.data(), static_cast<std::int64_t>(values.size())};
}

struct Columns {
  std::int64_t rows, cols, partials;
  bool accumulate;
};

std::vector<float> run(const Columns& c, std::uint64_t seed, int threads) {
  std::vector<float> x = random_normal(c.rows * c.cols, seed, 0);
  std::vector<float> out = c.accumulate ? random_normal(c.cols, seed, 1) : poisoned(c.cols);
  std::vector<float> workspace = poisoned(c.partials * c.cols);
  ThreadPool pool(threads);
  ColumnSum args;
  args.out = view(out);
  args.x = view(x);
  args.workspace = view(workspace);
  args.rows = c.rows, args.cols = c.cols;
  args.accumulate = c.accumulate;
  CpuKernels(pool).column_sum(args);
  return out;
}

template <typename T>
std::vector<T> expected(const Columns& c, std::uint64_t seed) {
  const std::vector<float> x = random_normal(c.rows * c.cols, seed, 0);
  return reference::column_sum(
      x, c.accumulate ? converted<T>(random_normal(c.cols, seed, 1)) : std::vector<T>(c.cols));
}

TEST(ColumnSum, AgreesWithDoublePrecision) {
  std::uint64_t seed = 1400;
  for (const std::int64_t cols : {1, 2, 4, 8, 10, 16, 33, 77, 192}) {
    for (const std::int64_t rows : {1, 5, 196, 1603}) {
      const Columns c{rows, cols, 1 + (rows + cols) % 9, rows % 2 == 0};
      SCOPED_TRACE("seed " + std::to_string(++seed));
      const auto naive = expected<float>(c, seed);
      const auto exact = expected<double>(c, seed);
      for_targets([&] { expect_close(run(c, seed, 2), naive, exact, "out"); });
    }
  }
}

TEST(ColumnSum, BitsDoNotDependOnThreads) {
  const Columns c{1001, 37, 5, false};
  const std::vector<float> one = run(c, 1500, 1);
  EXPECT_TRUE(same_bits(one, run(c, 1500, 2)));
  EXPECT_TRUE(same_bits(one, run(c, 1500, 3)));
}

TEST(ColumnSum, RefusesContradictions) {
  ThreadPool pool(1);
  CpuKernels kernels(pool);
  std::vector<float> x(15, 1.0f), out(3), workspace(6);
  const auto refused = [&](const char* field, auto change) {
    ColumnSum args;
    args.out = view(out);
    args.x = view(x);
    args.workspace = view(workspace);
    args.rows = 5, args.cols = 3;
    change(args);
    expect_refused([&] { kernels.column_sum(args); }, field);
  };
  refused("out", [](ColumnSum& args) { args.out.size = 2; });
  refused("x has", [](ColumnSum& args) { args.x.size = 16; });
  refused("workspace", [](ColumnSum& args) { args.workspace.size = 5; });
  refused("workspace", [](ColumnSum& args) { args.workspace = {}; });
  refused("rows", [](ColumnSum& args) { args.rows = 0; });
}

TEST(SumParts, AddsInTheOrderOfTheParts) {
  std::uint64_t seed = 1600;
  for (const std::int64_t n : {1, 7, 1029, 50021}) {
    for (const std::int64_t num_parts : {1, 2, 7}) {
      SCOPED_TRACE("seed " + std::to_string(++seed));
      std::vector<float> parts = random_normal(num_parts * n, seed, 0);
      const std::vector<float> expected = reference::sum_parts(parts, n);
      for (const int threads : {1, 2, 3}) {
        ThreadPool pool(threads);
        std::vector<float> out = poisoned(n), in_place = parts;
        CpuKernels(pool).sum_parts({view(out), view(parts), num_parts, n});
        EXPECT_TRUE(same_bits(out, expected));
        CpuKernels(pool).sum_parts({{in_place.data(), n}, view(in_place), num_parts, n});
        in_place.resize(n);
        EXPECT_TRUE(same_bits(in_place, expected));
      }
    }
  }
}

TEST(SumParts, RefusesContradictions) {
  ThreadPool pool(1);
  CpuKernels kernels(pool);
  std::vector<float> parts(6, 1.0f), out(3);
  expect_refused([&] { kernels.sum_parts({view(out), view(parts), 3, 3}); }, "parts");
  expect_refused([&] { kernels.sum_parts({view(out), view(parts), 3, 2}); }, "out");
  expect_refused([&] { kernels.sum_parts({view(out), view(parts), 0, 3}); }, "num_parts");
}

TEST(GradientNorm, IsTheEuclideanNorm) {
  std::uint64_t seed = 1700;
  for (const std::int64_t n : {1, 3, 65536, 200003}) {
    SCOPED_TRACE("seed " + std::to_string(++seed));
    std::vector<float> gradients = random_normal(n, seed, 0);
    const double expected = reference::norm(gradients);
    std::vector<double> norms;
    for (const int threads : {1, 2, 3}) {
      ThreadPool pool(threads);
      OptimizerState state{4, 1, 0.0};
      CpuKernels(pool).gradient_norm({&state, view(gradients)});
      EXPECT_NEAR(state.gradient_norm / expected, 1.0, 1e-12);
      EXPECT_EQ(state.adam_step, 5);
      EXPECT_EQ(state.skipped_steps, 1);
      norms.push_back(state.gradient_norm);
    }
    EXPECT_EQ(norms[0], norms[1]);
    EXPECT_EQ(norms[0], norms[2]);
  }
}

TEST(GradientNorm, LargeGradientsDoNotOverflow) {
  ThreadPool pool(1);
  std::vector<float> gradients(5, 3e38f);
  OptimizerState state;
  CpuKernels(pool).gradient_norm({&state, view(gradients)});
  EXPECT_NEAR(state.gradient_norm, std::sqrt(5.0) * 3e38, 1e32);
  EXPECT_EQ(state.adam_step, 1);
}

TEST(GradientNorm, CountsStepsThatAreNotFinite) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), kInfinity, -kInfinity}) {
    for (const std::int64_t at : {0, 65539, 70000}) {
      ThreadPool pool(2);
      std::vector<float> gradients = random_normal(70001, 1800, 0);
      gradients[at] = bad;
      OptimizerState state{4, 1, 2.0};
      CpuKernels(pool).gradient_norm({&state, view(gradients)});
      EXPECT_FALSE(std::isfinite(state.gradient_norm));
      EXPECT_EQ(state.adam_step, 4);
      EXPECT_EQ(state.skipped_steps, 2);
    }
  }
}

TEST(GradientNorm, RefusesContradictions) {
  ThreadPool pool(1);
  CpuKernels kernels(pool);
  std::vector<float> gradients(3, 1.0f);
  OptimizerState state;
  expect_refused([&] { kernels.gradient_norm({nullptr, view(gradients)}); }, "optimizer");
  expect_refused([&] { kernels.gradient_norm({&state, {}}); }, "gradients");
}

}  // namespace
}  // namespace vitrine::cpu
