// Attention forward for short sequences, 32 queries a warp.
//
//   out = softmax(q kᵀ / √d) v                       Vaswani et al. 2017, arXiv:1706.03762
//   over keys in chunks: Milakov, Gimelshein 2018, arXiv:1805.02867 (online softmax)
//
// As attention_short_forward.cu, but each fragment of K and V feeds four products in place of two:
// half the traffic from shared memory, which binds there. Whole score rows of 32 queries do not fit
// in registers, so keys come in chunks of 48 (64 for T ≤ 64) with an online softmax. A last tile of
// at most 16 queries takes half the work, where a warp comes to it in a later round.
//
// Page of account, d = 64, B·H = 3072, H200 (an expectation: not measured, not run on a GPU):
//
//     T   moved   mma.sync at 490 TFLOP/s   shared memory at 128 B a clock   bound by
//    65  102 MB          5 GFLOP (10 µs)          0.3 GB (12 µs)             DRAM, 24 µs
//   197  310 MB         34 GFLOP (69 µs)          1.8 GB (61 µs)             DRAM, 72 µs
//   257  404 MB         58 GFLOP (119 µs)         2.9 GB (97 µs)             mma
//
// 60 to 75 % of the bound are expected. What nvcc 13.0 says, no spills in any instance:
//
//                    T ≤    64    80   112   208   272
//   warps                    2     2     4     4     6
//   shared memory, KB       27    32    50    73    92
//   sm_90: registers       149   162   168   166   167
//          blocks            6     6     3     3     2
//   sm_80: registers       155   162   162   158   164
//          blocks            5     5     3     2     1
#include "attention_short.cuh"
#include "attention_short_arguments.cuh"
#include "primitives/reduce.cuh"

namespace vitrine::cuda {
namespace {

constexpr int kHeadSize = 64;
constexpr float kScale = kScoreScaleLog2<kHeadSize>;

/// One padded length: keys in tiles of 16, of which a chunk holds kChunk, and the layouts of
/// queries, keys and values.
template <typename Queries_, typename Keys_, typename Values_, int kKeyTiles_, int kWarps_,
          int kBlocks_, int kChunk_>
struct Instance {
  using Queries = Queries_;
  using Keys = Keys_;
  using Values = Values_;
  static constexpr int kKeyTiles = kKeyTiles_, kWarps = kWarps_, kBlocks = kBlocks_;
  static constexpr int kChunk = kChunk_, kChunks = ceil_div(kKeyTiles, kChunk);
  static constexpr int kLastChunk = kKeyTiles - (kChunks - 1) * kChunk;
  static constexpr int kKeys = kKeyTiles * 16;
  static constexpr int kThreads = kWarps * kWarpSize;
  static constexpr int kSharedBytes =
      static_cast<int>(sizeof(bf16)) *
      (kKeys * (Keys::kStride + Values::kStride) + 32 * kWarps * Queries::kStride);

  /// Whether tile `i` of a chunk exists; `last`: the chunk is the last. The branches also keep
  /// ptxas from mixing the tiles, for which it would need more registers than there are.
  static __device__ __forceinline__ bool has(int i, bool last) { return i < kLastChunk || !last; }
};

/// What a warp carries from chunk to chunk for kHalves · 16 queries; two rows a lane each.
template <int kHalves>
struct Online {
  float out[kHalves][kHeadSize / 8][4];  ///< Σ exp(scale · s − top) v so far
  float top[kHalves][2];                 ///< largest scale · s so far, in powers of two
  float sum[kHalves][2];                 ///< the lane's share of Σ exp(scale · s − top)

  __device__ __forceinline__ Online() {
#pragma unroll
    for (int u = 0; u < kHalves; ++u) {
      top[u][0] = top[u][1] = -INFINITY;
      sum[u][0] = sum[u][1] = 0.0f;
#pragma unroll
      for (int n = 0; n < kHeadSize / 8; ++n) {
        out[u][n][0] = out[u][n][1] = out[u][n][2] = out[u][n][3] = 0.0f;
      }
    }
  }
};

/// s = q kᵀ for the keys of a chunk. Each fragment of the keys serves all queries.
template <typename Instance, int kHalves>
__device__ __forceinline__ void multiply_keys(float (&s)[kHalves][2 * Instance::kChunk][4],
                                              const bf16* queries, const bf16* keys, int chunk,
                                              int lane) {
  const bool last = chunk == Instance::kChunks - 1;
#pragma unroll
  for (int u = 0; u < kHalves; ++u) {
#pragma unroll
    for (int n = 0; n < 2 * Instance::kChunk; ++n) {
      s[u][n][0] = s[u][n][1] = s[u][n][2] = s[u][n][3] = 0.0f;
    }
  }
#pragma unroll
  for (int k = 0; k < kHeadSize / 16; ++k) {
    unsigned a[kHalves][4];
#pragma unroll
    for (int u = 0; u < kHalves; ++u) {
      load_a<typename Instance::Queries>(a[u], queries, 16 * u, k, lane);
    }
#pragma unroll
    for (int n = 0; n < Instance::kChunk; ++n) {
      if (!Instance::has(n, last)) continue;
      unsigned b[2][2];
      load_b<typename Instance::Keys>(b, keys, (chunk * Instance::kChunk + n) * 16, k, lane);
#pragma unroll
      for (int u = 0; u < kHalves; ++u) {
        ptx::mma_bf16_16x8x16(s[u][2 * n], a[u], b[0]);
        ptx::mma_bf16_16x8x16(s[u][2 * n + 1], a[u], b[1]);
      }
    }
  }
}

/// Keys from `tokens` on, in the last tile of the last chunk: their scores are −∞.
template <typename Instance, int kHalves>
__device__ __forceinline__ void mask(float (&s)[kHalves][2 * Instance::kChunk][4], int tokens,
                                     int lane) {
  constexpr int kFirstKey = (Instance::kChunks - 1) * Instance::kChunk * 16;
#pragma unroll
  for (int n = 2 * Instance::kLastChunk - 2; n < 2 * Instance::kLastChunk; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const bool padding = kFirstKey + 8 * n + (lane & 3) * 2 + i % 2 >= tokens;
#pragma unroll
      for (int u = 0; u < kHalves; ++u) {
        if (padding) s[u][n][i] = -INFINITY;
      }
    }
  }
}

/// s becomes exp(scale · s − top) with the new top; what was summed before is brought down to it.
template <typename Instance, int kHalves>
__device__ __forceinline__ void exponentials(float (&s)[kHalves][2 * Instance::kChunk][4],
                                             Online<kHalves>& online, bool last) {
  constexpr int kTiles = 2 * Instance::kChunk;
  constexpr bool kOnly = Instance::kChunks == 1;
#pragma unroll
  for (int u = 0; u < kHalves; ++u) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float top = -INFINITY;
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
        if (!Instance::has(n / 2, last)) continue;
        top = fmaxf(top, fmaxf(s[u][n][2 * h], s[u][n][2 * h + 1]));
      }
      top = lane_max<4>(top) * kScale;
      if (!kOnly) top = fmaxf(online.top[u][h], top);
      const float factor = kOnly ? 0.0f : ptx::exp2_approx(online.top[u][h] - top);
      online.top[u][h] = top;
      float sum = 0.0f;
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
        if (!Instance::has(n / 2, last)) continue;
#pragma unroll
        for (int i = 2 * h; i < 2 * h + 2; ++i) {
          s[u][n][i] = ptx::exp2_approx(fmaf(s[u][n][i], kScale, -top));
          sum += s[u][n][i];
        }
      }
      online.sum[u][h] = kOnly ? sum : fmaf(online.sum[u][h], factor, sum);
#pragma unroll
      for (int n = 0; n < (kOnly ? 0 : kHeadSize / 8); ++n) {
        online.out[u][n][2 * h] *= factor;
        online.out[u][n][2 * h + 1] *= factor;
      }
    }
  }
}

/// out += s v for the keys of a chunk. Each fragment of the values serves all queries.
template <typename Instance, int kHalves>
__device__ __forceinline__ void multiply_values(Online<kHalves>& online,
                                                const float (&s)[kHalves][2 * Instance::kChunk][4],
                                                const bf16* values, int chunk, int lane) {
  const bool last = chunk == Instance::kChunks - 1;
#pragma unroll
  for (int k = 0; k < Instance::kChunk; ++k) {
    if (!Instance::has(k, last)) continue;
    unsigned p[kHalves][4];
#pragma unroll
    for (int u = 0; u < kHalves; ++u) accumulators_to_a(p[u], s[u][2 * k], s[u][2 * k + 1]);
#pragma unroll
    for (int n = 0; n < kHeadSize / 16; ++n) {
      unsigned b[2][2];
      load_b_transposed<typename Instance::Values>(b, values, (chunk * Instance::kChunk + k) * 16,
                                                   n, lane);
#pragma unroll
      for (int u = 0; u < kHalves; ++u) {
        ptx::mma_bf16_16x8x16(online.out[u][2 * n], p[u], b[0]);
        ptx::mma_bf16_16x8x16(online.out[u][2 * n + 1], p[u], b[1]);
      }
    }
  }
}

/// Writes the rows of out and log_sum_exp. Reads its place anew: nothing that it needs occupies
/// registers during the products.
template <int kHalves>
__device__ __forceinline__ void write(const ShortForwardArguments& args,
                                      const Online<kHalves>& online, int tile) {
  const int lane = ptx::thread_x() & 31;
  const int rows = args.shape.queries;
  const unsigned pair = ptx::block_x();
  bf16* const out = args.out + head_offsets<kHeadSize>(args.shape, pair).out;
#pragma unroll
  for (int u = 0; u < kHalves; ++u) {
    const int first_row = tile * 32 + u * 16;
    float factor[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float sum = lane_sum<4>(online.sum[u][h]);
      const int row = first_row + (lane >> 2) + 8 * h;
      if (args.log_sum_exp && row < rows && (lane & 3) == 0) {
        args.log_sum_exp[static_cast<std::int64_t>(pair) * rows + row] =
            (online.top[u][h] + ptx::log2_approx(sum)) * kLn2;
      }
      factor[h] = 1.0f / sum;
    }
    store_rows<kHeadSize>(out, args.shape.heads * kHeadSize, first_row, rows, online.out[u], factor,
                          lane);
  }
}

/// Attention of the kHalves · 16 queries of tile `tile`. `load_next` starts loading the next
/// queries. In the first round the values must have landed before they are used.
template <typename Instance, int kHalves, typename LoadNext>
__device__ __forceinline__ void attend(const ShortForwardArguments& args, const bf16* queries,
                                       const bf16* keys, const bf16* values, int tile,
                                       bool first_round, const LoadNext& load_next) {
  const int lane = threadIdx.x & 31;
  Online<kHalves> online;
  // Unrolled, ptxas mixes the chunks and runs out of registers.
#pragma unroll 1
  for (int chunk = 0; chunk < Instance::kChunks; ++chunk) {
    float s[kHalves][2 * Instance::kChunk][4];
    multiply_keys<Instance>(s, queries, keys, chunk, lane);
    if (chunk == Instance::kChunks - 1) {
      __syncwarp();  // queries have been read
      load_next();
      ptx::cp_async_commit();
      mask<Instance>(s, args.shape.keys, lane);
    }
    exponentials<Instance>(s, online, chunk == Instance::kChunks - 1);
    if (kHalves == 2 && chunk == 0 && first_round) {
      ptx::cp_async_wait<Instance::kChunks == 1 ? 1 : 0>();
      __syncthreads();
    }
    multiply_values<Instance>(online, s, values, chunk, lane);
  }
  write(args, online, tile);
  ptx::cp_async_wait<0>();  // the next queries
  __syncwarp();
}

template <typename Instance>
__global__ void __launch_bounds__(Instance::kThreads, Instance::kBlocks)
    short_forward_32_kernel(ShortForwardArguments args) {
  using Queries = typename Instance::Queries;
  using Keys = typename Instance::Keys;
  using Values = typename Instance::Values;
  constexpr int kKeys = Instance::kKeys;
  DYNAMIC_SHARED(bf16, keys);
  bf16* const values = keys + kKeys * Keys::kStride;
  const int step = gridDim.y * Instance::kWarps;
  const auto queries = [&] {  // this warp's own 32 rows
    const int warp = ptx::thread_x() >> 5;
    return values + kKeys * Values::kStride + 32 * warp * Queries::kStride;
  };
  const auto load_queries = [&](int tile) {
    const HeadOffsets at = head_offsets<kHeadSize>(args.shape, ptx::block_x());
    const int stride = args.shape.q_stride, lane = ptx::thread_x() & 31;
    load_tile<Queries, 32>(queries(), args.q + at.q + static_cast<std::int64_t>(tile) * 32 * stride,
                           stride, args.shape.queries - tile * 32, lane, kWarpSize);
  };
  const int first = blockIdx.y * Instance::kWarps + (threadIdx.x >> 5);
  const int tokens = args.shape.keys;
  const HeadOffsets at = head_offsets<kHeadSize>(args.shape, blockIdx.x);
  load_queries(first);
  load_tile<Keys, kKeys>(keys, args.k + at.kv, args.shape.kv_stride, tokens, threadIdx.x,
                         Instance::kThreads);
  ptx::cp_async_commit();
  load_tile<Values, kKeys>(values, args.v + at.kv, args.shape.kv_stride, tokens, threadIdx.x,
                           Instance::kThreads);
  ptx::cp_async_commit();
  ptx::cp_async_wait<1>();  // queries and keys
  __syncthreads();

  // All warps take part in the first round, those without queries too: it has a barrier. A last
  // tile of at most 16 queries takes half the work where that is possible, in a later round.
#pragma unroll 1
  for (int tile = first; tile == first || tile * 32 < args.shape.queries; tile += step) {
    const auto load_next = [&] {
      if ((tile + step) * 32 < args.shape.queries) load_queries(tile + step);
    };
    if (tile == first || tile * 32 + 16 < args.shape.queries) {
      attend<Instance, 2>(args, queries(), keys, values, tile, tile == first, load_next);
    } else {
      attend<Instance, 1>(args, queries(), keys, values, tile, false, load_next);
    }
  }
}

/// Calls `body` with the instance for the length, if there is one.
template <typename Body>
void for_instance(std::int64_t keys, const Body& body) {
  using P = PaddedRows<kHeadSize>;
  using S = SwizzledRows<kHeadSize>;
  switch (ceil_div(keys, 16)) {
    case 4:
      return body(Instance<P, P, P, 4, 2, 6, 4>{});
    case 5:
      return body(Instance<P, P, P, 5, 2, 6, 3>{});
    case 7:
      return body(Instance<P, P, P, 7, 4, 3, 3>{});
    case 13:
      return body(Instance<P, P, S, 13, 4, 3, 3>{});
    case 17:
      return body(Instance<S, S, S, 17, 6, 2, 3>{});
  }
}

}  // namespace

ShortInstance short_forward_32_instance(std::int64_t head_size, std::int64_t keys) {
  ShortInstance result;
  if (head_size != kHeadSize) return result;
  for_instance(keys, [&](auto instance) {
    result = {instance.kSharedBytes, 32 * instance.kWarps};
  });
  return result;
}

void short_forward_32(const AttentionForward& args, int splits, cudaStream_t stream) {
  for_instance(args.window.total, [&](auto instance) {
    const dim3 grid(static_cast<unsigned>(args.batch * args.heads), static_cast<unsigned>(splits));
    launch("attention_forward", stream, grid, instance.kThreads, instance.kSharedBytes,
           short_forward_32_kernel<decltype(instance)>, ShortForwardArguments(args));
  });
}

}  // namespace vitrine::cuda
