// Attention with arithmetic in float, for every shape and type: forward.
//
//   out = softmax(q kᵀ / √d) v                  Vaswani et al. 2017, arXiv:1706.03762
//   online softmax over tiles of keys           Milakov, Gimelshein 2018, arXiv:1805.02867;
//                                               Dao et al. 2022, arXiv:2205.14135
//
// Small heads (d ≤ 16): a thread owns a query, q and its result in registers; a block owns the
// queries of up to four (image, head) pairs, whose k and v come through shared memory 64 rows at a
// time. One launch for everything: such a model's attention costs no more than its launch.
//
// Larger heads: a block owns 64 queries of a pair and up to 192 columns of the result, in
// registers; scores are 64×64 tiles, 4×4 a thread. Wider heads are cut into groups of columns, each
// computing the scores anew, so that shared memory (35 KB) does not grow with d.
//
// Probabilities take a second pass over the keys, when the sums are known.
//
// Account of large heads, per pair: 4·Tq·T·d FLOPs (d ≤ 192) on CUDA cores in float; k and v are
// read once a 64-query tile, from L2. The inner loop reads 8 floats of shared memory for 16
// multiply-adds: 3 wavefronts in the 4 cycles that a multiprocessor takes for those of a warp.
// nvcc 13.0, sm_90 and sm_80: at most 128 registers of 256 threads, two blocks a multiprocessor, no
// spills. Expected, not measured (nothing here has run on a GPU): a third to a half of the float
// peak.
#include "attention_exact.cuh"

namespace vitrine::cuda {
namespace {

/// 64 rows of k and of v of each of the block's pairs, as float, zeros beyond d and T.
template <typename T, int kHead>
__device__ void load_small_tile(float* keys, float* values, const AttentionForward& args,
                                const SmallRow& own, int first) {
  const int total = static_cast<int>(args.window.total), size = static_cast<int>(args.head_size);
  for (int pair = 0; pair < own.pairs; ++pair) {
    const AttentionHead head(args, own.first_pair + pair);
    for (int i = static_cast<int>(threadIdx.x); i < kSmallTile * kHead;
         i += static_cast<int>(blockDim.x)) {
      const int channel = i % kHead, key = first + i / kHead;
      const bool valid = key < total && channel < size;
      const std::int64_t at = head.kv(key) + channel;
      keys[pair * kSmallTile * kHead + i] = valid ? to_float(elements<T>(args.k)[at]) : 0.0f;
      values[pair * kSmallTile * kHead + i] = valid ? to_float(elements<T>(args.v)[at]) : 0.0f;
    }
  }
}

template <typename T, int kHead>
__global__ void __launch_bounds__(kSmallThreads, 2)
    small_forward_kernel(AttentionForward args, SmallGrid grid) {
  SHARED_ARRAY(float, keys, [kSmallPairs * kSmallTile * kHead]);
  SHARED_ARRAY(float, values, [kSmallPairs * kSmallTile * kHead]);
  const int size = static_cast<int>(args.head_size), total = static_cast<int>(args.window.total);
  const SmallRow own(grid, blockIdx.x, args.batch * args.heads, args.window.tokens);
  const AttentionHead head(args, own.first_pair + own.local);
  const ScoreDropout dropout(args, own.first_pair + own.local);
  const float* const own_keys = keys + own.local * kSmallTile * kHead;
  const float* const own_values = values + own.local * kSmallTile * kHead;

  const float scale = 1.0f / sqrtf(static_cast<float>(size));
  float q[kHead], out[kHead] = {}, max = -INFINITY, sum = 0.0f;
  load_channels(q, elements<T>(args.q) + head.q(own.row), size);

  for (int first = 0; first < total; first += kSmallTile) {
    __syncthreads();
    load_small_tile<T, kHead>(keys, values, args, own, first);
    __syncthreads();
    const int count = total - first < kSmallTile ? total - first : kSmallTile;
    for (int key = 0; key < count; key += 4) {
      float score[4], factor[4] = {1.0f, 1.0f, 1.0f, 1.0f};
      float new_max = max;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        score[j] = key + j < count ? scale * dot(q, own_keys + (key + j) * kHead) : -INFINITY;
        new_max = fmaxf(new_max, score[j]);
      }
      if (dropout.any()) {
        const float4 quad = dropout.factors(own.row, first + key);
        factor[0] = quad.x, factor[1] = quad.y, factor[2] = quad.z, factor[3] = quad.w;
      }
      const float shrink = expf(max - new_max);
      max = new_max;
      sum *= shrink;
#pragma unroll
      for (int i = 0; i < kHead; ++i) out[i] *= shrink;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float weight = expf(score[j] - max);
        sum += weight;
        add_scaled(out, weight * factor[j], own_values + (key + j) * kHead);
      }
    }
  }
  const float inverse = 1.0f / sum;
  if (own.active) {
    store_channels(elements<T>(args.out) + head.out(own.row), out, size, inverse);
    if (args.log_sum_exp.data != nullptr) {
      args.log_sum_exp.data[head.first_row + own.row] = max + logf(sum);
    }
  }
  if (args.probabilities.data == nullptr) return;
  for (int first = 0; first < total; first += kSmallTile) {
    __syncthreads();
    load_small_tile<T, kHead>(keys, values, args, own, first);
    __syncthreads();
    for (int key = first; own.active && key < total && key < first + kSmallTile; ++key) {
      args.probabilities.data[(head.first_row + own.row) * total + key] =
          inverse * expf(scale * dot(q, own_keys + (key - first) * kHead) - max);
    }
  }
}

/// The online softmax of a thread's four rows, which it shares with 15 other lanes.
struct RowSums {
  float max[4] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY}, sum[4] = {};

  /// Scores become weights e^(score - max); `shrink` is what earlier weights are to be multiplied
  /// with.
  __device__ void add(TileSum& scores, float (&shrink)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float top = fmaxf(fmaxf(scores[i][0], scores[i][1]), fmaxf(scores[i][2], scores[i][3]));
      top = fmaxf(max[i], lane_max<16>(top));
      shrink[i] = expf(max[i] - top);
      max[i] = top;
      float part = 0.0f;
#pragma unroll
      for (int j = 0; j < 4; ++j) part += scores[i][j] = expf(scores[i][j] - top);
      sum[i] = sum[i] * shrink[i] + lane_sum<16>(part);
    }
  }
};

/// Scores of the block's queries with keys from `first` on, -inf where there is no key.
template <typename T>
__device__ void score_tile(TileSum& scores, const AttentionForward& args, const TileRows<T>& q,
                           const TileRows<T>& k, float scale, float* q_panel, float* k_panel) {
  multiply_heads(scores, q, k, static_cast<int>(args.head_size), q_panel, k_panel);
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const bool valid = tile_col() + j < k.rows;
#pragma unroll
    for (int i = 0; i < 4; ++i) scores[i][j] = valid ? scale * scores[i][j] : -INFINITY;
  }
}

/// The rows of a tensor of keys or values from `first` on.
template <typename T>
__device__ __forceinline__ TileRows<T> key_rows(const View<const void>& tensor,
                                                const HeadRows& rows, int first, int total) {
  const int left = total - first;
  return {elements<T>(tensor) + rows(first), rows.stride, left < kTile ? left : kTile};
}

template <typename T, int kChunks>
__global__ void __launch_bounds__(kTileThreads, 2)
    tile_forward_kernel(AttentionForward args, TileGrid grid) {
  SHARED_ARRAY(float, q_panel, [kPanel]);
  SHARED_ARRAY(float, panel, [kPanel]);
  SHARED_ARRAY(float, weights, [kTile * kSlice]);
  const int total = static_cast<int>(args.window.total);
  const TileBlock own(grid, args.window.tokens, args.head_size, kChunks);
  const AttentionHead head(args, own.pair);
  const float scale = 1.0f / sqrtf(static_cast<float>(args.head_size));
  const TileRows<T> q{elements<T>(args.q) + head.q(own.first), head.q.stride, own.rows};

  TileSum out[kChunks] = {}, scores;
  RowSums rows;
#pragma unroll 1
  for (int first = 0; first < total; first += kTile) {
    score_tile(scores, args, q, key_rows<T>(args.k, head.kv, first, total), scale, q_panel, panel);
    float shrink[4];
    rows.add(scores, shrink);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int chunk = 0; chunk < kChunks; ++chunk) {
#pragma unroll
        for (int j = 0; j < 4; ++j) out[chunk][i][j] *= shrink[i];
      }
    }
    if (args.dropout.probability > 0.0f) {
      const ScoreDropout dropout(args, own.pair);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float4 quad = dropout.factors(own.first + tile_row() + i, first + tile_col());
        scores[i][0] *= quad.x, scores[i][1] *= quad.y;
        scores[i][2] *= quad.z, scores[i][3] *= quad.w;
      }
    }
    store_weights(weights, scores);
    TileRows<T> v = key_rows<T>(args.v, head.kv, first, total);
    v.data += own.first_col;
    multiply_weights(out, weights, v, own.cols, panel);
  }

  float inverse[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    inverse[i] = 1.0f / rows.sum[i];
    const int row = tile_row() + i;
    if (args.log_sum_exp.data != nullptr && own.group == 0 && tile_col() == 0 && row < own.rows) {
      args.log_sum_exp.data[head.first_row + own.first + row] = rows.max[i] + logf(rows.sum[i]);
    }
  }
  store_tile(elements<T>(args.out) + head.out(own.first) + own.first_col, head.out.stride, own.rows,
             own.cols, out, inverse);

  if (args.probabilities.data == nullptr || own.group != 0) return;
  float* const target = args.probabilities.data + (head.first_row + own.first) * total;
#pragma unroll 1
  for (int first = 0; first < total; first += kTile) {
    const TileRows<T> k = key_rows<T>(args.k, head.kv, first, total);
    score_tile(scores, args, q, k, scale, q_panel, panel);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int row = tile_row() + i, col = tile_col() + j;
        if (row >= own.rows || col >= k.rows) continue;
        target[static_cast<std::int64_t>(row) * total + first + col] =
            inverse[i] * expf(scores[i][j] - rows.max[i]);
      }
    }
  }
}

}  // namespace

void attention_exact_forward(const AttentionForward& args, const CudaLimits& limits,
                             cudaStream_t stream) {
  constexpr const char* kOperation = "attention_forward";
  const std::int64_t pairs = args.batch * args.heads;
  const auto small = [&](auto kernel) {
    const SmallGrid grid(pairs, args.window.tokens, limits);
    launch(kOperation, stream, dim3(static_cast<unsigned>(grid.blocks)),
           dim3(static_cast<unsigned>(grid.threads())), 0, kernel, args, grid);
  };
  const auto tiled = [&](auto kernel, int chunks) {
    const TileGrid grid(args.window.tokens, args.head_size, chunks);
    launch(kOperation, stream, grid.blocks(pairs), kTileThreads, 0, kernel, args, grid);
  };
  for_float_type(kOperation, args.q.dtype, [&]<typename T>() {
    if (args.head_size <= 4) {
      small(small_forward_kernel<T, 4>);
    } else if (args.head_size <= kSmallHead) {
      small(small_forward_kernel<T, kSmallHead>);
    } else if (args.head_size <= kTile) {
      tiled(tile_forward_kernel<T, 1>, 1);
    } else {
      tiled(tile_forward_kernel<T, 3>, 3);
    }
  });
}

}  // namespace vitrine::cuda
