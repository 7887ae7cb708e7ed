// Attention forward and backward on the CPU, one thread, at the shapes people train.
//
// Counters: ns per (image, head) pair and GFLOP/s, counting 4·Tq·T·d forward and 10·Tq·T·d
// backward. A shape is timed only after its results agree with a plain loop.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "cpu/cpu_kernels.h"
#include "vitrine/random.h"

namespace vitrine {
namespace {

struct AttentionShape {
  std::int64_t batch, total, tokens, heads, head_size;
};

constexpr AttentionShape kShapes[] = {
    {32, 50, 50, 2, 4},    // mnist-tutorial
    {32, 50, 1, 2, 4},     // its last block, pruned to the class token
    {8, 65, 65, 4, 12},    // cifar10-small
    {8, 65, 1, 4, 12},     //
    {16, 50, 50, 4, 16},   // mnist-small
    {8, 197, 197, 3, 64},  // ViT-Ti/16 at 224
    {8, 197, 1, 3, 64},    //
    {2, 577, 577, 3, 64},  // ViT-Ti/16 at 384
    {2, 257, 257, 16, 80}  // ViT-H/14
};

class Attention {
 public:
  explicit Attention(const AttentionShape& shape)
      : shape_(shape), cols_(shape.heads * shape.head_size) {
    RandomStream random(11, 1);
    const auto fill = [&](std::vector<float>& values, std::int64_t size) {
      values.resize(static_cast<std::size_t>(size));
      for (float& value : values) value = static_cast<float>(random.normal());
    };
    fill(qkv_, shape.batch * shape.total * 3 * cols_);
    fill(q_, shape.batch * shape.tokens * cols_);
    fill(dout_, shape.batch * shape.tokens * cols_);
    out_.resize(dout_.size());
    log_sum_exp_.resize(static_cast<std::size_t>(shape.batch * shape.heads * shape.tokens));
    dqkv_.resize(qkv_.size());
    dq_.resize(q_.size());
  }

  void forward(Kernels& kernels) {
    AttentionForward args;
    args.out = view(out_);
    args.log_sum_exp = view(log_sum_exp_);
    fill_common(args);
    kernels.attention_forward(args);
  }
  void backward(Kernels& kernels) {
    AttentionBackward args;
    args.dq = pruned() ? view(dq_) : part(dqkv_, 0);
    args.dk = part(dqkv_, 1);
    args.dv = part(dqkv_, 2);
    args.dout = view(dout_);
    args.out = view(out_);
    args.log_sum_exp = view(log_sum_exp_);
    fill_common(args);
    kernels.attention_backward(args);
  }

  /// Largest difference of out, dq, dk and dv of the last image from a plain loop in double.
  double error() {
    double worst = 0;
    for (std::int64_t head = 0; head < shape_.heads; ++head) {
      worst = std::max(worst, head_error(shape_.batch - 1, head));
    }
    return worst;
  }

 private:
  bool pruned() const { return shape_.tokens != shape_.total; }
  static View<float> view(std::vector<float>& v) {
    return {v.data(), static_cast<std::int64_t>(v.size())};
  }
  View<float> part(std::vector<float>& v, std::int64_t which) {
    return {v.data() + which * cols_, (shape_.batch * shape_.total - 1) * 3 * cols_ + cols_};
  }
  template <typename Args>
  void fill_common(Args& args) {
    args.q = pruned() ? view(q_) : part(qkv_, 0);
    args.k = part(qkv_, 1);
    args.v = part(qkv_, 2);
    args.q_stride = pruned() ? cols_ : 3 * cols_;
    args.kv_stride = 3 * cols_;
    args.batch = shape_.batch;
    args.heads = shape_.heads;
    args.head_size = shape_.head_size;
    args.window = {shape_.tokens, 0, shape_.total};
  }

  double head_error(std::int64_t image, std::int64_t head) const {
    const std::int64_t d = shape_.head_size, tokens = shape_.total;
    const std::int64_t q_stride = pruned() ? cols_ : 3 * cols_, kv_stride = 3 * cols_;
    const std::int64_t q_at = image * shape_.tokens * q_stride + head * d;
    const std::int64_t k_at = image * tokens * kv_stride + cols_ + head * d;
    const float* q = (pruned() ? q_.data() : qkv_.data()) + q_at;
    const float* dq = (pruned() ? dq_.data() : dqkv_.data()) + q_at;
    const float *k = qkv_.data() + k_at, *v = k + cols_;
    const float *dk = dqkv_.data() + k_at, *dv = dk + cols_;
    std::vector<double> p(static_cast<std::size_t>(tokens));
    std::vector<double> sum_dk(static_cast<std::size_t>(tokens * d)), sum_dv = sum_dk;
    double worst = 0;
    const auto compare = [&](double found, double expected) {
      if (!(std::abs(found - expected) <= worst)) worst = std::abs(found - expected);
    };
    for (std::int64_t i = 0; i < shape_.tokens; ++i) {
      const std::int64_t out_at = (image * shape_.tokens + i) * cols_ + head * d;
      const float *out = out_.data() + out_at, *dout = dout_.data() + out_at;
      double sum = 0, delta = 0;
      for (std::int64_t j = 0; j < tokens; ++j) {
        double s = 0;
        for (std::int64_t c = 0; c < d; ++c)
          s += double(q[i * q_stride + c]) * k[j * kv_stride + c];
        sum += p[j] = std::exp(s / std::sqrt(double(d)));
      }
      std::vector<double> exact_out(static_cast<std::size_t>(d)), exact_dq = exact_out;
      for (std::int64_t j = 0; j < tokens; ++j) {
        p[j] /= sum;
        for (std::int64_t c = 0; c < d; ++c) exact_out[c] += p[j] * v[j * kv_stride + c];
      }
      for (std::int64_t c = 0; c < d; ++c) delta += exact_out[c] * dout[c];
      for (std::int64_t j = 0; j < tokens; ++j) {
        double dp = 0;
        for (std::int64_t c = 0; c < d; ++c) dp += double(dout[c]) * v[j * kv_stride + c];
        const double ds = p[j] * (dp - delta) / std::sqrt(double(d));
        for (std::int64_t c = 0; c < d; ++c) {
          sum_dv[j * d + c] += p[j] * dout[c];
          sum_dk[j * d + c] += ds * q[i * q_stride + c];
          exact_dq[c] += ds * k[j * kv_stride + c];
        }
      }
      for (std::int64_t c = 0; c < d; ++c) {
        compare(out[c], exact_out[c]);
        compare(dq[i * q_stride + c], exact_dq[c]);
      }
    }
    for (std::int64_t i = 0; i < tokens * d; ++i) {
      compare(dk[i / d * kv_stride + i % d], sum_dk[i]);
      compare(dv[i / d * kv_stride + i % d], sum_dv[i]);
    }
    return worst;
  }

  AttentionShape shape_;
  std::int64_t cols_;
  std::vector<float> qkv_, q_, dout_, out_, log_sum_exp_, dqkv_, dq_;
};

void run(benchmark::State& state, const AttentionShape& shape, bool backward) {
  cpu::ThreadPool pool(1);
  cpu::CpuKernels kernels(pool);
  Attention attention(shape);
  attention.forward(kernels);
  attention.backward(kernels);
  if (const double error = attention.error(); !(error < 1e-4)) {
    state.SkipWithError(("wrong by " + std::to_string(error)).c_str());
    return;
  }
  for (auto _ : state) {
    if (backward) {
      attention.backward(kernels);
    } else {
      attention.forward(kernels);
    }
  }
  const double pairs = double(shape.batch * shape.heads);
  const double flops =
      (backward ? 10.0 : 4.0) * double(shape.tokens * shape.total * shape.head_size) * pairs;
  using benchmark::Counter;
  state.counters["FLOP/s"] = Counter(flops, Counter::kIsIterationInvariantRate);
  state.counters["s/pair"] = Counter(pairs, Counter::kIsIterationInvariantRate | Counter::kInvert);
}

void register_all() {
  for (const bool backward : {false, true}) {
    for (const AttentionShape& shape : kShapes) {
      const std::string name =
          std::string(backward ? "attention_backward" : "attention_forward") +
          "/B:" + std::to_string(shape.batch) + "/T:" + std::to_string(shape.total) +
          "/Tq:" + std::to_string(shape.tokens) + "/H:" + std::to_string(shape.heads) +
          "/d:" + std::to_string(shape.head_size) + "/f32";
      benchmark::RegisterBenchmark(name.c_str(),
                                   [=](benchmark::State& state) { run(state, shape, backward); });
    }
  }
}

}  // namespace
}  // namespace vitrine

int main(int argc, char** argv) {
  vitrine::register_all();
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
}
