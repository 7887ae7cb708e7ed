// Every rule that a kernel breaks is reported, at its place; and kernels run as before afterwards.
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "primitives/ptx.cuh"
#include "simt/emulator_test.h"

namespace simt {
namespace {

using vitrine::cuda::DeviceArray;
using vitrine::cuda::kAllLanes;
using vitrine::cuda::launch;
namespace ptx = vitrine::cuda::ptx;

__global__ void sound(int* out) {
  const int other = __shfl_xor_sync(kAllLanes, static_cast<int>(threadIdx.x), 1);
  __syncthreads();
  out[blockIdx.x * blockDim.x + threadIdx.x] = other;
}

void expect_sound() {
  const DeviceArray<int> out(std::int64_t{256});
  launch("sound", nullptr, 4, 64, 0, sound, out.data());
  EXPECT_EQ(out.values()[2 * 64 + 5], 4);
}

/// Launches the kernel on two blocks of 64 threads and expects a report that begins with the
/// operation and contains each of the texts; under all schedules.
template <typename... Texts>
void expect_report(void (*kernel)(), const Texts&... texts) {
  under_all_schedules([&] {
    try {
      launch("the_operation", nullptr, 2, 64, 1024, kernel);
      ADD_FAILURE() << "nothing was reported";
    } catch (const Error& error) {
      const std::string report = error.what();
      EXPECT_EQ(report.rfind("the_operation: block (", 0), 0u) << report;
      for (const char* text : {texts...}) {
        EXPECT_NE(report.find(text), std::string::npos) << report << "\nlacks: " << text;
      }
    }
    expect_sound();
  });
}

__global__ void two_barriers() {
  if (threadIdx.x == 5) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}
TEST(Report, DivergentBarrier) {
  expect_report(&two_barriers, "thread (", "reports_test.cpp:", "divergent barrier:");
}

__global__ void leave_before_barrier() {
  if (threadIdx.x == 63) return;
  __syncthreads();
}
TEST(Report, ExitBeforeBarrier) {
  expect_report(&leave_before_barrier, "reports_test.cpp:", "exit");
}

__global__ void not_in_mask() {
  __syncwarp(0xfffffffeu);
}
TEST(Report, LaneOutsideItsMask) {
  expect_report(&not_in_mask, "__syncwarp with mask fffffffe is called by lane 0");
}

__global__ void exited_lane() {
  if (threadIdx.x % 32 == 31) return;
  __syncwarp();
}
TEST(Report, LaneThatExited) {
  expect_report(&exited_lane, "reports_test.cpp:", "exit");
}

__global__ void different_masks() {
  if (threadIdx.x % 32 < 16) {
    __syncwarp(0x0001ffffu);
  } else {
    __syncwarp(0xffff8000u);
  }
}
TEST(Report, MasksThatOverlap) {
  expect_report(&different_masks, "meets __syncwarp with mask", "lanes of one warp disagree");
}

__global__ void different_operations() {
  if (threadIdx.x % 32 < 16) {
    __ballot_sync(kAllLanes, 1);
  } else {
    __syncwarp();
  }
}
TEST(Report, OperationsThatDiffer) {
  expect_report(&different_operations, "__ballot_sync with mask ffffffff",
                "__syncwarp with mask ffffffff", "lanes of one warp disagree");
}

__global__ void half_waits_for_half() {
  if (threadIdx.x % 32 < 16) __syncthreads();
  __syncwarp();
  if (threadIdx.x % 32 >= 16) __syncthreads();
}
TEST(Report, Deadlock) {
  expect_report(&half_waits_for_half, "deadlock: 64 of 64 threads wait for ever",
                "32 in __syncthreads at ", "32 in __syncwarp at ", "reports_test.cpp:");
}

__global__ void width_of_six() {
  __shfl_down_sync(kAllLanes, 1, 1, 6);
}
TEST(Report, WidthOfShuffle) {
  expect_report(&width_of_six, "a shuffle of width 6");
}

__global__ void never_waits() {
  DYNAMIC_SHARED(uint4, target);
  SHARED_ARRAY(uint4, source, [64]);
  ptx::cp_async_16(target + threadIdx.x, source + threadIdx.x, 0);
  ptx::cp_async_commit();
}
TEST(Report, PendingCopies) {
  expect_report(&never_waits, "reports_test.cpp:",
                "the thread exits with 1 cp.async copies it has not waited for");
}

__global__ void copies_misaligned() {
  DYNAMIC_SHARED(float, target);
  ptx::cp_async_16(target + 1, target, 16);
}
__global__ void copies_elsewhere() {
  alignas(16) float target[4];
  ptx::cp_async_16(target, target, 16);
}
__global__ void copies_half() {
  DYNAMIC_SHARED(float, target);
  ptx::cp_async_16(target, target, 8);
}
TEST(Report, CopyAddresses) {
  expect_report(&copies_misaligned, "reports_test.cpp:", "not aligned to 16 bytes");
  expect_report(&copies_elsewhere, "reports_test.cpp:", "the target is not in shared memory");
  expect_report(&copies_half, "reports_test.cpp:", "cp.async of 8 bytes: expected 0 or 16");
}

__global__ void loads_misaligned() {
  DYNAMIC_SHARED(float, rows);
  unsigned r[4];
  ptx::ldmatrix_x4(r, rows + 4 * (threadIdx.x % 32) + (threadIdx.x == 40 ? 1 : 0));
}
__global__ void loads_elsewhere() {
  alignas(16) float row[4];
  unsigned r[4];
  ptx::ldmatrix_x4_trans(r, row);
}
TEST(Report, LdmatrixAddresses) {
  expect_report(&loads_misaligned, "thread (40,0,0) at ", "ldmatrix: row ",
                "not aligned to 16 bytes");
  expect_report(&loads_elsewhere, "ldmatrix.trans: row ", "is not in shared memory");
}

__global__ void moves_misaligned() {
  DYNAMIC_SHARED(float, memory);
  ptx::store_16(memory + threadIdx.x, ptx::load_16(memory));
}
__global__ void stores_elsewhere() {
  DYNAMIC_SHARED(float, memory);
  ptx::store_global_16(memory, make_uint4(1, 2, 3, 4));
}
TEST(Report, WideAddresses) {
  expect_report(&stores_elsewhere, "reports_test.cpp:", "st.global at ", "is in shared memory");
  expect_report(&moves_misaligned, "reports_test.cpp:", "access of 16 bytes at ", "not aligned");
}

__global__ void too_much_static() {
  SHARED_ARRAY(float, a, [12 * 1024]);
  SHARED_ARRAY(float, b, [1]);
  a[0] = b[0] = 0.0f;
}
TEST(Report, OutOfSharedMemory) {
  expect_report(&too_much_static, "reports_test.cpp:", "out of shared memory: 50176 bytes");
}

__global__ void ends_deep(char* out, int depth) {
  volatile char frame[8192];
  frame[depth % 8192] = 1;
  if (depth > 0) ends_deep(out, depth - 1);
  out[0] = frame[depth % 8192];
}
// The other builds have stacks of four times the size and handlers of their own.
TEST(Report, StackThatOverflows) {
  if (kBuild != Build::plain) GTEST_SKIP() << "the sanitizer reports it";
  ::testing::GTEST_FLAG(death_test_style) = "threadsafe";
  const DeviceArray<char> out(std::int64_t{1});
  EXPECT_DEATH(launch("deep", nullptr, 1, 1, 0, ends_deep, out.data(), 20),
               "simt: memory fault in block \\(0,0,0\\) thread \\(0,0,0\\): its frames do not fit");
}

__global__ void nothing() {}

void expect_refused(dim3 grid, dim3 block, std::size_t shared_bytes, const std::string& text) {
  try {
    launch("the_operation", nullptr, grid, block, shared_bytes, nothing);
    ADD_FAILURE() << "nothing was reported";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("the_operation: " + text), std::string::npos)
        << error.what();
  }
}

TEST(Report, LaunchesThatCudaRefuses) {
  expect_refused(0, 1, 0, "grid (0,1,1)");
  expect_refused(dim3(1, 65536), 1, 0, "grid (1,65536,1)");
  expect_refused(dim3(1, 1, 65536), 1, 0, "grid (1,1,65536)");
  expect_refused(0x80000000u, 1, 0, "grid (2147483648,1,1)");
  expect_refused(1, 0, 0, "block (0,1,1)");
  expect_refused(1, 1025, 0, "block (1025,1,1)");
  expect_refused(1, dim3(1, 1, 65), 0, "block (1,1,65)");
  expect_refused(1, 1, 232449, "232449 bytes of shared memory, expected at most 232448");
  launch("the_operation", nullptr, dim3(1, 1, 1), 1024, 232448, nothing);
}

TEST(Report, EnvironmentThatIsNoSchedule) {
  ::testing::GTEST_FLAG(death_test_style) = "threadsafe";
  const auto read = [](const char* value) {
    ::setenv("VITRINE_SIMT", value, 1);
    try {
      std::exit(to_string(current_schedule()) == std::string("VITRINE_SIMT=") + value ? 0 : 1);
    } catch (const Error& error) {
      std::fputs(error.what(), stderr);
      std::exit(2);
    }
  };
  EXPECT_EXIT(read("fifo"), ::testing::ExitedWithCode(0), "");
  EXPECT_EXIT(read("random:9"), ::testing::ExitedWithCode(0), "");
  EXPECT_EXIT(read("random:x"), ::testing::ExitedWithCode(2), "expected a number, found \"x\"");
  EXPECT_EXIT(read("best"), ::testing::ExitedWithCode(2),
              "expected fifo, lifo or random:<seed>, found \"best\"");
}

}  // namespace
}  // namespace simt
