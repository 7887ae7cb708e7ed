// A factor for each column on the CPU: its values, its gradients, and that bits do not depend on
// threads.
#include "reference/scale_columns.h"

#include <gtest/gtest.h>

#include "cpu/cpu_kernels.h"
#include "for_targets.h"
#include "reference_check.h"

namespace vitrine::cpu {
namespace {

using reference::scale_columns::Case;
using reference::scale_columns::Problem;

View<float> view(std::vector<float>& values) {
  return {values.data(), static_cast<std::int64_t>(values.size())};
}

std::vector<float> forward(Problem p, int threads = 2) {
  ThreadPool pool(threads);
  std::vector<float> y = poisoned(p.c.rows * p.c.cols);
  ScaleColumnsForward args;
  args.y = view(y);
  args.x = view(p.x);
  args.scale = view(p.scale);
  args.rows = p.c.rows, args.cols = p.c.cols;
  CpuKernels(pool).scale_columns_forward(args);
  return y;
}

struct Gradients {
  std::vector<float> dx, dscale;
};

Gradients backward(Problem p, int threads = 2, bool wants_dx = true, bool wants_dscale = true) {
  ThreadPool pool(threads);
  Gradients g{poisoned(p.c.rows * p.c.cols), p.c.accumulate ? p.dscale : poisoned(p.c.cols)};
  std::vector<float> workspace = poisoned(p.c.partials * p.c.cols);
  ScaleColumnsBackward args;
  if (wants_dx) args.dx = view(g.dx);
  if (wants_dscale) args.dscale = view(g.dscale);
  args.dy = view(p.dy);
  args.x = view(p.x);
  args.scale = view(p.scale);
  if (wants_dscale) args.workspace = view(workspace);
  args.rows = p.c.rows, args.cols = p.c.cols;
  args.accumulate = p.c.accumulate;
  CpuKernels(pool).scale_columns_backward(args);
  return g;
}

TEST(ScaleColumns, MatchesReference) {
  std::uint64_t seed = 2000;
  for (const Case& c : reference::scale_columns::kCases) {
    const Problem p(c, ++seed);
    SCOPED_TRACE("seed " + std::to_string(seed));
    for_targets([&] {
      using namespace reference::scale_columns;
      expect_close(forward(p), scaled<float>(p, p.x), scaled<double>(p, p.x), "y");
      const Gradients g = backward(p);
      expect_close(g.dx, scaled<float>(p, p.dy), scaled<double>(p, p.dy), "dx");
      expect_close(g.dscale, scale_gradient<float>(p), scale_gradient<double>(p), "dscale");
    });
  }
}

// y is linear in x and in scale, so a difference with a wide step is the gradient.
TEST(ScaleColumns, GradientsMatchDifferences) {
  const Problem p({6, 5, 2, false}, 2050);
  const Gradients g = backward(p);
  const auto difference = [&](std::vector<float> Problem::*input, std::size_t i) {
    double loss[2] = {0, 0};
    for (const int side : {0, 1}) {
      Problem moved = p;
      (moved.*input)[i] += side ? 1.0f : -1.0f;
      const std::vector<float> y = forward(moved);
      for (std::size_t j = 0; j < y.size(); ++j) {
        loss[side] += static_cast<double>(y[j]) * static_cast<double>(p.dy[j]);
      }
    }
    return (loss[1] - loss[0]) / 2;
  };
  for (std::size_t i = 0; i < p.x.size(); ++i) {
    EXPECT_NEAR(difference(&Problem::x, i), g.dx[i], 1e-5);
  }
  for (std::size_t i = 0; i < p.scale.size(); ++i) {
    EXPECT_NEAR(difference(&Problem::scale, i), g.dscale[i], 1e-5);
  }
}

TEST(ScaleColumns, InPlace) {
  ThreadPool pool(2);
  CpuKernels kernels(pool);
  const Problem p({70, 33, 3, false}, 2060);
  Problem inside = p;
  kernels.scale_columns_forward(
      {view(inside.x), view(inside.x), view(inside.scale), p.c.rows, p.c.cols});
  EXPECT_TRUE(same_bits(inside.x, forward(p)));
  const Gradients expected = backward(p);
  for (const bool in_x : {false, true}) {
    inside = p;
    std::vector<float>& dx = in_x ? inside.x : inside.dy;
    std::vector<float> workspace = poisoned(p.c.partials * p.c.cols);
    kernels.scale_columns_backward({.dx = view(dx),
                                    .dscale = view(inside.dscale),
                                    .dy = view(inside.dy),
                                    .x = view(inside.x),
                                    .scale = view(inside.scale),
                                    .workspace = view(workspace),
                                    .rows = p.c.rows,
                                    .cols = p.c.cols});
    EXPECT_TRUE(same_bits(dx, expected.dx));
    EXPECT_TRUE(same_bits(inside.dscale, expected.dscale));
  }
}

TEST(ScaleColumns, LeavingOneOutChangesNotTheOther) {
  const Problem p({70, 33, 3, true}, 2070);
  const Gradients both = backward(p);
  EXPECT_TRUE(same_bits(backward(p, 2, true, false).dx, both.dx));
  EXPECT_TRUE(same_bits(backward(p, 2, false, true).dscale, both.dscale));
  EXPECT_TRUE(same_bits(backward(p, 2, true, false).dscale, p.dscale));
}

TEST(ScaleColumns, BitsDoNotDependOnThreads) {
  const Problem p({1001, 97, 9, false}, 2080);
  const std::vector<float> y = forward(p, 1);
  const Gradients one = backward(p, 1);
  for (const int threads : {2, 3}) {
    EXPECT_TRUE(same_bits(forward(p, threads), y));
    const Gradients more = backward(p, threads);
    EXPECT_TRUE(same_bits(more.dx, one.dx));
    EXPECT_TRUE(same_bits(more.dscale, one.dscale));
  }
}

TEST(ScaleColumns, RefusesContradictions) {
  ThreadPool pool(1);
  CpuKernels kernels(pool);
  std::vector<float> x(12), scale(4), odd(9);
  const auto forward_refused = [&](const char* field, auto change) {
    ScaleColumnsForward args{view(x), view(x), view(scale), 3, 4};
    change(args);
    expect_refused([&] { kernels.scale_columns_forward(args); }, field);
  };
  forward_refused("rows", [](auto& a) { a.rows = 0; });
  forward_refused("y has", [&](auto& a) { a.y = view(odd); });
  forward_refused("x has", [](auto& a) { a.x = {}; });
  forward_refused("scale has", [&](auto& a) { a.scale = view(odd); });
  const auto backward_refused = [&](const char* field, auto change) {
    ScaleColumnsBackward args{.dx = view(x),
                              .dscale = view(scale),
                              .dy = view(x),
                              .x = view(x),
                              .scale = view(scale),
                              .workspace = view(scale),
                              .rows = 3,
                              .cols = 4};
    change(args);
    expect_refused([&] { kernels.scale_columns_backward(args); }, field);
  };
  backward_refused("dx and dscale", [](auto& a) { a.dx = {}, a.dscale = {}; });
  backward_refused("dx has", [&](auto& a) { a.dx = view(odd); });
  backward_refused("dscale has", [&](auto& a) { a.dscale = view(odd); });
  backward_refused("dy has", [](auto& a) { a.dy = {}; });
  backward_refused("x has", [](auto& a) { a.x = {}; });
  backward_refused("scale has", [](auto& a) { a.scale = {}; });
  backward_refused("workspace has 9", [&](auto& a) { a.workspace = view(odd); });
  backward_refused("workspace has 0", [](auto& a) { a.workspace = {}; });
}

}  // namespace
}  // namespace vitrine::cpu
