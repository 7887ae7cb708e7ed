// Attention for any number of tokens on tensor cores, in bf16: forward.
//
//   out = softmax(q kᵀ / √d) v                  Vaswani et al. 2017, arXiv:1706.03762
//   online softmax over tiles of keys           Dao 2023, FlashAttention-2, arXiv:2307.08691
//
// A block of four warps owns an (image, head) and a tile of queries, 32 a warp (16 where the head
// is wider than 64), whose results stay in registers. Keys and values come in tiles of 64 through
// two buffers of shared memory: while one is multiplied, cp.async fills the other. Sums are taken
// before dropout and of unrounded weights; the weights are rounded to bf16 for the product with v.
//
// Account, sm_90 as nvcc 13.0 reports it, no spills on sm_90 and sm_80 (registers without / with
// dropout; blocks that fit a multiprocessor of sm_90 / sm_80 / sm_86):
//
//   tiles of   queries   registers   shared memory   blocks
//      32        128     166 / 232      30,720 B     3 / 3 / 3, with dropout 2
//      64        128     222 / 255      55,296 B     2 / 2 / 1
//      96         64     163 / 160      66,560 B     3 / 2 / 1
//     128         64     182 / 202      87,040 B     2 / 1 / 1
//
// B = 64, H = 12, T = 577, d = 64: 66 GFLOP (80 with the tails of tiles), 227 MB. A warp's tile of
// 32 queries and 64 keys takes 0.52 MFLOP (250 cycles of a multiprocessor at 490 TFLOP/s for
// mma.sync), 20 KB of fragments (160 cycles) and 2048 exponentials (128 cycles): bound by the
// tensor cores, 0.16 ms, with half to two thirds of that rate to be expected of 8 warps: 0.25 to
// 0.33 ms on an H200. An expectation: not measured, not run on a GPU.
#include "attention_streaming.cuh"

namespace vitrine::cuda {
namespace {

/// Sizes of a block whose tiles are kHead wide.
template <int kHead>
struct ForwardTiles {
  using Rows = PaddedRows<kHead>;
  static constexpr int kRowTiles = kHead <= 64 ? 2 : 1;  ///< 16-row tiles of a warp
  static constexpr int kWarpQueries = 16 * kRowTiles;
  static constexpr int kQueries = kWarpQueries * kStreamWarps;
  static constexpr int kKeyTile = kStreamKeys * Rows::kStride;  ///< elements
  static constexpr int kSharedBytes =
      (kQueries * Rows::kStride + 4 * kKeyTile) * static_cast<int>(sizeof(bf16));
  static constexpr int kBlocks = kHead == 32 || kHead == 96 ? 3 : 2;  ///< a multiprocessor
};

constexpr int kKeyTiles = kStreamKeys / 8;  // n8 tiles of scores
template <int kRowTiles>
using Scores = float[kRowTiles][kKeyTiles][4];

/// scores = q kᵀ, unscaled.
template <typename Rows, int kRowTiles>
__device__ __forceinline__ void multiply_keys(Scores<kRowTiles>& scores, const bf16* queries,
                                              const bf16* keys, int lane) {
#pragma unroll
  for (int u = 0; u < kRowTiles; ++u) {
#pragma unroll
    for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) scores[u][n][i] = 0.0f;
    }
  }
#pragma unroll
  for (int k = 0; k < Rows::kColumns / 16; ++k) {
    unsigned a[kRowTiles][4];
#pragma unroll
    for (int u = 0; u < kRowTiles; ++u) load_a<Rows>(a[u], queries, 16 * u, k, lane);
#pragma unroll
    for (int n = 0; n < kKeyTiles; n += 2) {
      unsigned b[2][2];
      load_b<Rows>(b, keys, 8 * n, k, lane);
#pragma unroll
      for (int u = 0; u < kRowTiles; ++u) {
        ptx::mma_bf16_16x8x16(scores[u][n], a[u], b[0]);
        ptx::mma_bf16_16x8x16(scores[u][n + 1], a[u], b[1]);
      }
    }
  }
}

/// out += weights · v.
template <typename Rows, int kRowTiles>
__device__ __forceinline__ void multiply_values(float (&out)[kRowTiles][Rows::kColumns / 8][4],
                                                const Scores<kRowTiles>& weights,
                                                const bf16* values, int lane) {
#pragma unroll
  for (int k = 0; k < kStreamKeys / 16; ++k) {
    unsigned a[kRowTiles][4];
#pragma unroll
    for (int u = 0; u < kRowTiles; ++u) {
      accumulators_to_a(a[u], weights[u][2 * k], weights[u][2 * k + 1]);
    }
#pragma unroll
    for (int n = 0; n < Rows::kColumns / 16; ++n) {
      unsigned b[2][2];
      load_b_transposed<Rows>(b, values, 16 * k, n, lane);
#pragma unroll
      for (int u = 0; u < kRowTiles; ++u) {
        ptx::mma_bf16_16x8x16(out[u][2 * n], a[u], b[0]);
        ptx::mma_bf16_16x8x16(out[u][2 * n + 1], a[u], b[1]);
      }
    }
  }
}

/// The online softmax of one of the lane's rows, in powers of two; `sum` is of the lane's columns.
struct RowSoftmax {
  float max = -INFINITY, sum = 0.0f;

  /// Scores become weights; returns what earlier weights are to be multiplied with.
  __device__ __forceinline__ float add(float (&scores)[kKeyTiles][4], int h, float scale) {
    float top = -INFINITY;
#pragma unroll
    for (int n = 0; n < kKeyTiles; ++n) {
      top = fmaxf(top, fmaxf(scores[n][2 * h], scores[n][2 * h + 1]));
    }
    top = fmaxf(max, lane_max<4>(top) * scale);
    const float shrink = ptx::exp2_approx(max - top);
    max = top;
    sum *= shrink;
#pragma unroll
    for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
      for (int i = 2 * h; i < 2 * h + 2; ++i) {
        scores[n][i] = ptx::exp2_approx(fmaf(scores[n][i], scale, -top));
        sum += scores[n][i];
      }
    }
    return shrink;
  }
};

template <int kRowTiles>
__device__ __forceinline__ void hide_missing_keys(Scores<kRowTiles>& scores, int keys, int lane) {
#pragma unroll
  for (int u = 0; u < kRowTiles; ++u) {
#pragma unroll
    for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (8 * n + lane % 4 * 2 + i % 2 >= keys) scores[u][n][i] = -INFINITY;
      }
    }
  }
}

template <int kRowTiles>
__device__ __forceinline__ void drop(Scores<kRowTiles>& weights, const ScoreDropout& dropout,
                                     int query, int key, int lane) {
#pragma unroll
  for (int u = 0; u < kRowTiles; ++u) {
    const KeptByQuery<kKeyTiles> kept(dropout, query + 16 * u, key, lane);
#pragma unroll
    for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (!kept(n, i / 2, i % 2)) weights[u][n][i] = 0.0f;
      }
    }
  }
}

template <int kHead, bool kDropout>
__global__ void __launch_bounds__(kStreamThreads,
                                  (kDropout && kHead == 32) ? 2 : ForwardTiles<kHead>::kBlocks)
    streaming_forward_kernel(AttentionForward args, int query_tiles) {
  using Tiles = ForwardTiles<kHead>;
  using Rows = typename Tiles::Rows;
  constexpr int kRowTiles = Tiles::kRowTiles;
  DYNAMIC_SHARED(bf16, queries);
  bf16* const keys = queries + Tiles::kQueries * Rows::kStride;  // two buffers
  bf16* const values = keys + 2 * Tiles::kKeyTile;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int warp_query = static_cast<int>(threadIdx.x) / kWarpSize * Tiles::kWarpQueries;
  const int size = static_cast<int>(args.head_size), total = static_cast<int>(args.window.total);
  const int tokens = static_cast<int>(args.window.tokens);
  const std::int64_t pair = blockIdx.x / static_cast<unsigned>(query_tiles);
  const int first =
      static_cast<int>(blockIdx.x % static_cast<unsigned>(query_tiles)) * Tiles::kQueries;
  const AttentionHead head(args, pair);
  const auto load_keys = [&](int key, int buffer) {
    load_head_tile<Rows, kStreamKeys>(keys + buffer * Tiles::kKeyTile, elements<bf16>(args.k),
                                      head.kv, key, total, size);
    load_head_tile<Rows, kStreamKeys>(values + buffer * Tiles::kKeyTile, elements<bf16>(args.v),
                                      head.kv, key, total, size);
  };
  load_head_tile<Rows, Tiles::kQueries>(queries, elements<bf16>(args.q), head.q, first, tokens,
                                        size);
  load_keys(0, 0);
  ptx::cp_async_commit();

  const float scale = kLog2E * rsqrtf(static_cast<float>(size));
  float out[kRowTiles][kHead / 8][4] = {};
  RowSoftmax rows[kRowTiles][2];
#pragma unroll 1
  for (int key = 0, buffer = 0; key < total; key += kStreamKeys, buffer ^= 1) {
    if (key + kStreamKeys < total) load_keys(key + kStreamKeys, buffer ^ 1);
    ptx::cp_async_commit();
    ptx::cp_async_wait<1>();
    __syncthreads();
    Scores<kRowTiles> scores;
    multiply_keys<Rows, kRowTiles>(scores, queries + warp_query * Rows::kStride,
                                   keys + buffer * Tiles::kKeyTile, lane);
    if (key + kStreamKeys > total) hide_missing_keys<kRowTiles>(scores, total - key, lane);
#pragma unroll
    for (int u = 0; u < kRowTiles; ++u) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float shrink = rows[u][h].add(scores[u], h, scale);
#pragma unroll
        for (int n = 0; n < kHead / 8; ++n) {
          out[u][n][2 * h] *= shrink, out[u][n][2 * h + 1] *= shrink;
        }
      }
    }
    if constexpr (kDropout) {
      drop<kRowTiles>(scores, ScoreDropout(args, pair), first + warp_query, key, lane);
    }
    multiply_values<Rows, kRowTiles>(out, scores, values + buffer * Tiles::kKeyTile, lane);
    __syncthreads();  // the next copy goes into this buffer
  }

  const float kept_scale = kDropout ? ScoreDropout(args, pair).scale() : 1.0f;
#pragma unroll
  for (int u = 0; u < kRowTiles; ++u) {
    const int row = first + warp_query + 16 * u;
    float factor[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float sum = lane_sum<4>(rows[u][h].sum);
      const int query = row + lane / 4 + 8 * h;
      factor[h] = kept_scale / sum;
      if (args.log_sum_exp.data != nullptr && lane % 4 == 0 && query < tokens) {
        args.log_sum_exp.data[head.first_row + query] =
            kLn2 * (rows[u][h].max + ptx::log2_approx(sum));
      }
    }
    store_head_rows<kHead>(elements<bf16>(args.out), head.out, row, tokens, size, out[u], factor);
  }
}

}  // namespace

bool attention_streaming_takes(const AttentionShape& shape, const CudaLimits& limits) {
  return shape.dtype == DType::bf16 && shape.aligned && shape.head_size % 8 == 0 &&
         shape.head_size <= 128 && !shape.probabilities && limits.compute_capability >= 80 &&
         limits.shared_memory_per_block >= kStreamSharedBytes;
}

void attention_streaming_forward(const AttentionForward& args, const CudaLimits&,
                                 cudaStream_t stream) {
  for_tile_width(args.head_size, [&](auto width) {
    for_bool(args.dropout.probability > 0.0f, [&](auto dropout) {
      using Tiles = ForwardTiles<width.value>;
      const std::int64_t tiles = ceil_div(args.window.tokens, Tiles::kQueries);
      static_assert(Tiles::kSharedBytes <= kStreamSharedBytes);
      launch("attention_forward", stream,
             dim3(static_cast<unsigned>(args.batch * args.heads * tiles)), kStreamThreads,
             Tiles::kSharedBytes, streaming_forward_kernel<width.value, dropout.value>, args,
             static_cast<int>(tiles));
    });
  });
}

}  // namespace vitrine::cuda
