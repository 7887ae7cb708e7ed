// Kernels with one bug each (kBug) and without. Ordinary CUDA, launched as the project's kernels.
#include <numeric>

#include "kernels/kernel_device.h"
#include "primitives/last_block.cuh"
#include "primitives/ptx.cuh"
#include "simt/planted_bugs.h"

namespace simt {
namespace {

using vitrine::cuda::DeviceArray;
using vitrine::cuda::launch;
using vitrine::cuda::ScratchMemory;

constexpr int kThreads = 64;
constexpr int kBlocks = 8;

/// Runs `kernel(y, x)` on one block with x = 0, 1, 2 … and compares y with expected(i).
template <typename Expected>
bool run_block(void (*kernel)(float*, const float*), const Expected& expected,
               std::size_t shared_bytes = 0, std::int64_t size = kThreads) {
  std::vector<float> x(size);
  std::iota(x.begin(), x.end(), 0.0f);
  const DeviceArray<float> x_device(x), y_device(size);
  launch("planted_bug", nullptr, 1, kThreads, shared_bytes, kernel, y_device.data(),
         static_cast<const float*>(x_device.data()));
  vitrine::cuda::require_cuda(cudaDeviceSynchronize());
  const std::vector<float> y = y_device.values();
  for (int i = 0; i < size; ++i) {
    if (!(y[i] == expected(i))) return false;
  }
  return true;
}

float reversed(int i) {
  return static_cast<float>(kThreads - 1 - i);
}
float same(int i) {
  return static_cast<float>(i);
}

template <bool kBug>
__global__ void missing_syncthreads(float* y, const float* x) {
  SHARED_ARRAY(float, tile, [kThreads]);
  tile[threadIdx.x] = x[threadIdx.x];
  if constexpr (!kBug) __syncthreads();
  y[threadIdx.x] = tile[kThreads - 1 - threadIdx.x];
}

/// Sixteen threads copy four floats each; the wait covers a thread's own copies only.
template <bool kWait, bool kBarrier>
__global__ void copy_asynchronously(float* y, const float* x) {
  DYNAMIC_SHARED(float, tile);
  if (threadIdx.x < kThreads / 4) {
    vitrine::cuda::ptx::cp_async_16(tile + 4 * threadIdx.x, x + 4 * threadIdx.x, 16);
    vitrine::cuda::ptx::cp_async_commit();
    if constexpr (kWait) vitrine::cuda::ptx::cp_async_wait<0>();
  }
  if constexpr (kBarrier) __syncthreads();
  y[threadIdx.x] = tile[kThreads - 1 - threadIdx.x];
}

template <bool kBug>
__global__ void reused_buffer(float* y, const float* x) {
  SHARED_ARRAY(float, tile, [kThreads]);
  for (int part = 0; part < 2; ++part) {
    tile[threadIdx.x] = x[part * kThreads + threadIdx.x];
    __syncthreads();
    y[part * kThreads + threadIdx.x] = tile[kThreads - 1 - threadIdx.x];
    if constexpr (!kBug) __syncthreads();
  }
}

template <bool kBug>
__global__ void uninitialised_shared(float* y, const float* x) {
  SHARED_ARRAY(float, sum, [kThreads]);
  if constexpr (!kBug) sum[threadIdx.x] = 0.0f;
  sum[threadIdx.x] += x[threadIdx.x];
  y[threadIdx.x] = sum[threadIdx.x];
}

template <bool kBug>
__global__ void uninitialised_global(float* y, const float* x) {
  if constexpr (!kBug) y[threadIdx.x] = 0.0f;
  y[threadIdx.x] += x[threadIdx.x];
}

template <bool kBug>
__global__ void divergent_barrier(float* y, const float* x) {
  if (kBug && threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  y[threadIdx.x] = x[threadIdx.x];
}

template <bool kBug>
__global__ void missing_syncwarp(float* y, const float* x) {
  SHARED_ARRAY(float, tile, [kThreads]);
  tile[threadIdx.x] = x[threadIdx.x];
  if constexpr (!kBug) __syncwarp();
  y[threadIdx.x] = tile[threadIdx.x ^ 31];
}

template <bool kBug>
__global__ void shuffle_in_half_a_warp(float* y, const float* x) {
  float value = x[threadIdx.x];
  if (threadIdx.x % 32 < 16) {
    value = __shfl_xor_sync(kBug ? 0xffffffffu : 0x0000ffffu, value, 1);
  }
  y[threadIdx.x] = value;
}

template <bool kBug>
__global__ void exit_before_barrier(float* y, const float* x) {
  y[threadIdx.x] = x[threadIdx.x];
  if (kBug && threadIdx.x >= 40) return;
  __syncthreads();
}

template <bool kBug>
__global__ void deadlock(float* y, const float* x) {
  if (!kBug || threadIdx.x % 32 < 16) __syncthreads();
  __syncwarp();
  if (kBug && threadIdx.x % 32 >= 16) __syncthreads();
  y[threadIdx.x] = x[threadIdx.x];
}

template <bool kBug>
__global__ void misaligned_vector(float* y, const float* x) {
  if (threadIdx.x >= kThreads / 4 - 1) return;
  const float4 four = *reinterpret_cast<const float4*>(x + 4 * threadIdx.x + (kBug ? 1 : 0));
  y[threadIdx.x] = four.x + four.y + four.z + four.w;
}

template <bool kBug>
__global__ void global_out_of_bounds(float* y, const float* x) {
  y[threadIdx.x] = x[threadIdx.x] + 0.0f * x[threadIdx.x + (kBug ? 1 : 0)];
}

template <bool kBug>
__global__ void shared_read_out_of_bounds(float* y, const float* x) {
  DYNAMIC_SHARED(float, tile);
  tile[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = x[threadIdx.x] + 0.0f * tile[threadIdx.x + (kBug ? 1 : 0)];
}

template <bool kBug>
__global__ void shared_write_out_of_bounds(float* y, const float* x) {
  SHARED_ARRAY(float, tile, [kThreads]);
  float* target = tile;
  target[threadIdx.x + (kBug ? 1 : 0)] = x[threadIdx.x];
  y[threadIdx.x] = x[threadIdx.x];
}

template <bool kBug>
__global__ void add_to_total(int* total) {
  if constexpr (kBug) {
    *total += 1;
  } else {
    atomicAdd(total, 1);
  }
}

bool add_across_blocks(bool planted) {
  const DeviceArray<int> total(std::vector<int>{0});
  launch("planted_bug", nullptr, kBlocks, 1, 0, planted ? add_to_total<true> : add_to_total<false>,
         total.data());
  return total.values()[0] == kBlocks;
}

/// vitrine::cuda::last_block, with or without the fence that hands a block's part over and the
/// fence that takes the parts of the others.
template <bool kGive, bool kTake>
__device__ bool last_block(ScratchMemory* scratch) {
  if constexpr (kGive && kTake) return vitrine::cuda::last_block(scratch);
  SHARED_ARRAY(bool, is_last, [1]);
  if constexpr (kGive) __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    is_last[0] = atomicAdd(&scratch->blocks_done, 1u) == gridDim.x - 1;
    if (is_last[0]) scratch->blocks_done = 0;
    if constexpr (kTake) __threadfence();
  }
  __syncthreads();
  return is_last[0];
}

template <bool kGive, bool kTake>
__global__ void sum_of_blocks(double* sum, ScratchMemory* scratch) {
  if (threadIdx.x == 1) scratch->partials[blockIdx.x][0] = 1.0 + blockIdx.x;
  if (!last_block<kGive, kTake>(scratch) || threadIdx.x != 0) return;
  *sum = 0.0;
  for (unsigned block = 0; block < gridDim.x; ++block) *sum += scratch->partials[block][0];
}

bool run_last_block(void (*kernel)(double*, ScratchMemory*)) {
  const DeviceArray<ScratchMemory> scratch(std::int64_t{1});
  const DeviceArray<double> sum(std::int64_t{1});
  vitrine::cuda::require_cuda(cudaMemset(scratch.data(), 0, sizeof(ScratchMemory)));
  launch("planted_bug", nullptr, kBlocks, kThreads, 0, kernel, sum.data(), scratch.data());
  return sum.values()[0] == 36.0;
}

bool missing_giving_fence(bool planted) {
  return run_last_block(planted ? sum_of_blocks<false, true> : sum_of_blocks<true, true>);
}
bool missing_taking_fence(bool planted) {
  return run_last_block(planted ? sum_of_blocks<true, false> : sum_of_blocks<true, true>);
}

constexpr const char* kWrong = "wrong result";
constexpr const char* kRace = "ThreadSanitizer: data race";
constexpr const char* kExit = "exits while|have exited";
#ifdef __clang__  // does not check copies of whole structs
constexpr const char* kMisaligned = nullptr;
#else
constexpr const char* kMisaligned = "misaligned address";
#endif
constexpr std::size_t kTileBytes = kThreads * sizeof(float);

const PlantedBug kBugs[] = {
    {"missing_syncthreads",
     [](bool planted) {
       return run_block(planted ? missing_syncthreads<true> : missing_syncthreads<false>, reversed);
     },
     kWrong, kWrong, kRace},
    {"missing_barrier_after_cp_async_wait",
     [](bool planted) {
       return run_block(
           planted ? copy_asynchronously<true, false> : copy_asynchronously<true, true>, reversed,
           kTileBytes);
     },
     kWrong, kWrong, kRace},
    {"missing_barrier_before_reuse",
     [](bool planted) {
       const auto expected = [](int i) {
         return reversed(i % kThreads) + static_cast<float>(i / kThreads * kThreads);
       };
       return run_block(planted ? reused_buffer<true> : reused_buffer<false>, expected, 0,
                        2 * kThreads);
     },
     kWrong, kWrong, kRace},
    {"missing_cp_async_wait",
     [](bool planted) {
       return run_block(
           planted ? copy_asynchronously<false, true> : copy_asynchronously<true, true>, reversed,
           kTileBytes);
     },
     "1 cp.async copies it has not waited for", "1 cp.async copies it has not waited for",
     "1 cp.async copies it has not waited for"},
    {"uninitialised_shared_memory",
     [](bool planted) {
       return run_block(planted ? uninitialised_shared<true> : uninitialised_shared<false>, same);
     },
     kWrong, kWrong, kWrong},
    {"uninitialised_global_memory",
     [](bool planted) {
       return run_block(planted ? uninitialised_global<true> : uninitialised_global<false>, same);
     },
     kWrong, kWrong, kWrong},
    {"divergent_barrier",
     [](bool planted) {
       return run_block(planted ? divergent_barrier<true> : divergent_barrier<false>, same);
     },
     "divergent barrier", "divergent barrier", "divergent barrier"},
    {"missing_syncwarp",
     [](bool planted) {
       const auto expected = [](int i) { return static_cast<float>(i ^ 31); };
       return run_block(planted ? missing_syncwarp<true> : missing_syncwarp<false>, expected);
     },
     kWrong, kWrong, kRace},
    {"shuffle_in_half_a_warp",
     [](bool planted) {
       const auto expected = [](int i) { return static_cast<float>(i % 32 < 16 ? i ^ 1 : i); };
       return run_block(planted ? shuffle_in_half_a_warp<true> : shuffle_in_half_a_warp<false>,
                        expected);
     },
     kExit, kExit, kExit},
    {"exit_before_barrier",
     [](bool planted) {
       return run_block(planted ? exit_before_barrier<true> : exit_before_barrier<false>, same);
     },
     kExit, kExit, kExit},
    {"deadlock",
     [](bool planted) { return run_block(planted ? deadlock<true> : deadlock<false>, same); },
     "deadlock: 64 of 64 threads wait for ever", "deadlock: 64 of 64 threads wait for ever",
     "deadlock: 64 of 64 threads wait for ever"},
    {"misaligned_vector",
     [](bool planted) {
       const auto any = [](int) { return 0.0f; };
       run_block(planted ? misaligned_vector<true> : misaligned_vector<false>, any);
       return true;
     },
     nullptr, kMisaligned, nullptr},
    {"global_out_of_bounds",
     [](bool planted) {
       return run_block(planted ? global_out_of_bounds<true> : global_out_of_bounds<false>, same);
     },
     nullptr, "AddressSanitizer: heap-buffer-overflow", nullptr},
    {"shared_read_out_of_bounds",
     [](bool planted) {
       return run_block(
           planted ? shared_read_out_of_bounds<true> : shared_read_out_of_bounds<false>, same,
           kTileBytes);
     },
     kWrong, "AddressSanitizer: use-after-poison", kWrong},
    {"shared_write_out_of_bounds",
     [](bool planted) {
       return run_block(
           planted ? shared_write_out_of_bounds<true> : shared_write_out_of_bounds<false>, same);
     },
     "shared memory was written beyond an array", "AddressSanitizer: use-after-poison",
     "shared memory was written beyond an array"},
    {"add_across_blocks", &add_across_blocks, nullptr, nullptr, kRace},
    {"missing_giving_fence", &missing_giving_fence, nullptr, nullptr, kRace},
    {"missing_taking_fence", &missing_taking_fence, nullptr, nullptr, kRace},
};

}  // namespace

std::span<const PlantedBug> planted_bugs() {
  return kBugs;
}

}  // namespace simt
