// Attention against a double-precision reference: values by the error rule, gradients by central
// differences of the reference, bits by repetition over threads, calls and neighbours.
#include "reference/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <limits>
#include <string>
#include <vector>

#include "cpu/cpu_kernels.h"
#include "for_targets.h"
#include "shapes.h"

namespace vitrine {
namespace {

using Case = reference::AttentionCase;
template <typename Real>
using Reference = reference::Attention<Real>;

constexpr float kPoison = std::numeric_limits<float>::quiet_NaN();

// Inputs and outputs of one case, in memory of exactly the size the views need.
struct Problem : reference::AttentionInputs {
  std::vector<float> out, log_sum_exp, probabilities, dq, dkv;

  Problem(const Case& case_, std::uint64_t seed)
      : AttentionInputs(case_, seed),
        out(dout.size(), kPoison),
        log_sum_exp(static_cast<std::size_t>(rows()), kPoison),
        probabilities(static_cast<std::size_t>(rows() * c.total), kPoison),
        dq(q.size(), kPoison),
        dkv(kv.size(), kPoison) {}

  static View<float> view(std::vector<float>& v) {
    return {v.data(), static_cast<std::int64_t>(v.size())};
  }

  AttentionForward forward() {
    AttentionForward args;
    args.out = view(out);
    args.log_sum_exp = view(log_sum_exp);
    args.q = view(q);
    args.k = View<float>(kv.data(), kv_size());
    args.v = View<float>(kv.data() + cols, kv_size());
    fill_common(args, &state);
    return args;
  }
  AttentionBackward backward() {
    AttentionBackward args;
    args.dq = view(dq);
    args.dk = View<float>(dkv.data(), kv_size());
    args.dv = View<float>(dkv.data() + cols, kv_size());
    args.dout = view(dout);
    args.out = view(out);
    args.log_sum_exp = view(log_sum_exp);
    args.q = view(q);
    args.k = View<float>(kv.data(), kv_size());
    args.v = View<float>(kv.data() + cols, kv_size());
    fill_common(args, &state);
    return args;
  }
};

template <typename A, typename B>
double max_difference(const std::vector<A>& a, const std::vector<B>& b) {
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double difference = std::abs(double(a[i]) - double(b[i]));
    if (!(difference <= worst)) worst = difference;  // a NaN is the worst
  }
  return worst;
}

// error(kernel) ≤ 2 · error(naive fp32) + a few units in the last place of the largest result, or
// of `magnitude` where that is larger.
void expect_rule(const char* what, const std::vector<float>& kernel,
                 const std::vector<float>& naive, const std::vector<double>& exact,
                 double magnitude = 0) {
  for (const double value : exact) magnitude = std::max(magnitude, std::abs(value));
  const double tiny = 4 * magnitude * std::numeric_limits<float>::epsilon();
  EXPECT_LE(max_difference(kernel, exact), 2 * max_difference(naive, exact) + tiny) << what;
}

// Elements between the rows of q and of k, v (the other tensors of a packed one) stay poisoned.
void expect_gaps_untouched(Problem& p) {
  for (std::int64_t i = 0; i < static_cast<std::int64_t>(p.dq.size()); ++i) {
    if (i % p.q_stride < p.cols) continue;
    ASSERT_TRUE(std::isnan(p.dq[i])) << "dq between rows, " << i;
    p.dq[i] = 0.0f;
  }
  for (std::int64_t i = 0; i < static_cast<std::int64_t>(p.dkv.size()); ++i) {
    if (i % p.kv_stride < 2 * p.cols) continue;
    ASSERT_TRUE(std::isnan(p.dkv[i])) << "dk, dv between rows, " << i;
    p.dkv[i] = 0.0f;
  }
}

void run_both(Problem& p, int threads) {
  cpu::ThreadPool pool(threads);
  cpu::CpuKernels kernels(pool);
  kernels.attention_forward(p.forward());
  kernels.attention_backward(p.backward());
}

const Case kCases[] = {
    {32, 2, 4, 50, 50, 0},
    {3, 2, 4, 50, 1, 0, 0.0f, false},
    {8, 4, 12, 65, 65, 0},
    {5, 4, 12, 65, 1, 0, 0.0f, false},
    {3, 4, 16, 50, 50, 0},
    {1, 3, 64, 197, 197, 0},
    {2, 3, 64, 197, 1, 0, 0.0f, false},
    {2, 8, 1, 5, 5, 0},
    {2, 8, 1, 5, 5, 0, 0.1f},
    {1, 1, 1, 1, 1, 0},
    {1, 1, 3, 577, 577, 0},
    {1, 2, 32, 577, 7, 570, 0.0f, false},
    {3, 1, 2, 17, 17, 0},
    {3, 3, 7, 101, 4, 96, 0.0f, false},
    {1, 2, 80, 49, 49, 0},
    {1, 1, 192, 196, 196, 0, 0.2f},
    {2, 2, 192, 197, 1, 196, 0.2f, false},
    {3, 2, 4, 50, 1, 0, 0.3f, false},
    {2, 1, 12, 65, 65, 0, 0.5f},
    {2, 3, 16, 33, 33, 0, 0.0f, true, 30.0f},
    {2, 2, 4, 50, 50, 0, 0.0f, true, 50.0f},
    {1, 2, 64, 65, 65, 0, 0.0f, true, 30.0f},
    {1, 1, 17, 257, 257, 0},
    // Small heads: whole vectors of rows, a few more, a few less, next to none.
    {3, 3, 4, 7, 7, 0},
    {1, 1, 4, 641, 641, 0},
    {2, 3, 8, 19, 19, 0},
    {2, 2, 8, 3, 3, 0},
    {1, 2, 12, 128, 128, 0},
    {2, 2, 12, 31, 31, 0},
    {2, 2, 12, 20, 3, 17, 0.0f, false},
    {2, 2, 12, 65, 65, 0, 0.0f, true, 30.0f},
    {2, 2, 16, 35, 35, 0},
    {1, 3, 16, 66, 5, 61, 0.0f, false},
    {1, 2, 16, 129, 129, 0},
};

TEST(Attention, IsTriedAtEveryLengthOfTheTable) {
  for (const std::int64_t tokens : shapes::kTokens) {
    EXPECT_TRUE(std::any_of(std::begin(kCases), std::end(kCases), [&](const Case& c) {
      return c.total == tokens;
    })) << tokens;
  }
  for (const shapes::Model& m : {shapes::kMnistTutorial, shapes::kCifar10Small, shapes::kVitTiny}) {
    EXPECT_TRUE(std::any_of(std::begin(kCases), std::end(kCases), [&](const Case& c) {
      return c.total == m.tokens() && c.heads == m.heads && c.head_size == m.head_size();
    })) << m.preset;
  }
}

void expect_error_rule() {
  std::uint64_t seed = 2024;
  for (const Case& c : kCases) {
    SCOPED_TRACE(testing::Message() << c << " seed:" << seed);
    Problem p(c, seed++);
    Reference<double> exact(p);
    Reference<float> naive(p);
    exact.run();
    naive.run();
    run_both(p, 2);
    expect_rule("out", p.out, naive.out, exact.out);
    expect_rule("log_sum_exp", p.log_sum_exp, naive.log_sum_exp, exact.log_sum_exp);
    expect_gaps_untouched(p);
    // With one token dq is zero: a difference of two products as large as dO.
    expect_rule("dq", p.dq, naive.dq, exact.dq, c.total == 1 ? 1.0 : 0.0);
    expect_rule("dk, dv", p.dkv, naive.dkv, exact.dkv);
  }
}

TEST(Attention, FollowsTheErrorRule) {
  cpu::for_targets(expect_error_rule);
}

TEST(Attention, ReturnsProbabilitiesBeforeDropout) {
  std::uint64_t seed = 31;
  for (const Case& c : kCases) {
    SCOPED_TRACE(testing::Message() << c << " seed:" << seed);
    Problem p(c, seed++);
    Reference<double> exact(p);
    Reference<float> naive(p);
    exact.run();
    naive.run();
    AttentionForward args = p.forward();
    args.probabilities = Problem::view(p.probabilities);
    args.log_sum_exp = {};
    cpu::ThreadPool pool(2);
    cpu::CpuKernels(pool).attention_forward(args);
    expect_rule("probabilities", p.probabilities, naive.probabilities, exact.probabilities);
    expect_rule("out", p.out, naive.out, exact.out);
  }
}

TEST(Attention, ReferenceGradientMatchesCentralDifferences) {
  for (const float dropout : {0.0f, 0.25f}) {
    const Case c{2, 2, 3, 7, 3, 2, dropout, false};
    Problem p(c, 55);
    Reference<double> exact(p);
    exact.run();
    const auto loss = [&] {
      Reference<double> probe(p);
      probe.q = exact.q;
      probe.kv = exact.kv;
      probe.run();
      double sum = 0;
      for (std::size_t i = 0; i < probe.out.size(); ++i) sum += probe.out[i] * p.dout[i];
      return sum;
    };
    const auto expect_gradient = [&](std::vector<double>& x, const std::vector<double>& gradient) {
      constexpr double kStep = 1e-5;
      for (std::size_t i = 0; i < x.size(); ++i) {
        const double middle = x[i];
        x[i] = middle + kStep;
        const double above = loss();
        x[i] = middle - kStep;
        const double below = loss();
        x[i] = middle;
        EXPECT_NEAR((above - below) / (2 * kStep), gradient[i], 1e-8) << i;
      }
    };
    const std::vector<double> dq = exact.dq, dkv = exact.dkv;
    expect_gradient(exact.q, dq);
    expect_gradient(exact.kv, dkv);
  }
}

// memcmp of the bits: gaps between rows are NaN.
void expect_same_bits(const std::vector<float>& a, const std::vector<float>& b, const char* what) {
  ASSERT_EQ(a.size(), b.size());
  EXPECT_EQ(std::memcmp(a.data(), b.data(), a.size() * sizeof(float)), 0) << what;
}

TEST(Attention, BitsDoNotDependOnThreads) {
  std::uint64_t seed = 400;
  for (const Case& c : kCases) {
    SCOPED_TRACE(testing::Message() << c << " seed:" << seed);
    Problem one(c, seed);
    run_both(one, 1);
    for (const int threads : {2, 3}) {
      Problem many(c, seed);
      run_both(many, threads);
      expect_same_bits(one.out, many.out, "out");
      expect_same_bits(one.log_sum_exp, many.log_sum_exp, "log_sum_exp");
      expect_same_bits(one.dq, many.dq, "dq");
      expect_same_bits(one.dkv, many.dkv, "dk, dv");
    }
    ++seed;
  }
}

// Images one call at a time give the bits of all images in one call.
TEST(Attention, BitsDoNotDependOnTheCutIntoCalls) {
  std::uint64_t seed = 500;
  cpu::ThreadPool pool(1);
  cpu::CpuKernels kernels(pool);
  for (const Case& c : kCases) {
    SCOPED_TRACE(testing::Message() << c << " seed:" << seed);
    Problem whole(c, seed), parts(c, seed);
    run_both(whole, 1);
    for (std::int64_t image = 0; image < c.batch; ++image) {
      Case single = c;
      single.batch = 1;
      Problem p(single, 1);
      p.state.first_row += image;
      const auto part = [&](std::vector<float>& v, const std::vector<float>& from,
                            std::int64_t stride) {
        v.assign(from.begin() + image * stride,
                 from.begin() + image * stride + static_cast<std::int64_t>(v.size()));
      };
      part(p.q, parts.q, c.tokens * p.q_stride);
      part(p.kv, parts.kv, c.total * p.kv_stride);
      part(p.dout, parts.dout, c.tokens * p.cols);
      kernels.attention_forward(p.forward());
      kernels.attention_backward(p.backward());
      const auto back = [&](const std::vector<float>& v, std::vector<float>& to,
                            std::int64_t stride) {
        std::copy(v.begin(), v.end(), to.begin() + image * stride);
      };
      back(p.out, parts.out, c.tokens * p.cols);
      back(p.log_sum_exp, parts.log_sum_exp, c.heads * c.tokens);
      back(p.dq, parts.dq, c.tokens * p.q_stride);
      back(p.dkv, parts.dkv, c.total * p.kv_stride);
    }
    expect_same_bits(whole.out, parts.out, "out");
    expect_same_bits(whole.log_sum_exp, parts.log_sum_exp, "log_sum_exp");
    expect_same_bits(whole.dq, parts.dq, "dq");
    expect_same_bits(whole.dkv, parts.dkv, "dk, dv");
    ++seed;
  }
}

TEST(Attention, PassesNanOn) {
  for (const Case& c :
       {Case{3, 2, 4, 50, 50, 0}, Case{1, 2, 12, 65, 65, 0}, Case{1, 2, 64, 65, 65, 0}}) {
    SCOPED_TRACE(testing::Message() << c);
    Problem p(c, 600);
    p.kv[static_cast<std::size_t>(7 * p.kv_stride)] = kPoison;  // k of token 7, head 0, image 0
    run_both(p, 1);
    for (std::int64_t i = 0; i < c.tokens; ++i) {
      EXPECT_TRUE(std::isnan(p.out[static_cast<std::size_t>(i * p.cols)])) << i;
      EXPECT_TRUE(std::isnan(p.dq[static_cast<std::size_t>(i * p.q_stride)])) << i;
    }
    EXPECT_FALSE(std::isnan(p.out[static_cast<std::size_t>(c.head_size)]));  // head 1
  }
}

template <typename Args, typename Call, typename Change>
void expect_refused(const char* field, const Args& good, const Call& call, const Change& change) {
  Args bad = good;
  change(bad);
  try {
    call(bad);
    ADD_FAILURE() << "accepted a wrong " << field;
  } catch (const DeviceError& error) {
    EXPECT_NE(std::string(error.what()).find(field), std::string::npos) << error.what();
  }
}

template <typename Args, typename Call>
void expect_common_refused(const Args& good, const Call& call) {
  const auto refuse = [&](const char* field, const auto& change) {
    expect_refused(field, good, call, change);
  };
  refuse("batch", [](Args& a) { a.batch = 0; });
  refuse("heads", [](Args& a) { a.heads = -1; });
  refuse("head_size", [](Args& a) { a.head_size = 0; });
  refuse("window.tokens", [](Args& a) { a.window.tokens = 0; });
  refuse("window.first", [](Args& a) { a.window.first = -1; });
  refuse("window.total", [](Args& a) { a.window.first = 1; });
  refuse("q_stride", [](Args& a) { a.q_stride = 1; });
  refuse("kv_stride", [](Args& a) { a.kv_stride = 1; });
  refuse("dropout.probability", [](Args& a) { a.dropout.probability = 1.0f; });
  refuse("state", [](Args& a) {
    a.dropout.probability = 0.5f;
    a.state = nullptr;
  });
  refuse(": q ", [](Args& a) { --a.q.size; });
  refuse(": q ", [](Args& a) { a.q.dtype = DType::bf16; });
  refuse(": k ", [](Args& a) { a.k = {}; });
  refuse(": v ", [](Args& a) { ++a.v.size; });
  refuse(": out ", [](Args& a) { --a.out.size; });
  refuse(": out ", [](Args& a) { a.out.dtype = DType::f16; });
  refuse(": log_sum_exp ", [](Args& a) { --a.log_sum_exp.size; });
}

TEST(Attention, RefusesContradictoryArguments) {
  cpu::ThreadPool pool(1);
  cpu::CpuKernels kernels(pool);
  Problem p({2, 2, 4, 9, 9, 0}, 700);
  const auto forward = [&](const AttentionForward& args) { kernels.attention_forward(args); };
  const auto backward = [&](const AttentionBackward& args) { kernels.attention_backward(args); };
  expect_common_refused(p.forward(), forward);
  expect_common_refused(p.backward(), backward);
  using Forward = AttentionForward;
  using Backward = AttentionBackward;
  expect_refused("probabilities", p.forward(), forward,
                 [&](Forward& a) { a.probabilities = Problem::view(p.out); });
  expect_refused(": dout ", p.backward(), backward, [](Backward& a) { --a.dout.size; });
  expect_refused(": dq ", p.backward(), backward, [](Backward& a) { --a.dq.size; });
  expect_refused(": dk ", p.backward(), backward, [](Backward& a) { ++a.dk.size; });
  expect_refused(": dv ", p.backward(), backward, [](Backward& a) { a.dv.dtype = DType::bf16; });
  expect_refused(": log_sum_exp ", p.backward(), backward, [](Backward& a) { a.log_sum_exp = {}; });
}

}  // namespace
}  // namespace vitrine
