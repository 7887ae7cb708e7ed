// Attention for short sequences against the definition in double: each kernel on every length that
// it has an instance for, and which kernel is chosen on which chip.
#include "attention_short.cuh"

#include <gtest/gtest.h>

#include <algorithm>

#include "kernels/attention_problem.h"

namespace vitrine::cuda {
namespace {

constexpr CudaLimits kHopper{132, 227 * 1024, 90}, kA100{108, 163 * 1024, 80},
    kWorkstation{84, 99 * 1024, 86};
constexpr ShortForward kForwards[] = {ShortForward::rows_16, ShortForward::rows_32};

template <ShortForward kKernel>
void forward(const AttentionForward& args, const CudaLimits&, cudaStream_t stream) {
  short_forward(kKernel, args, 1, stream);
}
template <ShortBackward kKernel>
void backward(const AttentionBackward& args, const CudaLimits& limits, cudaStream_t stream) {
  short_backward(kKernel, args, limits.multiprocessors, stream);
}

/// Launchers of every kernel that has an instance for the case; each kernel at least once.
std::vector<AttentionLaunchers> launchers_for(const AttentionCase& c) {
  std::vector<decltype(AttentionLaunchers::forward)> forwards;
  std::vector<decltype(AttentionLaunchers::backward)> backwards;
  const auto exists = [&](auto kernel) {
    return short_instance(kernel, c.head_size, c.total).shared_bytes > 0;
  };
  if (exists(ShortForward::rows_16)) forwards.push_back(forward<ShortForward::rows_16>);
  if (exists(ShortForward::rows_32)) forwards.push_back(forward<ShortForward::rows_32>);
  if (exists(ShortBackward::two_pass)) backwards.push_back(backward<ShortBackward::two_pass>);
  if (exists(ShortBackward::fused)) backwards.push_back(backward<ShortBackward::fused>);
  if (exists(ShortBackward::persistent)) backwards.push_back(backward<ShortBackward::persistent>);
  std::vector<AttentionLaunchers> launchers;
  if (forwards.empty() || backwards.empty()) return launchers;
  for (std::size_t i = 0; i < std::max(forwards.size(), backwards.size()); ++i) {
    launchers.push_back(
        {forwards[i % forwards.size()], backwards[i % backwards.size()], true, kHopper});
  }
  return launchers;
}

void overwrite(const DeviceTensor& target, const std::vector<float>& values) {
  const DeviceTensor source(target.dtype(), values);
  require_cuda(cudaMemcpy(target.view().data, source.view().data,
                          values.size() * size_of(target.dtype()), cudaMemcpyDeviceToDevice));
}

class AttentionShort : public KernelTest {
 public:
  using KernelTest::in_another_order;
};

// batch, heads, head_size, total, tokens, first, dropout, packed, spread
const AttentionCase kCases[] = {
    {3, 2, 64, 1, 1, 0},
    {3, 2, 64, 5, 5, 0},
    {1, 3, 64, 8, 8, 0},
    {1, 3, 64, 16, 16, 0},
    {2, 2, 64, 17, 17, 0},
    {1, 1, 64, 32, 32, 0},
    {1, 2, 64, 49, 49, 0},
    {2, 2, 64, 50, 50, 0},
    {1, 1, 64, 64, 64, 0},
    {2, 2, 64, 65, 65, 0},
    {1, 1, 64, 73, 73, 0},
    {1, 1, 64, 101, 101, 0},
    {1, 1, 64, 112, 112, 0},
    {1, 1, 64, 196, 196, 0},
    {1, 2, 64, 197, 197, 0},
    {1, 1, 64, 208, 208, 0},
    {1, 1, 64, 257, 257, 0},
    {1, 1, 64, 272, 272, 0},
    {2, 1, 32, 50, 50, 0},
    {1, 2, 32, 65, 65, 0},
    {1, 1, 32, 197, 197, 0},
    {1, 1, 32, 257, 257, 0},
    {2, 1, 80, 50, 50, 0},
    {1, 2, 80, 65, 65, 0},
    {1, 1, 80, 197, 197, 0},
    {1, 1, 80, 257, 257, 0},
    // Queries apart from keys and values: the last block of a model whose class token is pooled.
    {3, 2, 64, 17, 1, 0, 0.0f, false},
    {2, 2, 64, 50, 1, 0, 0.0f, false},
    {2, 2, 64, 65, 1, 64, 0.0f, false},
    {2, 1, 64, 65, 3, 62, 0.0f, false},
    {1, 2, 64, 197, 1, 0, 0.0f, false},
    {1, 1, 64, 197, 3, 100, 0.0f, false},
    {1, 1, 64, 197, 33, 164, 0.0f, false},
    {1, 1, 64, 257, 1, 256, 0.0f, false},
    {1, 1, 80, 257, 3, 7, 0.0f, false},
    // Peaked rows.
    {1, 2, 64, 17, 17, 0, 0.0f, true, 30.0f},
    {1, 1, 64, 65, 65, 0, 0.0f, true, 30.0f},
    {1, 1, 64, 197, 197, 0, 0.0f, true, 30.0f},
    {1, 1, 32, 257, 257, 0, 0.0f, true, 30.0f},
};

TEST_F(AttentionShort, FollowsTheErrorRule) {
  std::uint64_t seed = 2000;
  for (const AttentionCase& c : kCases) {
    if (kReduced && c.total > 208) continue;
    const std::vector<AttentionLaunchers> launchers = launchers_for(c);
    EXPECT_FALSE(launchers.empty()) << c;
    for (const AttentionLaunchers& tier : launchers) check_attention(tier, c, DType::bf16, seed++);
  }
}

TEST_F(AttentionShort, SameBitsInAnyOrder) {
  std::uint64_t seed = 2100;
  for (const AttentionCase& c : kCases) {
    if (c.total > (kReduced ? 65 : 197) || c.batch * c.heads == 1) continue;
    for (const AttentionLaunchers& tier : launchers_for(c)) {
      check_attention_bits(*this, tier, c, DType::bf16, seed++);
    }
  }
}

// The persistent kernel with fewer blocks than heads, down to one that does all.
TEST_F(AttentionShort, BlocksOfThePersistentKernelGoFromHeadToHead) {
  const AttentionProblem p({kReduced ? 1 : 2, 3, 64, 197, 197, 0}, DType::bf16, 2200);
  short_forward(ShortForward::rows_16, p.forward(), 1, nullptr);
  short_backward(ShortBackward::persistent, p.backward(), 132, nullptr);
  const std::vector<float> dq = p.query_gradient(), dkv = p.key_gradient();
  for (const int blocks : {1, 2, 4}) {
    const DeviceTensor q(DType::bf16, p.in.q.size()), kv(DType::bf16, p.in.kv.size());
    AttentionBackward args = p.backward();
    args.dq = q.view();
    args.dk = kv.view(0, args.dk.size);
    args.dv = kv.view(p.in.cols, args.dv.size);
    short_backward(ShortBackward::persistent, args, blocks, nullptr);
    std::vector<float> again = q.values(), keys_again = kv.values();
    for (std::int64_t i = 0; i < q.view().size; ++i) {
      if (i % p.in.q_stride >= p.in.cols) again[i] = 0.0f;
    }
    for (std::int64_t i = 0; i < kv.view().size; ++i) {
      if (i % p.in.kv_stride >= 2 * p.in.cols) keys_again[i] = 0.0f;
    }
    EXPECT_TRUE(same_bits(again, dq)) << blocks << " blocks: dq";
    EXPECT_TRUE(same_bits(keys_again, dkv)) << blocks << " blocks: dk, dv";
  }
}

TEST_F(AttentionShort, SplitQueriesHaveTheSameBits) {
  std::uint64_t seed = 2300;
  for (const AttentionCase& c : {AttentionCase{1, 2, 64, 65, 65, 0},
                                 {1, 1, 64, 101, 101, 0},
                                 {1, 1, 64, 197, 197, 0},
                                 {1, 1, 80, 257, 257, 0}}) {
    for (const ShortForward kernel : kForwards) {
      const int block_rows = short_instance(kernel, c.head_size, c.total).block_rows;
      if (block_rows == 0 || (kReduced && c.total > 200)) continue;
      SCOPED_TRACE(testing::Message() << c << " rows a block:" << block_rows << " seed:" << seed);
      const AttentionProblem p(c, DType::bf16, seed++);
      short_forward(kernel, p.forward(), 1, nullptr);
      const std::vector<float> out = p.out.values(), log_sum_exp = p.log_sum_exp.values();
      for (const int splits : {2, 3, 5}) {  // some blocks are left without queries
        const AttentionProblem again(c, DType::bf16, seed - 1);
        short_forward(kernel, again.forward(), splits, nullptr);
        EXPECT_TRUE(same_bits(again.out.values(), out)) << splits << " splits";
        EXPECT_TRUE(same_bits(again.log_sum_exp.values(), log_sum_exp)) << splits << " splits";
      }
    }
  }
}

TEST_F(AttentionShort, SplitsWhereMultiprocessorsWouldIdle) {
  AttentionForward args;
  args.batch = 1, args.heads = 12, args.head_size = 64;
  args.window = {197, 0, 197};
  EXPECT_EQ(short_forward_splits(ShortForward::rows_16, args, kHopper), 4);  // 13 tiles, 4 warps
  EXPECT_EQ(short_forward_splits(ShortForward::rows_32, args, kHopper), 2);  // 7 tiles
  args.batch = 6;
  EXPECT_EQ(short_forward_splits(ShortForward::rows_16, args, kHopper), 1);
  args.batch = 1000;
  EXPECT_EQ(short_forward_splits(ShortForward::rows_16, args, kHopper), 1);
}

TEST_F(AttentionShort, LeavesLogSumExpOut) {
  for (const ShortForward kernel : kForwards) {
    const AttentionProblem p({1, 2, 64, 65, 65, 0}, DType::bf16, 2400);
    AttentionForward args = p.forward();
    short_forward(kernel, args, 1, nullptr);
    const std::vector<float> with = p.out.values();
    const DeviceTensor out(DType::bf16, p.in.dout.size());
    args.out = out.view();
    args.log_sum_exp = {};
    short_forward(kernel, args, 1, nullptr);
    EXPECT_TRUE(same_bits(out.values(), with));
  }
}

// Scores far below zero: exp(-log_sum_exp) overflows, and no key or query that is not there may
// bring it into a result.
TEST_F(AttentionShort, SurvivesScoresFarBelowZero) {
  std::uint64_t seed = 2500;
  for (const AttentionCase& c : {AttentionCase{1, 1, 64, 5, 5, 0},
                                 {1, 1, 64, 17, 17, 0},
                                 {1, 1, 64, 65, 65, 0},
                                 {1, 1, 64, 197, 197, 0},
                                 {1, 1, 64, 197, 1, 3, 0.0f, false},
                                 {1, 1, 80, 257, 257, 0}}) {
    if (kReduced && c.total > 200) continue;
    for (const AttentionLaunchers& tier : launchers_for(c)) {
      SCOPED_TRACE(testing::Message() << c << " seed:" << seed);
      AttentionProblem p(c, DType::bf16, seed++);
      for (float& value : p.in.q) value = rounded_to(DType::bf16, value - 8.0f);
      for (std::size_t i = 0; i < p.in.kv.size(); ++i) {  // k, not v
        const auto column = static_cast<std::int64_t>(i) % p.in.kv_stride;
        if (column < p.in.cols) p.in.kv[i] = rounded_to(DType::bf16, p.in.kv[i] + 8.0f);
      }
      overwrite(p.q, p.in.q);
      overwrite(p.kv, p.in.kv);
      const Rounding round = rounding_to(DType::bf16);
      reference::Attention<double> exact(p.in);
      reference::Attention<float> naive(p.in, round, round);
      exact.run();
      naive.run();
      EXPECT_LT(exact.log_sum_exp[0], -100.0);
      p.run(tier);
      expect_close(p.out.values(), naive.out, exact.out, "out");
      expect_close(p.log_sum_exp.values(), naive.log_sum_exp, exact.log_sum_exp, "log_sum_exp");
      expect_close(p.query_gradient(), naive.dq, exact.dq, "dq");
      expect_close(p.key_gradient(), naive.dkv, exact.dkv, "dk, dv");
    }
  }
}

TEST_F(AttentionShort, ChoosesWhatFitsTheChip) {
  for (const CudaLimits& limits : {kHopper, kA100, kWorkstation}) {
    for (const std::int64_t head_size : {32, 64, 80}) {
      for (std::int64_t keys = 1; keys <= 280; ++keys) {
        AttentionShape shape{DType::bf16, keys, keys, head_size, true};
        const ShortForward forward = short_forward_kernel(shape, limits);
        const ShortBackward backward = short_backward_kernel(shape, limits);
        const std::int64_t tiles = (keys + 15) / 16;
        const bool exists = tiles == 4 || tiles == 5 || tiles == 13 || tiles == 17 ||
                            (head_size == 64 && (tiles <= 2 || tiles == 7));
        EXPECT_EQ(attention_short_forward_takes(shape, limits), exists) << keys;
        EXPECT_EQ(attention_short_backward_takes(shape, limits), exists) << keys;
        EXPECT_LE(short_instance(forward, head_size, keys).shared_bytes,
                  limits.shared_memory_per_block);
        EXPECT_LE(short_instance(backward, head_size, keys).shared_bytes,
                  limits.shared_memory_per_block);
        shape.queries = 1;
        EXPECT_EQ(short_forward_kernel(shape, limits) == ShortForward::rows_16, exists);
      }
    }
  }
  const AttentionShape base{DType::bf16, 197, 197, 64, true};
  EXPECT_EQ(short_forward_kernel(base, kHopper), ShortForward::rows_32);
  EXPECT_EQ(short_backward_kernel(base, kHopper), ShortBackward::persistent);
  EXPECT_EQ(short_backward_kernel(base, kA100), ShortBackward::fused);
  EXPECT_EQ(short_backward_kernel(base, kWorkstation), ShortBackward::two_pass);
}

TEST_F(AttentionShort, RefusesWhatItCannotDo) {
  const AttentionShape base{DType::bf16, 65, 65, 64, true};
  const auto expect_refused = [&](const auto& change, const CudaLimits& limits = kHopper) {
    AttentionShape shape = base;
    change(shape);
    EXPECT_FALSE(attention_short_forward_takes(shape, limits));
    EXPECT_FALSE(attention_short_backward_takes(shape, limits));
  };
  expect_refused([](AttentionShape& shape) { shape.dtype = DType::f16; });
  expect_refused([](AttentionShape& shape) { shape.dtype = DType::f32; });
  expect_refused([](AttentionShape& shape) { shape.aligned = false; });
  expect_refused([](AttentionShape& shape) { shape.dropout = true; });
  expect_refused([](AttentionShape& shape) { shape.probabilities = true; });
  expect_refused([](AttentionShape& shape) { shape.head_size = 48; });
  expect_refused([](AttentionShape& shape) { shape.keys = shape.queries = 577; });
  expect_refused([](AttentionShape&) {}, {108, 16 * 1024, 80});
  expect_refused([](AttentionShape&) {}, {72, 64 * 1024, 75});
}

// Through the tier's own entrances, as on each chip.
TEST_F(AttentionShort, RunsAsOnEachChip) {
  std::uint64_t seed = 2600;
  for (const CudaLimits& limits : {kHopper, kA100, kWorkstation}) {
    const AttentionLaunchers tier{attention_short_forward, attention_short_backward, true, limits};
    check_attention(tier, {1, 2, 64, 50, 50, 0}, DType::bf16, seed++);
    check_attention(tier, {2, 1, 64, 197, 197, 0}, DType::bf16, seed++);
    check_attention(tier, {1, 2, 64, 197, 1, 0, 0.0f, false}, DType::bf16, seed++);
  }
}

}  // namespace
}  // namespace vitrine::cuda
