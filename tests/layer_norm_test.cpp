// LayerNorm on the CPU against a reference in double, and that reference against differences.
#include "reference/layer_norm.h"

#include <gtest/gtest.h>

#include <vector>

#include "cpu/cpu_kernels.h"
#include "cpu/dropout.h"
#include "for_targets.h"
#include "reference_check.h"
#include "shapes.h"

namespace vitrine::cpu {
namespace {

constexpr std::uint64_t kSeeds[] = {5, 87654321};
const std::vector<std::int64_t> kCols =
    shapes::with(shapes::kHiddenSizes, {1, 3, 12, 16, 32, 45, 771});
constexpr float kEps = 1e-6f;

template <typename T>
auto reference_forward(const std::vector<T>& x, const std::vector<T>& weight,
                       const std::vector<T>& bias, std::int64_t cols) {
  return reference::layer_norm(x, weight, bias, cols, kEps);
}

template <typename T>
auto reference_backward(const std::vector<T>& dy, const std::vector<T>& x,
                        const std::vector<T>& weight, const std::vector<T>& residual,
                        std::int64_t cols) {
  return reference::layer_norm_gradients(dy, x, weight, residual, cols, kEps);
}

/// Random tensors of one call. x has a mean and a scale that differ from row to row.
struct Inputs {
  Inputs(std::int64_t rows_, std::int64_t cols_, std::uint64_t seed)
      : rows(rows_),
        cols(cols_),
        x(random_normal(rows * cols, seed, 1)),
        branch(random_normal(rows * cols, seed, 2)),
        weight(random_normal(cols, seed, 3)),
        bias(random_normal(cols, seed, 4)),
        dy(random_normal(rows * cols, seed, 5)),
        dresidual(random_normal(rows * cols, seed, 6)) {
    for (std::int64_t i = 0; i < rows * cols; ++i) {
      const auto row = static_cast<float>(i / cols % 7);
      x[i] = x[i] * (0.5f + row) + row - 3.0f;
    }
  }

  std::int64_t rows, cols;
  std::vector<float> x, branch, weight, bias, dy, dresidual;
};

View<float> view(std::vector<float>& v) {
  return {v.data(), static_cast<std::int64_t>(v.size())};
}

LayerNormForward forward_args(Inputs& in, std::vector<float>& y, std::vector<float>& mean,
                              std::vector<float>& rstd) {
  LayerNormForward args;
  args.y = view(y);
  args.mean = view(mean);
  args.rstd = view(rstd);
  args.x = view(in.x);
  args.weight = view(in.weight);
  args.bias = view(in.bias);
  args.rows = in.rows;
  args.cols = in.cols;
  args.eps = kEps;
  return args;
}

struct Outputs {
  explicit Outputs(const Inputs& in)
      : dx(poisoned(in.rows * in.cols)),
        dbranch(poisoned(in.rows * in.cols)),
        dweight(poisoned(in.cols)),
        dbias(poisoned(in.cols)) {
    const auto forward = reference_forward(in.x, in.weight, in.bias, in.cols);
    mean = forward.mean;
    rstd = forward.rstd;
  }
  std::vector<float> dx, dbranch, dweight, dbias, mean, rstd, workspace;
};

LayerNormBackward backward_args(Inputs& in, Outputs& out) {
  LayerNormBackward args;
  args.dx = view(out.dx);
  args.dweight = view(out.dweight);
  args.dbias = view(out.dbias);
  args.dy = view(in.dy);
  args.x = view(in.x);
  args.mean = view(out.mean);
  args.rstd = view(out.rstd);
  args.weight = view(in.weight);
  args.workspace = view(out.workspace);
  args.rows = in.rows;
  args.cols = in.cols;
  return args;
}

/// The factor of every element of a branch, as random.h defines it.
std::vector<float> branch_factors(std::int64_t rows, std::int64_t cols, const Dropout& dropout,
                                  const Dropout& drop_path, const TokenWindow& window,
                                  const StepState& state) {
  std::vector<float> factors(rows * cols);
  for (std::int64_t i = 0; i < rows * cols; ++i) {
    const std::int64_t row = i / cols;
    const std::uint64_t element =
        unpruned_element(row, cols, window, state) + static_cast<std::uint64_t>(i % cols);
    const std::uint64_t sample = state.first_row + row / window.tokens;
    const bool keep = keep_element(state.seed, state.step, dropout.operation, element,
                                   drop_threshold(dropout.probability)) &&
                      keep_element(state.seed, state.step, drop_path.operation, sample,
                                   drop_threshold(drop_path.probability));
    factors[i] = keep ? 1.0f / (1.0f - dropout.probability) / (1.0f - drop_path.probability) : 0.0f;
  }
  return factors;
}

TEST(LayerNorm, ForwardMatchesReference) {
  ThreadPool pool(2);
  CpuKernels kernels(pool);
  for (const std::uint64_t seed : kSeeds) {
    for (const std::int64_t cols : kCols) {
      for (const std::int64_t rows : {1, 5, 275}) {
        SCOPED_TRACE("seed " + std::to_string(seed) + " [" + std::to_string(rows) + ", " +
                     std::to_string(cols) + "]");
        Inputs in(rows, cols, seed);
        const auto naive = reference_forward(in.x, in.weight, in.bias, cols);
        const auto reference =
            reference_forward(converted<double>(in.x), converted<double>(in.weight),
                              converted<double>(in.bias), cols);
        for_targets([&] {
          auto y = poisoned(rows * cols), mean = poisoned(rows), rstd = poisoned(rows);
          kernels.layer_norm_forward(forward_args(in, y, mean, rstd));
          if (cols > 1) expect_close(y, naive.y, reference.y, "y");
          expect_close(mean, naive.mean, reference.mean, "mean");
          if (cols > 1) expect_close(rstd, naive.rstd, reference.rstd, "rstd");
        });
      }
    }
  }
}

TEST(LayerNorm, ReferenceGradientMatchesDifferences) {
  constexpr std::int64_t kRows = 3, kWidth = 7;
  for (const std::uint64_t seed : kSeeds) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Inputs in(kRows, kWidth, seed);
    auto x = converted<double>(in.x), weight = converted<double>(in.weight);
    auto bias = converted<double>(in.bias);
    const auto dy = converted<double>(in.dy);
    const auto gradient = reference_backward(dy, x, weight, {}, kWidth);
    const auto difference = [&](double& parameter) {
      const double value = parameter, step = 1e-5;
      double loss[2] = {0, 0};
      for (const int side : {0, 1}) {
        parameter = value + (side ? step : -step);
        const auto y = reference_forward(x, weight, bias, kWidth).y;
        for (std::size_t i = 0; i < y.size(); ++i) loss[side] += y[i] * dy[i];
      }
      parameter = value;
      return (loss[1] - loss[0]) / (2 * step);
    };
    for (std::size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(difference(x[i]), gradient.dx[i], 1e-7);
    for (int i = 0; i < kWidth; ++i) {
      EXPECT_NEAR(difference(weight[i]), gradient.dweight[i], 1e-7);
      EXPECT_NEAR(difference(bias[i]), gradient.dbias[i], 1e-7);
    }
  }
}

TEST(LayerNorm, BackwardMatchesReference) {
  ThreadPool pool(2);
  CpuKernels kernels(pool);
  for (const std::uint64_t seed : kSeeds) {
    for (const std::int64_t cols : kCols) {
      if (cols == 1) continue;  // rstd is 1 / sqrt(eps): nothing to compare
      for (const std::int64_t rows : {1, 5, 275}) {
        for (const std::int64_t partials : {0, 1, 3}) {
          SCOPED_TRACE("seed " + std::to_string(seed) + " [" + std::to_string(rows) + ", " +
                       std::to_string(cols) + "], partials " + std::to_string(partials));
          Inputs in(rows, cols, seed);
          const bool residual = (rows + partials) % 2 == 0;
          const auto skip = residual ? in.dresidual : std::vector<float>();
          const auto naive = reference_backward(in.dy, in.x, in.weight, skip, cols);
          const auto reference =
              reference_backward(converted<double>(in.dy), converted<double>(in.x),
                                 converted<double>(in.weight), converted<double>(skip), cols);
          for_targets([&] {
            Outputs out(in);
            out.workspace = poisoned(partials * 2 * cols);
            LayerNormBackward args = backward_args(in, out);
            if (residual) args.dresidual = view(in.dresidual);
            kernels.layer_norm_backward(args);
            expect_close(out.dx, naive.dx, reference.dx, "dx");
            expect_close(out.dweight, naive.dweight, reference.dweight, "dweight");
            expect_close(out.dbias, naive.dbias, reference.dbias, "dbias");
          });
        }
      }
    }
  }
}

TEST(LayerNorm, OneColumnIsTheBias) {
  ThreadPool pool(1);
  CpuKernels kernels(pool);
  Inputs in(9, 1, 3);
  auto y = poisoned(9), mean = poisoned(9), rstd = poisoned(9);
  kernels.layer_norm_forward(forward_args(in, y, mean, rstd));
  for (const float value : y) EXPECT_EQ(value, in.bias[0]);
}

TEST(LayerNorm, BranchWithDropoutAndDropPath) {
  ThreadPool pool(2);
  CpuKernels kernels(pool);
  StepState state;
  state.seed = 99;
  state.step = 4;
  state.first_row = 12;
  const TokenWindow window{3, 2, 6};
  for (const float p : {0.0f, 0.3f}) {
    for (const float path : {0.0f, 0.4f}) {
      for (const std::int64_t cols : {5, 8, 48, 1100}) {
        SCOPED_TRACE("p " + std::to_string(p) + " path " + std::to_string(path) + " cols " +
                     std::to_string(cols));
        Inputs in(15, cols, 17);
        const Dropout dropout{p, 7}, drop_path{path, 8};
        const auto factors = branch_factors(15, cols, dropout, drop_path, window, state);
        auto x_out = poisoned(15 * cols), y = poisoned(15 * cols);
        std::vector<float> none;
        LayerNormForward args = forward_args(in, y, none, none);
        args.x_out = view(x_out);
        args.branch = view(in.branch);
        args.dropout = dropout;
        args.drop_path = drop_path;
        args.window = window;
        args.state = &state;
        kernels.layer_norm_forward(args);

        std::vector<double> sum(15 * cols);
        std::vector<float> naive_sum(15 * cols);
        for (std::int64_t i = 0; i < 15 * cols; ++i) {
          sum[i] = in.x[i] + double(factors[i]) * in.branch[i];
          naive_sum[i] = in.x[i] + factors[i] * in.branch[i];
        }
        expect_close(x_out, naive_sum, sum, "x_out");
        expect_close(
            y, reference_forward(naive_sum, in.weight, in.bias, cols).y,
            reference_forward(sum, converted<double>(in.weight), converted<double>(in.bias), cols)
                .y,
            "y");

        // In place of either input: the same bits.
        for (std::vector<float> Inputs::*place : {&Inputs::x, &Inputs::branch}) {
          Inputs copy(15, cols, 17);
          auto y2 = poisoned(15 * cols);
          args.x = view(copy.x);
          args.branch = view(copy.branch);
          args.x_out = view(copy.*place);
          args.y = view(y2);
          kernels.layer_norm_forward(args);
          EXPECT_TRUE(same_bits(copy.*place, x_out));
          EXPECT_TRUE(same_bits(y2, y));
        }

        Outputs out(in);
        LayerNormBackward backward = backward_args(in, out);
        backward.dbranch = view(out.dbranch);
        backward.dropout = dropout;
        backward.drop_path = drop_path;
        backward.window = window;
        backward.state = &state;
        kernels.layer_norm_backward(backward);
        std::vector<float> expected(15 * cols);
        std::vector<double> exact(15 * cols);
        for (std::int64_t i = 0; i < 15 * cols; ++i) {
          expected[i] = out.dx[i] * factors[i];
          exact[i] = double(out.dx[i]) * factors[i];
        }
        expect_close(out.dbranch, expected, exact, "dbranch");
      }
    }
  }
}

TEST(LayerNorm, BackwardInPlaceAndAccumulate) {
  ThreadPool pool(2);
  CpuKernels kernels(pool);
  for (const std::int64_t cols : {8, 45, 192}) {
    for (const std::int64_t partials : {0, 4}) {
      SCOPED_TRACE("cols " + std::to_string(cols) + " partials " + std::to_string(partials));
      Inputs in(67, cols, 23);
      Outputs out(in), again(in);
      out.workspace = again.workspace = poisoned(partials * 2 * cols);
      LayerNormBackward args = backward_args(in, out);
      args.dresidual = view(in.dresidual);
      kernels.layer_norm_backward(args);
      for (std::vector<float> Inputs::*place : {&Inputs::dy, &Inputs::dresidual}) {
        Inputs copy(67, cols, 23);
        LayerNormBackward inside = backward_args(copy, again);
        inside.dresidual = view(copy.dresidual);
        inside.dx = view(copy.*place);
        kernels.layer_norm_backward(inside);
        EXPECT_TRUE(same_bits(copy.*place, out.dx));
        EXPECT_TRUE(same_bits(again.dweight, out.dweight));
        EXPECT_TRUE(same_bits(again.dbias, out.dbias));
      }
      auto dweight = random_normal(cols, 29, 1), dbias = random_normal(cols, 29, 2);
      const auto dweight_before = dweight, dbias_before = dbias;
      args.accumulate = true;
      args.dweight = view(dweight);
      args.dbias = view(dbias);
      kernels.layer_norm_backward(args);
      for (std::int64_t i = 0; i < cols; ++i) {
        EXPECT_NEAR(dweight[i], dweight_before[i] + out.dweight[i], 2e-5);
        EXPECT_NEAR(dbias[i], dbias_before[i] + out.dbias[i], 2e-5);
      }
    }
  }
}

TEST(LayerNorm, BitsDoNotDependOnThreads) {
  for (const std::int64_t cols : {8, 45, 384}) {
    std::vector<std::vector<float>> first;
    for (const int threads : {1, 2, 3}) {
      ThreadPool pool(threads);
      CpuKernels kernels(pool);
      Inputs in(5000 / cols * 13, cols, 31);
      auto y = poisoned(in.rows * cols), mean = poisoned(in.rows), rstd = poisoned(in.rows);
      kernels.layer_norm_forward(forward_args(in, y, mean, rstd));
      Outputs out(in);
      out.workspace = poisoned(5 * 2 * cols);
      kernels.layer_norm_backward(backward_args(in, out));
      const std::vector<std::vector<float>> all = {y, mean, rstd, out.dx, out.dweight, out.dbias};
      if (first.empty()) first = all;
      for (std::size_t i = 0; i < all.size(); ++i) EXPECT_TRUE(same_bits(all[i], first[i])) << i;
    }
  }
}

TEST(LayerNorm, RefusesContradictions) {
  ThreadPool pool(1);
  CpuKernels kernels(pool);
  Inputs in(4, 6, 37);
  auto y = poisoned(24), mean = poisoned(4), rstd = poisoned(4), odd = poisoned(7);
  const auto forward = [&](auto change, const char* field) {
    LayerNormForward args = forward_args(in, y, mean, rstd);
    change(args);
    expect_refused([&] { kernels.layer_norm_forward(args); }, field);
  };
  forward([&](auto& a) { a.rows = 0; }, "rows");
  forward([&](auto& a) { a.y = view(odd); }, "y has");
  forward([&](auto& a) { a.x = view(odd); }, "x has");
  forward([&](auto& a) { a.x_out = view(y); }, "x_out");
  forward([&](auto& a) { a.branch = view(in.branch); }, "x_out");
  forward([&](auto& a) { a.branch = view(odd); }, "branch");
  forward([&](auto& a) { a.weight = view(odd); }, "weight");
  forward([&](auto& a) { a.bias = {}; }, "bias");
  forward([&](auto& a) { a.mean = view(odd); }, "mean");
  forward([&](auto& a) { a.rstd = view(odd); }, "rstd");
  forward([&](auto& a) { a.dropout.probability = 1.0f; }, "dropout");
  forward([&](auto& a) { a.drop_path.probability = 0.5f; }, "state");

  Outputs out(in);
  StepState state;
  const auto backward = [&](auto change, const char* field) {
    LayerNormBackward args = backward_args(in, out);
    change(args);
    expect_refused([&] { kernels.layer_norm_backward(args); }, field);
  };
  backward([&](auto& a) { a.cols = 0; }, "cols");
  backward([&](auto& a) { a.dx = view(odd); }, "dx");
  backward([&](auto& a) { a.dbranch = view(odd); }, "dbranch");
  backward([&](auto& a) { a.dweight = view(odd); }, "dweight");
  backward([&](auto& a) { a.dbias = view(odd); }, "dbias");
  backward([&](auto& a) { a.dbias = {}; }, "workspace");
  backward([&](auto& a) { a.dy = view(odd); }, "dy");
  backward([&](auto& a) { a.dresidual = view(odd); }, "dresidual");
  backward([&](auto& a) { a.x = {}; }, "x has");
  backward([&](auto& a) { a.mean = view(odd); }, "mean");
  backward([&](auto& a) { a.rstd = {}; }, "rstd");
  backward([&](auto& a) { a.weight = view(odd); }, "weight");
  backward([&](auto& a) { a.workspace = view(odd); }, "workspace");
  backward(
      [&](auto& a) {
        a.dropout.probability = 0.5f;
        a.state = &state;
        a.window = {3, 0, 3};
      },
      "window.tokens");
  backward(
      [&](auto& a) {
        a.dropout.probability = 0.5f;
        a.state = &state;
        a.window = {2, 1, 2};
      },
      "window.total");
}

}  // namespace
}  // namespace vitrine::cpu
