// Shuffles, votes and barriers of tests/simt, against the CUDA C++ Programming Guide.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "simt/emulator_test.h"

namespace simt {
namespace {

using vitrine::cuda::kAllLanes;

__global__ void shuffle_eights(int* out) {
  const int lane = static_cast<int>(threadIdx.x);
  out[lane] = __shfl_sync(kAllLanes, lane, 11, 8);
  out[32 + lane] = __shfl_up_sync(kAllLanes, lane, 3, 8);
  out[64 + lane] = __shfl_down_sync(kAllLanes, lane, 3, 8);
  out[96 + lane] = __shfl_xor_sync(kAllLanes, lane, 5, 8);
  out[128 + lane] = __shfl_xor_sync(kAllLanes, lane, 8, 8);
}

// In groups of eight; a lane without a source keeps its own value. A shuffle by xor reaches earlier
// groups, not later ones.
TEST(Shuffle, MovesValuesInsideGroups) {
  under_all_schedules([] {
    const auto out = run_block<int>(32, 160, &shuffle_eights);
    for (int group = 0; group < 32; group += 8) {
      const std::vector<std::vector<int>> expected = {{3, 3, 3, 3, 3, 3, 3, 3},
                                                      {0, 1, 2, 0, 1, 2, 3, 4},
                                                      {3, 4, 5, 6, 7, 5, 6, 7},
                                                      {5, 4, 7, 6, 1, 0, 3, 2}};
      for (int kind = 0; kind < 4; ++kind) {
        for (int i = 0; i < 8; ++i) {
          EXPECT_EQ(out[32 * kind + group + i], group + expected[kind][i]) << kind << " " << i;
        }
      }
    }
    EXPECT_EQ(out[128 + 3], 3);
    EXPECT_EQ(out[128 + 11], 3);
    EXPECT_EQ(out[128 + 19], 19);
    EXPECT_EQ(out[128 + 31], 23);
  });
}

__global__ void shuffle_warps(int* out) {
  const int thread = static_cast<int>(threadIdx.x);
  out[thread] = __shfl_xor_sync(kAllLanes, thread, 31);
  out[64 + thread] = __shfl_down_sync(kAllLanes, thread, 1);
  out[128 + thread] = __shfl_sync(kAllLanes, thread, 0);
  out[192 + thread] = __shfl_sync(kAllLanes, thread, thread, 1);
}

TEST(Shuffle, StaysInsideTheWarp) {
  under_all_schedules([] {
    const auto out = run_block<int>(64, 256, &shuffle_warps);
    EXPECT_EQ(out[0], 31);
    EXPECT_EQ(out[33], 62);
    EXPECT_EQ(out[64 + 30], 31);
    EXPECT_EQ(out[64 + 31], 31);
    EXPECT_EQ(out[64 + 63], 63);
    EXPECT_EQ(out[128 + 31], 0);
    EXPECT_EQ(out[128 + 63], 32);
    EXPECT_EQ(out[192 + 45], 45);
  });
}

/// Two halves shuffle at different places at the same time; then the lower half asks the upper,
/// which takes no part.
__global__ void shuffle_halves(float* out) {
  const int lane = static_cast<int>(threadIdx.x);
  const float value = static_cast<float>(lane);
  if (lane < 16) {
    out[lane] = __shfl_xor_sync(0x0000ffffu, value, 1);
    out[32 + lane] = __shfl_sync(0x0000ffffu, value, 16);
  } else {
    out[lane] = __shfl_xor_sync(0xffff0000u, value, 2);
    out[32 + lane] = 0.0f;
  }
}

TEST(Shuffle, OfPartsOfAWarp) {
  under_all_schedules([] {
    const auto out = run_block<float>(32, 64, &shuffle_halves);
    for (int lane = 0; lane < 16; ++lane) {
      EXPECT_EQ(out[lane], static_cast<float>(lane ^ 1));
      EXPECT_EQ(out[16 + lane], static_cast<float>((16 + lane) ^ 2));
      EXPECT_TRUE(std::isnan(out[32 + lane]));
    }
  });
}

__global__ void shuffle_types(double* out) {
  const int lane = static_cast<int>(threadIdx.x);
  const double big = __shfl_down_sync(kAllLanes, lane + 0.25, 1);
  const std::int64_t whole = __shfl_sync(kAllLanes, (std::int64_t{1} << 40) + lane, 7);
  const auto half = __shfl_xor_sync(kAllLanes, __float2bfloat16_rn(static_cast<float>(lane)), 1);
  out[3 * lane] = big;
  out[3 * lane + 1] = static_cast<double>(whole);
  out[3 * lane + 2] = __bfloat162float(half);
}

TEST(Shuffle, OfTwoToEightBytes) {
  const auto out = run_block<double>(32, 96, &shuffle_types);
  EXPECT_EQ(out[3 * 4], 5.25);
  EXPECT_EQ(out[3 * 31], 31.25);
  EXPECT_EQ(out[3 * 4 + 1], 1099511627783.0);
  EXPECT_EQ(out[3 * 4 + 2], 5.0);
}

__global__ void votes(unsigned* out) {
  const unsigned lane = threadIdx.x;
  unsigned* mine = out + 6 * lane;
  mine[0] = __ballot_sync(kAllLanes, lane % 3 == 0);
  mine[1] = static_cast<unsigned>(__any_sync(kAllLanes, lane == 17));
  mine[2] = static_cast<unsigned>(__all_sync(kAllLanes, lane != 17));
  mine[3] = static_cast<unsigned>(__all_sync(kAllLanes, 2));
  if (lane % 2 == 0) {
    mine[4] = __ballot_sync(0x55555555u, lane < 8);
    mine[5] = static_cast<unsigned>(__all_sync(0x55555555u, lane % 2 == 0));
  } else {
    mine[4] = __ballot_sync(0xaaaaaaaau, lane < 8);
    mine[5] = static_cast<unsigned>(__any_sync(0xaaaaaaaau, lane % 2 == 0));
  }
}

TEST(Vote, CountsTheLanesOfTheMask) {
  under_all_schedules([] {
    const auto out = run_block<unsigned>(32, 192, &votes);
    for (int lane = 0; lane < 32; ++lane) {
      const std::vector<unsigned> mine(out.begin() + 6 * lane, out.begin() + 6 * lane + 6);
      const bool even = lane % 2 == 0;
      EXPECT_EQ(mine, (std::vector<unsigned>{0x49249249u, 1, 0, 1, even ? 0x55u : 0xaau, even}));
    }
  });
}

__global__ void rotate_many_times(int* out) {
  SHARED_ARRAY(int, values, [2][96]);
  int value = static_cast<int>(threadIdx.x);
  for (int round = 0; round < 50; ++round) {
    values[round % 2][threadIdx.x] = value;
    __syncthreads();
    value = values[round % 2][(threadIdx.x + 1) % 96];
  }
  out[threadIdx.x] = value;
}

__global__ void rotate_in_warps(int* out) {
  SHARED_ARRAY(int, values, [2][96]);
  const unsigned warp = threadIdx.x / 32 * 32;
  int value = static_cast<int>(threadIdx.x);
  for (unsigned round = 0; round < 10 * (1 + warp / 32); ++round) {
    values[round % 2][threadIdx.x] = value;
    __syncwarp();
    value = values[round % 2][warp + (threadIdx.x + 1) % 32];
  }
  out[threadIdx.x] = value;
}

/// Whole warps leave; those that stay still meet each other.
__global__ void warps_leave(int* out) {
  SHARED_ARRAY(int, values, [96]);
  values[threadIdx.x] = static_cast<int>(threadIdx.x);
  out[threadIdx.x] = -1;
  if (threadIdx.x < 64) return;
  __syncwarp();
  out[threadIdx.x] = values[threadIdx.x ^ 1];
}

TEST(Barrier, MakesThreadsMeet) {
  under_all_schedules([] {
    const auto block = run_block<int>(96, 96, &rotate_many_times);
    for (int i = 0; i < 96; ++i) EXPECT_EQ(block[i], (i + 50) % 96);
    const auto warps = run_block<int>(96, 96, &rotate_in_warps);
    EXPECT_EQ(warps[5], 15);
    EXPECT_EQ(warps[32 + 5], 32 + 25);
    EXPECT_EQ(warps[64 + 5], 64 + 3);
    const auto left = run_block<int>(96, 96, &warps_leave);
    EXPECT_EQ(left[63], -1);
    EXPECT_EQ(left[64], 65);
    EXPECT_EQ(left[95], 94);
  });
}

}  // namespace
}  // namespace simt
