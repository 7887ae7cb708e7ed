// Memory, launches and schedules of tests/simt.
#include "simt/emulator_test.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <iterator>
#include <thread>
#include <vector>

#include "primitives/last_block.cuh"
#include "primitives/ptx.cuh"

namespace simt {
namespace {

using vitrine::cuda::DeviceArray;
using vitrine::cuda::launch;
using vitrine::cuda::ScratchMemory;
namespace ptx = vitrine::cuda::ptx;

// Shared memory and asynchronous copies.

__device__ float* helper_array() {
  SHARED_ARRAY(float, array, [4]);
  return array;
}
template <int kInstance>
__device__ float* instance_array() {
  SHARED_ARRAY(float, array, [4]);
  return array;
}

__global__ void arrays(float* out) {
  DYNAMIC_SHARED(float, dynamic);
  SHARED_ARRAY(float, rows, [2][4]);
  out[0] = dynamic[3];
  out[1] = rows[1][3];
  out[2] = helper_array()[0];
  rows[1][3] = dynamic[3] = 1.0f;
  helper_array()[0] = 2.0f;
  instance_array<0>()[0] = 3.0f;
  instance_array<1>()[0] = 4.0f;
  out[3] = helper_array()[0];
  out[4] = instance_array<0>()[0];
  out[5] = instance_array<1>()[0];
  out[6] = reinterpret_cast<std::uintptr_t>(dynamic) % 128 == 0;
}

// The second launch finds nothing of what the first one wrote.
TEST(SharedMemory, IsNanBeforeEachBlockAndOneArrayPerDeclaration) {
  for (int i = 0; i < 2; ++i) {
    const auto out = run_block<float>(1, 7, &arrays, 16);
    EXPECT_TRUE(std::isnan(out[0]) && std::isnan(out[1]) && std::isnan(out[2]));
    EXPECT_EQ(std::vector<float>(out.begin() + 3, out.end()),
              (std::vector<float>{2.0f, 3.0f, 4.0f, 1.0f}));
  }
}

__global__ void copy_in_groups(float* out) {
  DYNAMIC_SHARED(float, target);
  float* source = out + 12;
  for (int i = 0; i < 8; ++i) source[i] = static_cast<float>(i);
  for (int i = 0; i < 8; ++i) target[i] = -1.0f;
  ptx::cp_async_16(target, source, 16);
  ptx::cp_async_commit();
  ptx::cp_async_16(target + 4, source + 4, 0);
  ptx::cp_async_commit();
  out[0] = target[0];
  ptx::cp_async_wait<2>();
  out[1] = target[0];
  ptx::cp_async_wait<1>();
  for (int i = 0; i < 4; ++i) out[2 + i] = target[i];
  out[6] = target[4];
  ptx::cp_async_wait<0>();
  for (int i = 0; i < 4; ++i) out[7 + i] = target[4 + i];
}

TEST(AsyncCopy, IsDoneWhenItsGroupIsWaitedFor) {
  const auto out = run_block<float>(1, 20, &copy_in_groups, 32);
  EXPECT_TRUE(std::isnan(out[0]));
  EXPECT_TRUE(std::isnan(out[1]));
  EXPECT_TRUE(std::isnan(out[6]));
  EXPECT_EQ(std::vector<float>(out.begin() + 2, out.begin() + 6),
            (std::vector<float>{0.0f, 1.0f, 2.0f, 3.0f}));
  EXPECT_EQ(std::vector<float>(out.begin() + 7, out.begin() + 11), std::vector<float>(4, 0.0f));
}

// Global memory, atomics, grids.

TEST(DeviceMemory, IsNanWhenNew) {
  float* memory = nullptr;
  ASSERT_EQ(cudaMalloc(reinterpret_cast<void**>(&memory), 12), cudaSuccess);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(memory) % 256, 0u);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(std::isnan(memory[i]));
  EXPECT_EQ(cudaFree(memory), cudaSuccess);
}

struct Totals {
  int whole;
  unsigned natural;
  unsigned long long large;
  float single;
  double twice;
};

__global__ void add_atomically(Totals* totals) {
  atomicAdd(&totals->whole, -1);
  atomicAdd(&totals->natural, 2u);
  atomicAdd(&totals->large, 1ull << 32);
  atomicAdd(&totals->single, 0.5f);
  atomicAdd(&totals->twice, 0.25);
}

TEST(Atomics, AddAcrossBlocks) {
  under_all_schedules([] {
    const DeviceArray<Totals> totals(std::vector<Totals>{{0, 0, 0, 0.0f, 0.0}});
    launch("emulator_test", nullptr, 50, 20, 0, add_atomically, totals.data());
    const Totals sum = totals.values()[0];
    EXPECT_EQ(sum.whole, -1000);
    EXPECT_EQ(sum.natural, 2000u);
    EXPECT_EQ(sum.large, 1000ull << 32);
    EXPECT_EQ(sum.single, 500.0f);
    EXPECT_EQ(sum.twice, 250.0);
  });
}

__global__ void sum_over_blocks(double* sum, ScratchMemory* scratch) {
  const unsigned block = blockIdx.x;
  if (threadIdx.x == 33) scratch->partials[block][0] = 1.0 / (1.0 + block);
  if (!vitrine::cuda::last_block(scratch)) return;
  if (threadIdx.x != 7) return;
  double total = 0.0;
  for (unsigned i = 0; i < gridDim.x; ++i) total += scratch->partials[i][0];
  *sum = total;
}

TEST(LastBlock, SumsFiftyBlocksToTheSameBits) {
  const DeviceArray<ScratchMemory> scratch(std::int64_t{1});
  ASSERT_EQ(cudaMemset(scratch.data(), 0, sizeof(ScratchMemory)), cudaSuccess);
  double expected = 0.0;
  for (int block = 0; block < 50; ++block) expected += 1.0 / (1.0 + block);
  under_all_schedules([&] {
    for (int repeat = 0; repeat < 3; ++repeat) {
      const DeviceArray<double> sum(std::int64_t{1});
      launch("emulator_test", nullptr, 50, 64, 0, sum_over_blocks, sum.data(), scratch.data());
      EXPECT_EQ(sum.values()[0], expected);
    }
  });
}

__global__ void positions(int* out, dim3 grid, dim3 block) {
  const bool right = gridDim.x == grid.x && gridDim.y == grid.y && gridDim.z == grid.z &&
                     blockDim.x == block.x && blockDim.y == block.y && blockDim.z == block.z;
  const unsigned in_grid = (blockIdx.z * grid.y + blockIdx.y) * grid.x + blockIdx.x;
  const unsigned in_block = (threadIdx.z * block.y + threadIdx.y) * block.x + threadIdx.x;
  grid.x = block.x = 0;  // arguments are each thread's own
  out[in_grid * 24 + in_block] = right ? 1 : 0;
}

TEST(Launch, ReachesEveryThreadOfEveryBlock) {
  under_all_schedules([] {
    const DeviceArray<int> out(std::vector<int>(30 * 24, 0));
    launch("emulator_test", nullptr, dim3(5, 3, 2), dim3(4, 3, 2), 0, positions, out.data(),
           dim3(5, 3, 2), dim3(4, 3, 2));
    EXPECT_EQ(out.values(), std::vector<int>(30 * 24, 1));
  });
}

TEST(Launch, FromSeveralThreadsAtOnce) {
  std::vector<std::vector<int>> results(4);
  std::vector<std::thread> threads;
  for (auto& result : results) {
    threads.emplace_back([&result] {
      for (int i = 0; i < 5; ++i) {
        const DeviceArray<Totals> totals(std::vector<Totals>{{0, 0, 0, 0.0f, 0.0}});
        launch("emulator_test", nullptr, 10, 33, 0, add_atomically, totals.data());
        result.push_back(totals.values()[0].whole);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& result : results) EXPECT_EQ(result, std::vector<int>(5, -330));
}

__global__ void meet(int* out) {
  __syncthreads();
  if (threadIdx.x == 0) out[blockIdx.x] = 1;
}

int memory_mappings() {
  std::ifstream maps("/proc/self/maps");
  return static_cast<int>(std::count(std::istreambuf_iterator<char>(maps), {}, '\n'));
}

TEST(Launch, TakesNoNewStacksForMoreBlocks) {
  under_all_schedules([] {
    Schedule schedule = current_schedule();
    schedule.workers = 1;
    set_schedule(schedule);
    const DeviceArray<int> out(std::int64_t{200});
    launch("emulator_test", nullptr, 5, 33, 0, meet, out.data());
    const int before = memory_mappings();
    launch("emulator_test", nullptr, 200, 33, 0, meet, out.data());
    EXPECT_LE(memory_mappings(), before + 10);
  });
}

// Schedules.

__global__ void note_order(int* out, int* next) {
  out[*next] = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  ++*next;
}

/// The order in which three blocks of four threads run; on the host's memory, on one worker.
std::vector<int> order_under(const Schedule& schedule) {
  const Schedule before = current_schedule();
  set_schedule(schedule);
  std::vector<int> order(12, -1);
  int next = 0;
  launch("emulator_test", nullptr, 3, 4, 0, note_order, order.data(), &next);
  set_schedule(before);
  return order;
}

TEST(Schedules, OrderThreadsAndBlocks) {
  if (kBuild == Build::thread) GTEST_SKIP() << "a race on purpose";
  EXPECT_EQ(order_under({Order::fifo}), (std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}));
  EXPECT_EQ(order_under({Order::lifo}), (std::vector<int>{11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0}));
  const auto one = order_under({Order::random, 1});
  EXPECT_EQ(order_under({Order::random, 1}), one);
  EXPECT_NE(order_under({Order::random, 2}), one);
  EXPECT_NE(one, order_under({Order::fifo}));
}

TEST(Schedules, AreWrittenAsTheEnvironmentThatChoosesThem) {
  EXPECT_EQ(to_string({Order::fifo}), "VITRINE_SIMT=fifo");
  EXPECT_EQ(to_string({Order::lifo, 1, 3}), "VITRINE_SIMT=lifo VITRINE_SIMT_WORKERS=3");
  EXPECT_EQ(to_string({Order::random, 17}), "VITRINE_SIMT=random:17");
}

}  // namespace
}  // namespace simt
