// Attention backward for short sequences, fused: 5 products (see attention_short_backward.cu for
// the formulas).
//
// One block owns an (image, head), one warp 16 keys: K and V as fragments, dK and dV as
// accumulators in registers. It goes over all queries, 16 at a time; Pᵀ and dSᵀ feed dV and dK from
// registers, and dSᵀ also goes to shared memory, whole, as bf16. After a barrier the first half of
// the warps own 32 queries each and compute dQ = dS K, a fragment of K for two products. Padded
// keys and queries need no masks in the loops: see copy_into_padding and RowStatistics.
//
// The persistent kernel does the same from head to head and loads the next head meanwhile: at
// T = 197 one block fills a multiprocessor, so nobody else could compute while it loads.
//
// dq, dk, dv are written (=), each element once, by one warp that sums in a fixed order: no
// atomics, the same bits every time.
//
// Page of account, d = 64, B·H = 3072, H200 (an expectation: not measured, not run on a GPU):
//
//     T   moved   mma.sync at 490 TFLOP/s   shared memory at 128 B a clock   bound by
//    50  157 MB          8 GFLOP (16 µs)          0.6 GB (20 µs)             DRAM, 37 µs
//    65  204 MB         13 GFLOP (27 µs)          0.9 GB (30 µs)             DRAM, 48 µs
//   197  620 MB         86 GFLOP (176 µs)         5.9 GB (198 µs)            shared memory
//
// At T = 197 the 13 warps lie 4, 3, 3, 3 on the four sub-partitions and the 7 of dQ 2, 2, 2, 1, so
// that their tensor cores need 215 µs: that is the bound there. 60 to 75 % of the bounds are
// expected. What nvcc 13.0 says, no spills where a kernel can run (the
// persistent one cannot on sm_80):
//
//                         d = 64: 16   32   64   80  112  208  persistent   d = 80: 64   80
//   warps                          1    2    4    5    7   13      13                4    5
//   shared memory, KB            5.1   11   27   36   57  145     223               31   41
//   registers                    128  128  128  128  128  128     128              168  168
//   blocks                        16    8    4    3    2    1       1                3    2
//
// (sm_90 and sm_80 alike; 128 registers are the limit with 13 warps, 4 on one sub-partition.)
#include <algorithm>

#include "attention_short.cuh"
#include "attention_short_gradient.cuh"

namespace vitrine::cuda {
namespace {

/// One (head size, padded length): a warp for each 16 keys, blocks that registers leave room for.
template <int kHeadSize_, int kKeys_, int kBlocks_>
struct Fused {
  using Rows = PaddedRows<kHeadSize_>;
  using Scores = SwizzledRows<kKeys_>;  // dSᵀ: a row for each key
  static constexpr int kHeadSize = kHeadSize_, kKeys = kKeys_, kBlocks = kBlocks_;
  static constexpr int kThreads = kKeys / 16 * kWarpSize;
  static constexpr int kSharedBytes =
      static_cast<int>(sizeof(bf16)) * kKeys * (2 * Rows::kStride + Scores::kStride) +
      static_cast<int>(sizeof(float)) * 2 * kKeys;
  static_assert(conflict_free<Scores>());
};

/// The one instance of the persistent kernel.
struct Persistent {
  using Rows = PaddedRows<64>;
  using Keys = SwizzledRows<64>;
  using Scores = SwizzledRows<208>;
  static constexpr int kHeadSize = 64, kKeys = 208;
  static constexpr int kThreads = kKeys / 16 * kWarpSize;
  static constexpr int kSharedBytes =
      static_cast<int>(sizeof(bf16)) * kKeys *
          (2 * Rows::kStride + 3 * Keys::kStride + Scores::kStride) +
      static_cast<int>(sizeof(float)) * 2 * kKeys;
  static_assert(conflict_free<Scores>());
};

/// dK and dV of the warp's 16 keys from `key`, and its rows of dSᵀ. `pair()` is asked for when it
/// is needed, so that it occupies no register in the loop.
template <typename Kernel, typename Pair>
__device__ __forceinline__ void key_gradients(const ShortBackwardArguments& args, const Pair& pair,
                                              const unsigned (&k)[Kernel::kHeadSize / 16][4],
                                              const unsigned (&v)[Kernel::kHeadSize / 16][4],
                                              const QueryTiles& queries, bf16* scores, int key,
                                              int lane) {
  using Rows = typename Kernel::Rows;
  constexpr int kHeadSize = Kernel::kHeadSize;
  float dk[kHeadSize / 8][4] = {}, dv[kHeadSize / 8][4] = {};
#pragma unroll 1
  for (int query = 0; query < args.shape.queries; query += 16) {
    unsigned p[4], ds[4];
    transposed_scores<Rows>(p, ds, k, v, queries, query, lane);
    store_a<typename Kernel::Scores>(scores, key, query / 16, ds, lane);
    multiply_rows<Rows>(dv, p, queries.dout, query, lane);
    multiply_rows<Rows>(dk, ds, queries.q, query, lane);
  }
  const std::int64_t at = head_offsets<kHeadSize>(args.shape, pair()).kv;
  const int stride = args.shape.kv_stride, keys = args.shape.keys, thread = ptx::thread_x();
  const int first_row = (thread >> 5) * 16;
  constexpr float kScale = kScoreScale<kHeadSize>;
  store_rows<kHeadSize>(args.dk + at, stride, first_row, keys, dk, {kScale, kScale}, thread & 31);
  store_rows<kHeadSize>(args.dv + at, stride, first_row, keys, dv, {1.0f, 1.0f}, thread & 31);
}

/// dQ = dS K of 32 queries, by the first warps: every fragment of the keys serves two products.
/// Without a second tile the first one is computed twice.
template <typename Kernel, typename Keys, typename Pair>
__device__ __forceinline__ void query_gradients(const ShortBackwardArguments& args,
                                                const Pair& pair, const bf16* scores,
                                                const bf16* keys) {
  constexpr int kHeadSize = Kernel::kHeadSize;
  constexpr float kScale = kScoreScale<kHeadSize>;
  const int lane = ptx::thread_x() & 31, tile = static_cast<int>(ptx::thread_x() >> 5) * 2;
  if (tile * 16 >= args.shape.queries) return;
  const int second = tile * 16 + 16 < args.shape.queries ? tile + 1 : tile;
  float dq[2][kHeadSize / 8][4] = {};
#pragma unroll 1
  for (int key = 0; key < Kernel::kKeys; key += 16) {
    unsigned ds[2][4];
    load_a_transposed<typename Kernel::Scores>(ds[0], scores, key, tile, lane);
    load_a_transposed<typename Kernel::Scores>(ds[1], scores, key, second, lane);
#pragma unroll
    for (int n = 0; n < kHeadSize / 16; ++n) {
      unsigned b[2][2];
      load_b_transposed<Keys>(b, keys, key, n, lane);
#pragma unroll
      for (int u = 0; u < 2; ++u) {
        ptx::mma_bf16_16x8x16(dq[u][2 * n], ds[u], b[0]);
        ptx::mma_bf16_16x8x16(dq[u][2 * n + 1], ds[u], b[1]);
      }
    }
  }
  bf16* const target = args.dq + head_offsets<kHeadSize>(args.shape, pair()).q;
  const int stride = args.shape.q_stride, rows = args.shape.queries;
  store_rows<kHeadSize>(target, stride, tile * 16, rows, dq[0], {kScale, kScale}, lane);
  if (second == tile) return;
  store_rows<kHeadSize>(target, stride, second * 16, rows, dq[1], {kScale, kScale}, lane);
}

template <typename Kernel>
__global__ void __launch_bounds__(Kernel::kThreads, Kernel::kBlocks)
    short_backward_fused_kernel(ShortBackwardArguments args) {
  using Rows = typename Kernel::Rows;
  constexpr int kHeadSize = Kernel::kHeadSize, kKeys = Kernel::kKeys;
  DYNAMIC_SHARED(bf16, q);  // later the keys
  bf16* const dout = q + kKeys * Rows::kStride;
  bf16* const scores = dout + kKeys * Rows::kStride;
  float* const log2_sum = reinterpret_cast<float*>(scores + kKeys * kKeys);
  float* const delta = log2_sum + kKeys;
  const int lane = threadIdx.x & 31, first = (threadIdx.x >> 5) * 16;  // row of keys and queries
  const int queries = args.shape.queries, keys = args.shape.keys;
  const HeadOffsets at = head_offsets<kHeadSize>(args.shape, blockIdx.x);

  load_tile_rows<Rows>(q, ceil_div(queries, 16) * 16, args.q + at.q, args.shape.q_stride, queries,
                       threadIdx.x, Kernel::kThreads);
  const int out_stride = args.shape.heads * kHeadSize;
  if (first < queries) {  // the warp's own rows: it needs them before the others do
    load_tile<Rows, 16>(dout + first * Rows::kStride,
                        args.dout + at.out + static_cast<std::int64_t>(first) * out_stride,
                        out_stride, queries - first, lane, kWarpSize);
  }
  ptx::cp_async_commit();
  RowStatistics<kHeadSize> statistics;
  statistics.load(args, at.out, blockIdx.x, first, lane);
  unsigned k[kHeadSize / 16][4], v[kHeadSize / 16][4];
  const std::int64_t first_key = at.kv + static_cast<std::int64_t>(first) * args.shape.kv_stride;
  load_a_global<kHeadSize>(k, args.k + first_key, args.shape.kv_stride, keys - first, lane);
  load_a_global<kHeadSize>(v, args.v + first_key, args.shape.kv_stride, keys - first, lane);
  copy_into_padding(k, keys - first, lane);
  ptx::cp_async_wait<0>();
  __syncwarp();
  if (first < queries) statistics.template store<Rows>(log2_sum, delta, dout, first, lane);
  __syncthreads();

  const auto pair = [] { return ptx::block_x(); };
  key_gradients<Kernel>(args, pair, k, v, {q, dout, log2_sum, delta}, scores, first, lane);
  __syncthreads();  // dS is complete, the queries are no longer read
  clear_padding(k, keys - first, ptx::thread_x() & 31);  // anew: ptxas would keep both versions
#pragma unroll
  for (int i = 0; i < kHeadSize / 16; ++i) store_a<Rows>(q, first, i, k[i], lane);
  __syncthreads();
  query_gradients<Kernel, Rows>(args, pair, scores, q);
}

/// A block goes from head to head; the next head's keys and values load during key_gradients, its
/// queries during query_gradients. Keys have two places: query_gradients still reads the old ones.
[[maybe_unused]] __device__ __forceinline__ void persistent_block(
    const ShortBackwardArguments& args) {
  using Rows = Persistent::Rows;
  using Keys = Persistent::Keys;
  constexpr int kHeadSize = Persistent::kHeadSize, kKeys = Persistent::kKeys;
  DYNAMIC_SHARED(bf16, q);
  bf16* const dout = q + kKeys * Rows::kStride;
  bf16* const scores = dout + kKeys * Rows::kStride;
  bf16* const values = scores + kKeys * kKeys;
  bf16* const keys = values + kKeys * Keys::kStride;  // two of them
  float* const log2_sum = reinterpret_cast<float*>(keys + 2 * kKeys * Keys::kStride);
  float* const delta = log2_sum + kKeys;
  RowStatistics<kHeadSize> statistics;

  const auto load_keys = [&](unsigned pair, bf16* target) {
    const std::int64_t at = head_offsets<kHeadSize>(args.shape, pair).kv;
    const int stride = args.shape.kv_stride, count = args.shape.keys, thread = ptx::thread_x();
    load_tile<Keys, kKeys>(target, args.k + at, stride, count, thread, Persistent::kThreads);
    load_tile<Keys, kKeys>(values, args.v + at, stride, count, thread, Persistent::kThreads);
    ptx::cp_async_commit();
  };
  const auto load_queries = [&](unsigned pair) {
    const HeadOffsets at = head_offsets<kHeadSize>(args.shape, pair);
    const int queries = args.shape.queries, out_stride = args.shape.heads * kHeadSize;
    const int thread = ptx::thread_x(), lane = thread & 31, first = (thread >> 5) * 16;
    load_tile_rows<Rows>(q, ceil_div(queries, 16) * 16, args.q + at.q, args.shape.q_stride, queries,
                         thread, Persistent::kThreads);
    if (first < queries) {  // the warp's own rows: it needs them before the others do
      load_tile<Rows, 16>(dout + first * Rows::kStride,
                          args.dout + at.out + static_cast<std::int64_t>(first) * out_stride,
                          out_stride, queries - first, lane, kWarpSize);
    }
    ptx::cp_async_commit();
    statistics.load(args, at.out, pair, first, lane);
  };

  // A round is its pair and the place of its keys, in one word: registers are short in the loops.
  const auto pair_of = [](unsigned round) { return round >> 1; };
  const auto keys_of = [&](unsigned round) { return keys + (round & 1) * (kKeys * Keys::kStride); };
  const auto after = [](unsigned round) { return (round + 2 * gridDim.x) ^ 1; };
  load_keys(blockIdx.x, keys);
  load_queries(blockIdx.x);
#pragma unroll 1
  for (unsigned round = blockIdx.x * 2; pair_of(round) < args.pairs; round = after(round)) {
    const int lane = ptx::thread_x() & 31, first = static_cast<int>(ptx::thread_x() >> 5) * 16;
    ptx::cp_async_wait<0>();
    __syncwarp();
    if (first < args.shape.queries) {
      statistics.store<Rows>(log2_sum, delta, dout, first, lane);
    }
    __syncthreads();
    unsigned k[kHeadSize / 16][4], v[kHeadSize / 16][4];
#pragma unroll
    for (int i = 0; i < kHeadSize / 16; ++i) {
      load_a<Keys>(k[i], keys_of(round), first, i, lane);
      load_a<Keys>(v[i], values, first, i, lane);
    }
    copy_into_padding(k, args.shape.keys - first, lane);
    __syncthreads();  // the values are no longer read
    const auto pair = [&] { return pair_of(round); };
    if (pair_of(after(round)) < args.pairs) {
      load_keys(pair_of(after(round)), keys_of(after(round)));
    }
    key_gradients<Persistent>(args, pair, k, v, {q, dout, log2_sum, delta}, scores, first, lane);
    __syncthreads();  // dS is complete; queries and statistics are no longer read
    if (pair_of(after(round)) < args.pairs) {
      load_queries(pair_of(after(round)));
    } else {
      statistics.clear();
    }
    query_gradients<Persistent, Keys>(args, pair, scores, keys_of(round));
  }
}

__global__ void __launch_bounds__(Persistent::kThreads, 1)
    short_backward_persistent_kernel(ShortBackwardArguments args) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900  // older chips lack the shared memory
  persistent_block(args);
#else
  __trap();
#endif
}

/// Calls `body` with the instance for the shape, if there is one.
template <typename Body>
void for_instance(std::int64_t head_size, std::int64_t keys, const Body& body) {
  const std::int64_t tiles = ceil_div(keys, 16);
  switch (head_size) {
    case 32:
      if (tiles == 4) return body(Fused<32, 64, 4>{});
      if (tiles == 5) return body(Fused<32, 80, 3>{});
      if (tiles == 13) return body(Fused<32, 208, 1>{});
      return;
    case 64:
      if (tiles == 1) return body(Fused<64, 16, 16>{});
      if (tiles == 2) return body(Fused<64, 32, 8>{});
      if (tiles == 4) return body(Fused<64, 64, 4>{});
      if (tiles == 5) return body(Fused<64, 80, 3>{});
      if (tiles == 7) return body(Fused<64, 112, 2>{});
      if (tiles == 13) return body(Fused<64, 208, 1>{});
      return;
    case 80:
      if (tiles == 4) return body(Fused<80, 64, 3>{});
      if (tiles == 5) return body(Fused<80, 80, 2>{});
      return;
  }
}

}  // namespace

ShortInstance short_backward_fused_instance(std::int64_t head_size, std::int64_t keys) {
  ShortInstance result;
  for_instance(head_size, keys, [&](auto instance) {
    result = {instance.kSharedBytes, instance.kKeys};
  });
  return result;
}

ShortInstance short_backward_persistent_instance(std::int64_t head_size, std::int64_t keys) {
  const bool fits = head_size == Persistent::kHeadSize && keys <= Persistent::kKeys &&
                    keys > Persistent::kKeys - 16;
  return fits ? ShortInstance{Persistent::kSharedBytes, Persistent::kKeys} : ShortInstance{};
}

void short_backward_fused(const AttentionBackward& args, cudaStream_t stream) {
  const ShortBackwardArguments arguments(args);
  for_instance(args.head_size, args.window.total, [&](auto instance) {
    launch("attention_backward", stream, arguments.pairs, instance.kThreads, instance.kSharedBytes,
           short_backward_fused_kernel<decltype(instance)>, arguments);
  });
}

void short_backward_persistent(const AttentionBackward& args, int blocks, cudaStream_t stream) {
  const ShortBackwardArguments arguments(args);
  const unsigned grid = std::min(static_cast<unsigned>(blocks), arguments.pairs);
  launch("attention_backward", stream, grid, Persistent::kThreads, Persistent::kSharedBytes,
         short_backward_persistent_kernel, arguments);
}

}  // namespace vitrine::cuda
