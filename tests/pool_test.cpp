// Pooling of tokens and its gradient against a double-precision reference.
#include <gtest/gtest.h>

#include "cpu/cpu_kernels.h"
#include "reference/tokens.h"
#include "reference_check.h"

namespace vitrine::cpu {
namespace {

using namespace reference::pool;

View<float> view(std::vector<float>& values) {
  return {values.data(), static_cast<std::int64_t>(values.size())};
}

PoolForward forward_arguments(Problem& p, std::vector<float>& y) {
  y = poisoned(p.c.batch * p.c.hidden);
  PoolForward args;
  args.y = view(y);
  args.x = view(p.x);
  args.batch = p.c.batch, args.hidden = p.c.hidden;
  args.window = p.c.window;
  return args;
}

PoolBackward backward_arguments(Problem& p, bool accumulate, std::vector<float>& dx) {
  dx = accumulate ? p.dx : poisoned(static_cast<std::int64_t>(p.dx.size()));
  PoolBackward args;
  args.dx = view(dx);
  args.dy = view(p.dy);
  args.batch = p.c.batch, args.hidden = p.c.hidden;
  args.window = p.c.window;
  args.accumulate = accumulate;
  return args;
}

TEST(Pool, AgreesWithDoublePrecision) {
  std::uint64_t seed = 1000;
  for (const Case& c : kCases) {
    SCOPED_TRACE("seed " + std::to_string(++seed));
    Problem p(c, seed);
    ThreadPool pool(2);
    CpuKernels kernels(pool);
    std::vector<float> y, dx;
    kernels.pool_forward(forward_arguments(p, y));
    expect_close(y, reference_forward<float>(p), reference_forward<double>(p), "y");
    for (const bool accumulate : {false, true}) {
      kernels.pool_backward(backward_arguments(p, accumulate, dx));
      expect_close(dx, reference_backward<float>(p, accumulate),
                   reference_backward<double>(p, accumulate), "dx");
    }
  }
}

// y is linear in x, so <dy, y(x)> = <dx, x> for every x and dy, and that is the whole derivative.
TEST(Pool, BackwardIsTheAdjointOfForward) {
  std::uint64_t seed = 1100;
  for (const Case& c : kCases) {
    SCOPED_TRACE("seed " + std::to_string(++seed));
    const Problem p(c, seed);
    const std::vector<double> y = reference_forward<double>(p);
    const std::vector<double> dx = reference_backward<double>(p, false);
    double left = 0.0, right = 0.0;
    for (std::size_t i = 0; i < y.size(); ++i) left += y[i] * static_cast<double>(p.dy[i]);
    for (std::size_t i = 0; i < dx.size(); ++i) right += dx[i] * static_cast<double>(p.x[i]);
    EXPECT_NEAR(left, right, 1e-10);
  }
}

TEST(Pool, BitsDoNotDependOnThreads) {
  Problem p(kCases[2], 1200);
  std::vector<float> one_y, one_dx, y, dx;
  ThreadPool single(1);
  CpuKernels(single).pool_forward(forward_arguments(p, one_y));
  CpuKernels(single).pool_backward(backward_arguments(p, true, one_dx));
  for (const int threads : {2, 3}) {
    ThreadPool pool(threads);
    CpuKernels(pool).pool_forward(forward_arguments(p, y));
    CpuKernels(pool).pool_backward(backward_arguments(p, true, dx));
    EXPECT_TRUE(same_bits(one_y, y));
    EXPECT_TRUE(same_bits(one_dx, dx));
  }
}

TEST(Pool, RefusesContradictions) {
  ThreadPool pool(1);
  CpuKernels kernels(pool);
  Problem p(kCases[2], 1300);
  std::vector<float> out;
  const auto forward_refused = [&](const char* field, auto change) {
    PoolForward args = forward_arguments(p, out);
    change(args);
    expect_refused([&] { kernels.pool_forward(args); }, field);
  };
  forward_refused("y has", [](PoolForward& args) { args.y.size = 3; });
  forward_refused("x has", [](PoolForward& args) { args.x = {}; });
  forward_refused("window", [](PoolForward& args) { args.window.first = 2; });
  forward_refused("hidden", [](PoolForward& args) { args.hidden = 0; });
  const auto backward_refused = [&](const char* field, auto change) {
    PoolBackward args = backward_arguments(p, false, out);
    change(args);
    expect_refused([&] { kernels.pool_backward(args); }, field);
  };
  backward_refused("dx has", [](PoolBackward& args) { args.dx.size = 3; });
  backward_refused("dy has", [](PoolBackward& args) { args.dy = {}; });
  backward_refused("window", [](PoolBackward& args) { args.window.tokens = 0; });
}

}  // namespace
}  // namespace vitrine::cpu
