// Attention backward for short sequences in two passes: for what the fused kernels cannot hold.
//
//   P = exp(s − log_sum_exp), s = q kᵀ / √d          Dao et al. 2022, arXiv:2205.14135, B.2
//   delta = Σ dO · O,   dS = P ∘ (dO Vᵀ − delta)
//   dV = Pᵀ dO,   dK = dSᵀ Q / √d,   dQ = dS K / √d
//
// One block owns an (image, head). First Q and dO lie in shared memory and a warp takes 16 keys
// over all queries (dK, dV); then K and V lie there instead and a warp takes 16 queries over all
// keys (dQ), with scores computed anew: 7 products, but the least shared memory, so that T = 257
// has two blocks a multiprocessor and T = 272, d = 80 still fits a workstation chip's 99 KB. The 16
// rows of a warp itself come from global memory straight into fragments.
//
// dq, dk, dv are written (=), each element once, by one warp that sums in a fixed order: no
// atomics, the same bits every time.
//
// Page of account, T = 257, d = 64, B·H = 3072, H200 (an expectation: not measured, not run on a
// GPU): 808 MB moved (188 µs), 204 GFLOP in mma.sync at 490 TFLOP/s (416 µs), 13 GB through shared
// memory at 128 B a clock (444 µs), which binds; 60 to 75 % of it expected. What nvcc 13.0 says, no
// spills in any instance (d ≤ 64, T ≤ 208 is for sm_86: sm_80 and sm_90 run it fused):
//
//                          d, T ≤   32, 208   32, 272   64, 208   64, 272   80, 208   80, 272
//   warps                                 7         6         7         6         5         6
//   shared memory, KB                    34        45        60        79        73        96
//   sm_90: registers, blocks         122, 2    115, 2    175, 1    168, 2    168, 2    168, 2
//   sm_80: registers, blocks         106, 2    106, 2    163, 1    159, 2    168, 2    168, 1
#include "attention_short.cuh"
#include "attention_short_gradient.cuh"

namespace vitrine::cuda {
namespace {

/// One (head size, padded length): warps of a block, blocks that registers leave room for.
template <typename Rows_, int kKeys_, int kWarps_, int kBlocks_>
struct Instance {
  using Rows = Rows_;
  static constexpr int kKeys = kKeys_, kWarps = kWarps_, kBlocks = kBlocks_;
  static constexpr int kHeadSize = Rows::kColumns, kThreads = kWarps * kWarpSize;
  static constexpr int kSharedBytes = static_cast<int>(sizeof(bf16)) * 2 * kKeys * Rows::kStride +
                                      static_cast<int>(sizeof(float)) * 2 * kKeys;
};

/// dK and dV of the 16 keys from `key`.
template <typename Rows>
__device__ __forceinline__ void key_gradients(const ShortBackwardArguments& args,
                                              const QueryTiles& queries, int key) {
  constexpr int kHeadSize = Rows::kColumns;
  constexpr float kScale = kScoreScale<kHeadSize>;
  const int lane = ptx::thread_x() & 31, keys = args.shape.keys, stride = args.shape.kv_stride;
  const int tiles = ceil_div(args.shape.queries, 16);
  unsigned k[kHeadSize / 16][4], v[kHeadSize / 16][4];
  const std::int64_t first_row = head_offsets<kHeadSize>(args.shape, ptx::block_x()).kv +
                                 static_cast<std::int64_t>(key) * stride;
  load_a_global<kHeadSize>(k, args.k + first_row, stride, keys - key, lane);
  load_a_global<kHeadSize>(v, args.v + first_row, stride, keys - key, lane);
  float dk[kHeadSize / 8][4] = {}, dv[kHeadSize / 8][4] = {};
#pragma unroll 1
  for (int tile = 0; tile < tiles; ++tile) {
    unsigned p[4], ds[4];
    transposed_scores<Rows>(p, ds, k, v, queries, tile * 16, lane);
    multiply_rows<Rows>(dv, p, queries.dout, tile * 16, lane);
    multiply_rows<Rows>(dk, ds, queries.q, tile * 16, lane);
  }
  const std::int64_t at = head_offsets<kHeadSize>(args.shape, ptx::block_x()).kv;
  const int again = ptx::thread_x() & 31;
  store_rows<kHeadSize>(args.dk + at, stride, key, keys, dk, {kScale, kScale}, again);
  store_rows<kHeadSize>(args.dv + at, stride, key, keys, dv, {1.0f, 1.0f}, again);
}

/// dS (unscaled) of the warp's 16 queries, whose fragments are q and dout, and of 16 keys from
/// `key`, as an A operand. Padded keys have dS = 0: their P may be infinite.
template <typename Rows>
__device__ __forceinline__ void score_gradients(unsigned (&ds)[4],
                                                const unsigned (&q)[Rows::kColumns / 16][4],
                                                const unsigned (&dout)[Rows::kColumns / 16][4],
                                                const bf16* k, const bf16* v,
                                                const float (&log2_sum)[2], const float (&delta)[2],
                                                int key, int keys, int lane) {
  float s[2][4] = {}, dp[2][4] = {};
#pragma unroll
  for (int i = 0; i < Rows::kColumns / 16; ++i) {
    unsigned b[2][2];
    load_b<Rows>(b, k, key, i, lane);
    ptx::mma_bf16_16x8x16(s[0], q[i], b[0]);
    ptx::mma_bf16_16x8x16(s[1], q[i], b[1]);
    load_b<Rows>(b, v, key, i, lane);
    ptx::mma_bf16_16x8x16(dp[0], dout[i], b[0]);
    ptx::mma_bf16_16x8x16(dp[1], dout[i], b[1]);
  }
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      constexpr float kScale = kScoreScaleLog2<Rows::kColumns>;
      const float p = ptx::exp2_approx(fmaf(s[n][i], kScale, -log2_sum[i / 2]));
      const bool padding = key + 8 * n + (lane & 3) * 2 + i % 2 >= keys;
      dp[n][i] = padding ? 0.0f : p * (dp[n][i] - delta[i / 2]);
    }
  }
  accumulators_to_a(ds, dp[0], dp[1]);
}

/// dQ of the 16 queries from `query`.
template <typename Rows, int kKeys>
__device__ __forceinline__ void query_gradients(const ShortBackwardArguments& args, const bf16* k,
                                                const bf16* v, const float* log2_sums,
                                                const float* deltas, int query) {
  constexpr int kHeadSize = Rows::kColumns;
  constexpr float kScale = kScoreScale<kHeadSize>;
  const int lane = ptx::thread_x() & 31, rows = args.shape.queries, row = query + (lane >> 2);
  const int out_stride = args.shape.heads * kHeadSize;
  const HeadOffsets at = head_offsets<kHeadSize>(args.shape, ptx::block_x());
  const std::int64_t first_row = query;
  unsigned q[kHeadSize / 16][4], dout[kHeadSize / 16][4];
  load_a_global<kHeadSize>(q, args.q + at.q + first_row * args.shape.q_stride, args.shape.q_stride,
                           rows - query, lane);
  load_a_global<kHeadSize>(dout, args.dout + at.out + first_row * out_stride, out_stride,
                           rows - query, lane);
  const float log2_sum[2] = {log2_sums[row], log2_sums[row + 8]};
  const float delta[2] = {deltas[row], deltas[row + 8]};
  float dq[kHeadSize / 8][4] = {};
#pragma unroll 1
  for (int key = 0; key < kKeys; key += 16) {
    unsigned ds[4];
    score_gradients<Rows>(ds, q, dout, k, v, log2_sum, delta, key, args.shape.keys, lane);
    multiply_rows<Rows>(dq, ds, k, key, lane);
  }
  bf16* const target = args.dq + head_offsets<kHeadSize>(args.shape, ptx::block_x()).q;
  store_rows<kHeadSize>(target, args.shape.q_stride, query, rows, dq, {kScale, kScale}, lane);
}

template <typename Instance>
__global__ void __launch_bounds__(Instance::kThreads, Instance::kBlocks)
    short_backward_two_pass_kernel(ShortBackwardArguments args) {
  using Rows = typename Instance::Rows;
  constexpr int kHeadSize = Instance::kHeadSize, kKeys = Instance::kKeys;
  constexpr int kStep = Instance::kWarps * 16;
  DYNAMIC_SHARED(bf16, first);                         // queries, then keys
  bf16* const second = first + kKeys * Rows::kStride;  // dO, then values
  float* const log2_sum = reinterpret_cast<float*>(second + kKeys * Rows::kStride);
  float* const delta = log2_sum + kKeys;
  const int lane = threadIdx.x & 31, first_row = (threadIdx.x >> 5) * 16;
  const int queries = args.shape.queries, keys = args.shape.keys;
  const HeadOffsets at = head_offsets<kHeadSize>(args.shape, blockIdx.x);

  load_tile_rows<Rows>(first, ceil_div(queries, 16) * 16, args.q + at.q, args.shape.q_stride,
                       queries, threadIdx.x, Instance::kThreads);
  const int out_stride = args.shape.heads * kHeadSize;
  for (int row = first_row; row < queries; row += kStep) {  // a warp's own rows: see below
    load_tile<Rows, 16>(second + row * Rows::kStride,
                        args.dout + at.out + static_cast<std::int64_t>(row) * out_stride,
                        out_stride, queries - row, lane, kWarpSize);
  }
  ptx::cp_async_commit();
  RowStatistics<kHeadSize> statistics;
  statistics.load(args, at.out, blockIdx.x, first_row, lane);
  ptx::cp_async_wait<0>();
  __syncwarp();
  for (int row = first_row; row < queries; row += kStep) {
    if (row != first_row) statistics.load(args, at.out, blockIdx.x, row, lane);
    statistics.template store<Rows>(log2_sum, delta, second, row, lane);
  }
  __syncthreads();

#pragma unroll 1
  for (int key = first_row; key < keys; key += kStep) {
    key_gradients<Rows>(args, {first, second, log2_sum, delta}, key);
  }
  __syncthreads();  // queries and dO are no longer read
  const std::int64_t kv = head_offsets<kHeadSize>(args.shape, ptx::block_x()).kv;
  const int thread = ptx::thread_x(), stride = args.shape.kv_stride;
  load_tile<Rows, kKeys>(first, args.k + kv, stride, keys, thread, Instance::kThreads);
  load_tile<Rows, kKeys>(second, args.v + kv, stride, keys, thread, Instance::kThreads);
  ptx::cp_async_commit();
  ptx::cp_async_wait<0>();
  __syncthreads();
#pragma unroll 1
  for (int query = first_row; query < args.shape.queries; query += kStep) {
    query_gradients<Rows, kKeys>(args, first, second, log2_sum, delta, query);
  }
}

/// Calls `body` with the instance for the shape, if there is one.
template <typename Body>
void for_instance(std::int64_t head_size, std::int64_t keys, const Body& body) {
  const std::int64_t tiles = ceil_div(keys, 16);
  switch (head_size) {
    case 32:
      if (tiles == 13) return body(Instance<PaddedRows<32>, 208, 7, 2>{});
      if (tiles == 17) return body(Instance<PaddedRows<32>, 272, 6, 2>{});
      return;
    case 64:
      if (tiles == 13) return body(Instance<PaddedRows<64>, 208, 7, 1>{});
      if (tiles == 17) return body(Instance<PaddedRows<64>, 272, 6, 2>{});
      return;
    case 80:
      if (tiles == 13) return body(Instance<PaddedRows<80>, 208, 5, 2>{});
      if (tiles == 17) return body(Instance<PaddedRows<80>, 272, 6, 2>{});
      return;
  }
}

}  // namespace

ShortInstance short_backward_two_pass_instance(std::int64_t head_size, std::int64_t keys) {
  ShortInstance result;
  for_instance(head_size, keys, [&](auto instance) {
    result = {instance.kSharedBytes, instance.kKeys};
  });
  return result;
}

void short_backward_two_pass(const AttentionBackward& args, cudaStream_t stream) {
  const ShortBackwardArguments arguments(args);
  for_instance(args.head_size, args.window.total, [&](auto instance) {
    launch("attention_backward", stream, arguments.pairs, instance.kThreads, instance.kSharedBytes,
           short_backward_two_pass_kernel<decltype(instance)>, arguments);
  });
}

}  // namespace vitrine::cuda
