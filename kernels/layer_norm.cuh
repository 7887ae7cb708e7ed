// How the rows of layer_norm lie on threads, forward and backward.
//
// Rows of up to 1280 elements belong to a team: 1, 2, 4 … 32 neighbouring lanes of a warp, each
// with 8, 24, 32 or 40 elements of the row in registers, 16 bytes by 16 bytes, neighbouring lanes
// side by side. The widths of the published models fit exactly, in every type:
//
//   192 = 8 · 24   384 = 16 · 24   768 = 32 · 24   1024 = 32 · 32   1280 = 32 · 40   8 = 1 · 8
//
// and other widths leave lanes idle, as few as can be. Rows whose length or address does not allow
// 16-byte accesses are moved element by element by teams of 8 or 24 elements a lane (up to 768).
// Longer rows belong to a block, which reads them again, from L1, instead of keeping them.
#pragma once

#include <bit>
#include <initializer_list>

#include "primitives/cuda.cuh"
#include "primitives/vector.cuh"

namespace vitrine::cuda {

/// Threads for a row. `elements` is 0 where a row takes a block.
struct Team {
  int elements = 0;    ///< of the row, of each lane
  int log2_lanes = 0;  ///< of the number of lanes
};

/// The team with the fewest idle places.
inline Team team_of(std::int64_t cols, bool wide) {
  Team best;
  std::int64_t fewest = std::int64_t{kWarpSize} * 40 + 1;
  for (const int elements : {8, 24, 32, 40}) {
    if (!wide && elements > 24) continue;
    const auto lanes = static_cast<std::int64_t>(
        std::bit_ceil(static_cast<std::uint64_t>(ceil_div(cols, std::int64_t{elements}))));
    if (lanes > kWarpSize || lanes * elements >= fewest) continue;
    fewest = lanes * elements;
    best = {elements, std::countr_zero(static_cast<unsigned>(lanes))};
  }
  return best;
}

/// Calls `body(vector, elements, random)`, all Constants. Where rows are not wide, `random` is true
/// whether anything is dropped or not: one instance serves both.
template <typename T, typename Body>
void for_team(const Team& team, bool wide, bool random, const Body& body) {
  const auto choose = [&](auto vector, auto is_random) {
    constexpr bool kWide = vector.value > 1;
    if (team.elements == 0) return body(vector, Constant<0>{}, is_random);
    if (team.elements == 8) return body(vector, Constant<8>{}, is_random);
    if (team.elements == 24) return body(vector, Constant<24>{}, is_random);
    if constexpr (kWide) {
      if (team.elements == 32) return body(vector, Constant<32>{}, is_random);
      return body(vector, Constant<40>{}, is_random);
    }
  };
  if (!wide) return choose(Constant<1>{}, Constant<true>{});
  for_bool(random, [&](auto is_random) { choose(Constant<kVectorWidth<T>>{}, is_random); });
}

/// The columns of one lane of a team: access j has elements [column(j), column(j) + kVector).
template <int kVector>
class LaneColumns {
 public:
  __device__ explicit LaneColumns(int log2_lanes)
      : log2_lanes_(log2_lanes), lane_(static_cast<int>(threadIdx.x) & ((1 << log2_lanes) - 1)) {}

  __device__ int lane() const { return lane_; }
  __device__ int lanes() const { return 1 << log2_lanes_; }
  /// Teams in a block of `threads`, and which one this thread is in.
  __device__ int teams(int threads) const { return threads >> log2_lanes_; }
  __device__ int team() const { return static_cast<int>(threadIdx.x) >> log2_lanes_; }
  __device__ int column(int j) const { return (lane_ + (j << log2_lanes_)) * kVector; }

  /// Each value = its sum over the lanes of the team, in all of them. All lanes of the warp call.
  template <typename... Values>
  __device__ __forceinline__ void sum(Values&... values) const {
#pragma unroll
    for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
      if (offset < lanes()) ((values += __shfl_xor_sync(kAllLanes, values, offset)), ...);
    }
  }

 private:
  int log2_lanes_, lane_;
};

}  // namespace vitrine::cuda
