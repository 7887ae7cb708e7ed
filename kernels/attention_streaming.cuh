// What forward and backward of the streaming tier share: tiles of heads whose size is less than
// the tile's width, and which probabilities dropout keeps.
#pragma once

#include <algorithm>

#include "attention.cuh"
#include "attention_head.cuh"
#include "attention_tile.cuh"
#include "primitives/reduce.cuh"
#include "primitives/vector.cuh"

namespace vitrine::cuda {

constexpr int kStreamWarps = 4;
constexpr int kStreamThreads = kStreamWarps * kWarpSize;
constexpr int kStreamKeys = 64;                ///< keys of a tile
constexpr int kStreamSharedBytes = 99 * 1024;  ///< what no block exceeds: sm_86 has no more

/// Calls `body` with the width of tiles that hold the head size, as a Constant.
template <typename Body>
void for_tile_width(std::int64_t head_size, const Body& body) {
  if (head_size <= 32) return body(Constant<32>{});
  if (head_size <= 64) return body(Constant<64>{});
  if (head_size <= 96) return body(Constant<96>{});
  body(Constant<128>{});
}

/// Starts copying rows [first, first + kRows) of a pair into a tile; zeros beyond row `rows` and
/// channel `head_size`, a multiple of 8.
template <typename Rows, int kRows>
__device__ __forceinline__ void load_head_tile(bf16* tile, const bf16* tensor,
                                               const HeadRows& place, int first, int rows,
                                               int head_size) {
  constexpr int kChunks = Rows::kColumns / 8;
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x); i < kRows * kChunks; i += kStreamThreads) {
    const int row = i / kChunks, chunk = i % kChunks;
    const bool valid = first + row < rows && chunk * 8 < head_size;
    const bf16* const from = tensor + place(valid ? first + row : 0) + (valid ? chunk * 8 : 0);
    ptx::cp_async_16(tile + Rows::offset(row, chunk), from, valid ? 16 : 0);
  }
}

/// Writes 16 rows of accumulators, times a factor for each of the lane's two rows, to rows row …
/// row + 15 of a pair, those below `rows`. Quads of lanes trade pieces so that each lane stores 16
/// bytes. All lanes of the warp call.
template <int kHead>
__device__ __forceinline__ void store_head_rows(bf16* tensor, const HeadRows& place, int row,
                                                int rows, int head_size,
                                                const float (&acc)[kHead / 8][4],
                                                const float (&factor)[2]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int r = row + lane / 4 + 8 * h;
    bf16* const to = tensor + place(r < rows ? r : 0);
#pragma unroll
    for (int n = 0; n < kHead / 8; n += 4) {
      unsigned v[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        v[i] = pack_bf16(acc[n + i][2 * h] * factor[h], acc[n + i][2 * h + 1] * factor[h]);
      }
      transpose_quad(v, lane);
      const int channel = (n + lane % 4) * 8;
      if (r < rows && channel < head_size) {
        ptx::store_16(to + channel, make_uint4(v[0], v[1], v[2], v[3]));
      }
    }
  }
}

/// Which elements of accumulators dropout keeps, where rows are queries: query … query + 15 and
/// keys key … key + 8·kTiles - 1, kTiles ≤ 8. Of the pair of lanes that share a quad of keys the
/// even one draws for row g, the odd one for row g + 8.
template <int kTiles>
class KeptByQuery {
 public:
  __device__ KeptByQuery(const ScoreDropout& dropout, int query, int key, int lane)
      : odd_(lane % 2) {
    unsigned drawn = 0;
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      drawn |= dropout.kept(query + lane / 4 + 8 * odd_, key + 8 * n + lane % 4 / 2 * 4) << 4 * n;
    }
    const unsigned other = __shfl_xor_sync(kAllLanes, drawn, 1);
    rows_[0] = odd_ ? other : drawn;
    rows_[1] = odd_ ? drawn : other;
  }
  /// Of acc[n][2h + i].
  __device__ bool operator()(int n, int h, int i) const {
    return rows_[h] >> (4 * n + 2 * odd_ + i) & 1;
  }

 private:
  int odd_;
  unsigned rows_[2];
};

/// The same of a 16×16 tile where rows are keys. The four lanes that share a quad of keys draw for
/// one of their four queries each.
class KeptByKey {
 public:
  __device__ KeptByKey(const ScoreDropout& dropout, int query, int key, int lane)
      : key_(lane / 4 % 4) {
    const int mine = query + key_ / 2 * 8 + lane % 4 * 2 + key_ % 2, quad = key + lane / 16 * 4;
    bits_ = (dropout.kept(mine, quad) | dropout.kept(mine, quad + 8) << 4) << 8 * key_;
    bits_ |= __shfl_xor_sync(kAllLanes, bits_, 4);
    bits_ |= __shfl_xor_sync(kAllLanes, bits_, 8);
  }
  /// Of acc[n][2h + i].
  __device__ bool operator()(int n, int h, int i) const {
    return bits_ >> (8 * (2 * n + i) + 4 * h + key_) & 1;
  }

 private:
  int key_;
  unsigned bits_;
};

}  // namespace vitrine::cuda
