// Attention with arithmetic in float, for every shape and type: backward.
//
//   P = e^(S - log_sum_exp), S = q kᵀ / √d,  delta = Σ dO ∘ out        Dao et al. 2022,
//   dV = (P ∘ F)ᵀ dO,  dS = P ∘ (dO Vᵀ ∘ F - delta),                   arXiv:2205.14135,
//   dQ = dS K / √d,  dK = dSᵀ Q / √d,  F: factors of dropout           algorithm 4
//
// Scores are computed twice, once for dQ and once for dK and dV, so nobody adds to what another
// owns: gradients are written (=), in the same order on every run. delta is computed where it is
// needed; there is no workspace.
//
// Small heads (d ≤ 16), one launch: in the first blocks a thread owns a query and its dq, in the
// others a key and its dk and dv; the opposite rows come through shared memory, 64 a pair at a
// time.
//
// Larger heads, two launches: a block owns 64 queries and up to 192 columns of dq, or 64 keys and
// up to 128 columns of dk and dv, in registers. Wider heads are cut into groups of columns, each
// computing P and dS anew.
//
// Account of large heads, per pair: 14·Tq·T·d FLOPs (d ≤ 128; the least is 10) on CUDA cores in
// float, 8 floats of shared memory read for 16 multiply-adds. nvcc 13.0, sm_90 and sm_80: at most
// 128 registers of 256 threads and two blocks a multiprocessor for d ≤ 64, 168 and one block above,
// no spills. Expected, not measured (nothing here has run on a GPU): a third to a half of the float
// peak for d ≤ 64, a quarter above.
#include "attention_exact.cuh"

namespace vitrine::cuda {
namespace {

// ---------------------------------------------------------------------------------------------
// Small heads

/// delta of one query: Σ dO ∘ out.
template <typename T>
__device__ float output_dot(const AttentionBackward& args, std::int64_t at) {
  float sum = 0.0f;
  for (int i = 0; i < static_cast<int>(args.head_size); ++i) {
    sum += to_float(elements<T>(args.dout)[at + i]) * to_float(elements<T>(args.out)[at + i]);
  }
  return sum;
}

/// 64 rows of two tensors of each of the block's pairs as float, zeros beyond d and `rows`;
/// `place(head, row)` says where they lie in them.
template <typename T, int kHead, typename Place>
__device__ void load_small_tiles(float* a, float* b, const View<const void>& from_a,
                                 const View<const void>& from_b, const AttentionBackward& args,
                                 const SmallRow& own, int first, std::int64_t rows,
                                 const Place& place) {
  for (int pair = 0; pair < own.pairs; ++pair) {
    const AttentionHead head(args, own.first_pair + pair);
    for (int i = static_cast<int>(threadIdx.x); i < kSmallTile * kHead;
         i += static_cast<int>(blockDim.x)) {
      const int channel = i % kHead, row = first + i / kHead, to = pair * kSmallTile * kHead + i;
      const bool valid = row < rows && channel < args.head_size;
      const longlong2 at = place(head, row);
      a[to] = valid ? to_float(elements<T>(from_a)[at.x + channel]) : 0.0f;
      b[to] = valid ? to_float(elements<T>(from_b)[at.y + channel]) : 0.0f;
    }
  }
}

template <typename T, int kHead>
__device__ void small_query_gradient(float* keys, float* values, const AttentionBackward& args,
                                     const SmallRow& own) {
  const int size = static_cast<int>(args.head_size), total = static_cast<int>(args.window.total);
  const AttentionHead head(args, own.first_pair + own.local);
  const ScoreDropout dropout(args, own.first_pair + own.local);
  const float* const own_keys = keys + own.local * kSmallTile * kHead;
  const float* const own_values = values + own.local * kSmallTile * kHead;
  const float scale = 1.0f / sqrtf(static_cast<float>(size));
  float q[kHead], dout[kHead], dq[kHead] = {};
  load_channels(q, elements<T>(args.q) + head.q(own.row), size);
  load_channels(dout, elements<T>(args.dout) + head.out(own.row), size);
  const float delta = output_dot<T>(args, head.out(own.row));
  const float log_sum_exp = args.log_sum_exp.data[head.first_row + own.row];

  for (int first = 0; first < total; first += kSmallTile) {
    __syncthreads();
    load_small_tiles<T, kHead>(keys, values, args.k, args.v, args, own, first, total,
                               [](const AttentionHead& of, std::int64_t row) {
                                 return longlong2{of.kv(row), of.kv(row)};
                               });
    __syncthreads();
    const int count = total - first < kSmallTile ? total - first : kSmallTile;
    for (int key = 0; key < count; key += 4) {
      float factor[4] = {1.0f, 1.0f, 1.0f, 1.0f};
      if (dropout.any()) {
        const float4 quad = dropout.factors(own.row, first + key);
        factor[0] = quad.x, factor[1] = quad.y, factor[2] = quad.z, factor[3] = quad.w;
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (key + j >= count) break;
        const float* const k = own_keys + (key + j) * kHead;
        const float probability = expf(scale * dot(q, k) - log_sum_exp);
        const float dp = factor[j] * dot(dout, own_values + (key + j) * kHead);
        add_scaled(dq, probability * (dp - delta), k);
      }
    }
  }
  if (own.active) store_channels(elements<T>(args.dq) + head.q(own.row), dq, size, scale);
}

/// `statistics` holds log_sum_exp and delta of each of the 64 queries of each pair.
template <typename T, int kHead>
__device__ void small_key_gradient(float* queries, float* douts, float2* statistics,
                                   const AttentionBackward& args, const SmallRow& own) {
  const int size = static_cast<int>(args.head_size);
  const int tokens = static_cast<int>(args.window.tokens);
  const AttentionHead head(args, own.first_pair + own.local);
  const ScoreDropout dropout(args, own.first_pair + own.local);
  const float scale = 1.0f / sqrtf(static_cast<float>(size));
  float k[kHead], v[kHead], dk[kHead] = {}, dv[kHead] = {};
  load_channels(k, elements<T>(args.k) + head.kv(own.row), size);
  load_channels(v, elements<T>(args.v) + head.kv(own.row), size);

  for (int first = 0; first < tokens; first += kSmallTile) {
    __syncthreads();
    load_small_tiles<T, kHead>(queries, douts, args.q, args.dout, args, own, first, tokens,
                               [](const AttentionHead& of, std::int64_t row) {
                                 return longlong2{of.q(row), of.out(row)};
                               });
    const int count = tokens - first < kSmallTile ? tokens - first : kSmallTile;
    for (int i = static_cast<int>(threadIdx.x); i < own.pairs * kSmallTile;
         i += static_cast<int>(blockDim.x)) {
      if (i % kSmallTile >= count) continue;
      const AttentionHead of(args, own.first_pair + i / kSmallTile);
      const int query = first + i % kSmallTile;
      statistics[i] = make_float2(args.log_sum_exp.data[of.first_row + query],
                                  output_dot<T>(args, of.out(query)));
    }
    __syncthreads();
    for (int query = 0; query < count; ++query) {
      const int at = own.local * kSmallTile + query;
      const float2 row = statistics[at];
      const float probability = expf(scale * dot(k, queries + at * kHead) - row.x);
      const float factor = dropout.any() ? dropout.factor(first + query, own.row) : 1.0f;
      const float dp = factor * dot(v, douts + at * kHead);
      add_scaled(dk, probability * (dp - row.y), queries + at * kHead);
      add_scaled(dv, probability * factor, douts + at * kHead);
    }
  }
  if (!own.active) return;
  store_channels(elements<T>(args.dk) + head.kv(own.row), dk, size, scale);
  store_channels(elements<T>(args.dv) + head.kv(own.row), dv, size);
}

template <typename T, int kHead>
__global__ void __launch_bounds__(kSmallThreads, 2)
    small_backward_kernel(AttentionBackward args, SmallGrid by_query, SmallGrid by_key) {
  SHARED_ARRAY(float, a, [kSmallPairs * kSmallTile * kHead]);
  SHARED_ARRAY(float, b, [kSmallPairs * kSmallTile * kHead]);
  SHARED_ARRAY(float2, statistics, [kSmallPairs * kSmallTile]);
  const std::int64_t block = blockIdx.x, pairs = args.batch * args.heads;
  if (block < by_query.blocks) {
    small_query_gradient<T, kHead>(a, b, args,
                                   SmallRow(by_query, block, pairs, args.window.tokens));
  } else {
    small_key_gradient<T, kHead>(
        a, b, statistics, args,
        SmallRow(by_key, block - by_query.blocks, pairs, args.window.total));
  }
}

// ---------------------------------------------------------------------------------------------
// Larger heads

/// The rows of a tile of queries.
template <typename T>
struct QueryTile {
  TileRows<T> q, dout;

  __device__ QueryTile(const AttentionBackward& args, const AttentionHead& head, int first) {
    const int left = static_cast<int>(args.window.tokens) - first;
    q = {elements<T>(args.q) + head.q(first), head.q.stride, left < kTile ? left : kTile};
    dout = {elements<T>(args.dout) + head.out(first), head.out.stride, q.rows};
  }
};
/// The rows of a tile of keys.
template <typename T>
struct KeyTile {
  TileRows<T> k, v;

  __device__ KeyTile(const AttentionBackward& args, const AttentionHead& head, int first) {
    const int left = static_cast<int>(args.window.total) - first;
    k = {elements<T>(args.k) + head.kv(first), head.kv.stride, left < kTile ? left : kTile};
    v = {elements<T>(args.v) + head.kv(first), head.kv.stride, k.rows};
  }
};

/// log_sum_exp and delta of the 64 queries from `first` on; +inf, which makes their probabilities
/// vanish, where there is none.
template <typename T>
__device__ void load_statistics(float* log_sum_exp, float* delta, const AttentionBackward& args,
                                const AttentionHead& head, int first) {
  constexpr int kLanes = 16;  // of a row
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  for (int row = static_cast<int>(threadIdx.x) / kLanes; row < kTile;
       row += kTileThreads / kLanes) {
    const bool valid = first + row < args.window.tokens;
    const std::int64_t at = head.out(valid ? first + row : 0);
    float sum = 0.0f;
    for (int i = lane; valid && i < args.head_size; i += kLanes) {
      sum += to_float(elements<T>(args.dout)[at + i]) * to_float(elements<T>(args.out)[at + i]);
    }
    sum = lane_sum<kLanes>(sum);
    if (lane != 0) continue;
    delta[row] = sum;
    log_sum_exp[row] = valid ? args.log_sum_exp.data[head.first_row + first + row] : INFINITY;
  }
}

template <typename T, int kChunks>
__global__ void __launch_bounds__(kTileThreads, kChunks == 1 ? 2 : 1)
    tile_query_kernel(AttentionBackward args, TileGrid grid) {
  SHARED_ARRAY(float, a_panel, [kPanel]);
  SHARED_ARRAY(float, b_panel, [kPanel]);
  SHARED_ARRAY(float, weights, [kTile * kSlice]);
  SHARED_ARRAY(float, log_sum_exp, [kTile]);
  SHARED_ARRAY(float, delta, [kTile]);
  const int size = static_cast<int>(args.head_size);
  const TileBlock own(grid, args.window.tokens, args.head_size, kChunks);
  const AttentionHead head(args, own.pair);
  const float scale = 1.0f / sqrtf(static_cast<float>(size));
  const bool dropped = args.dropout.probability > 0.0f;
  const QueryTile<T> queries(args, head, own.first);
  load_statistics<T>(log_sum_exp, delta, args, head, own.first);

  TileSum dq[kChunks] = {}, p, ds;
#pragma unroll 1
  for (int first = 0; first < args.window.total; first += kTile) {
    const KeyTile<T> keys(args, head, first);
    multiply_heads(p, queries.q, keys.k, size, a_panel, b_panel);
    multiply_heads(ds, queries.dout, keys.v, size, a_panel, b_panel);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = tile_row() + i;
      float4 factor = make_float4(1.0f, 1.0f, 1.0f, 1.0f);
      if (dropped)
        factor = ScoreDropout(args, own.pair).factors(own.first + row, first + tile_col());
      ds[i][0] *= factor.x, ds[i][1] *= factor.y, ds[i][2] *= factor.z, ds[i][3] *= factor.w;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const bool valid = tile_col() + j < keys.k.rows;
        const float probability = expf(scale * p[i][j] - log_sum_exp[row]);
        ds[i][j] = valid ? probability * (ds[i][j] - delta[row]) : 0.0f;
      }
    }
    store_weights(weights, ds);
    TileRows<T> k = keys.k;
    k.data += own.first_col;
    multiply_weights(dq, weights, k, own.cols, b_panel);
  }
  const float scales[4] = {scale, scale, scale, scale};
  store_tile(elements<T>(args.dq) + head.q(own.first) + own.first_col, head.q.stride, own.rows,
             own.cols, dq, scales);
}

template <typename T, int kChunks>
__global__ void __launch_bounds__(kTileThreads, kChunks == 1 ? 2 : 1)
    tile_key_kernel(AttentionBackward args, TileGrid grid) {
  SHARED_ARRAY(float, a_panel, [kPanel]);
  SHARED_ARRAY(float, b_panel, [kPanel]);
  SHARED_ARRAY(float, weights, [kTile * kSlice]);
  SHARED_ARRAY(float, log_sum_exp, [kTile]);
  SHARED_ARRAY(float, delta, [kTile]);
  const int size = static_cast<int>(args.head_size);
  const TileBlock own(grid, args.window.total, args.head_size, kChunks);
  const AttentionHead head(args, own.pair);
  const float scale = 1.0f / sqrtf(static_cast<float>(size));
  const bool dropped = args.dropout.probability > 0.0f;
  const KeyTile<T> keys(args, head, own.first);

  // Rows of the tiles are keys, columns queries.
  TileSum dk[kChunks] = {}, dv[kChunks] = {}, p, ds;
#pragma unroll 1
  for (int first = 0; first < args.window.tokens; first += kTile) {
    QueryTile<T> queries(args, head, first);
    load_statistics<T>(log_sum_exp, delta, args, head, first);
    multiply_heads(p, keys.k, queries.q, size, a_panel, b_panel);
    multiply_heads(ds, keys.v, queries.dout, size, a_panel, b_panel);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int query = tile_col() + j;
      float4 quad = make_float4(1.0f, 1.0f, 1.0f, 1.0f);
      if (dropped)
        quad = ScoreDropout(args, own.pair).factors(first + query, own.first + tile_row());
      const float factor[4] = {quad.x, quad.y, quad.z, quad.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float probability = expf(scale * p[i][j] - log_sum_exp[query]);
        ds[i][j] = probability * (factor[i] * ds[i][j] - delta[query]);
        p[i][j] = probability * factor[i];
      }
    }
    queries.dout.data += own.first_col, queries.q.data += own.first_col;
    store_weights(weights, p);
    multiply_weights(dv, weights, queries.dout, own.cols, b_panel);
    __syncthreads();
    store_weights(weights, ds);
    multiply_weights(dk, weights, queries.q, own.cols, b_panel);
  }
  const float scales[4] = {scale, scale, scale, scale}, ones[4] = {1.0f, 1.0f, 1.0f, 1.0f};
  const std::int64_t at = head.kv(own.first) + own.first_col;
  store_tile(elements<T>(args.dk) + at, head.kv.stride, own.rows, own.cols, dk, scales);
  store_tile(elements<T>(args.dv) + at, head.kv.stride, own.rows, own.cols, dv, ones);
}

}  // namespace

void attention_exact_backward(const AttentionBackward& args, const CudaLimits& limits,
                              cudaStream_t stream) {
  constexpr const char* kOperation = "attention_backward";
  const std::int64_t pairs = args.batch * args.heads;
  const auto small = [&](auto kernel) {
    const SmallGrid by_query(pairs, args.window.tokens, limits);
    const SmallGrid by_key(pairs, args.window.total, limits);
    launch(kOperation, stream, dim3(static_cast<unsigned>(by_query.blocks + by_key.blocks)),
           dim3(static_cast<unsigned>(std::max(by_query.threads(), by_key.threads()))), 0, kernel,
           args, by_query, by_key);
  };
  const auto tiled = [&](auto kernel, std::int64_t rows, int chunks) {
    const TileGrid grid(rows, args.head_size, chunks);
    launch(kOperation, stream, grid.blocks(pairs), kTileThreads, 0, kernel, args, grid);
  };
  for_float_type(kOperation, args.q.dtype, [&]<typename T>() {
    if (args.head_size <= 4) {
      small(small_backward_kernel<T, 4>);
    } else if (args.head_size <= kSmallHead) {
      small(small_backward_kernel<T, kSmallHead>);
    } else if (args.head_size <= kTile) {
      tiled(tile_query_kernel<T, 1>, args.window.tokens, 1);
      tiled(tile_key_kernel<T, 1>, args.window.total, 1);
    } else {
      tiled(tile_query_kernel<T, 3>, args.window.tokens, 3);
      tiled(tile_key_kernel<T, 2>, args.window.total, 2);
    }
  });
}

}  // namespace vitrine::cuda
