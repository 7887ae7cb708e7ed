// Dropout and drop-path factors: 0 for what is dropped, 1 / (1 - p) for what is kept.
//
//   Srivastava et al. 2014, JMLR 15;  drop-path: Huang et al. 2016, arXiv:1603.09382
//
// The random numbers are those of vitrine/random.h, the same on every device; nothing is stored.
#pragma once

#include "primitives/cuda.cuh"
#include "vitrine/kernels.h"
#include "vitrine/random.h"

namespace vitrine::cuda {

/// One random operation of this step. Reads the step state: made before loops, not inside.
struct DropoutDraw {
  std::uint64_t seed = 0;
  std::uint32_t step = 0, operation = 0, threshold = 0;
  float scale = 1.0f;

  __device__ DropoutDraw(const Dropout& dropout, const StepState* state)
      : operation(dropout.operation), threshold(drop_threshold(dropout.probability)) {
    if (dropout.probability == 0.0f) return;
    seed = state->seed;
    step = state->step;
    scale = 1.0f / (1.0f - dropout.probability);
  }

  __device__ float factor(std::uint32_t word) const { return word >= threshold ? scale : 0.0f; }
  /// The factor of one element.
  __device__ float element(std::uint64_t index) const {
    const PhiloxWords words = random_words(seed, step, operation, index / 4);
    const auto at = static_cast<unsigned>(index % 4);  // selects: no words in memory
    const std::uint32_t low = at == 0 ? words.word[0] : words.word[1];
    const std::uint32_t high = at == 2 ? words.word[2] : words.word[3];
    return factor(at < 2 ? low : high);
  }
  /// The factors of elements 4·quad … 4·quad + 3.
  __device__ float4 quad(std::uint64_t quad) const {
    const PhiloxWords words = random_words(seed, step, operation, quad);
    return make_float4(factor(words.word[0]), factor(words.word[1]), factor(words.word[2]),
                       factor(words.word[3]));
  }
};

/// Index in the unpruned tensor [samples, total, cols] of element 0 of row `row` of a tensor
/// [samples, window.tokens, cols].
__device__ __forceinline__ std::uint64_t unpruned_element(std::int64_t row, std::int64_t cols,
                                                          const TokenWindow& window,
                                                          std::int64_t first_row) {
  const std::int64_t sample = first_row + row / window.tokens;
  const std::int64_t token = window.first + row % window.tokens;
  return static_cast<std::uint64_t>((sample * window.total + token) * cols);
}

/// A residual branch on its way into the stream: dropout per element, drop-path per sample.
/// `kRandom` says at compile time whether there is any of it.
template <bool kRandom>
class Branch {
 public:
  template <typename Args>
  __device__ explicit Branch(const Args& args)
      : dropout_(args.dropout, args.state),
        drop_path_(args.drop_path, args.state),
        has_dropout_(args.dropout.probability > 0.0f),
        has_drop_path_(args.drop_path.probability > 0.0f),
        cols_(args.cols),
        window_(args.window),
        state_(args.state) {}  // an argument of the kernel, so it takes no register

  /// The factors of elements [col, col + kCount) of row `row`; kCount is 1 or a multiple of 4, and
  /// then so are col and cols.
  template <int kCount>
  __device__ void factors(float (&out)[kCount], std::int64_t row, std::int64_t col) const {
    float sample = 1.0f;
    if (has_drop_path_) {
      sample =
          drop_path_.element(static_cast<std::uint64_t>(state_->first_row + row / window_.tokens));
    }
    if (!has_dropout_) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) out[i] = sample;
      return;
    }
    const std::uint64_t first =
        unpruned_element(row, cols_, window_, state_->first_row) + static_cast<std::uint64_t>(col);
    if constexpr (kCount == 1) {
      out[0] = sample * dropout_.element(first);
    } else {
      static_assert(kCount % 4 == 0);
#pragma unroll
      for (int i = 0; i < kCount; i += 4) {
        const float4 quad = dropout_.quad(first / 4 + static_cast<std::uint64_t>(i / 4));
        out[i] = sample * quad.x;
        out[i + 1] = sample * quad.y;
        out[i + 2] = sample * quad.z;
        out[i + 3] = sample * quad.w;
      }
    }
  }

 private:
  DropoutDraw dropout_, drop_path_;
  bool has_dropout_, has_drop_path_;
  std::int64_t cols_;
  TokenWindow window_;
  const StepState* state_;
};

/// Nothing is dropped.
template <>
class Branch<false> {
 public:
  template <typename Args>
  __device__ explicit Branch(const Args&) {}
  template <int kCount>
  __device__ void factors(float (&out)[kCount], std::int64_t, std::int64_t) const {
#pragma unroll
    for (int i = 0; i < kCount; ++i) out[i] = 1.0f;
  }
};

}  // namespace vitrine::cuda
