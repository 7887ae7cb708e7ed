// The block-diagonal linear layer and its gradients against a double-precision reference.
#include "reference/per_head_linear.h"

#include <gtest/gtest.h>

#include "cpu/cpu_kernels.h"
#include "reference_check.h"

namespace vitrine::cpu {
namespace {

using Case = reference::PerHeadLinearCase;
using Problem = reference::PerHeadLinearProblem;
template <typename T>
using Reference = reference::PerHeadLinearResult<T>;

const std::vector<Case> kCases = {
    {1603, 3, 2, 4, true, false, false, 5}, {7, 1, 3, 4, false, true, true, 1},
    {65, 2, 5, 4, true, true, false, 9},    {3, 3, 1, 4, true, false, true, 5},
    {17, 3, 2, 8, true, false, false, 2},   {601, 2, 3, 1, true, true, true, 3},
    {5, 1, 2, 13, false, false, false, 7},  {101, 3, 3, 5, true, false, true, 4},
    {9, 5, 3, 4, true, false, false, 2},    {6, 4, 2, 4, false, true, true, 1}};

View<float> view(std::vector<float>& values) {
  return values.empty() ? View<float>()
                        : View<float>(values.data(), static_cast<std::int64_t>(values.size()));
}

struct Results {
  std::vector<float> y, dx, dweight, dbias, workspace;
  explicit Results(const Problem& p)
      : y(poisoned(p.c.rows * p.maps * p.c.head_size)),
        dx(p.c.accumulate_dx ? p.dx : poisoned(std::ssize(p.dx))),
        dweight(p.c.accumulate ? p.dweight : poisoned(std::ssize(p.dweight))),
        dbias(p.c.accumulate ? p.dbias : poisoned(std::ssize(p.dbias))),
        workspace(poisoned(p.c.partials * p.c.parameters())) {}
};

template <typename Args>
void set_shape(Args& args, const Case& c) {
  args.rows = c.rows, args.parts = c.parts, args.heads = c.heads, args.head_size = c.head_size;
}

PerHeadLinearForward forward_arguments(Problem& p, Results& r) {
  PerHeadLinearForward args;
  args.y = view(r.y);
  args.x = view(p.x);
  args.weight = view(p.weight);
  args.bias = view(p.bias);
  set_shape(args, p.c);
  return args;
}

PerHeadLinearBackward backward_arguments(Problem& p, Results& r) {
  PerHeadLinearBackward args;
  args.dx = view(r.dx);
  args.dweight = view(r.dweight);
  args.dbias = view(r.dbias);
  args.dy = view(p.dy);
  args.x = view(p.x);
  args.weight = view(p.weight);
  args.workspace = view(r.workspace);
  args.accumulate_dx = p.c.accumulate_dx;
  args.accumulate = p.c.accumulate;
  set_shape(args, p.c);
  return args;
}

Results run(Problem& p, int threads) {
  ThreadPool pool(threads);
  CpuKernels kernels(pool);
  Results r(p);
  kernels.per_head_linear_forward(forward_arguments(p, r));
  kernels.per_head_linear_backward(backward_arguments(p, r));
  return r;
}

TEST(PerHeadLinear, AgreesWithDoublePrecision) {
  std::uint64_t seed = 2400;
  for (const Case& c : kCases) {
    SCOPED_TRACE("seed " + std::to_string(++seed));
    Problem p(c, seed);
    const Results r = run(p, 2);
    const Reference<float> naive(p);
    const Reference<double> exact(p);
    expect_close(r.y, naive.y, exact.y, "y");
    expect_close(r.dx, naive.dx, exact.dx, "dx");
    expect_close(r.dweight, naive.dweight, exact.dweight, "dweight");
    expect_close(r.dbias, naive.dbias, exact.dbias, "dbias");
  }
}

// y is linear in each input, so a difference over a wide step has no truncation error.
TEST(PerHeadLinear, ReferenceGradientsAreSlopes) {
  constexpr float kStep = 0.5f;
  Problem p({3, 2, 3, 4, true, false, false, 1}, 2500);
  const Reference<double> exact(p);
  const auto check = [&](std::vector<float>& inputs, const std::vector<double>& gradient) {
    const auto value = [&] {
      const std::vector<double> y = Reference<double>(p).y;
      double sum = 0.0;
      for (std::size_t i = 0; i < y.size(); ++i) sum += y[i] * static_cast<double>(p.dy[i]);
      return sum;
    };
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      const float before = inputs[i];
      inputs[i] = before + kStep;
      const double up = value(), up_at = static_cast<double>(inputs[i]);
      inputs[i] = before - kStep;
      EXPECT_NEAR(gradient[i], (up - value()) / (up_at - static_cast<double>(inputs[i])), 1e-10);
      inputs[i] = before;
    }
  };
  check(p.x, exact.dx);
  check(p.weight, exact.dweight);
  check(p.bias, exact.dbias);
}

TEST(PerHeadLinear, BitsDoNotDependOnThreads) {
  for (const Case& c : {kCases[0], kCases[5]}) {
    Problem p(c, 2600);
    const Results one = run(p, 1);
    for (const int threads : {2, 3}) {
      const Results many = run(p, threads);
      EXPECT_TRUE(same_bits(one.y, many.y));
      EXPECT_TRUE(same_bits(one.dx, many.dx));
      EXPECT_TRUE(same_bits(one.dweight, many.dweight));
      EXPECT_TRUE(same_bits(one.dbias, many.dbias));
    }
  }
}

TEST(PerHeadLinear, RefusesContradictions) {
  ThreadPool pool(1);
  CpuKernels kernels(pool);
  Problem p(kCases[4], 2700);
  Results r(p);
  const auto forward_refused = [&](const char* field, auto change) {
    PerHeadLinearForward args = forward_arguments(p, r);
    change(args);
    expect_refused([&] { kernels.per_head_linear_forward(args); }, field);
  };
  forward_refused("y has", [](auto& args) { args.y.size = 3; });
  forward_refused("x has", [](auto& args) { args.x = {}; });
  forward_refused("weight", [](auto& args) { args.weight.size = 3; });
  forward_refused("bias", [](auto& args) { args.bias.size = 3; });
  forward_refused("heads", [](auto& args) { args.heads = 0; });
  const auto backward_refused = [&](const char* field, auto change) {
    PerHeadLinearBackward args = backward_arguments(p, r);
    change(args);
    expect_refused([&] { kernels.per_head_linear_backward(args); }, field);
  };
  backward_refused("dx", [](auto& args) { args.dx.size = 3; });
  backward_refused("dweight", [](auto& args) { args.dweight.size = 3; });
  backward_refused("dbias", [](auto& args) { args.dbias.size = 3; });
  backward_refused("dy", [](auto& args) { args.dy.size = 3; });
  backward_refused("x has", [](auto& args) { args.x.size = 3; });
  backward_refused("weight", [](auto& args) { args.weight = {}; });
  backward_refused("workspace", [](auto& args) { args.workspace.size -= 1; });
  backward_refused("parts", [](auto& args) { args.parts = 0; });
}

}  // namespace
}  // namespace vitrine::cpu
