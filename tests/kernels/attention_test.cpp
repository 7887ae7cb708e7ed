// Which tier of attention takes which shape, and the operation as the catalogue offers it.
#include <gtest/gtest.h>

#include "kernels/attention_problem.h"
#include "shapes.h"

namespace vitrine::cuda {
namespace {

// Bytes of shared memory that a block may opt in to: CUDA C++ Programming Guide, table of
// technical specifications per compute capability.
const CudaLimits kChips[] = {
    {40, 64 * 1024, 75}, {84, 99 * 1024, 86}, {108, 163 * 1024, 80}, {132, 227 * 1024, 90}};

template <typename Visit>
void for_each_shape(const Visit& visit) {
  for (const DType dtype : kFloatTypes) {
    for (const std::int64_t keys : shapes::with(shapes::kTokens, {272, 273})) {
      for (const std::int64_t head_size : {1, 4, 12, 32, 48, 64, 80, 96, 128, 192}) {
        for (const std::int64_t queries : {std::int64_t{1}, keys}) {
          for (const int options : {0, 1, 2, 3}) {
            const bool dropout = options & 1, probabilities = options & 2;
            visit(AttentionShape{dtype, queries, keys, head_size, head_size % 8 == 0, dropout,
                                 probabilities});
          }
        }
      }
    }
  }
}

TEST(AttentionTiers, TakeWhatTheyPromise) {
  for (const CudaLimits& chip : kChips) {
    for_each_shape([&](const AttentionShape& shape) {
      SCOPED_TRACE(testing::Message()
                   << "sm_" << chip.compute_capability << " " << to_string(shape.dtype)
                   << " Tq:" << shape.queries << " T:" << shape.keys << " d:" << shape.head_size
                   << " dropout:" << shape.dropout << " probabilities:" << shape.probabilities);
      const bool streams = attention_streaming_takes(shape, chip);
      EXPECT_EQ(streams, shape.dtype == DType::bf16 && shape.head_size % 8 == 0 &&
                             shape.head_size <= 128 && !shape.probabilities &&
                             chip.compute_capability >= 80);
      // Tensor cores wherever a tier has them; float never leaves the exact tier.
      const AttentionTier forward = attention_forward_tier(shape, chip);
      const AttentionTier backward = attention_backward_tier(shape, chip);
      if (streams) {
        EXPECT_NE(forward, AttentionTier::exact);
        EXPECT_NE(backward, AttentionTier::exact);
      }
      if (shape.dtype == DType::f32 || chip.compute_capability < 80 || shape.head_size % 8 != 0) {
        EXPECT_EQ(forward, AttentionTier::exact);
        EXPECT_EQ(backward, AttentionTier::exact);
      }
    });
  }
}

TEST(AttentionTiers, LeaveUnalignedRowsToTheExactOne) {
  for (const CudaLimits& chip : kChips) {
    for_each_shape([&](AttentionShape shape) {
      shape.aligned = false;
      EXPECT_EQ(attention_forward_tier(shape, chip), AttentionTier::exact);
      EXPECT_EQ(attention_backward_tier(shape, chip), AttentionTier::exact);
    });
  }
}

class Attention : public KernelTest {
 protected:
  // The operation by the error rule, as on `chip`; with the probabilities where asked for.
  void check(const CudaLimits& chip, const AttentionCase& c, DType dtype, bool probabilities) {
    SCOPED_TRACE(testing::Message()
                 << "sm_" << chip.compute_capability << " " << c << " " << to_string(dtype));
    const AttentionProblem p(c, dtype, 2000);
    const Rounding round = rounding_to(dtype);
    reference::Attention<double> exact(p.in);
    reference::Attention<float> naive(p.in, round, round);
    exact.run();
    naive.run();
    CudaKernels kernels = kernels_with(chip);
    AttentionForward args = p.forward();
    if (probabilities) args.probabilities = p.probabilities.view();
    kernels.attention_forward(args);
    kernels.attention_backward(p.backward());
    expect_close(p.out.values(), naive.out, exact.out, "out");
    expect_close(p.query_gradient(), naive.dq, exact.dq, "dq");
    expect_close(p.key_gradient(), naive.dkv, exact.dkv, "dk, dv");
    if (!probabilities) return;
    for (float& value : naive.probabilities) value = round(value);
    expect_close(p.probabilities.values(), naive.probabilities, exact.probabilities,
                 "probabilities");
  }
};

TEST_F(Attention, RunsOnEveryChip) {
  for (const CudaLimits& chip : kChips) {
    check(chip, {2, 2, 4, 50, 50, 0, 0.2f}, DType::f32, false);
    check(chip, {1, 2, 64, 17, 17, 0}, DType::f16, true);
    check(chip, {1, 2, 64, 65, 65, 0, 0.2f}, DType::bf16, false);
    check(chip, {1, 1, 64, 50, 50, 0}, DType::bf16, true);
    check(chip, {1, 2, 40, 101, 3, 98, 0.2f, false}, DType::bf16, false);
    if (kReduced) continue;
    check(chip, {1, 1, 64, 197, 197, 0}, DType::bf16, false);
    check(chip, {1, 1, 80, 300, 300, 0}, DType::bf16, false);
  }
}

// A head size that tensor cores take, in rows that do not start on 16-byte boundaries.
TEST_F(Attention, TakesUnalignedRows) {
  check({}, {1, 1, 20, 33, 33, 0, 0.2f}, DType::bf16, false);
  check({}, {2, 3, 12, 17, 17, 0}, DType::bf16, false);
}

TEST_F(Attention, RefusesContradictions) {
  const AttentionProblem p({1, 2, 8, 9, 9, 0}, DType::bf16, 1);
  AttentionForward forward = p.forward();
  forward.window.total = 8;
  expect_refused([&] { kernels().attention_forward(forward); }, "window.total");
  AttentionBackward backward = p.backward();
  --backward.dq.size;
  expect_refused([&] { kernels().attention_backward(backward); }, ": dq ");
}

}  // namespace
}  // namespace vitrine::cuda
