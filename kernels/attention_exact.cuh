// What forward and backward of the exact tier share: how small heads are packed into blocks, and
// the 64×64 tile products of larger ones.
#pragma once

#include <algorithm>

#include "attention.cuh"
#include "attention_head.cuh"
#include "primitives/ptx.cuh"
#include "primitives/reduce.cuh"
#include "primitives/vector.cuh"

namespace vitrine::cuda {

// ---------------------------------------------------------------------------------------------
// Small heads: a thread owns a row (a query or a key), a block the rows of up to kSmallPairs pairs.

constexpr int kSmallHead = 16;  ///< the largest head size that one thread holds
constexpr int kSmallThreads = 256;
constexpr int kSmallPairs = 4;
constexpr int kSmallTile = 64;  ///< rows of each pair that are in shared memory at a time

/// How `rows` rows of each of `pairs` pairs are spread over blocks.
struct SmallGrid {
  int pairs_per_block, rows_per_block;
  int row_blocks;  ///< per pair; 1 where a block holds several pairs
  std::int64_t blocks;

  SmallGrid(std::int64_t pairs, std::int64_t rows, const CudaLimits& limits) {
    row_blocks = static_cast<int>(ceil_div(rows, kSmallThreads));
    rows_per_block = static_cast<int>(ceil_div(rows, row_blocks));
    const std::int64_t share = ceil_div(pairs, limits.multiprocessors);  // leave none idle
    pairs_per_block = static_cast<int>(std::clamp<std::int64_t>(
        kSmallThreads / rows_per_block, 1, std::min<std::int64_t>(kSmallPairs, share)));
    blocks = ceil_div(pairs, pairs_per_block) * row_blocks;
  }
  int threads() const { return ceil_div(pairs_per_block * rows_per_block, kWarpSize) * kWarpSize; }
};

/// The row that this thread owns.
struct SmallRow {
  std::int64_t first_pair;  ///< of the block
  int pairs;                ///< in the block
  int local;                ///< pair of the thread, counted in the block
  int row;
  bool active;

  __device__ SmallRow(const SmallGrid& grid, std::int64_t block, std::int64_t all_pairs,
                      std::int64_t rows) {
    first_pair = block / grid.row_blocks * grid.pairs_per_block;
    const std::int64_t left = all_pairs - first_pair;
    pairs = left < grid.pairs_per_block ? static_cast<int>(left) : grid.pairs_per_block;
    const int thread = static_cast<int>(threadIdx.x);
    const int first_row = static_cast<int>(block % grid.row_blocks) * grid.rows_per_block;
    local = thread / grid.rows_per_block;
    row = first_row + thread % grid.rows_per_block;
    active = local < pairs && row < rows;
    if (!active) local = 0, row = 0;
  }
};

/// Up to kHead channels of a row, times `factor`; zeros beyond head_size.
template <typename T, int kHead>
__device__ __forceinline__ void load_channels(float (&values)[kHead], const T* row, int head_size,
                                              float factor = 1.0f) {
#pragma unroll
  for (int i = 0; i < kHead; ++i) values[i] = i < head_size ? factor * to_float(row[i]) : 0.0f;
}
template <typename T, int kHead>
__device__ __forceinline__ void store_channels(T* row, const float (&values)[kHead], int head_size,
                                               float factor = 1.0f) {
#pragma unroll
  for (int i = 0; i < kHead; ++i) {
    if (i < head_size) row[i] = from_float<T>(values[i] * factor);
  }
}

template <int kHead>
__device__ __forceinline__ float dot(const float (&a)[kHead], const float* b) {
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kHead; i += 4) {
    const float4 piece = *reinterpret_cast<const float4*>(b + i);
    sum = fmaf(a[i], piece.x, sum), sum = fmaf(a[i + 1], piece.y, sum);
    sum = fmaf(a[i + 2], piece.z, sum), sum = fmaf(a[i + 3], piece.w, sum);
  }
  return sum;
}
/// sum += factor · b
template <int kHead>
__device__ __forceinline__ void add_scaled(float (&sum)[kHead], float factor, const float* b) {
#pragma unroll
  for (int i = 0; i < kHead; i += 4) {
    const float4 piece = *reinterpret_cast<const float4*>(b + i);
    sum[i] += factor * piece.x, sum[i + 1] += factor * piece.y;
    sum[i + 2] += factor * piece.z, sum[i + 3] += factor * piece.w;
  }
}

// ---------------------------------------------------------------------------------------------
// Larger heads: a block of 16×16 threads multiplies 64×64 tiles, 4×4 elements a thread. Thread
// (tx, ty) has rows 4ty …, columns 4tx …; operands are panels of kDepth slices in shared memory,
// panel[k][0 … 63], so that a thread reads 4 + 4 neighbouring floats for 16 multiplications.

constexpr int kTile = 64;
constexpr int kTileThreads = 256;
constexpr int kDepth = 32;
constexpr int kSlice =
    kTile + 4;  ///< floats between slices: 16-byte rows, stores spread over banks
constexpr int kPanel = kDepth * kSlice;
static_assert(kTile == 64 && kTileThreads == 256 && kDepth == 32,
              "as the loads of panels divide it");

using TileSum = float[4][4];

/// First row and first column of this thread's 4×4 elements.
__device__ __forceinline__ int tile_row() {
  return static_cast<int>(threadIdx.x) / 16 * 4;
}
__device__ __forceinline__ int tile_col() {
  return static_cast<int>(threadIdx.x) % 16 * 4;
}

/// panel[c][r] = source[r][first + c], zero where r ≥ rows or first + c ≥ cols.
template <typename T>
__device__ __forceinline__ void load_panel_transposed(float* panel, const T* source,
                                                      std::int64_t stride, int rows, int first,
                                                      int cols) {
  // A warp takes 8 columns of 4 rows: whole sectors from memory, 32 different banks.
  const int thread = static_cast<int>(ptx::thread_x());
  const int lane = thread % 32, warp = thread / 32;
  const int c = warp % 4 * 8 + lane % 8;
  int r = warp / 4 * 4 + lane / 8;
  const T* from = source + r * stride + first + c;
  const bool valid = first + c < cols;
#pragma unroll 4
  for (; r < kTile; r += 8, from += 8 * stride) {
    panel[c * kSlice + r] = valid && r < rows ? to_float(*from) : 0.0f;
  }
}
/// panel[k][c] = source[k][c] for 64 columns, zero where k ≥ rows or c ≥ cols.
template <typename T>
__device__ __forceinline__ void load_panel(float* panel, const T* source, std::int64_t stride,
                                           int rows, int cols) {
  const int thread = static_cast<int>(ptx::thread_x()), c = thread % kTile;
  int k = thread / kTile;
  const T* from = source + k * stride + c;
#pragma unroll 4
  for (; k < kDepth; k += kTileThreads / kTile, from += kTileThreads / kTile * stride) {
    panel[k * kSlice + c] = k < rows && c < cols ? to_float(*from) : 0.0f;
  }
}

/// sum[i][j] += Σ over kDepth slices a[k][row + i] · b[k][col + j].
__device__ __forceinline__ void multiply_panels(TileSum& sum, const float* a, const float* b) {
  a += tile_row(), b += tile_col();
#pragma unroll 8
  for (int k = 0; k < kDepth; ++k, a += kSlice, b += kSlice) {
    const float4 left = *reinterpret_cast<const float4*>(a);
    const float4 right = *reinterpret_cast<const float4*>(b);
    const float x[4] = {left.x, left.y, left.z, left.w};
    const float y[4] = {right.x, right.y, right.z, right.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) sum[i][j] += x[i] * y[j];
    }
  }
}

/// Rows of a matrix in device memory: how far apart, and how many of the tile's 64 exist.
template <typename T>
struct TileRows {
  const T* data;
  std::int64_t stride;
  int rows;
};

/// sum = a · bᵀ over head_size channels. The panels may be in use until the call and are after it.
template <typename T>
__device__ void multiply_heads(TileSum& sum, const TileRows<T>& a, const TileRows<T>& b,
                               int head_size, float* a_panel, float* b_panel) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) sum[i][j] = 0.0f;
  }
#pragma unroll 1
  for (int first = 0; first < head_size; first += kDepth) {
    __syncthreads();
    load_panel_transposed(a_panel, a.data, a.stride, a.rows, first, head_size);
    load_panel_transposed(b_panel, b.data, b.stride, b.rows, first, head_size);
    __syncthreads();
    multiply_panels(sum, a_panel, b_panel);
  }
}

/// sums[c] += weights · the 64 columns of `rows` from 64c on, of which `cols` exist in all. The
/// weights are slices [64][kSlice] that this call's first barrier makes visible.
template <int kChunks, typename T>
__device__ void multiply_weights(TileSum (&sums)[kChunks], const float* weights,
                                 const TileRows<T>& rows, int cols, float* panel) {
#pragma unroll
  for (int chunk = 0; chunk < kChunks; ++chunk) {
    if (kChunks > 1 && chunk * kTile >= cols) break;
#pragma unroll 1
    for (int first = 0; first < rows.rows; first += kDepth) {
      __syncthreads();
      load_panel(panel, rows.data + first * rows.stride + chunk * kTile, rows.stride,
                 rows.rows - first, cols - chunk * kTile);
      __syncthreads();
      multiply_panels(sums[chunk], weights + first * kSlice, panel);
    }
  }
}

/// weights[col][row] = the thread's elements: slices for multiply_weights.
__device__ __forceinline__ void store_weights(float* weights, const TileSum& values) {
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    *reinterpret_cast<float4*>(weights + (tile_col() + j) * kSlice + tile_row()) =
        make_float4(values[0][j], values[1][j], values[2][j], values[3][j]);
  }
}

/// target[row][64c + col] = factor[i] · sums[c][i][j], where they exist.
template <int kChunks, typename T>
__device__ __forceinline__ void store_tile(T* target, std::int64_t stride, int rows, int cols,
                                           const TileSum (&sums)[kChunks],
                                           const float (&factor)[4]) {
#pragma unroll
  for (int chunk = 0; chunk < kChunks; ++chunk) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = tile_row() + i;
      if (row >= rows) continue;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int col = chunk * kTile + tile_col() + j;
        if (col < cols) target[row * stride + col] = from_float<T>(factor[i] * sums[chunk][i][j]);
      }
    }
  }
}

/// A grid over (pair, tile of 64 rows, group of up to 64·kChunks columns of the result).
struct TileGrid {
  int tiles, groups;

  TileGrid(std::int64_t rows, std::int64_t head_size, int chunks)
      : tiles(static_cast<int>(ceil_div(rows, kTile))),
        groups(static_cast<int>(ceil_div(head_size, kTile * chunks))) {}
  dim3 blocks(std::int64_t pairs) const {
    return dim3(static_cast<unsigned>(pairs * tiles * groups));
  }
};

/// What this block owns.
struct TileBlock {
  std::int64_t pair;
  int first;      ///< row
  int rows;       ///< that exist, at most 64
  int group;      ///< of columns
  int first_col;  ///< of the group
  int cols;       ///< that exist in the group

  __device__ TileBlock(const TileGrid& grid, std::int64_t all_rows, std::int64_t head_size,
                       int chunks) {
    const unsigned tile = blockIdx.x / static_cast<unsigned>(grid.groups);
    group = static_cast<int>(blockIdx.x % static_cast<unsigned>(grid.groups));
    pair = tile / static_cast<unsigned>(grid.tiles);
    first = static_cast<int>(tile % static_cast<unsigned>(grid.tiles)) * kTile;
    rows = static_cast<int>(all_rows) - first < kTile ? static_cast<int>(all_rows) - first : kTile;
    first_col = group * chunks * kTile;
    const int left = static_cast<int>(head_size) - first_col;
    cols = left < chunks * kTile ? left : chunks * kTile;
  }
};

}  // namespace vitrine::cuda
