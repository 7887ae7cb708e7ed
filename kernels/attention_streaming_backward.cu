// Attention for any number of tokens on tensor cores, in bf16: backward.
//
//   P = e^(S - log_sum_exp), S = q kᵀ / √d,  delta = Σ dO ∘ out    Dao 2023, FlashAttention-2,
//   dV = (P ∘ F)ᵀ dO,  dS = P ∘ (dO Vᵀ ∘ F - delta),               arXiv:2307.08691, section 3.1.2
//   dQ = dS K / √d,  dK = dSᵀ Q / √d,  F: factors of dropout
//
// Two launches, seven products (the least is five): a block of the first owns 64 keys, 16 a warp,
// and goes over tiles of queries; a block of the second owns 64 queries and goes over tiles of
// keys. So nobody adds to what another owns: gradients are written (=), in the same order on every
// run. The opposite rows come through two buffers of shared memory: while one is multiplied,
// cp.async fills the other. P and dS are rounded to bf16 for the products with the tiles. delta is
// computed where it is needed; there is no workspace.
//
// Account, sm_90 as nvcc 13.0 reports it, no spills on sm_90 and sm_80 (registers without / with
// dropout of the two kernels; blocks that fit a multiprocessor of sm_90 / sm_80 / sm_86):
//
//   tiles of   dK, dV registers, blocks   dQ registers, blocks   shared memory
//      32      126 / 116   4 / 4 / 3      101 / 102   4 / 4 / 3     31,744 B
//      64      168 / 160   3 / 2 / 1      142 / 138   3 / 2 / 1     56,320 B
//      96      198 / 206   2 / 2 / 1      148 / 154   3 / 3 / 1     53,760 B
//     128      237 / 242   2 / 2 / 1      158 / 166   3 / 2 / 1     70,144 B
//
// B = 64, H = 12, T = 577, d = 64: 229 GFLOP, 0.5 ms of mma.sync at 490 TFLOP/s; 16×16 scores of
// the first kernel take 62 cycles of tensor cores and 64 of shared memory (8 KB of fragments), of
// the second 46 and 48: bound by both, 0.8 to 1.2 ms to be expected on an H200. An expectation: not
// measured, not run on a GPU.
#include "attention_streaming.cuh"

namespace vitrine::cuda {
namespace {

/// Sizes of a block whose tiles are kHead wide.
template <int kHead>
struct BackwardTiles {
  using Rows = PaddedRows<kHead>;
  static constexpr int kOwn = 16 * kStreamWarps;        ///< rows that a block owns
  static constexpr int kOther = kHead <= 64 ? 64 : 32;  ///< rows of a tile of the others
  static constexpr int kOwnTile = kOwn * Rows::kStride, kOtherTile = kOther * Rows::kStride;
  static constexpr int kSharedBytes =
      (2 * kOwnTile + 4 * kOtherTile) * static_cast<int>(sizeof(bf16)) +
      4 * kOther * static_cast<int>(sizeof(float));
  static constexpr int kBlocks = kHead == 32 ? 4 : kHead <= 64 ? 3 : 2;  ///< a multiprocessor
};

/// The A operand of 16 rows of a tile: in registers where they are narrow enough, else read anew.
template <typename Rows, bool kHeld = Rows::kColumns <= 64>
class OwnRows {
 public:
  __device__ OwnRows(const bf16* tile, int row, int lane) {
#pragma unroll
    for (int k = 0; k < Rows::kColumns / 16; ++k) load_a<Rows>(held_[k], tile, row, k, lane);
  }
  __device__ void get(unsigned (&a)[4], int k) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) a[i] = held_[k][i];
  }

 private:
  unsigned held_[Rows::kColumns / 16][4];
};
template <typename Rows>
class OwnRows<Rows, false> {
 public:
  __device__ OwnRows(const bf16* tile, int row, int lane) : tile_(tile), row_(row), lane_(lane) {}
  __device__ void get(unsigned (&a)[4], int k) const { load_a<Rows>(a, tile_, row_, k, lane_); }

 private:
  const bf16* tile_;
  int row_, lane_;
};

using Tile = float[2][4];  // 16×16 accumulators

/// product = own · rows [row, row + 16) of the tile, transposed.
template <typename Rows>
__device__ __forceinline__ void multiply_transposed(Tile& product, const OwnRows<Rows>& own,
                                                    const bf16* tile, int row, int lane) {
#pragma unroll
  for (int k = 0; k < Rows::kColumns / 16; ++k) {
    unsigned a[4], b[2][2];
    own.get(a, k);
    load_b<Rows>(b, tile, row, k, lane);
    ptx::mma_bf16_16x8x16(product[0], a, b[0]);
    ptx::mma_bf16_16x8x16(product[1], a, b[1]);
  }
}

/// Statistics of kRows queries from `first` on: log_sum_exp in powers of two, +inf where there is
/// no query, which makes its probabilities vanish; and delta. Four lanes share a row.
template <int kRows>
__device__ __forceinline__ void load_statistics(float* log2_sum, float* delta,
                                                const AttentionBackward& args,
                                                const AttentionHead& head, int first) {
  const int lane = static_cast<int>(threadIdx.x) % 4;
#pragma unroll 1
  for (int row = static_cast<int>(threadIdx.x) / 4; row < kRows; row += kStreamThreads / 4) {
    const int query = first + row;
    const bool valid = query < args.window.tokens;
    const std::int64_t at = head.out(valid ? query : 0);
    float sum = 0.0f;
    for (int channel = 8 * lane; valid && channel < args.head_size; channel += 32) {
      sum += dot_chunk(*reinterpret_cast<const uint4*>(elements<bf16>(args.out) + at + channel),
                       *reinterpret_cast<const uint4*>(elements<bf16>(args.dout) + at + channel));
    }
    sum = lane_sum<4>(sum);
    if (lane != 0) continue;
    delta[row] = sum;
    log2_sum[row] = valid ? kLog2E * args.log_sum_exp.data[head.first_row + query] : INFINITY;
  }
}

// ---------------------------------------------------------------------------------------------
// dK and dV

/// P, with what is dropped zero, and dS of a 16×16 tile (rows are keys, columns the queries of two
/// n8 tiles) from q k and dO v.
template <bool kDropout>
__device__ __forceinline__ void differentiate_keys(Tile& p, Tile& ds, float scale,
                                                   const float* log2_sum, const float* delta,
                                                   const AttentionBackward& args, std::int64_t pair,
                                                   int query, int key, int lane) {
  const auto finish = [&](const auto& kept, float kept_scale) {
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int column = 8 * n + lane % 4 * 2 + i % 2;
        const float probability = ptx::exp2_approx(fmaf(p[n][i], scale, -log2_sum[column]));
        const bool keep = kept(n, i / 2, i % 2);
        ds[n][i] = probability * ((keep ? ds[n][i] * kept_scale : 0.0f) - delta[column]);
        p[n][i] = keep ? probability : 0.0f;
      }
    }
  };
  if constexpr (kDropout) {
    const ScoreDropout dropout(args, pair);
    finish(KeptByKey(dropout, query, key, lane), dropout.scale());
  } else {
    finish([](int, int, int) { return true; }, 1.0f);
  }
}

template <int kHead, bool kDropout>
__global__ void __launch_bounds__(kStreamThreads, BackwardTiles<kHead>::kBlocks)
    streaming_key_kernel(AttentionBackward args, int key_tiles) {
  using Tiles = BackwardTiles<kHead>;
  using Rows = typename Tiles::Rows;
  DYNAMIC_SHARED(bf16, keys);
  bf16* const values = keys + Tiles::kOwnTile;
  bf16* const queries = values + Tiles::kOwnTile;  // two buffers of each
  bf16* const douts = queries + 2 * Tiles::kOtherTile;
  float* const log2_sums = reinterpret_cast<float*>(douts + 2 * Tiles::kOtherTile);
  float* const deltas = log2_sums + 2 * Tiles::kOther;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int warp_key = static_cast<int>(threadIdx.x) / kWarpSize * 16;
  const int size = static_cast<int>(args.head_size), total = static_cast<int>(args.window.total);
  const int tokens = static_cast<int>(args.window.tokens);
  const std::int64_t pair = blockIdx.x / static_cast<unsigned>(key_tiles);
  const int first = static_cast<int>(blockIdx.x % static_cast<unsigned>(key_tiles)) * Tiles::kOwn;
  const AttentionHead head(args, pair);
  const auto load_queries = [&](int query, int buffer) {
    load_head_tile<Rows, Tiles::kOther>(queries + buffer * Tiles::kOtherTile,
                                        elements<bf16>(args.q), head.q, query, tokens, size);
    load_head_tile<Rows, Tiles::kOther>(douts + buffer * Tiles::kOtherTile,
                                        elements<bf16>(args.dout), head.out, query, tokens, size);
    ptx::cp_async_commit();
    load_statistics<Tiles::kOther>(log2_sums + buffer * Tiles::kOther,
                                   deltas + buffer * Tiles::kOther, args, head, query);
  };
  load_head_tile<Rows, Tiles::kOwn>(keys, elements<bf16>(args.k), head.kv, first, total, size);
  load_head_tile<Rows, Tiles::kOwn>(values, elements<bf16>(args.v), head.kv, first, total, size);
  ptx::cp_async_commit();
  load_queries(0, 0);
  ptx::cp_async_wait<1>();
  __syncthreads();
  const OwnRows<Rows> own_keys(keys, warp_key, lane), own_values(values, warp_key, lane);

  const float scale = rsqrtf(static_cast<float>(size));
  float dk[kHead / 8][4] = {}, dv[kHead / 8][4] = {};
#pragma unroll 1
  for (int query = 0, buffer = 0; query < tokens; query += Tiles::kOther, buffer ^= 1) {
    if (query + Tiles::kOther < tokens) {
      load_queries(query + Tiles::kOther, buffer ^ 1);
      ptx::cp_async_wait<1>();
    } else {
      ptx::cp_async_wait<0>();
    }
    __syncthreads();
    const bf16* const query_tile = queries + buffer * Tiles::kOtherTile;
    const bf16* const dout_tile = douts + buffer * Tiles::kOtherTile;
    const int count = tokens - query < Tiles::kOther ? tokens - query : Tiles::kOther;
#pragma unroll 1
    for (int row = 0; row < count; row += 16) {
      Tile p = {}, ds = {};
      multiply_transposed<Rows>(p, own_keys, query_tile, row, lane);
      multiply_transposed<Rows>(ds, own_values, dout_tile, row, lane);
      differentiate_keys<kDropout>(p, ds, scale * kLog2E, log2_sums + buffer * Tiles::kOther + row,
                                   deltas + buffer * Tiles::kOther + row, args, pair, query + row,
                                   first + warp_key, lane);
      unsigned a[4];
      accumulators_to_a(a, p[0], p[1]);
      multiply_rows<Rows>(dv, a, dout_tile, row, lane);
      accumulators_to_a(a, ds[0], ds[1]);
      multiply_rows<Rows>(dk, a, query_tile, row, lane);
    }
    __syncthreads();  // the next copy goes into this buffer
  }
  const float kept_scale = kDropout ? ScoreDropout(args, pair).scale() : 1.0f;
  const float dk_factor[2] = {scale, scale}, dv_factor[2] = {kept_scale, kept_scale};
  const int row = first + warp_key;
  store_head_rows<kHead>(elements<bf16>(args.dk), head.kv, row, total, size, dk, dk_factor);
  store_head_rows<kHead>(elements<bf16>(args.dv), head.kv, row, total, size, dv, dv_factor);
}

// ---------------------------------------------------------------------------------------------
// dQ

/// dS of a 16×16 tile (rows are queries, columns keys, of which `keys` exist) from q k in `p` and
/// dO v in `ds`. Element h of the statistics is of row g + 8h.
template <bool kDropout>
__device__ __forceinline__ void differentiate_queries(
    const Tile& p, Tile& ds, float scale, const float (&log2_sum)[2], const float (&delta)[2],
    const AttentionBackward& args, std::int64_t pair, int query, int key, int keys, int lane) {
  if constexpr (kDropout) {
    const ScoreDropout dropout(args, pair);
    const KeptByQuery<2> kept(dropout, query, key, lane);
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) ds[n][i] *= kept(n, i / 2, i % 2) ? dropout.scale() : 0.0f;
    }
  }
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float probability = ptx::exp2_approx(fmaf(p[n][i], scale, -log2_sum[i / 2]));
      const bool valid = 8 * n + lane % 4 * 2 + i % 2 < keys;
      ds[n][i] = valid ? probability * (ds[n][i] - delta[i / 2]) : 0.0f;
    }
  }
}

template <int kHead, bool kDropout>
__global__ void __launch_bounds__(kStreamThreads, BackwardTiles<kHead>::kBlocks)
    streaming_query_kernel(AttentionBackward args, int query_tiles) {
  using Tiles = BackwardTiles<kHead>;
  using Rows = typename Tiles::Rows;
  DYNAMIC_SHARED(bf16, queries);
  bf16* const douts = queries + Tiles::kOwnTile;
  bf16* const keys = douts + Tiles::kOwnTile;  // two buffers of each
  bf16* const values = keys + 2 * Tiles::kOtherTile;
  float* const log2_sums = reinterpret_cast<float*>(values + 2 * Tiles::kOtherTile);
  float* const deltas = log2_sums + Tiles::kOwn;
  static_assert(2 * Tiles::kOwn <= 4 * Tiles::kOther);
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int warp_query = static_cast<int>(threadIdx.x) / kWarpSize * 16;
  const int size = static_cast<int>(args.head_size), total = static_cast<int>(args.window.total);
  const int tokens = static_cast<int>(args.window.tokens);
  const std::int64_t pair = blockIdx.x / static_cast<unsigned>(query_tiles);
  const int first = static_cast<int>(blockIdx.x % static_cast<unsigned>(query_tiles)) * Tiles::kOwn;
  const AttentionHead head(args, pair);
  const auto load_keys = [&](int key, int buffer) {
    load_head_tile<Rows, Tiles::kOther>(keys + buffer * Tiles::kOtherTile, elements<bf16>(args.k),
                                        head.kv, key, total, size);
    load_head_tile<Rows, Tiles::kOther>(values + buffer * Tiles::kOtherTile, elements<bf16>(args.v),
                                        head.kv, key, total, size);
    ptx::cp_async_commit();
  };
  load_head_tile<Rows, Tiles::kOwn>(queries, elements<bf16>(args.q), head.q, first, tokens, size);
  load_head_tile<Rows, Tiles::kOwn>(douts, elements<bf16>(args.dout), head.out, first, tokens,
                                    size);
  ptx::cp_async_commit();
  load_keys(0, 0);
  load_statistics<Tiles::kOwn>(log2_sums, deltas, args, head, first);
  ptx::cp_async_wait<1>();
  __syncthreads();
  const OwnRows<Rows> own_queries(queries, warp_query, lane), own_douts(douts, warp_query, lane);
  const int own_row = warp_query + lane / 4;
  const float log2_sum[2] = {log2_sums[own_row], log2_sums[own_row + 8]};
  const float delta[2] = {deltas[own_row], deltas[own_row + 8]};

  const float scale = rsqrtf(static_cast<float>(size));
  float dq[kHead / 8][4] = {};
#pragma unroll 1
  for (int key = 0, buffer = 0; key < total; key += Tiles::kOther, buffer ^= 1) {
    if (key + Tiles::kOther < total) {
      load_keys(key + Tiles::kOther, buffer ^ 1);
      ptx::cp_async_wait<1>();
    } else {
      ptx::cp_async_wait<0>();
    }
    __syncthreads();
    const bf16* const key_tile = keys + buffer * Tiles::kOtherTile;
    const bf16* const value_tile = values + buffer * Tiles::kOtherTile;
    const int count = total - key < Tiles::kOther ? total - key : Tiles::kOther;
#pragma unroll 1
    for (int row = 0; row < count; row += 16) {
      Tile p = {}, ds = {};
      multiply_transposed<Rows>(p, own_queries, key_tile, row, lane);
      multiply_transposed<Rows>(ds, own_douts, value_tile, row, lane);
      differentiate_queries<kDropout>(p, ds, scale * kLog2E, log2_sum, delta, args, pair,
                                      first + warp_query, key + row, count - row, lane);
      unsigned a[4];
      accumulators_to_a(a, ds[0], ds[1]);
      multiply_rows<Rows>(dq, a, key_tile, row, lane);
    }
    __syncthreads();  // the next copy goes into this buffer
  }
  const float factor[2] = {scale, scale};
  store_head_rows<kHead>(elements<bf16>(args.dq), head.q, first + warp_query, tokens, size, dq,
                         factor);
}

}  // namespace

void attention_streaming_backward(const AttentionBackward& args, const CudaLimits&,
                                  cudaStream_t stream) {
  for_tile_width(args.head_size, [&](auto width) {
    for_bool(args.dropout.probability > 0.0f, [&](auto dropout) {
      using Tiles = BackwardTiles<width.value>;
      static_assert(Tiles::kSharedBytes <= kStreamSharedBytes);
      const auto run = [&](auto kernel, std::int64_t rows) {
        const std::int64_t tiles = ceil_div(rows, Tiles::kOwn);
        launch("attention_backward", stream,
               dim3(static_cast<unsigned>(args.batch * args.heads * tiles)), kStreamThreads,
               Tiles::kSharedBytes, kernel, args, static_cast<int>(tiles));
      };
      run(streaming_key_kernel<width.value, dropout.value>, args.window.total);
      run(streaming_query_kernel<width.value, dropout.value>, args.window.tokens);
    });
  });
}

}  // namespace vitrine::cuda
