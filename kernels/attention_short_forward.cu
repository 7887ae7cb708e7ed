// Attention forward for short sequences, 16 queries a warp.
//
//   out = softmax(q kᵀ / √d) v                       Vaswani et al. 2017, arXiv:1706.03762
//   log_sum_exp = log Σ exp(q kᵀ / √d)
//
// One block owns an (image, head), or some of its queries where heads are few. K and V stay in
// shared memory; a warp takes 16 queries at a time, keeps their whole score rows in registers and
// does the softmax in one pass, exactly. P becomes the A operand of P·V where it is. After the two
// load barriers warps never wait for each other; the next queries load during softmax and P·V.
// Instances go by tiles of 8 keys: T = 16n + 1 … 16n + 8, the lengths of almost all ViT, save half
// a tile of products, exponentials and registers.
//
// Page of account, d = 64, B·H = 3072, H200 (an expectation: not measured, not run on a GPU):
//
//     T   moved   mma.sync at 490 TFLOP/s   shared memory at 128 B a clock   bound by
//    50   79 MB          3 GFLOP (6 µs)           0.3 GB (10 µs)             DRAM, 18 µs
//   197  310 MB         33 GFLOP (68 µs)          2.5 GB (83 µs)             shared memory
//   257  404 MB         57 GFLOP (117 µs)         4.1 GB (137 µs)            shared memory
//
// 60 to 75 % of the bound are expected. What nvcc 13.0 says, no spills in any instance:
//
//                    T ≤        16    32    64    80   112   208   272    d = 80: 64   80  208  272
//   warps                        1     2     4     5     4     4     4             4    5    4    4
//   shared memory, KB          6.8  13.5    27    34    41    68    76            33   41   83   95
//   sm_90: registers            58    76    93   110   122   161   220           123  127  204  237
//          blocks               29    12     5     3     4     3     2             4    3    2    2
//   sm_80: registers            59    70    94   109   126   166   230           124  124  220  243
//          blocks               21    11     5     3     3     2     2             4    3    1    1
#include "attention_short.cuh"
#include "attention_short_arguments.cuh"
#include "primitives/reduce.cuh"

namespace vitrine::cuda {
namespace {

/// One (head size, padded length): keys in tiles of 8, warps of a block, blocks that registers
/// leave room for.
template <typename Rows_, int kKeyTiles_, int kWarps_, int kBlocks_>
struct Instance {
  using Rows = Rows_;
  static constexpr int kKeyTiles = kKeyTiles_, kWarps = kWarps_, kBlocks = kBlocks_;
  static constexpr int kKeys = ceil_div(kKeyTiles, 2) * 16;  // in shared memory
  static constexpr int kThreads = kWarps * kWarpSize;
  static constexpr int kSharedBytes =
      static_cast<int>(sizeof(bf16)) * Rows::kStride * (2 * kKeys + 16 * kWarps);
};

/// s = q kᵀ for the 16 rows of `queries`.
template <typename Rows, int kKeyTiles>
__device__ __forceinline__ void multiply_keys(float (&s)[kKeyTiles][4], const bf16* queries,
                                              const bf16* keys, int lane) {
#pragma unroll
  for (int n = 0; n < kKeyTiles; ++n) s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0.0f;
#pragma unroll
  for (int k = 0; k < Rows::kColumns / 16; ++k) {
    unsigned a[4];
    load_a<Rows>(a, queries, 0, k, lane);
#pragma unroll
    for (int n = 0; n < kKeyTiles; n += 2) {
      unsigned b[2][2];
      load_b<Rows>(b, keys, 8 * n, k, lane);
      ptx::mma_bf16_16x8x16(s[n], a, b[0]);
      if (n + 1 < kKeyTiles) ptx::mma_bf16_16x8x16(s[n + 1], a, b[1]);
    }
  }
}

/// s becomes exp(scale · (s − maximum of the row)), 0 for keys from `tokens` on, which are in the
/// last tile. Also the lane's two rows' sums, and the base-2 logarithms of Σ exp(scale · s).
template <int kHeadSize, int kKeyTiles>
__device__ __forceinline__ void exponentials(float (&s)[kKeyTiles][4], float (&sum)[2],
                                             float (&log2_sum)[2], int tokens, int lane) {
  constexpr float kScale = kScoreScaleLog2<kHeadSize>;
  float top[2] = {-INFINITY, -INFINITY};
#pragma unroll
  for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int key = 8 * n + (lane & 3) * 2 + i % 2;
      if (n == kKeyTiles - 1 && key >= tokens) s[n][i] = -INFINITY;
      top[i / 2] = fmaxf(top[i / 2], s[n][i]);
    }
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    top[h] = lane_max<4>(top[h]) * kScale;
    sum[h] = 0.0f;
  }
#pragma unroll
  for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      s[n][i] = ptx::exp2_approx(fmaf(s[n][i], kScale, -top[i / 2]));
      sum[i / 2] += s[n][i];
    }
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    sum[h] = lane_sum<4>(sum[h]);
    log2_sum[h] = top[h] + ptx::log2_approx(sum[h]);
  }
}

/// s as A operands of the product with the values: keys in tiles of 16.
template <int kKeyTiles>
__device__ __forceinline__ void to_operands(unsigned (&p)[ceil_div(kKeyTiles, 2)][4],
                                            const float (&s)[kKeyTiles][4]) {
  constexpr float kPadding[4] = {};
#pragma unroll
  for (int k = 0; k < ceil_div(kKeyTiles, 2); ++k) {
    if (2 * k + 1 < kKeyTiles) {
      accumulators_to_a(p[k], s[2 * k], s[2 * k + 1]);
    } else {
      accumulators_to_a(p[k], s[2 * k], kPadding);
    }
  }
}

template <typename Instance>
__global__ void __launch_bounds__(Instance::kThreads, Instance::kBlocks)
    short_forward_16_kernel(ShortForwardArguments args) {
  using Rows = typename Instance::Rows;
  constexpr int kKeys = Instance::kKeys, kKeyTiles = Instance::kKeyTiles, kWarps = Instance::kWarps;
  constexpr int kHeadSize = Rows::kColumns;
  DYNAMIC_SHARED(bf16, keys);
  bf16* const values = keys + kKeys * Rows::kStride;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  bf16* const queries = values + (kKeys + 16 * warp) * Rows::kStride;  // this warp's own 16 rows
  const HeadOffsets at = head_offsets<kHeadSize>(args.shape, blockIdx.x);
  const bf16* const q = args.q + at.q;
  const int rows = args.shape.queries, tokens = args.shape.keys, q_stride = args.shape.q_stride;
  const int step = gridDim.y * kWarps, first = blockIdx.y * kWarps + warp;

  const auto load_queries = [&](int tile) {
    load_tile<Rows, 16>(queries, q + static_cast<std::int64_t>(tile) * 16 * q_stride, q_stride,
                        rows - tile * 16, lane, kWarpSize);
  };
  load_queries(first);
  load_tile<Rows, kKeys>(keys, args.k + at.kv, args.shape.kv_stride, tokens, threadIdx.x,
                         Instance::kThreads);
  ptx::cp_async_commit();
  load_tile<Rows, kKeys>(values, args.v + at.kv, args.shape.kv_stride, tokens, threadIdx.x,
                         Instance::kThreads);
  ptx::cp_async_commit();
  ptx::cp_async_wait<1>();  // queries and keys
  __syncthreads();

#pragma unroll 1
  for (int tile = first; tile == first || tile * 16 < rows; tile += step) {
    const bool busy = tile * 16 < rows;  // a warp without queries still meets the barrier below
    unsigned p[kKeys / 16][4];
    float factor[2];
    if (busy) {
      float s[kKeyTiles][4], sum[2], log2_sum[2];
      multiply_keys<Rows, kKeyTiles>(s, queries, keys, lane);
      __syncwarp();  // queries have been read
      if ((tile + step) * 16 < rows) load_queries(tile + step);
      exponentials<kHeadSize, kKeyTiles>(s, sum, log2_sum, tokens, lane);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int row = tile * 16 + (lane >> 2) + 8 * h;
        if (args.log_sum_exp && row < rows && (lane & 3) == 0) {
          args.log_sum_exp[static_cast<std::int64_t>(blockIdx.x) * rows + row] = log2_sum[h] * kLn2;
        }
        factor[h] = 1.0f / sum[h];
      }
      to_operands<kKeyTiles>(p, s);
    }
    ptx::cp_async_commit();
    if (tile == first) {
      ptx::cp_async_wait<1>();  // values
      __syncthreads();
    }
    if (busy) {
      float o[kHeadSize / 8][4] = {};
#pragma unroll
      for (int k = 0; k < kKeys / 16; ++k) multiply_rows<Rows>(o, p[k], values, 16 * k, lane);
      const int out_stride = args.shape.heads * kHeadSize;
      store_rows<kHeadSize>(args.out + at.out, out_stride, tile * 16, rows, o, factor, lane);
    }
    ptx::cp_async_wait<0>();  // the next queries
    __syncwarp();
  }
}

/// The instance with or without the second half of the last tile of 16 keys.
template <typename Rows, int kKeys, int kWarps, int kBlocks, typename Body>
void call(std::int64_t keys, const Body& body) {
  if (keys > kKeys - 8) {
    body(Instance<Rows, kKeys / 8, kWarps, kBlocks>{});
  } else {
    body(Instance<Rows, kKeys / 8 - 1, kWarps, kBlocks>{});
  }
}

/// Calls `body` with the instance for the shape, if there is one.
template <int kHeadSize, typename Body>
void for_length(std::int64_t keys, const Body& body) {
  using Padded = PaddedRows<kHeadSize>;
  using Swizzled = SwizzledRows<kHeadSize>;
  constexpr bool kNarrow = kHeadSize <= 64;
  if constexpr (kHeadSize == 64) {
    switch (ceil_div(keys, 16)) {
      case 1:
        return call<Padded, 16, 1, 16>(keys, body);
      case 2:
        return call<Padded, 32, 2, 8>(keys, body);
      case 7:
        return call<Padded, 112, 4, 4>(keys, body);
    }
  }
  switch (ceil_div(keys, 16)) {
    case 4:
      return call<Padded, 64, 4, (kNarrow ? 5 : 4)>(keys, body);
    case 5:
      return call<Padded, 80, 5, 3>(keys, body);
    case 13:
      return call<Padded, 208, 4, (kNarrow ? 3 : 2)>(keys, body);
    case 17:
      return call<Swizzled, 272, 4, 2>(keys, body);
  }
}

template <typename Body>
void for_instance(std::int64_t head_size, std::int64_t keys, const Body& body) {
  switch (head_size) {
    case 32:
      return for_length<32>(keys, body);
    case 64:
      return for_length<64>(keys, body);
    case 80:
      return for_length<80>(keys, body);
  }
}

}  // namespace

ShortInstance short_forward_16_instance(std::int64_t head_size, std::int64_t keys) {
  ShortInstance result;
  for_instance(head_size, keys, [&](auto instance) {
    result = {instance.kSharedBytes, 16 * instance.kWarps};
  });
  return result;
}

void short_forward_16(const AttentionForward& args, int splits, cudaStream_t stream) {
  for_instance(args.head_size, args.window.total, [&](auto instance) {
    const dim3 grid(static_cast<unsigned>(args.batch * args.heads), static_cast<unsigned>(splits));
    launch("attention_forward", stream, grid, instance.kThreads, instance.kSharedBytes,
           short_forward_16_kernel<decltype(instance)>, ShortForwardArguments(args));
  });
}

}  // namespace vitrine::cuda
