// The token sequence, pooling and their gradients in CUDA against their definitions.
#include "reference/tokens.h"

#include "kernels/kernel_device.h"

namespace vitrine::cuda {
namespace {

std::string trace(DType dtype, std::uint64_t seed) {
  return "type " + std::string(to_string(dtype)) + " seed " + std::to_string(seed);
}

/// Device memory of no bytes is nobody's business here.
std::vector<float> not_empty(const std::vector<float>& values) {
  return values.empty() ? std::vector<float>{0.0f} : values;
}

// ---------------------------------------------------------------------------------------------
// tokens

/// Besides the common cases: odd lengths and widths, widths of 16-byte accesses, more images than
/// warps, positions longer than the sequence.
std::vector<reference::tokens::Case> token_cases() {
  constexpr auto kFirst = ClassToken::first, kLast = ClassToken::last, kNone = ClassToken::none;
  std::vector<reference::tokens::Case> all = reference::tokens::kCases;
  all.push_back({3, 4, 192, kFirst, 5, 0.1f, true});
  all.push_back({17, 16, 8, kLast, 30, 0.2f, false});
  all.push_back({33, 4, 48, kFirst, 5, 0.0f, true});
  all.push_back({2, 49, 1, kFirst, 50, 0.3f, true});
  all.push_back({5, 17, 3, kNone, 17, 0.5f, false});
  all.push_back({2, 16, 45, kFirst, 0, 0.0f, false});
  all.push_back({9, 16, 48, kFirst, 16, 0.1f, true, 4, true});
  all.push_back({3, 16, 45, kLast, 30, 0.0f, true, 5});
  if (!kReduced) {
    all.push_back({2, 196, 64, kFirst, 197, 0.1f, false});
    all.push_back({1, 256, 48, kLast, 257, 0.0f, true});
    all.push_back({2, 64, 384, kNone, 64, 0.0f, false});
    all.push_back({2, 16, 768, kFirst, 17, 0.25f, false});
    all.push_back({1, 4, 771, kFirst, 5, 0.1f, true});
    all.push_back({1, 100, 40, kFirst, 101, 0.0f, false});
    all.push_back({1, 576, 8, kFirst, 577, 0.1f, false});
  }
  return all;
}

class Tokens : public KernelTest {
 protected:
  using Case = reference::tokens::Case;

  /// A problem on the device, its inputs rounded to the type.
  struct OnDevice {
    reference::tokens::Problem host;
    DeviceTensor patches, class_token, registers, position, dx;
    DeviceArray<StepState> state;

    OnDevice(const Case& c, std::uint64_t seed, DType dtype)
        : host(rounded(c, seed, dtype)),
          patches(dtype, host.patches),
          class_token(dtype, host.class_token),
          registers(dtype, not_empty(host.registers)),
          position(dtype, not_empty(host.position)),
          dx(dtype, host.dx),
          state(host.state) {}

    static reference::tokens::Problem rounded(const Case& c, std::uint64_t seed, DType dtype) {
      reference::tokens::Problem p(c, seed);
      for (auto* values : {&p.patches, &p.class_token, &p.registers, &p.position, &p.dx}) {
        *values = rounded_to(dtype, *values);
      }
      return p;
    }

    template <typename Args>
    void set_common(Args& args) const {
      const Case& c = host.c;
      args.place = c.place;
      args.patch_positions = c.patch_positions;
      args.batch = c.batch, args.num_patches = c.num_patches, args.hidden = c.hidden;
      args.num_registers = c.registers;
      args.dropout = {c.dropout, 6};
      args.state = state.data();
    }
    TokensForward forward(View<void> x) const {
      TokensForward args;
      set_common(args);
      args.x = x;
      args.patches = patches.view();
      if (host.c.place != ClassToken::none) args.class_token = class_token.view();
      if (host.c.registers > 0) args.registers = registers.view();
      if (host.c.position_rows > 0) args.position = position.view();
      return args;
    }
  };

  /// The outputs of the backward pass: parameters' as they were where that matters, else poisoned.
  struct Gradients {
    DeviceTensor dpatches;
    DeviceArray<float> dclass, dposition, dregisters;

    explicit Gradients(const OnDevice& p)
        : dpatches(p.patches.dtype(), std::ssize(p.host.patches)),
          dclass(p.host.c.accumulate ? p.host.dclass : poisoned(p.host.c.hidden)),
          dposition(not_empty(position_before(p.host))),
          dregisters(not_empty(p.host.c.accumulate ? p.host.dregisters
                                                   : poisoned(std::ssize(p.host.dregisters)))) {}

    static std::vector<float> position_before(const reference::tokens::Problem& p) {
      std::vector<float> before = p.dposition;
      const std::int64_t written = before.empty() ? 0 : p.c.positions() * p.c.hidden;
      if (!p.c.accumulate) {
        std::fill_n(before.begin(), written, std::numeric_limits<float>::quiet_NaN());
      }
      return before;
    }
    TokensBackward arguments(const OnDevice& p) const {
      TokensBackward args;
      p.set_common(args);
      args.dpatches = dpatches.view();
      if (p.host.c.place != ClassToken::none) args.dclass = dclass.view();
      if (p.host.c.registers > 0) args.dregisters = dregisters.view();
      if (p.host.c.position_rows > 0) args.dposition = dposition.view();
      args.dx = p.dx.view();
      args.accumulate = p.host.c.accumulate;
      return args;
    }
  };
};

TEST_F(Tokens, ForwardMatchesReference) {
  std::uint64_t seed = 500;
  for (const Case& c : token_cases()) {
    ++seed;
    for (const DType dtype : kFloatTypes) {
      SCOPED_TRACE(trace(dtype, seed));
      const OnDevice p(c, seed, dtype);
      const DeviceTensor x(dtype, std::ssize(p.host.dx)), again(dtype, std::ssize(p.host.dx));
      kernels().tokens_forward(p.forward(x.view()));
      const auto naive = rounded_to(dtype, reference::tokens::reference_forward<float>(p.host));
      expect_close(x.values(), naive, reference::tokens::reference_forward<double>(p.host), "x");
      in_another_order([&] { kernels().tokens_forward(p.forward(again.view())); });
      EXPECT_TRUE(same_bits(x.values(), again.values()));
    }
  }
}

TEST_F(Tokens, BackwardMatchesReference) {
  std::uint64_t seed = 600;
  for (const Case& c : token_cases()) {
    ++seed;
    for (const DType dtype : kFloatTypes) {
      SCOPED_TRACE(trace(dtype, seed));
      const OnDevice p(c, seed, dtype);
      const Gradients g(p), again(p);
      kernels().tokens_backward(g.arguments(p));
      const reference::tokens::ReferenceGradients<float> naive(p.host);
      const reference::tokens::ReferenceGradients<double> exact(p.host);
      expect_close(g.dpatches.values(), rounded_to(dtype, naive.dpatches), exact.dpatches,
                   "dpatches");
      if (c.position_rows > 0) {
        expect_close(g.dposition.values(), naive.dposition, exact.dposition, "dposition");
      }
      if (c.place != ClassToken::none) {
        expect_close(g.dclass.values(), naive.dclass, exact.dclass, "dclass");
      }
      if (c.registers > 0) {
        expect_close(g.dregisters.values(), naive.dregisters, exact.dregisters, "dregisters");
      }
      in_another_order([&] { kernels().tokens_backward(again.arguments(p)); });
      EXPECT_TRUE(same_bits(g.dpatches.values(), again.dpatches.values()));
      EXPECT_TRUE(same_bits(g.dposition.values(), again.dposition.values()));
      EXPECT_TRUE(same_bits(g.dclass.values(), again.dclass.values()));
      EXPECT_TRUE(same_bits(g.dregisters.values(), again.dregisters.values()));
    }
  }
}

// Leaving out an output changes none of the others.
TEST_F(Tokens, BackwardWritesWhatIsAskedFor) {
  for (const DType dtype : kFloatTypes) {
    SCOPED_TRACE(trace(dtype, 650));
    const OnDevice p({9, 4, 8, ClassToken::first, 9, 0.2f, true, 2}, 650, dtype);
    const Gradients all(p);
    kernels().tokens_backward(all.arguments(p));
    for (const int asked_for : {0, 1, 2, 4, 8}) {
      const Gradients some(p), untouched(p);
      TokensBackward args = some.arguments(p);
      if ((asked_for & 1) == 0) args.dpatches = {};
      if ((asked_for & 2) == 0) args.dclass = {};
      if ((asked_for & 4) == 0) args.dposition = {};
      if ((asked_for & 8) == 0) args.dregisters = {};
      kernels().tokens_backward(args);
      const auto expected = [&](int bit) -> const Gradients& {
        return (asked_for & bit) != 0 ? all : untouched;
      };
      EXPECT_TRUE(same_bits(some.dpatches.values(), expected(1).dpatches.values()));
      EXPECT_TRUE(same_bits(some.dclass.values(), expected(2).dclass.values()));
      EXPECT_TRUE(same_bits(some.dposition.values(), expected(4).dposition.values()));
      EXPECT_TRUE(same_bits(some.dregisters.values(), expected(8).dregisters.values()));
    }
  }
}

// Views that start off a 16-byte boundary take the narrow path.
TEST_F(Tokens, MovesUnalignedViews) {
  for (const DType dtype : kFloatTypes) {
    const OnDevice p({3, 4, 8, ClassToken::last, 5, 0.2f, false}, 660, dtype);
    const std::int64_t n = std::ssize(p.host.dx);
    const DeviceTensor x(dtype, n), shifted(dtype, n + 1);
    kernels().tokens_forward(p.forward(x.view()));
    kernels().tokens_forward(p.forward(shifted.view(1, n)));
    std::vector<float> values = shifted.values();
    values.erase(values.begin());
    EXPECT_TRUE(same_bits(values, x.values()));
  }
}

TEST_F(Tokens, RefusesContradictions) {
  const OnDevice p(reference::tokens::kCases[1], 900, DType::bf16);
  const DeviceTensor x(DType::bf16, std::ssize(p.host.dx));
  const DeviceTensor other(DType::f32, std::ssize(p.host.patches));
  const auto forward_refused = [&](const char* field, auto change) {
    TokensForward args = p.forward(x.view());
    change(args);
    expect_refused([&] { kernels().tokens_forward(args); }, field);
  };
  forward_refused("x has", [](TokensForward& args) { args.x.size = 5; });
  forward_refused("patches", [&](TokensForward& args) { args.patches = other.view(); });
  forward_refused("class_token", [](TokensForward& args) { args.class_token = {}; });
  forward_refused("position", [](TokensForward& args) { args.position.size = 13 * 16; });
  forward_refused("hidden", [](TokensForward& args) {  // what the kernel counts in 32 bits
    args.hidden = std::int64_t{1} << 30;
    args.class_token.size = args.hidden, args.position = {};
    args.patches.size = args.batch * args.num_patches * args.hidden;
    args.x.size = args.patches.size + args.batch * args.hidden;
  });
  forward_refused("state", [](TokensForward& args) { args.state = nullptr; });
  const Gradients gradients(p);
  const auto backward_refused = [&](const char* field, auto change) {
    TokensBackward args = gradients.arguments(p);
    change(args);
    expect_refused([&] { kernels().tokens_backward(args); }, field);
  };
  backward_refused("dpatches", [](TokensBackward& args) { args.dpatches.size = 5; });
  backward_refused("dclass", [](TokensBackward& args) { args.place = ClassToken::none; });
  backward_refused("dposition", [](TokensBackward& args) { args.dposition.size = 13 * 16; });
  backward_refused("dx", [](TokensBackward& args) { args.dx = {}; });
}

// ---------------------------------------------------------------------------------------------
// pool

std::vector<reference::pool::Case> pool_cases() {
  std::vector<reference::pool::Case> all = reference::pool::kCases;
  all.push_back({3, 192, {1, 0, 5}});
  all.push_back({2, 45, {16, 1, 17}});
  all.push_back({1, 264, {3, 1, 5}});
  if (!kReduced) {
    all.push_back({2, 768, {196, 1, 197}});
    all.push_back({1, 771, {1, 100, 101}});
    all.push_back({1, 384, {576, 1, 577}});
    all.push_back({2, 48, {257, 0, 257}});
  }
  return all;
}

class Pool : public KernelTest {
 protected:
  using Case = reference::pool::Case;

  static reference::pool::Problem rounded(const Case& c, std::uint64_t seed, DType dtype) {
    reference::pool::Problem p(c, seed);
    for (auto* values : {&p.x, &p.dy, &p.dx}) *values = rounded_to(dtype, *values);
    return p;
  }
};

TEST_F(Pool, ForwardMatchesReference) {
  std::uint64_t seed = 1000;
  for (const Case& c : pool_cases()) {
    ++seed;
    for (const DType dtype : kFloatTypes) {
      SCOPED_TRACE(trace(dtype, seed));
      const reference::pool::Problem p = rounded(c, seed, dtype);
      const DeviceTensor x(dtype, p.x), y(dtype, std::ssize(p.dy)), again(dtype, std::ssize(p.dy));
      PoolForward args{y.view(), x.view(), c.batch, c.hidden, c.window};
      kernels().pool_forward(args);
      expect_close(y.values(), rounded_to(dtype, reference::pool::reference_forward<float>(p)),
                   reference::pool::reference_forward<double>(p), "y");
      args.y = again.view();
      in_another_order([&] { kernels().pool_forward(args); });
      EXPECT_TRUE(same_bits(y.values(), again.values()));
    }
  }
}

TEST_F(Pool, BackwardMatchesReference) {
  std::uint64_t seed = 1100;
  for (const Case& c : pool_cases()) {
    ++seed;
    for (const DType dtype : kFloatTypes) {
      for (const bool accumulate : {false, true}) {
        SCOPED_TRACE(trace(dtype, seed) + (accumulate ? " accumulate" : ""));
        const reference::pool::Problem p = rounded(c, seed, dtype);
        const auto before = accumulate ? p.dx : poisoned(std::ssize(p.dx));
        const DeviceTensor dy(dtype, p.dy), dx(dtype, before), again(dtype, before);
        PoolBackward args{dx.view(), dy.view(), c.batch, c.hidden, c.window, accumulate};
        kernels().pool_backward(args);
        const auto naive = reference::pool::reference_backward<float>(p, accumulate);
        expect_close(dx.values(), rounded_to(dtype, naive),
                     reference::pool::reference_backward<double>(p, accumulate), "dx");
        args.dx = again.view();
        in_another_order([&] { kernels().pool_backward(args); });
        EXPECT_TRUE(same_bits(dx.values(), again.values()));
      }
    }
  }
}

TEST_F(Pool, SelectingATokenIsExact) {
  for (const DType dtype : kFloatTypes) {
    const reference::pool::Problem p = rounded({3, 24, {1, 4, 5}}, 1200, dtype);
    const DeviceTensor x(dtype, p.x), y(dtype, std::ssize(p.dy));
    kernels().pool_forward({y.view(), x.view(), 3, 24, p.c.window});
    EXPECT_TRUE(same_bits(y.values(), reference::pool::reference_forward<float>(p)));
  }
}

TEST_F(Pool, RefusesContradictions) {
  const DeviceTensor x(DType::bf16, 2 * 5 * 8), y(DType::bf16, 2 * 8), other(DType::f16, 2 * 8);
  expect_refused([&] { kernels().pool_forward({other.view(), x.view(), 2, 8, {1, 0, 5}}); }, "y");
  expect_refused([&] { kernels().pool_forward({y.view(), x.view(), 2, 8, {1, 0, 4}}); }, "x has");
  expect_refused([&] { kernels().pool_forward({y.view(), x.view(), 2, 8, {5, 1, 5}}); }, "window");
  expect_refused([&] { kernels().pool_backward({x.view(), y.view(), 3, 8, {1, 0, 5}}); }, "dx has");
  expect_refused([&] { kernels().pool_backward({x.view(), {}, 2, 8, {1, 0, 5}}); }, "dy has");
}

}  // namespace
}  // namespace vitrine::cuda
