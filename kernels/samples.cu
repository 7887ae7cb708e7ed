// A branch on a subset of the samples: which they are, into the branch and back into the stream.
//
//   out[i] = scale · x[s_i]      out[s_i] = x[s_i] + scale · part[i]      arXiv:2304.07193, sec. 5
//
// choose_samples: one block. A sample is chosen when fewer than `count` samples have a larger word,
// or an equal one and an earlier place; a thread counts them for one sample at a time, through
// tiles of words in shared memory. Samples go by in strips of a block's width, each drawn anew, so
// that any batch fits; the slots of a strip's chosen ones are counted by ballots of its warps.
// take_samples, add_samples: one thread moves 16 bytes of each tensor; blocks cover `out` once, and
// the samples of an `out` that is x that are outside of the subset are neither read nor written.
// All outputs are written (=).
//
// Page of account (H200: 132 multiprocessors, 4.3 TB/s copy rate; expectations: not measured, not
// run on a GPU). ViT-B, batch 256, bf16, half of the samples: x 77 MB, part 39 MB.
//   choose  256 threads, 256 comparisons each: some microseconds, latency; of a batch of 4096, four
//           strips of 4096 comparisons a thread, 0.1 to 0.2 ms
//   take    2 · 39 MB, 18 µs;  add in place 3 · 39 MB, 27 µs
// nvcc for sm_90, bf16, no spills: choose 23 registers and 4 KB of shared memory, take 16, add 28:
// 8 blocks of 8 warps a multiprocessor, 32 KB of reads under way and more, where 23 KB hide 700 ns
// (Little). Expected of take and add: 90 % of the copy rate.
#include <algorithm>

#include "cuda_kernels.h"
#include "primitives/vector.cuh"
#include "vitrine/arguments.h"
#include "vitrine/random.h"

namespace vitrine::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kChoosing = 1024;  // threads at most, and words of a tile

/// The word of sample `i` of the chunk.
__device__ __forceinline__ std::uint32_t word_of(const ChooseSamples& args, std::int64_t i) {
  const auto element = static_cast<std::uint64_t>(args.state->first_row + i);
  const PhiloxWords words =
      random_words(args.state->seed, args.state->step, args.operation, element / 4);
  const auto at = static_cast<unsigned>(element % 4);  // selects: no words in memory
  const std::uint32_t low = at == 0 ? words.word[0] : words.word[1];
  const std::uint32_t high = at == 2 ? words.word[2] : words.word[3];
  return at < 2 ? low : high;
}

/// How many samples go before sample `i` of that word. All threads call.
__device__ std::int64_t rank_of(const ChooseSamples& args, std::int64_t i, std::uint32_t word,
                                std::uint32_t* tile) {
  std::int64_t rank = 0;
  for (std::int64_t first = 0; first < args.batch; first += blockDim.x) {
    const std::int64_t mine = first + threadIdx.x;
    __syncthreads();  // the tile before has been read
    if (mine < args.batch) tile[threadIdx.x] = word_of(args, mine);
    __syncthreads();
    const int words = static_cast<int>(min(std::int64_t{blockDim.x}, args.batch - first));
    int larger = 0;
    for (int j = 0; j < words; ++j) {
      larger += tile[j] > word || (tile[j] == word && first + j < i) ? 1 : 0;
    }
    rank += larger;
  }
  return rank;
}

__global__ void __launch_bounds__(kChoosing) choose_samples_kernel(ChooseSamples args) {
  SHARED_ARRAY(std::uint32_t, tile, [kChoosing]);
  SHARED_ARRAY(int, chosen_of_warp, [kChoosing / kWarpSize]);
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  std::int64_t slots = 0;  // given to the strips before
  for (std::int64_t first = 0; first < args.batch; first += blockDim.x) {
    const std::int64_t i = first + threadIdx.x;
    const bool inside = i < args.batch;
    const std::int64_t rank = rank_of(args, i, inside ? word_of(args, i) : 0, tile);
    const bool chosen = inside && rank < args.count;
    const unsigned votes = __ballot_sync(kAllLanes, chosen);
    if (lane == 0) chosen_of_warp[warp] = __popc(votes);
    __syncthreads();
    std::int64_t slot = slots + __popc(votes & ((1u << lane) - 1));
    for (int w = 0; w < static_cast<int>(blockDim.x) / kWarpSize; ++w) {
      if (w < warp) slot += chosen_of_warp[w];
      slots += chosen_of_warp[w];
    }
    if (inside) args.slots[i] = chosen ? static_cast<std::int32_t>(slot) : -1;
    if (chosen) args.samples[slot] = static_cast<std::int32_t>(i);
  }
}

/// Element of this thread's access.
template <int kVector>
__device__ __forceinline__ std::int64_t first_element() {
  return (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kVector;
}

template <typename T, int kVector>
__global__ void __launch_bounds__(kThreads) take_samples_kernel(TakeSamples args) {
  const std::int64_t i = first_element<kVector>();
  if (i >= args.count * args.cols) return;
  const std::int64_t sample = args.samples[i / args.cols];
  float x[kVector];
  load(x, elements<T>(args.x) + sample * args.cols + i % args.cols);
#pragma unroll
  for (int j = 0; j < kVector; ++j) x[j] *= args.scale;
  store(elements<T>(args.out) + i, x);
}

template <typename T, int kVector>
__global__ void __launch_bounds__(kThreads) add_samples_kernel(AddSamples args) {
  const std::int64_t i = first_element<kVector>();
  if (i >= args.batch * args.cols) return;
  const std::int64_t slot = args.slots[i / args.cols];
  if (slot < 0 && args.x.data == args.out.data) return;
  float x[kVector] = {};
  if (args.x.data != nullptr) load(x, elements<T>(args.x) + i);
  if (slot >= 0) {
    float part[kVector];
    load(part, elements<T>(args.part) + slot * args.cols + i % args.cols);
#pragma unroll
    for (int j = 0; j < kVector; ++j) x[j] += args.scale * part[j];
  }
  store(elements<T>(args.out) + i, x);
}

dim3 grid_of(std::int64_t elements, int vector) {
  return dim3(static_cast<unsigned>(ceil_div(elements, std::int64_t{kThreads} * vector)));
}

}  // namespace

void CudaKernels::choose_samples(const ChooseSamples& args) {
  check_arguments(args);
  const std::int64_t warps =
      std::min<std::int64_t>(ceil_div(args.batch, kWarpSize), kChoosing / kWarpSize);
  launch("choose_samples", stream_, 1, dim3(static_cast<unsigned>(warps * kWarpSize)), 0,
         choose_samples_kernel, args);
}

void CudaKernels::take_samples(const TakeSamples& args) {
  constexpr const char* kOperation = "take_samples";
  check_arguments(args);
  for_float_type(kOperation, args.x.dtype, [&]<typename T>() {
    for_bool(vectorizable<T>(args.cols, args.out.data, args.x.data), [&](auto is_wide) {
      constexpr int kVector = is_wide.value ? kVectorWidth<T> : 1;
      launch(kOperation, stream_, grid_of(args.count * args.cols, kVector), kThreads, 0,
             take_samples_kernel<T, kVector>, args);
    });
  });
}

void CudaKernels::add_samples(const AddSamples& args) {
  constexpr const char* kOperation = "add_samples";
  check_arguments(args);
  for_float_type(kOperation, args.out.dtype, [&]<typename T>() {
    const bool wide = vectorizable<T>(args.cols, args.out.data, args.x.data, args.part.data);
    for_bool(wide, [&](auto is_wide) {
      constexpr int kVector = is_wide.value ? kVectorWidth<T> : 1;
      launch(kOperation, stream_, grid_of(args.batch * args.cols, kVector), kThreads, 0,
             add_samples_kernel<T, kVector>, args);
    });
  });
}

}  // namespace vitrine::cuda
