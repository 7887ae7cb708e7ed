// The exact tier of attention against the definition in double: every head size and type.
#include <gtest/gtest.h>

#include "kernels/attention_problem.h"

namespace vitrine::cuda {
namespace {

constexpr AttentionLaunchers kExact{attention_exact_forward, attention_exact_backward, false};

class AttentionExact : public KernelTest {
 public:
  using KernelTest::in_another_order;
};

// batch, heads, head_size, total, tokens, first, dropout, packed, spread
const AttentionCase kCases[] = {
    {3, 2, 4, 50, 50, 0},  // a block of several pairs, the last one short
    {2, 4, 12, 65, 65, 0},
    {2, 2, 1, 5, 5, 0, 0.2f},
    {1, 1, 1, 1, 1, 0},
    {1, 1, 4, 577, 577, 0},  // several blocks a pair
    {2, 2, 16, 17, 17, 0, 0.2f},
    {1, 1, 3, 257, 257, 0},
    {3, 2, 4, 50, 1, 0, 0.3f, false},
    {2, 2, 12, 65, 3, 60, 0.2f, false},
    {1, 2, 4, 101, 101, 0, 0.2f},
    {8, 4, 12, 33, 33, 0, 0.0f, true, 10.0f},
    {1, 1, 64, 1, 1, 0},
    {1, 2, 64, 50, 50, 0, 0.2f},
    {1, 1, 64, 197, 197, 0},
    {1, 1, 17, 65, 65, 0},
    {1, 1, 80, 101, 101, 0, 0.2f},
    {1, 2, 192, 17, 17, 0},
    {1, 1, 192, 65, 65, 0, 0.2f},
    {1, 1, 257, 5, 5, 0},  // two groups of columns
    {1, 1, 257, 66, 66, 0, 0.2f},
    {1, 1, 32, 196, 3, 190, 0.2f, false},
    {2, 1, 64, 101, 1, 0, 0.0f, false},
    {1, 1, 64, 65, 65, 0, 0.0f, true, 30.0f},
    {1, 1, 20, 257, 2, 255, 0.5f, false},
};

TEST_F(AttentionExact, FollowsTheErrorRule) {
  std::uint64_t seed = 100;
  for (const AttentionCase& c : kCases) {
    if (kReduced && c.total > 101) continue;
    check_attention(kExact, c, DType::f32, seed++);
    if (c.total > 200) continue;
    check_attention(kExact, c, DType::bf16, seed++);
    if (c.total > 70) continue;
    check_attention(kExact, c, DType::f16, seed++);
  }
}

TEST_F(AttentionExact, ReturnsProbabilitiesBeforeDropout) {
  std::uint64_t seed = 300;
  for (const AttentionCase& c : kCases) {
    if (c.total > 200 || (kReduced && c.total > 70)) continue;
    SCOPED_TRACE(testing::Message() << c << " seed:" << seed);
    const AttentionProblem p(c, DType::f32, seed++);
    reference::Attention<double> exact(p.in);
    reference::Attention<float> naive(p.in);
    exact.run();
    naive.run();
    AttentionForward args = p.forward();
    args.probabilities = p.probabilities.view();
    args.log_sum_exp = {};
    attention_exact_forward(args, {}, nullptr);
    const std::vector<float> probabilities = p.probabilities.values();
    expect_close(probabilities, naive.probabilities, exact.probabilities, "probabilities");
    expect_close(p.out.values(), naive.out, exact.out, "out");
    for (std::int64_t row = 0; row < p.in.rows(); ++row) {
      double sum = 0.0;
      for (std::int64_t j = 0; j < c.total; ++j) sum += probabilities[row * c.total + j];
      EXPECT_NEAR(sum, 1.0, 2e-5) << row;
    }
  }
}

TEST_F(AttentionExact, SameBitsInAnyOrder) {
  std::uint64_t seed = 500;
  for (const AttentionCase& c : kCases) {
    if (c.total > 101) continue;
    check_attention_bits(*this, kExact, c, DType::f32, seed++);
  }
}

// How many pairs share a block depends on the chip; what they compute does not.
TEST_F(AttentionExact, SameBitsOnAnyChip) {
  const AttentionCase c{5, 3, 4, 17, 17, 0, 0.2f};
  const AttentionProblem large(c, DType::f32, 600), small(c, DType::f32, 600);
  AttentionLaunchers tier = kExact;
  large.run(tier);
  tier.limits.multiprocessors = 2;
  small.run(tier);
  EXPECT_TRUE(same_bits(large.out.values(), small.out.values()));
  EXPECT_TRUE(same_bits(large.query_gradient(), small.query_gradient()));
  EXPECT_TRUE(same_bits(large.key_gradient(), small.key_gradient()));
}

TEST_F(AttentionExact, PassesNanOn) {
  for (const AttentionCase& c :
       {AttentionCase{1, 2, 4, 50, 50, 0}, AttentionCase{1, 2, 20, 70, 70, 0}}) {
    SCOPED_TRACE(testing::Message() << c);
    const AttentionProblem p(c, DType::f32, 700);
    const float nan = std::numeric_limits<float>::quiet_NaN();
    float* const key = static_cast<float*>(p.kv.view().data) + 7 * p.in.kv_stride;
    require_cuda(cudaMemcpy(key, &nan, sizeof nan, cudaMemcpyHostToDevice));  // of head 0
    p.run(kExact);
    const std::vector<float> out = p.out.values(), dq = p.dq.values();
    for (std::int64_t i = 0; i < c.tokens; ++i) {
      EXPECT_TRUE(std::isnan(out[i * p.in.cols])) << i;
      EXPECT_TRUE(std::isnan(dq[i * p.in.q_stride])) << i;
      EXPECT_FALSE(std::isnan(out[i * p.in.cols + c.head_size])) << i;  // head 1
    }
  }
}

}  // namespace
}  // namespace vitrine::cuda
