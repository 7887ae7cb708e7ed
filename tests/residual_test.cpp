// The residual stream on the CPU: sums, and dropout and drop-path of the branch.
#include <gtest/gtest.h>

#include <vector>

#include "cpu/cpu_kernels.h"
#include "cpu/dropout.h"
#include "reference_check.h"

namespace vitrine::cpu {
namespace {

constexpr std::uint64_t kSeeds[] = {2, 424242};
constexpr std::int64_t kRows = 35;
constexpr TokenWindow kWindow{5, 1, 9};

View<float> view(std::vector<float>& v) {
  return {v.data(), static_cast<std::int64_t>(v.size())};
}

struct Case {
  Case(std::int64_t cols_, std::uint64_t seed, float p, float path)
      : cols(cols_),
        x(random_normal(kRows * cols, seed, 1)),
        branch(random_normal(kRows * cols, seed, 2)),
        dropout{p, 3},
        drop_path{path, 4} {
    state.seed = seed;
    state.step = 6;
    state.first_row = 40;
  }

  double factor(std::int64_t i) const {
    const std::int64_t row = i / cols;
    const std::uint64_t element = unpruned_element(row, cols, kWindow, state) + i % cols;
    const bool keep =
        keep_element(state.seed, state.step, dropout.operation, element,
                     drop_threshold(dropout.probability)) &&
        keep_element(state.seed, state.step, drop_path.operation,
                     state.first_row + row / kWindow.tokens, drop_threshold(drop_path.probability));
    return keep ? 1.0 / (1.0 - double(dropout.probability)) / (1.0 - double(drop_path.probability))
                : 0.0;
  }

  ResidualForward forward(std::vector<float>& y) {
    ResidualForward args;
    args.y = view(y);
    args.x = view(x);
    args.branch = view(branch);
    set(args);
    return args;
  }
  ResidualBackward backward(std::vector<float>& dbranch) {
    ResidualBackward args;
    args.dbranch = view(dbranch);
    args.dy = view(x);
    set(args);
    return args;
  }
  template <typename Args>
  void set(Args& args) {
    args.rows = kRows;
    args.cols = cols;
    args.dropout = dropout;
    args.drop_path = drop_path;
    args.window = kWindow;
    args.state = &state;
  }

  std::int64_t cols;
  std::vector<float> x, branch;
  Dropout dropout, drop_path;
  StepState state;
};

TEST(Residual, MatchesReference) {
  ThreadPool pool(2);
  CpuKernels kernels(pool);
  for (const std::uint64_t seed : kSeeds) {
    for (const std::int64_t cols : {1, 3, 8, 50, 771}) {
      for (const float p : {0.0f, 0.2f}) {
        for (const float path : {0.0f, 0.5f}) {
          SCOPED_TRACE("seed " + std::to_string(seed) + " cols " + std::to_string(cols) + " p " +
                       std::to_string(p) + " path " + std::to_string(path));
          Case c(cols, seed, p, path);
          std::vector<double> y_reference(kRows * cols), dbranch_reference(kRows * cols);
          std::vector<float> y_naive(kRows * cols), dbranch_naive(kRows * cols);
          for (std::int64_t i = 0; i < kRows * cols; ++i) {
            const double factor = c.factor(i);
            y_reference[i] = c.x[i] + factor * c.branch[i];
            y_naive[i] = c.x[i] + static_cast<float>(factor) * c.branch[i];
            dbranch_reference[i] = factor * c.x[i];
            dbranch_naive[i] = static_cast<float>(factor) * c.x[i];
          }
          auto y = poisoned(kRows * cols), dbranch = poisoned(kRows * cols);
          kernels.residual_forward(c.forward(y));
          kernels.residual_backward(c.backward(dbranch));
          expect_close(y, y_naive, y_reference, "y");
          expect_close(dbranch, dbranch_naive, dbranch_reference, "dbranch");
          kernels.residual_forward(c.forward(c.x));  // in place
          EXPECT_TRUE(same_bits(c.x, y));
        }
      }
    }
  }
}

// y is linear in the branch, so a difference with a wide step is the gradient.
TEST(Residual, GradientMatchesDifferences) {
  ThreadPool pool(1);
  CpuKernels kernels(pool);
  Case c(3, kSeeds[0], 0.3f, 0.3f);
  auto dbranch = poisoned(kRows * 3);
  kernels.residual_backward(c.backward(dbranch));
  for (std::int64_t i = 0; i < kRows * 3; ++i) {
    double loss[2] = {0, 0};
    for (const int side : {0, 1}) {
      Case moved = c;
      moved.branch[i] += side ? 1.0f : -1.0f;
      auto y = poisoned(kRows * 3);
      kernels.residual_forward(moved.forward(y));
      for (std::int64_t j = 0; j < kRows * 3; ++j) loss[side] += double(y[j]) * c.x[j];
    }
    EXPECT_NEAR((loss[1] - loss[0]) / 2, dbranch[i], 1e-5);
  }
}

TEST(Residual, AddInPlace) {
  ThreadPool pool(2);
  CpuKernels kernels(pool);
  for (const std::int64_t n : {1, 7, 40001}) {
    auto a = random_normal(n, kSeeds[1], 1), b = random_normal(n, kSeeds[1], 2);
    auto expected = a, out = poisoned(n);
    for (std::int64_t i = 0; i < n; ++i) expected[i] += b[i];
    kernels.add({view(out), view(a), view(b)});
    EXPECT_TRUE(same_bits(out, expected));
    auto a_copy = a;
    kernels.add({view(a_copy), view(a_copy), view(b)});
    EXPECT_TRUE(same_bits(a_copy, expected));
    kernels.add({view(b), view(a), view(b)});
    EXPECT_TRUE(same_bits(b, expected));
  }
}

TEST(Residual, BitsDoNotDependOnThreads) {
  std::vector<float> first;
  for (const int threads : {1, 2, 3}) {
    ThreadPool pool(threads);
    CpuKernels kernels(pool);
    Case c(2111, 5, 0.1f, 0.2f);
    auto y = poisoned(kRows * 2111);
    kernels.residual_forward(c.forward(y));
    if (first.empty()) first = y;
    EXPECT_TRUE(same_bits(y, first));
  }
}

TEST(Residual, RefusesContradictions) {
  ThreadPool pool(1);
  CpuKernels kernels(pool);
  Case c(4, 1, 0.5f, 0.5f);
  auto y = poisoned(kRows * 4), odd = poisoned(9);
  const auto refuse = [&](auto change, const char* field) {
    ResidualForward args = c.forward(y);
    change(args);
    expect_refused([&] { kernels.residual_forward(args); }, field);
  };
  refuse([&](auto& a) { a.rows = 0; }, "rows");
  refuse([&](auto& a) { a.y = view(odd); }, "y has");
  refuse([&](auto& a) { a.x = view(odd); }, "x has");
  refuse([&](auto& a) { a.branch = {}; }, "branch");
  refuse([&](auto& a) { a.dropout.probability = 1.0f; }, "dropout.probability");
  refuse([&](auto& a) { a.drop_path.probability = -1.0f; }, "drop_path.probability");
  refuse([&](auto& a) { a.state = nullptr; }, "state");
  refuse([&](auto& a) { a.window.tokens = 4; }, "window.tokens");
  refuse([&](auto& a) { a.window.total = 5; }, "window.total");
  ResidualBackward backward = c.backward(y);
  backward.dy = {};
  expect_refused([&] { kernels.residual_backward(backward); }, "dy");
  backward = c.backward(odd);
  expect_refused([&] { kernels.residual_backward(backward); }, "dbranch");
  expect_refused([&] { kernels.add({view(y), view(odd), view(y)}); }, "a has");
  expect_refused([&] { kernels.add({view(y), view(y), view(odd)}); }, "b has");
  expect_refused([&] { kernels.add({}); }, "out");
}

}  // namespace
}  // namespace vitrine::cpu
