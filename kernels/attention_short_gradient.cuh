// Attention backward for short sequences: what its kernels share. A warp takes 16 keys over all
// queries, scores transposed, so that Pᵀ and dSᵀ come out of their products as the A operands of
// dV = Pᵀ dO and dK = dSᵀ Q and never leave registers.
#pragma once

#include "attention_short_arguments.cuh"
#include "attention_tile.cuh"
#include "primitives/reduce.cuh"

namespace vitrine::cuda {

/// 16 rows of a matrix in global memory as A operands, without a detour through shared memory: the
/// four lanes of a row read 16 bytes each and trade words. Rows from `valid` on are zero. All lanes
/// of the warp call.
template <int kColumns>
__device__ __forceinline__ void load_a_global(unsigned (&a)[kColumns / 16][4], const bf16* source,
                                              int stride, int valid, int lane) {
  constexpr int kWide = kColumns / 32 * 4;  // chunks that go four at a time
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = (lane >> 2) + 8 * h;
    const bf16* const from = source + static_cast<std::int64_t>(row < valid ? row : 0) * stride;
#pragma unroll
    for (int chunk = 0; chunk < kWide; chunk += 4) {
      uint4 words = make_uint4(0, 0, 0, 0);
      if (row < valid) words = *reinterpret_cast<const uint4*>(from + (chunk + (lane & 3)) * 8);
      unsigned v[4] = {words.x, words.y, words.z, words.w};
      transpose_quad(v, lane);
#pragma unroll
      for (int i = 0; i < 4; ++i) a[(chunk + i) / 2][h + i % 2 * 2] = v[i];
    }
#pragma unroll
    for (int chunk = kWide; chunk < kColumns / 8; ++chunk) {
      unsigned word = 0;
      if (row < valid) word = *reinterpret_cast<const unsigned*>(from + chunk * 8 + (lane & 3) * 2);
      a[chunk / 2][h + chunk % 2 * 2] = word;
    }
  }
}

/// Statistics of 16 queries: log-sum-exp in powers of two, +∞ where there is no query, which makes
/// P vanish, and delta = Σ dO · O. Split in two so that the loads overlap with others.
template <int kHeadSize>
class RowStatistics {
 public:
  /// Starts loading; `offset` is where the (image, head) begins in `out`.
  __device__ __forceinline__ void load(const ShortBackwardArguments& args, std::int64_t offset,
                                       unsigned pair, int first_row, int lane) {
    const int rows = args.shape.queries, stride = args.shape.heads * kHeadSize;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = first_row + (lane >> 2) + 8 * h;
      const bf16* const out = args.out + offset + static_cast<std::int64_t>(row) * stride;
#pragma unroll
      for (int piece = 0; piece < kPieces; ++piece) {
        const int chunk = 4 * piece + (lane & 3);
        const bool present = row < rows && (kChunks % 4 == 0 || chunk < kChunks);
        out_[h][piece] = make_uint4(0, 0, 0, 0);
        if (present) out_[h][piece] = *reinterpret_cast<const uint4*>(out + chunk * 8);
      }
      log2_sum_[h] = INFINITY;
      if (row < rows) {
        log2_sum_[h] = args.log_sum_exp[static_cast<std::int64_t>(pair) * rows + row] * kLog2E;
      }
    }
  }
  /// Zeros, so that the members hold no registers in between.
  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int piece = 0; piece < kPieces; ++piece) out_[h][piece] = make_uint4(0, 0, 0, 0);
      log2_sum_[h] = INFINITY;
    }
  }
  /// Finishes the statistics with the rows of dO in the tile `dout`.
  template <typename Rows>
  __device__ __forceinline__ void store(float* log2_sum, float* delta, const bf16* dout,
                                        int first_row, int lane) const {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = first_row + (lane >> 2) + 8 * h;
      float sum = 0.0f;
#pragma unroll
      for (int piece = 0; piece < kPieces; ++piece) {
        const int chunk = 4 * piece + (lane & 3);
        if (kChunks % 4 != 0 && chunk >= kChunks) continue;
        sum += dot_chunk(out_[h][piece],
                         *reinterpret_cast<const uint4*>(dout + Rows::offset(row, chunk)));
      }
      sum = lane_sum<4>(sum);
      if ((lane & 3) == 0) {
        delta[row] = sum;
        log2_sum[row] = log2_sum_[h];
      }
    }
  }

 private:
  static constexpr int kChunks = kHeadSize / 8, kPieces = ceil_div(kChunks, 4);
  uint4 out_[2][kPieces];
  float log2_sum_[2];
};

/// Puts a copy of the first of 16 rows of keys in the place of those from `valid` on. As zeros
/// their score would be 0, and P = exp(−log-sum-exp) infinite where the true scores are far below:
/// times the zeros of the padded keys, that made NaN of dQ. A copy has P ≤ 1.
template <int kSteps>
__device__ __forceinline__ void copy_into_padding(unsigned (&k)[kSteps][4], int valid, int lane) {
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
      const unsigned first = __shfl_sync(kAllLanes, k[step][i], lane & 3);
      if ((lane >> 2) >= valid) k[step][i] = first;
      if ((lane >> 2) + 8 >= valid) k[step][i + 1] = first;
    }
  }
}
/// The rows from `valid` on become zero.
template <int kSteps>
__device__ __forceinline__ void clear_padding(unsigned (&k)[kSteps][4], int valid, int lane) {
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if ((lane >> 2) + i % 2 * 8 >= valid) k[step][i] = 0;
    }
  }
}

/// Queries of an (image, head) in shared memory.
struct QueryTiles {
  const bf16 *q, *dout;
  const float *log2_sum, *delta;
};

/// Pᵀ and dSᵀ (unscaled) of the warp's 16 keys, whose fragments are k and v, and of 16 queries from
/// `query`, as A operands.
template <typename Rows>
__device__ __forceinline__ void transposed_scores(unsigned (&p)[4], unsigned (&ds)[4],
                                                  const unsigned (&k)[Rows::kColumns / 16][4],
                                                  const unsigned (&v)[Rows::kColumns / 16][4],
                                                  const QueryTiles& queries, int query, int lane) {
  constexpr int kHeadSize = Rows::kColumns;
  float s[2][4] = {}, dp[2][4] = {};
#pragma unroll
  for (int i = 0; i < kHeadSize / 16; ++i) {
    unsigned b[2][2];
    load_b<Rows>(b, queries.q, query, i, lane);
    ptx::mma_bf16_16x8x16(s[0], k[i], b[0]);
    ptx::mma_bf16_16x8x16(s[1], k[i], b[1]);
    load_b<Rows>(b, queries.dout, query, i, lane);
    ptx::mma_bf16_16x8x16(dp[0], v[i], b[0]);
    ptx::mma_bf16_16x8x16(dp[1], v[i], b[1]);
  }
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    const int column = query + 8 * n + (lane & 3) * 2;
    const float2 log2_sum = *reinterpret_cast<const float2*>(queries.log2_sum + column);
    const float2 delta = *reinterpret_cast<const float2*>(queries.delta + column);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float l = i % 2 ? log2_sum.y : log2_sum.x;
      s[n][i] = ptx::exp2_approx(fmaf(s[n][i], kScoreScaleLog2<kHeadSize>, -l));
      dp[n][i] = s[n][i] * (dp[n][i] - (i % 2 ? delta.y : delta.x));
    }
  }
  accumulators_to_a(p, s[0], s[1]);
  accumulators_to_a(ds, dp[0], dp[1]);
}

}  // namespace vitrine::cuda
