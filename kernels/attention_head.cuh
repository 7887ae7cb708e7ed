// Where an (image, head) pair of attention's arguments lies in memory, and its dropout.
#pragma once

#include "primitives/cuda.cuh"
#include "primitives/dropout.cuh"

namespace vitrine::cuda {

/// Element (row t, channel i) of a pair is at tensor[first + t · stride + i].
struct HeadRows {
  std::int64_t first, stride;

  __device__ std::int64_t operator()(std::int64_t row) const { return first + row * stride; }
};

/// The rows of one (image, head) pair: of q and dq; of k, v, dk and dv; of out and dout. Row
/// `query` of log_sum_exp and probabilities is first_row + query.
struct AttentionHead {
  HeadRows q, kv, out;
  std::int64_t first_row;

  /// There are fewer than 2³² pairs, as a grid has fewer blocks: 32 bits divide sooner than 64.
  template <typename Args>
  __device__ AttentionHead(const Args& args, std::int64_t pair) {
    const auto heads = static_cast<unsigned>(args.heads);
    const std::int64_t image = static_cast<unsigned>(pair) / heads;
    const std::int64_t column = (pair - image * heads) * args.head_size;
    const std::int64_t queries = args.window.tokens, cols = args.heads * args.head_size;
    q = {image * queries * args.q_stride + column, args.q_stride};
    kv = {image * args.window.total * args.kv_stride + column, args.kv_stride};
    out = {image * queries * cols + column, cols};
    first_row = pair * queries;
  }
};

/// Dropout of the probabilities of one pair; quads as attention_quad counts them.
class ScoreDropout {
 public:
  template <typename Args>
  __device__ ScoreDropout(const Args& args, std::int64_t pair)
      : draw_(args.dropout, args.state), any_(args.dropout.probability > 0.0f) {
    if (!any_) return;
    const auto head = static_cast<std::uint64_t>(args.state->first_row * args.heads + pair);
    const auto total = static_cast<std::uint64_t>(args.window.total);
    quads_ = attention_quad(1, total, 0);
    first_ = attention_quad(head * total + static_cast<std::uint64_t>(args.window.first), total, 0);
  }

  __device__ bool any() const { return any_; }
  /// The factors of keys key … key + 3; key is a multiple of 4.
  __device__ float4 factors(int query, int key) const {
    return draw_.quad(first_ + static_cast<std::uint64_t>(query) * quads_ +
                      static_cast<std::uint64_t>(key / 4));
  }
  /// Which of keys key … key + 3 are kept, a bit each; key is a multiple of 4.
  __device__ unsigned kept(int query, int key) const {
    const PhiloxWords words = random_words(
        draw_.seed, draw_.step, draw_.operation,
        first_ + static_cast<std::uint64_t>(query) * quads_ + static_cast<std::uint64_t>(key / 4));
    unsigned bits = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i)
      bits |= static_cast<unsigned>(words.word[i] >= draw_.threshold) << i;
    return bits;
  }
  /// The factor of what is kept.
  __device__ float scale() const {
    return draw_.scale;
  }
  /// The factor of one key.
  __device__ float factor(int query, int key) const {
    return draw_.element(4 * (first_ + static_cast<std::uint64_t>(query) * quads_) +
                         static_cast<std::uint64_t>(key));
  }

 private:
  DropoutDraw draw_;
  bool any_;
  std::uint64_t first_ = 0, quads_ = 0;
};

}  // namespace vitrine::cuda
