// The streaming tier of attention against the definition in double: every tile width, any length.
#include <gtest/gtest.h>

#include "kernels/attention_problem.h"

namespace vitrine::cuda {
namespace {

constexpr AttentionLaunchers kStreaming{attention_streaming_forward, attention_streaming_backward,
                                        true};

class AttentionStreaming : public KernelTest {
 public:
  using KernelTest::in_another_order;
};

// batch, heads, head_size, total, tokens, first, dropout, packed, spread
const AttentionCase kCases[] = {
    {1, 1, 64, 1, 1, 0},
    {2, 2, 64, 5, 5, 0},
    {1, 2, 64, 17, 17, 0, 0.2f},
    {2, 2, 64, 50, 50, 0, 0.2f},
    {1, 2, 64, 65, 65, 0},
    {1, 1, 64, 101, 101, 0, 0.2f},
    {1, 1, 64, 196, 196, 0},
    {1, 2, 64, 197, 197, 0, 0.2f},
    {1, 1, 64, 257, 257, 0},
    {1, 1, 64, 577, 577, 0},
    {1, 1, 32, 577, 577, 0, 0.2f},
    {2, 3, 8, 65, 65, 0, 0.2f},
    {1, 2, 24, 101, 101, 0},
    {1, 2, 32, 128, 128, 0},
    {1, 2, 40, 50, 50, 0},
    {1, 2, 48, 197, 197, 0, 0.2f},
    {1, 2, 72, 65, 65, 0, 0.2f},
    {1, 2, 80, 257, 257, 0},
    {1, 1, 96, 197, 197, 0, 0.2f},
    {1, 2, 104, 17, 17, 0},
    {1, 1, 128, 197, 197, 0},
    {1, 2, 128, 65, 65, 0, 0.2f},
    {2, 2, 64, 197, 1, 0, 0.2f, false},
    {1, 2, 64, 577, 3, 570, 0.2f, false},
    {1, 2, 80, 101, 3, 98, 0.0f, false},
    {1, 1, 128, 196, 1, 195, 0.5f, false},
    {1, 2, 64, 65, 65, 0, 0.0f, true, 30.0f},
    {1, 1, 96, 197, 197, 0, 0.2f, true, 30.0f},
};

TEST_F(AttentionStreaming, FollowsTheErrorRule) {
  std::uint64_t seed = 1000;
  for (const AttentionCase& c : kCases) {
    if (kReduced && c.total > 200) continue;
    check_attention(kStreaming, c, DType::bf16, seed++);
  }
}

TEST_F(AttentionStreaming, SameBitsInAnyOrder) {
  std::uint64_t seed = 1100;
  for (const AttentionCase& c : kCases) {
    if (c.total > 101) continue;
    check_attention_bits(*this, kStreaming, c, DType::bf16, seed++);
  }
}

TEST_F(AttentionStreaming, LeavesLogSumExpOut) {
  const AttentionProblem p({1, 2, 64, 65, 65, 0}, DType::bf16, 1200);
  AttentionForward args = p.forward();
  attention_streaming_forward(args, {}, nullptr);
  const std::vector<float> with = p.out.values();
  const AttentionProblem other({1, 2, 64, 65, 65, 0}, DType::bf16, 1200);
  args = other.forward();
  args.log_sum_exp = {};
  attention_streaming_forward(args, {}, nullptr);
  EXPECT_TRUE(same_bits(other.out.values(), with));
}

// Scores far below zero: e^-log_sum_exp overflows, and no key or query that is not there may
// bring it into a result.
TEST_F(AttentionStreaming, SurvivesScoresFarBelowZero) {
  const AttentionCase c{1, 1, 64, 70, 70, 0};
  AttentionProblem p(c, DType::bf16, 1300);
  std::vector<float> q(p.in.q.size()), kv = p.in.kv;
  for (std::int64_t t = 0; t < c.tokens; ++t) {
    for (std::int64_t i = 0; i < 64; ++i) {
      q[t * p.in.q_stride + i] = -8.0f;
      kv[t * p.in.kv_stride + i] = 8.0f;
    }
  }
  const DeviceTensor q_device(DType::bf16, q), kv_device(DType::bf16, kv);
  require_cuda(
      cudaMemcpy(p.q.view().data, q_device.view().data, 2 * q.size(), cudaMemcpyDeviceToDevice));
  require_cuda(
      cudaMemcpy(p.kv.view().data, kv_device.view().data, 2 * kv.size(), cudaMemcpyDeviceToDevice));
  p.run(kStreaming);
  for (const std::vector<float>& values : {p.out.values(), p.query_gradient(), p.key_gradient()}) {
    for (const float value : values) ASSERT_TRUE(std::isfinite(value));
  }
}

}  // namespace
}  // namespace vitrine::cuda
