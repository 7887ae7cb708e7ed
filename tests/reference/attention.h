// Attention by its definition: cases, their random inputs, and the reference in any precision.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <ostream>
#include <vector>

#include "vitrine/kernels.h"
#include "vitrine/random.h"

namespace vitrine::reference {

struct AttentionCase {
  std::int64_t batch, heads, head_size, total, tokens, first;
  float dropout = 0.0f;
  bool packed = true;   // q, k, v of one tensor; else q apart from k, v
  float spread = 1.0f;  // of q: large ones make peaked rows
};

inline std::ostream& operator<<(std::ostream& out, const AttentionCase& c) {
  return out << "B:" << c.batch << " H:" << c.heads << " d:" << c.head_size << " T:" << c.total
             << " Tq:" << c.tokens << " first:" << c.first << " dropout:" << c.dropout
             << " packed:" << c.packed << " spread:" << c.spread;
}

/// The inputs of a case, of exactly the size the views need. k begins at kv[0], v at kv[cols].
struct AttentionInputs {
  static constexpr std::uint32_t kOperation = 9;

  AttentionCase c;
  std::int64_t cols, q_stride, kv_stride;
  StepState state{.seed = 77, .step = 3, .first_row = 5};
  std::vector<float> q, kv, dout;

  AttentionInputs(const AttentionCase& case_, std::uint64_t seed)
      : c(case_), cols(c.heads * c.head_size) {
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
  }

  std::int64_t rows() const { return c.batch * c.heads * c.tokens; }
  /// Elements of the views of k and of v.
  std::int64_t kv_size() const { return static_cast<std::int64_t>(kv.size()) - cols; }

  /// Everything in the arguments but the views.
  template <typename Args>
  void fill_common(Args& args, const StepState* step_state) const {
    args.q_stride = q_stride;
    args.kv_stride = kv_stride;
    args.batch = c.batch;
    args.heads = c.heads;
    args.head_size = c.head_size;
    args.window = {c.tokens, c.first, c.total};
    args.dropout = {c.dropout, kOperation};
    args.state = step_state;
  }
};

template <typename Real>
Real unrounded(Real value) {
  return value;
}

/// The definition, in `Real`, with the strides and the dropout of the inputs. What a naive
/// implementation writes to memory passes `round_tensor` (out, dq, dk, dv) and `round_weight` (the
/// probabilities and the gradient of the scores).
template <typename Real>
struct Attention {
  using Round = Real (*)(Real);

  const AttentionInputs& in;
  Round round_tensor, round_weight;
  std::vector<Real> q, kv, dout;
  std::vector<Real> out, log_sum_exp, probabilities, dq, dkv;
  std::vector<float> factors;

  explicit Attention(const AttentionInputs& inputs, Round tensor = unrounded<Real>,
                     Round weight = unrounded<Real>)
      : in(inputs),
        round_tensor(tensor),
        round_weight(weight),
        q(in.q.begin(), in.q.end()),
        kv(in.kv.begin(), in.kv.end()),
        dout(in.dout.begin(), in.dout.end()),
        out(in.dout.size()),
        log_sum_exp(static_cast<std::size_t>(in.rows())),
        probabilities(static_cast<std::size_t>(in.rows() * in.c.total)),
        dq(in.q.size()),
        dkv(in.kv.size()),
        factors(probabilities.size(), 1.0f) {
    if (in.c.dropout > 0.0f) draw_factors();
  }

  void draw_factors() {
    const AttentionCase& c = in.c;
    const std::uint32_t threshold = drop_threshold(c.dropout);
    for (std::int64_t row = 0; row < in.rows(); ++row) {
      const std::int64_t head = in.state.first_row * c.heads + row / c.tokens;
      const auto full_row = static_cast<std::uint64_t>(head * c.total + c.first + row % c.tokens);
      for (std::int64_t j = 0; j < c.total; ++j) {
        const auto quad = attention_quad(full_row, static_cast<std::uint64_t>(c.total),
                                         static_cast<std::uint64_t>(j));
        const PhiloxWords words =
            random_words(in.state.seed, in.state.step, AttentionInputs::kOperation, quad);
        factors[static_cast<std::size_t>(row * c.total + j)] =
            words.word[j % 4] >= threshold ? 1.0f / (1.0f - c.dropout) : 0.0f;
      }
    }
  }

  void run() {
    std::fill(dq.begin(), dq.end(), Real(0));
    std::fill(dkv.begin(), dkv.end(), Real(0));
    for (std::int64_t row = 0; row < in.rows(); ++row) run_row(row);
    for (Real& value : dq) value = round_tensor(value);
    for (Real& value : dkv) value = round_tensor(value);
  }

  void run_row(std::int64_t row) {
    const AttentionCase& c = in.c;
    const std::int64_t d = c.head_size, query = row % c.tokens;
    const std::int64_t head = row / c.tokens % c.heads, image = row / c.tokens / c.heads;
    const std::int64_t q_at = (image * c.tokens + query) * in.q_stride + head * d;
    const std::int64_t k_at = image * c.total * in.kv_stride + head * d;
    const std::int64_t out_at = (image * c.tokens + query) * in.cols + head * d;
    const Real scale = Real(1) / std::sqrt(Real(d));
    Real* prob = probabilities.data() + row * c.total;
    const float* factor = factors.data() + row * c.total;
    std::vector<Real> score(static_cast<std::size_t>(c.total)), o(static_cast<std::size_t>(d));
    Real max = -std::numeric_limits<Real>::infinity(), sum = 0;
    for (std::int64_t j = 0; j < c.total; ++j) {
      Real s = 0;
      for (std::int64_t i = 0; i < d; ++i) s += q[q_at + i] * kv[k_at + j * in.kv_stride + i];
      score[j] = s * scale;
      max = std::max(max, score[j]);
    }
    for (std::int64_t j = 0; j < c.total; ++j) sum += prob[j] = std::exp(score[j] - max);
    log_sum_exp[row] = max + std::log(sum);
    for (std::int64_t j = 0; j < c.total; ++j) {
      prob[j] /= sum;
      const Real weight = round_weight(prob[j] * factor[j]);
      const Real* v = kv.data() + k_at + in.cols + j * in.kv_stride;
      for (std::int64_t i = 0; i < d; ++i) o[i] += weight * v[i];
    }
    Real delta = 0;
    for (std::int64_t i = 0; i < d; ++i) {
      out[out_at + i] = round_tensor(o[i]);
      delta += out[out_at + i] * dout[out_at + i];
    }
    for (std::int64_t j = 0; j < c.total; ++j) {
      const std::int64_t at = k_at + j * in.kv_stride;
      Real dp = 0;
      for (std::int64_t i = 0; i < d; ++i) dp += dout[out_at + i] * kv[at + in.cols + i];
      const Real again = std::exp(score[j] - log_sum_exp[row]);  // as backward has to
      const Real ds = round_weight(again * (dp * factor[j] - delta) * scale);
      const Real weight = round_weight(again * factor[j]);
      for (std::int64_t i = 0; i < d; ++i) {
        dkv[at + in.cols + i] += weight * dout[out_at + i];
        dkv[at + i] += ds * q[q_at + i];
        dq[q_at + i] += ds * kv[at + i];
      }
    }
  }
};

}  // namespace vitrine::reference
