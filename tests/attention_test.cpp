// Attention against a double-precision reference: values by the error rule, gradients by central
// differences of the reference, bits by repetition over threads, calls and neighbours.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "cpu/cpu_kernels.h"
#include "cpu/dropout.h"
#include "vitrine/random.h"

namespace vitrine {
namespace {

struct Case {
  std::int64_t batch, heads, head_size, total, tokens, first;
  float dropout = 0.0f;
  bool packed = true;   // q, k, v of one tensor; else q apart from k, v
  float spread = 1.0f;  // of q: large ones make peaked rows
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << "B:" << c.batch << " H:" << c.heads << " d:" << c.head_size << " T:" << c.total
             << " Tq:" << c.tokens << " first:" << c.first << " dropout:" << c.dropout
             << " packed:" << c.packed << " spread:" << c.spread;
}

constexpr float kPoison = std::numeric_limits<float>::quiet_NaN();

// Inputs and outputs of one case, in memory of exactly the size the views need.
struct Problem {
  Case c;
  std::int64_t cols, q_stride, kv_stride;
  StepState state{.seed = 77, .step = 3, .first_row = 5};
  std::vector<float> q, kv, dout;
  std::vector<float> out, log_sum_exp, probabilities, dq, dkv;

  Problem(const Case& case_, std::uint64_t seed) : c(case_), cols(c.heads * c.head_size) {
    // Packed q is allowed only where every token is a query; a pruned block keeps q apart.
    q_stride = c.packed ? 3 * cols : cols;
    kv_stride = c.packed ? 3 * cols : 2 * cols;
    RandomStream random(seed, 1);
    const auto fill = [&](std::vector<float>& values, std::int64_t size, float spread) {
      values.resize(static_cast<std::size_t>(size));
      for (float& value : values) value = spread * static_cast<float>(random.normal());
    };
    fill(q, (c.batch * c.tokens - 1) * q_stride + cols, c.spread);
    fill(kv, (c.batch * c.total - 1) * kv_stride + 2 * cols, 1.0f);
    fill(dout, c.batch * c.tokens * cols, 1.0f);
    out.assign(dout.size(), kPoison);
    log_sum_exp.assign(static_cast<std::size_t>(c.batch * c.heads * c.tokens), kPoison);
    probabilities.assign(log_sum_exp.size() * static_cast<std::size_t>(c.total), kPoison);
    dq.assign(q.size(), kPoison);
    dkv.assign(kv.size(), kPoison);
  }

  std::int64_t kv_size() const { return static_cast<std::int64_t>(kv.size()) - cols; }
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
    fill_common(args);
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
    fill_common(args);
    return args;
  }
  template <typename Args>
  void fill_common(Args& args) {
    args.q_stride = q_stride;
    args.kv_stride = kv_stride;
    args.batch = c.batch;
    args.heads = c.heads;
    args.head_size = c.head_size;
    args.window = {c.tokens, c.first, c.total};
    args.dropout = {c.dropout, 9};
    args.state = &state;
  }
};

// The definition, in `Real`, with the strides and the dropout of the problem.
template <typename Real>
struct Reference {
  std::vector<Real> q, kv, dout;
  std::vector<Real> out, log_sum_exp, probabilities, dq, dkv;
  std::vector<float> factors;

  explicit Reference(const Problem& p)
      : q(p.q.begin(), p.q.end()),
        kv(p.kv.begin(), p.kv.end()),
        dout(p.dout.begin(), p.dout.end()),
        out(p.out.size()),
        log_sum_exp(p.log_sum_exp.size()),
        probabilities(p.probabilities.size()),
        dq(p.q.size()),
        dkv(p.kv.size()) {
    factors.assign(probabilities.size(), 1.0f);
    if (p.c.dropout == 0.0f) return;
    const Case& c = p.c;
    for (std::int64_t row = 0; row < c.batch * c.heads * c.tokens; ++row) {
      const std::int64_t head = p.state.first_row * c.heads + row / c.tokens;
      const auto full_row = static_cast<std::uint64_t>(head * c.total + c.first + row % c.tokens);
      const std::uint32_t threshold = drop_threshold(c.dropout);
      for (std::int64_t j = 0; j < c.total; ++j) {
        const auto quad = attention_quad(full_row, static_cast<std::uint64_t>(c.total),
                                         static_cast<std::uint64_t>(j));
        const PhiloxWords words = random_words(p.state.seed, p.state.step, 9, quad);
        factors[static_cast<std::size_t>(row * c.total + j)] =
            words.word[j % 4] >= threshold ? 1.0f / (1.0f - c.dropout) : 0.0f;
      }
    }
  }

  void run(const Problem& p) {
    std::fill(dq.begin(), dq.end(), Real(0));
    std::fill(dkv.begin(), dkv.end(), Real(0));
    for (std::int64_t row = 0; row < p.c.batch * p.c.heads * p.c.tokens; ++row) run_row(p, row);
  }

  void run_row(const Problem& p, std::int64_t row) {
    const Case& c = p.c;
    const std::int64_t d = c.head_size, query = row % c.tokens;
    const std::int64_t head = row / c.tokens % c.heads, image = row / c.tokens / c.heads;
    const std::int64_t q_at = (image * c.tokens + query) * p.q_stride + head * d;
    const std::int64_t k_at = image * c.total * p.kv_stride + head * d;
    const std::int64_t out_at = (image * c.tokens + query) * p.cols + head * d;
    const Real scale = Real(1) / std::sqrt(Real(d));
    Real* prob = probabilities.data() + row * c.total;
    const float* factor = factors.data() + row * c.total;
    std::vector<Real> score(static_cast<std::size_t>(c.total));
    Real max = -std::numeric_limits<Real>::infinity(), sum = 0;
    for (std::int64_t j = 0; j < c.total; ++j) {
      Real s = 0;
      for (std::int64_t i = 0; i < d; ++i) s += q[q_at + i] * kv[k_at + j * p.kv_stride + i];
      score[j] = s * scale;
      max = std::max(max, score[j]);
    }
    for (std::int64_t j = 0; j < c.total; ++j) sum += prob[j] = std::exp(score[j] - max);
    log_sum_exp[row] = max + std::log(sum);
    Real delta = 0;
    for (std::int64_t i = 0; i < d; ++i) {
      Real o = 0;
      for (std::int64_t j = 0; j < c.total; ++j) {
        o += prob[j] / sum * factor[j] * kv[k_at + p.cols + j * p.kv_stride + i];
      }
      out[out_at + i] = o;
      delta += o * dout[out_at + i];
    }
    for (std::int64_t j = 0; j < c.total; ++j) {
      prob[j] /= sum;
      const std::int64_t at = k_at + j * p.kv_stride;
      Real dp = 0;
      for (std::int64_t i = 0; i < d; ++i) dp += dout[out_at + i] * kv[at + p.cols + i];
      const Real again = std::exp(score[j] - log_sum_exp[row]);  // as backward has to
      const Real ds = again * (dp * factor[j] - delta) * scale;
      for (std::int64_t i = 0; i < d; ++i) {
        dkv[at + p.cols + i] += again * factor[j] * dout[out_at + i];
        dkv[at + i] += ds * q[q_at + i];
        dq[q_at + i] += ds * kv[at + i];
      }
    }
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
};

TEST(Attention, FollowsTheErrorRule) {
  std::uint64_t seed = 2024;
  for (const Case& c : kCases) {
    SCOPED_TRACE(testing::Message() << c << " seed:" << seed);
    Problem p(c, seed++);
    Reference<double> exact(p);
    Reference<float> naive(p);
    exact.run(p);
    naive.run(p);
    run_both(p, 2);
    expect_rule("out", p.out, naive.out, exact.out);
    expect_rule("log_sum_exp", p.log_sum_exp, naive.log_sum_exp, exact.log_sum_exp);
    expect_gaps_untouched(p);
    // With one token dq is zero: a difference of two products as large as dO.
    expect_rule("dq", p.dq, naive.dq, exact.dq, c.total == 1 ? 1.0 : 0.0);
    expect_rule("dk, dv", p.dkv, naive.dkv, exact.dkv);
  }
}

TEST(Attention, ReturnsProbabilitiesBeforeDropout) {
  std::uint64_t seed = 31;
  for (const Case& c : kCases) {
    SCOPED_TRACE(testing::Message() << c << " seed:" << seed);
    Problem p(c, seed++);
    Reference<double> exact(p);
    Reference<float> naive(p);
    exact.run(p);
    naive.run(p);
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
    exact.run(p);
    const auto loss = [&] {
      Reference<double> probe(p);
      probe.q = exact.q;
      probe.kv = exact.kv;
      probe.run(p);
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
  for (const Case& c : {Case{3, 2, 4, 50, 50, 0}, Case{1, 2, 64, 65, 65, 0}}) {
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
