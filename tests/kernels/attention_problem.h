// A case of attention on the device, and how a tier is held to the reference.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "attention.cuh"
#include "kernels/kernel_device.h"
#include "reference/attention.h"

namespace vitrine::cuda {

using reference::AttentionCase;

template <DType kType>
float round_as(float value) {
  return rounded_to(kType, value);
}
using Rounding = float (*)(float);
inline Rounding rounding_to(DType dtype) {
  return dtype == DType::bf16  ? round_as<DType::bf16>
         : dtype == DType::f16 ? round_as<DType::f16>
                               : round_as<DType::f32>;
}

/// The launchers of one tier.
struct AttentionLaunchers {
  void (*forward)(const AttentionForward&, const CudaLimits&, cudaStream_t);
  void (*backward)(const AttentionBackward&, const CudaLimits&, cudaStream_t);
  bool rounds_weights;  ///< probabilities and dS go through the working type
  CudaLimits limits = {};
};

/// Inputs as the device sees them and poisoned outputs, of exactly the size the views need.
struct AttentionProblem {
  reference::AttentionInputs in;
  DType dtype;
  DeviceTensor q, kv, dout, out, dq, dkv;
  DeviceArray<float> log_sum_exp, probabilities;
  DeviceArray<StepState> state;

  AttentionProblem(const AttentionCase& c, DType dtype_, std::uint64_t seed)
      : in(rounded_inputs(c, dtype_, seed)),
        dtype(dtype_),
        q(dtype, in.q),
        kv(dtype, in.kv),
        dout(dtype, in.dout),
        out(dtype, size(in.dout)),
        dq(dtype, size(in.q)),
        dkv(dtype, size(in.kv)),
        log_sum_exp(in.rows()),
        probabilities(in.rows() * c.total),
        state(in.state) {}

  AttentionForward forward() const {
    AttentionForward args;
    args.out = out.view();
    args.log_sum_exp = log_sum_exp.view();
    fill(args);
    return args;
  }
  AttentionBackward backward() const {
    AttentionBackward args;
    args.dq = dq.view();
    args.dk = dkv.view(0, in.kv_size());
    args.dv = dkv.view(in.cols, in.kv_size());
    args.dout = dout.view();
    args.out = out.view();
    args.log_sum_exp = log_sum_exp.view();
    fill(args);
    return args;
  }
  void run(const AttentionLaunchers& tier) const {
    tier.forward(forward(), tier.limits, nullptr);
    tier.backward(backward(), tier.limits, nullptr);
  }

  /// dq, or dk and dv, with zeros between the rows, which no kernel may touch.
  std::vector<float> query_gradient() const { return without_gaps(dq, in.q_stride, in.cols); }
  std::vector<float> key_gradient() const { return without_gaps(dkv, in.kv_stride, 2 * in.cols); }

 private:
  static std::int64_t size(const std::vector<float>& values) {
    return static_cast<std::int64_t>(values.size());
  }
  static reference::AttentionInputs rounded_inputs(const AttentionCase& c, DType dtype,
                                                   std::uint64_t seed) {
    reference::AttentionInputs inputs(c, seed);
    for (std::vector<float>* values : {&inputs.q, &inputs.kv, &inputs.dout}) {
      *values = rounded_to(dtype, *values);
    }
    return inputs;
  }
  template <typename Args>
  void fill(Args& args) const {
    args.q = {q.view().data, q.view().size, dtype};
    args.k = {kv.view().data, in.kv_size(), dtype};
    args.v = {kv.view(in.cols, in.kv_size()).data, in.kv_size(), dtype};
    in.fill_common(args, state.data());
  }
  static std::vector<float> without_gaps(const DeviceTensor& tensor, std::int64_t stride,
                                         std::int64_t cols) {
    std::vector<float> values = tensor.values();
    for (std::int64_t i = 0; i < size(values); ++i) {
      if (i % stride < cols) continue;
      EXPECT_TRUE(std::isnan(values[i])) << "between rows, " << i;
      values[i] = 0.0f;
    }
    return values;
  }
};

/// A gradient that is zero but for rounding: with one key, dS = P ∘ (dP - delta) vanishes.
inline void expect_vanishing(const std::vector<float>& values, float magnitude,
                             const std::string& what) {
  for (const float value : values) {
    ASSERT_LE(std::abs(value), 64 * magnitude * std::numeric_limits<float>::epsilon()) << what;
  }
}

/// Forward and backward by the error rule.
inline void check_attention(const AttentionLaunchers& tier, const AttentionCase& c, DType dtype,
                            std::uint64_t seed) {
  SCOPED_TRACE(testing::Message() << c << " " << to_string(dtype) << " seed:" << seed);
  const AttentionProblem p(c, dtype, seed);
  const Rounding round = rounding_to(dtype);
  reference::Attention<double> exact(p.in);
  reference::Attention<float> naive(p.in, round,
                                    tier.rounds_weights ? round : round_as<DType::f32>);
  exact.run();
  naive.run();
  p.run(tier);
  expect_close(p.out.values(), naive.out, exact.out, "out");
  expect_close(p.log_sum_exp.values(), naive.log_sum_exp, exact.log_sum_exp, "log_sum_exp");
  const std::vector<float> dq = p.query_gradient(), dkv = p.key_gradient();
  if (c.total == 1) {
    expect_vanishing(dq, static_cast<float>(c.head_size), "dq");
    return;
  }
  expect_close(dq, naive.dq, exact.dq, "dq");
  expect_close(dkv, naive.dkv, exact.dkv, "dk, dv");
}

/// The same bits whatever the order of threads and blocks.
template <typename Test>
void check_attention_bits(Test& test, const AttentionLaunchers& tier, const AttentionCase& c,
                          DType dtype, std::uint64_t seed) {
  SCOPED_TRACE(testing::Message() << c << " " << to_string(dtype) << " seed:" << seed);
  const AttentionProblem one(c, dtype, seed), other(c, dtype, seed);
  one.run(tier);
  test.in_another_order([&] { other.run(tier); });
  EXPECT_TRUE(same_bits(one.out.values(), other.out.values())) << "out";
  EXPECT_TRUE(same_bits(one.log_sum_exp.values(), other.log_sum_exp.values())) << "log_sum_exp";
  EXPECT_TRUE(same_bits(one.query_gradient(), other.query_gradient())) << "dq";
  EXPECT_TRUE(same_bits(one.key_gradient(), other.key_gradient())) << "dk, dv";
}

}  // namespace vitrine::cuda
