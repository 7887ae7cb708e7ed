// Tiles of bf16 rows in shared memory and the fragments of mma.m16n8k16: what the tensor-core tiers
// of attention share.
//
// A tile has rows of kColumns elements (a multiple of 16), handled in chunks of 8 (16 bytes). Both
// layouts put the same chunk of 8 neighbouring rows into 8 different groups of 4 banks, so neither
// ldmatrix (8 rows a phase) nor the 4-byte stores of a fragment (8 rows, 4 lanes in a chunk) have
// bank conflicts; static_asserts below hold them to it.
//
// A fragment is what one lane of a warp holds of a 16×16 piece (PTX ISA 8.5, 9.7.14.5.8); lane
// 4g + t has rows g and g + 8, columns 2t, 2t + 1 and 2t + 8, 2t + 9. Accumulators are pairs of
// n8 tiles: acc[n][2h + i] is row g + 8h, column 8n + 2t + i.
#pragma once

#include "primitives/cuda.cuh"
#include "primitives/ptx.cuh"

namespace vitrine::cuda {

inline constexpr float kLn2 = 0.69314718055994531f;

constexpr double square_root(double x) {
  double root = x;
  for (int i = 0; i < 64; ++i) root = 0.5 * (root + x / root);  // Newton; 64 are plenty
  return root;
}
/// 1 / √d, an immediate in the instructions that use it.
template <int kHeadSize>
inline constexpr float kScoreScale = static_cast<float>(1.0 / square_root(kHeadSize));
/// For powers of two in place of e.
template <int kHeadSize>
inline constexpr float kScoreScaleLog2 = static_cast<float>(1.4426950408889634 /
                                                            square_root(kHeadSize));

// ---------------------------------------------------------------------------------------------
// Layouts

/// An odd number of chunks a row. Every offset is one of the lane plus a constant: the fewest
/// registers and instructions.
template <int kColumns_>
struct PaddedRows {
  static constexpr int kColumns = kColumns_, kStride = kColumns_ + 8;
  __host__ __device__ static constexpr int offset(int row, int chunk) {
    return row * kStride + chunk * 8;
  }
};

/// No padding: chunks permuted by the row.
template <int kColumns_>
struct SwizzledRows {
  static constexpr int kColumns = kColumns_, kStride = kColumns_;
  __host__ __device__ static constexpr int offset(int row, int chunk) {
    constexpr int kChunks = kColumns / 8;
    constexpr int kMask = kChunks % 8 == 0 ? 7 : kChunks % 4 == 0 ? 3 : 1;
    constexpr int kShift = kChunks % 8 == 0 ? 0 : kChunks % 4 == 0 ? 1 : 2;
    const int permutation = (row >> kShift) & kMask;
    return row * kStride + (chunk ^ permutation) * 8;
  }
};

/// Whether each chunk has a place of its own inside its row, aligned to 16 bytes, and 8 rows that
/// start on a multiple of 8 meet all 8 groups of banks in each chunk.
template <typename Rows>
constexpr bool conflict_free() {
  for (int row = 0; row < 16; row += 8) {
    for (int chunk = 0; chunk < Rows::kColumns / 8; ++chunk) {
      unsigned groups = 0;
      for (int i = 0; i < 8; ++i) {
        const int offset = Rows::offset(row + i, chunk), begin = (row + i) * Rows::kStride;
        if (offset % 8 != 0 || offset < begin || offset + 8 > begin + Rows::kStride) return false;
        for (int other = 0; other < chunk; ++other) {
          if (Rows::offset(row + i, other) == offset) return false;
        }
        groups |= 1u << (offset / 8 % 8);
      }
      if (groups != 0xff) return false;
    }
  }
  return true;
}
static_assert(conflict_free<PaddedRows<16>>() && conflict_free<SwizzledRows<16>>());
static_assert(conflict_free<PaddedRows<32>>() && conflict_free<SwizzledRows<32>>());
static_assert(conflict_free<PaddedRows<48>>() && conflict_free<SwizzledRows<48>>());
static_assert(conflict_free<PaddedRows<64>>() && conflict_free<SwizzledRows<64>>());
static_assert(conflict_free<PaddedRows<80>>() && conflict_free<SwizzledRows<80>>());
static_assert(conflict_free<PaddedRows<96>>() && conflict_free<SwizzledRows<96>>());
static_assert(conflict_free<PaddedRows<112>>() && conflict_free<SwizzledRows<112>>());
static_assert(conflict_free<PaddedRows<128>>() && conflict_free<SwizzledRows<128>>());

/// Starts copying rows [0, rows) of a matrix into a tile, by threads `thread` of `threads`. Rows
/// from `valid` on become zero and are not read. Rows start on 16-byte boundaries.
template <typename Rows>
__device__ __forceinline__ void load_tile_rows(bf16* tile, int rows, const bf16* source, int stride,
                                               int valid, int thread, int threads) {
  constexpr int kChunks = Rows::kColumns / 8;
  for (int i = thread; i < rows * kChunks; i += threads) {
    const int row = i / kChunks, chunk = i % kChunks;
    const std::int64_t at = static_cast<std::int64_t>(row < valid ? row : 0) * stride;
    ptx::cp_async_16(tile + Rows::offset(row, chunk), source + at + chunk * 8,
                     row < valid ? 16 : 0);
  }
}
template <typename Rows, int kRows>
__device__ __forceinline__ void load_tile(bf16* tile, const bf16* source, int stride, int valid,
                                          int thread, int threads) {
  load_tile_rows<Rows>(tile, kRows, source, stride, valid, thread, threads);
}

/// Sizes as the kernels count with them: 32 bits inside an (image, head), 64 across.
struct HeadShape {
  int heads, queries, keys, q_stride, kv_stride;
};
/// Where an (image, head) begins, in elements.
struct HeadOffsets {
  std::int64_t q, kv, out;  ///< in q and dq; in k, v, dk and dv; in out and dout
};
/// `pair` counts [B, H].
template <int kHeadSize>
__device__ __forceinline__ HeadOffsets head_offsets(const HeadShape& shape, unsigned pair) {
  const unsigned heads = shape.heads, image = pair / heads, head = pair % heads;
  const std::int64_t first_query = static_cast<std::int64_t>(image) * shape.queries;
  const std::int64_t first_key = static_cast<std::int64_t>(image) * shape.keys;
  const int column = static_cast<int>(head) * kHeadSize;
  return {first_query * shape.q_stride + column, first_key * shape.kv_stride + column,
          first_query * (shape.heads * kHeadSize) + column};
}

// ---------------------------------------------------------------------------------------------
// Fragments. `k` and `n` count blocks of 16 columns of the tile.

/// A(m, k) = tile[row + m][16k + …]: 16 rows as they are stored.
template <typename Rows>
__device__ __forceinline__ void load_a(unsigned (&a)[4], const bf16* tile, int row, int k,
                                       int lane) {
  ptx::ldmatrix_x4(a, tile + Rows::offset(row + (lane & 15), 2 * k + (lane >> 4)));
}
/// A(m, k) = tile[row + k][16n + m]: the transpose of what is stored.
template <typename Rows>
__device__ __forceinline__ void load_a_transposed(unsigned (&a)[4], const bf16* tile, int row,
                                                  int n, int lane) {
  ptx::ldmatrix_x4_trans(
      a, tile + Rows::offset(row + (lane & 7) + (lane >> 4) * 8, 2 * n + ((lane >> 3) & 1)));
}
/// B(k, n) = tile[row + n][16k + …], two n8 tiles: the product with the transpose of the rows.
template <typename Rows>
__device__ __forceinline__ void load_b(unsigned (&b)[2][2], const bf16* tile, int row, int k,
                                       int lane) {
  unsigned r[4];
  ptx::ldmatrix_x4(
      r, tile + Rows::offset(row + (lane & 7) + (lane >> 4) * 8, 2 * k + ((lane >> 3) & 1)));
  b[0][0] = r[0], b[0][1] = r[1], b[1][0] = r[2], b[1][1] = r[3];
}
/// B(k, n) = tile[row + k][16n + …], two n8 tiles: the product with the rows.
template <typename Rows>
__device__ __forceinline__ void load_b_transposed(unsigned (&b)[2][2], const bf16* tile, int row,
                                                  int n, int lane) {
  unsigned r[4];
  ptx::ldmatrix_x4_trans(r, tile + Rows::offset(row + (lane & 15), 2 * n + (lane >> 4)));
  b[0][0] = r[0], b[0][1] = r[1], b[1][0] = r[2], b[1][1] = r[3];
}

/// Rounds two floats to bf16; `low` in the lower half.
__device__ __forceinline__ unsigned pack_bf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const unsigned*>(&pair);
}
/// Two neighbouring n8 accumulators, rounded to bf16, as the A operand of the next product.
__device__ __forceinline__ void accumulators_to_a(unsigned (&a)[4], const float (&left)[4],
                                                  const float (&right)[4]) {
  a[0] = pack_bf16(left[0], left[1]), a[1] = pack_bf16(left[2], left[3]);
  a[2] = pack_bf16(right[0], right[1]), a[3] = pack_bf16(right[2], right[3]);
}
/// The inverse of load_a.
template <typename Rows>
__device__ __forceinline__ void store_a(bf16* tile, int row, int k, const unsigned (&a)[4],
                                        int lane) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    bf16* chunk = tile + Rows::offset(row + (lane >> 2) + i % 2 * 8, 2 * k + i / 2);
    *reinterpret_cast<unsigned*>(chunk + (lane & 3) * 2) = a[i];
  }
}

/// acc (16×kColumns) += a (16×16) · rows [row, row + 16) of the tile.
template <typename Rows>
__device__ __forceinline__ void multiply_rows(float (&acc)[Rows::kColumns / 8][4],
                                              const unsigned (&a)[4], const bf16* tile, int row,
                                              int lane) {
#pragma unroll
  for (int n = 0; n < Rows::kColumns / 16; ++n) {
    unsigned b[2][2];
    load_b_transposed<Rows>(b, tile, row, n, lane);
    ptx::mma_bf16_16x8x16(acc[2 * n], a, b[0]);
    ptx::mma_bf16_16x8x16(acc[2 * n + 1], a, b[1]);
  }
}

// ---------------------------------------------------------------------------------------------
// Results to global memory

/// Transposes the 4×4 words that the four lanes 4g … 4g + 3 hold, v[i] of lane t becoming v[t] of
/// lane i. All lanes of the warp call.
__device__ __forceinline__ void transpose_quad(unsigned (&v)[4], int lane) {
#pragma unroll
  for (int step = 1; step <= 2; step *= 2) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i & step) continue;
      const bool upper = lane & step;
      const unsigned got = __shfl_xor_sync(kAllLanes, upper ? v[i] : v[i + step], step);
      if (upper) {
        v[i] = got;
      } else {
        v[i + step] = got;
      }
    }
  }
}

/// Writes 16 rows of accumulators as bf16 rows row … row + 15 of a matrix, those below `rows`, the
/// lane's two rows times factor[0] and factor[1]. Quads of lanes trade pieces so that each lane
/// stores 16 bytes. All lanes of the warp call.
template <int kColumns>
__device__ __forceinline__ void store_rows(bf16* target, int stride, int row, int rows,
                                           const float (&acc)[kColumns / 8][4],
                                           const float (&factor)[2], int lane) {
  constexpr int kWide = kColumns / 32 * 4;  // n8 tiles that go four at a time
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int r = row + (lane >> 2) + 8 * h;
    bf16* const to = target + static_cast<std::int64_t>(r < rows ? r : 0) * stride;
#pragma unroll
    for (int n = 0; n < kWide; n += 4) {
      unsigned v[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        v[i] = pack_bf16(acc[n + i][2 * h] * factor[h], acc[n + i][2 * h + 1] * factor[h]);
      }
      transpose_quad(v, lane);
      if (r < rows) {
        const uint4 words = make_uint4(v[0], v[1], v[2], v[3]);
        if constexpr (kColumns <= 64) {
          ptx::store_global_16(to + (n + (lane & 3)) * 8, words);
        } else {  // no register is free for its address
          ptx::store_16(to + (n + (lane & 3)) * 8, words);
        }
      }
    }
#pragma unroll
    for (int n = kWide; n < kColumns / 8; ++n) {
      if (r < rows) {
        *reinterpret_cast<unsigned*>(to + n * 8 + (lane & 3) * 2) =
            pack_bf16(acc[n][2 * h] * factor[h], acc[n][2 * h + 1] * factor[h]);
      }
    }
  }
}

/// The dot product of 8 bf16 elements in each.
__device__ __forceinline__ float dot_chunk(const uint4& a, const uint4& b) {
  const unsigned x[4] = {a.x, a.y, a.z, a.w}, y[4] = {b.x, b.y, b.z, b.w};
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    sum += __uint_as_float(x[i] << 16) * __uint_as_float(y[i] << 16) +
           __uint_as_float(x[i] & 0xffff0000u) * __uint_as_float(y[i] & 0xffff0000u);
  }
  return sum;
}

}  // namespace vitrine::cuda
