// The token sequence and its gradients against a double-precision reference. The random factors of
// dropout are those of vitrine/random.h, element by element.
#include "reference/tokens.h"

#include <gtest/gtest.h>

#include "cpu/cpu_kernels.h"
#include "reference_check.h"

namespace vitrine::cpu {
namespace {

using namespace reference::tokens;

View<float> view(std::vector<float>& values) {
  return values.empty() ? View<float>()
                        : View<float>(values.data(), static_cast<std::int64_t>(values.size()));
}

template <typename Args>
void set_common(Args& args, const Problem& p) {
  args.place = p.c.place;
  args.patch_positions = p.c.patch_positions;
  args.batch = p.c.batch, args.num_patches = p.c.num_patches, args.hidden = p.c.hidden;
  args.num_registers = p.c.registers;
  args.dropout = {p.c.dropout, 6};
  args.state = &p.state;
}

TokensForward forward_arguments(Problem& p, std::vector<float>& x) {
  x = poisoned(p.c.batch * p.c.tokens() * p.c.hidden);
  TokensForward args;
  set_common(args, p);
  args.x = view(x);
  args.patches = view(p.patches);
  if (p.c.place != ClassToken::none) args.class_token = view(p.class_token);
  args.registers = view(p.registers);
  args.position = view(p.position);
  return args;
}

struct Gradients {
  std::vector<float> dpatches, dclass, dposition, dregisters;
};

TokensBackward backward_arguments(Problem& p, Gradients& g) {
  g = {poisoned(p.c.batch * p.c.num_patches * p.c.hidden), p.dclass, p.dposition, p.dregisters};
  if (!p.c.accumulate) {
    g.dclass = poisoned(p.c.hidden);
    g.dregisters = poisoned(p.c.registers * p.c.hidden);
    std::fill_n(g.dposition.begin(), g.dposition.empty() ? 0 : p.c.positions() * p.c.hidden,
                std::numeric_limits<float>::quiet_NaN());
  }
  TokensBackward args;
  set_common(args, p);
  args.dpatches = view(g.dpatches);
  if (p.c.place != ClassToken::none) args.dclass = view(g.dclass);
  args.dregisters = view(g.dregisters);
  args.dposition = view(g.dposition);
  args.dx = view(p.dx);
  args.accumulate = p.c.accumulate;
  return args;
}

Gradients run_backward(Problem& p, int threads) {
  ThreadPool pool(threads);
  Gradients gradients;
  CpuKernels(pool).tokens_backward(backward_arguments(p, gradients));
  return gradients;
}

TEST(Tokens, ForwardAgreesWithDoublePrecision) {
  std::uint64_t seed = 500;
  for (const Case& c : kCases) {
    SCOPED_TRACE("seed " + std::to_string(++seed));
    Problem p(c, seed);
    std::vector<float> x;
    ThreadPool pool(2);
    CpuKernels(pool).tokens_forward(forward_arguments(p, x));
    expect_close(x, reference_forward<float>(p), reference_forward<double>(p), "x");
  }
}

TEST(Tokens, BackwardAgreesWithDoublePrecision) {
  std::uint64_t seed = 600;
  for (const Case& c : kCases) {
    SCOPED_TRACE("seed " + std::to_string(++seed));
    Problem p(c, seed);
    const Gradients g = run_backward(p, 2);
    const ReferenceGradients<float> naive(p);
    const ReferenceGradients<double> exact(p);
    expect_close(g.dpatches, naive.dpatches, exact.dpatches, "dpatches");
    expect_close(g.dposition, naive.dposition, exact.dposition, "dposition");
    if (c.place != ClassToken::none) expect_close(g.dclass, naive.dclass, exact.dclass, "dclass");
    expect_close(g.dregisters, naive.dregisters, exact.dregisters, "dregisters");
  }
}

// x is linear in its inputs, so a difference over a wide step has no truncation error.
TEST(Tokens, ReferenceGradientsAreSlopes) {
  constexpr float kStep = 0.5f;
  Problem p({2, 4, 3, ClassToken::first, 9, 0.25f, false, 2}, 700);
  const ReferenceGradients<double> exact(p);
  const auto slope = [&](float& input) {
    const auto sum = [&] {
      const std::vector<double> x = reference_forward<double>(p);
      double total = 0.0;
      for (std::size_t i = 0; i < x.size(); ++i) total += x[i] * static_cast<double>(p.dx[i]);
      return total;
    };
    const float before = input;
    input = before + kStep;
    const double up = sum(), up_at = static_cast<double>(input);
    input = before - kStep;
    const double slope = (up - sum()) / (up_at - static_cast<double>(input));
    input = before;
    return slope;
  };
  for (std::size_t i = 0; i < p.patches.size(); ++i) {
    EXPECT_NEAR(exact.dpatches[i], slope(p.patches[i]), 1e-10);
  }
  for (std::size_t i = 0; i < 3; ++i) EXPECT_NEAR(exact.dclass[i], slope(p.class_token[i]), 1e-10);
  for (std::size_t i = 0; i < 6; ++i)
    EXPECT_NEAR(exact.dregisters[i], slope(p.registers[i]), 1e-10);
  for (std::size_t i = 0; i < 21; ++i) EXPECT_NEAR(exact.dposition[i], slope(p.position[i]), 1e-10);
}

TEST(Tokens, BitsDoNotDependOnThreads) {
  Problem p({2, 160, 13, ClassToken::last, 170, 0.3f, true, 4}, 800);
  const Gradients one = run_backward(p, 1);
  for (const int threads : {2, 3}) {
    const Gradients many = run_backward(p, threads);
    EXPECT_TRUE(same_bits(one.dpatches, many.dpatches));
    EXPECT_TRUE(same_bits(one.dclass, many.dclass));
    EXPECT_TRUE(same_bits(one.dposition, many.dposition));
    EXPECT_TRUE(same_bits(one.dregisters, many.dregisters));
  }
}

TEST(Tokens, RefusesContradictions) {
  ThreadPool pool(1);
  CpuKernels kernels(pool);
  Problem p(kCases[1], 900);
  std::vector<float> x;
  Gradients gradients;
  const auto forward_refused = [&](const char* field, auto change) {
    TokensForward args = forward_arguments(p, x);
    change(args);
    expect_refused([&] { kernels.tokens_forward(args); }, field);
  };
  forward_refused("x has", [](TokensForward& args) { args.x.size = 5; });
  forward_refused("patches", [](TokensForward& args) { args.patches.size = 5; });
  forward_refused("class_token", [](TokensForward& args) { args.class_token = {}; });
  forward_refused("position", [](TokensForward& args) { args.position.size = 13 * 16; });
  forward_refused("registers has 13",
                  [](TokensForward& args) { args.registers = args.class_token; });
  forward_refused("num_registers", [](TokensForward& args) { args.num_registers = -1; });
  forward_refused("hidden", [](TokensForward& args) { args.hidden = 0; });
  forward_refused("dropout", [](TokensForward& args) { args.dropout.probability = 1.0f; });
  forward_refused("state", [](TokensForward& args) { args.state = nullptr; });
  const auto backward_refused = [&](const char* field, auto change) {
    TokensBackward args = backward_arguments(p, gradients);
    change(args);
    expect_refused([&] { kernels.tokens_backward(args); }, field);
  };
  backward_refused("dpatches", [](TokensBackward& args) { args.dpatches.size = 5; });
  backward_refused("dclass", [](TokensBackward& args) { args.dclass.size = 5; });
  backward_refused("dclass", [](TokensBackward& args) { args.place = ClassToken::none; });
  backward_refused("dregisters has", [](TokensBackward& args) { args.dregisters = args.dclass; });
  backward_refused("dposition", [](TokensBackward& args) {
    args.patch_positions = true;
    args.dposition.size = 13 * 15;
  });
  backward_refused("dposition", [](TokensBackward& args) { args.dposition.size = 13 * 16; });
  backward_refused("dx", [](TokensBackward& args) { args.dx = {}; });
  backward_refused("state", [](TokensBackward& args) { args.state = nullptr; });
}

}  // namespace
}  // namespace vitrine::cpu
