// Sums: of columns (the gradient of a bias), of parts, and the norm of all gradients.
//
//   column_sum     out[c] = sum_r x[r, c]
//   sum_parts      out[i] = sum_p parts[p, i], in the order of p
//   gradient_norm  sqrt(sum_i g[i]^2), in double        torch.nn.utils.clip_grad_norm_
//
// column_sum: the rows are cut into as many runs as the workspace has rows. A block owns one run
// and one slice of at most 32 accesses (of 16 bytes) in width; each thread walks down the run, four
// rows in flight, and the block's threads are added pairwise. sum_partials() adds the runs. A
// single run goes straight to `out`, which is written (=), or added to (+=) with accumulate.
// sum_parts: one thread owns one access of `out`. gradient_norm: at most 1024 blocks share the
// elements; the block that finishes last adds the blocks' sums. All orders are fixed by the sizes.
//
// Page of account (H200, 4.3 TB/s; expectations: not measured, not run on a GPU). Every element is
// read once, so memory sets the time: 23 KB in flight on each multiprocessor carry it (700 ns).
//   column_sum     qkv bias of ViT-B, 50,432 x 2,304 bf16: 232 MB, 54 us. 32 registers: 8 blocks,
//                  up to 128 KB in flight on a multiprocessor. Expected: 90 % of the copy rate
//                  where slices times runs fill the chip (660 blocks), and a small second launch.
//   sum_parts      32 registers. num_parts reads and one write; no block waits for another.
//   gradient_norm  ViT-B, 86.6 M gradients: 346 MB, 81 us. 32 registers: 1024 blocks fit at once,
//                  8 on a multiprocessor. Every square is added in double, which cannot overflow: a
//                  conversion and a multiply-add an element. A multiprocessor receives 5 elements a
//                  clock and starts 16 conversions and 64 multiply-adds. On cards with 2 a clock of
//                  either (fp64 at 1:64) that is still about the rate of their memory, 1 TB/s.
#include <math.h>

#include <algorithm>
#include <bit>

#include "cuda_kernels.h"
#include "primitives/last_block.cuh"
#include "primitives/partials.cuh"
#include "primitives/reduce.cuh"
#include "primitives/vector.cuh"
#include "vitrine/arguments.h"

namespace vitrine::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kInFlight = 4;  // accesses a thread issues before it uses the first

/// How the threads of a block lie over its part of x: `lanes` side by side, kThreads / lanes rows.
struct ColumnLayout {
  int lanes;              ///< a power of two, at most kWarpSize
  std::uint32_t slices;   ///< of columns
  std::int64_t num_runs;  ///< of rows
};

ColumnLayout column_layout(const ColumnSum& args, int vector) {
  const std::int64_t accesses = args.cols / vector;
  const auto lanes = static_cast<int>(
      std::bit_ceil(static_cast<unsigned>(std::min<std::int64_t>(accesses, kWarpSize))));
  return {.lanes = lanes,
          .slices = static_cast<std::uint32_t>(ceil_div(accesses, lanes)),
          .num_runs = std::max<std::int64_t>(args.workspace.size / args.cols, 1)};
}

/// Sums the rows of one run; its result is row `run` of `sums`.
template <typename T, int kVector>
__global__ void __launch_bounds__(kThreads)
    column_sum_kernel(ColumnSum args, ColumnLayout layout, float* sums, bool accumulate) {
  SHARED_ARRAY(float, tile, [kVector][kThreads]);
  const int lane = static_cast<int>(threadIdx.x) % layout.lanes;
  const int group = static_cast<int>(threadIdx.x) / layout.lanes, groups = kThreads / layout.lanes;
  const std::int64_t run = blockIdx.x / layout.slices;
  const std::int64_t slice = blockIdx.x % layout.slices;
  const std::int64_t col = (slice * layout.lanes + lane) * kVector;
  const auto [begin, end] = row_run(args.rows, run, layout.num_runs);
  const bool inside = col < args.cols;

  float sum[kVector] = {};
  std::int64_t row = begin + group;
  for (; inside && row < end; row += kInFlight * groups) {
    float x[kInFlight][kVector] = {};
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      const std::int64_t at = row + i * groups;
      if (at < end) load(x[i], elements<T>(args.x) + at * args.cols + col);
    }
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
#pragma unroll
      for (int j = 0; j < kVector; ++j) sum[j] += x[i][j];
    }
  }

#pragma unroll
  for (int j = 0; j < kVector; ++j) tile[j][threadIdx.x] = sum[j];
  for (int half = groups / 2; half > 0; half /= 2) {
    __syncthreads();
    if (group >= half) continue;
#pragma unroll
    for (int j = 0; j < kVector; ++j) {
      tile[j][threadIdx.x] += tile[j][threadIdx.x + half * layout.lanes];
    }
  }
  if (group > 0 || !inside) return;
  float* out = sums + run * args.cols + col;
  float before[kVector] = {};
  if (accumulate) load(before, out);
#pragma unroll
  for (int j = 0; j < kVector; ++j) sum[j] = before[j] + tile[j][threadIdx.x];
  store(out, sum);
}

template <int kVector>
__global__ void __launch_bounds__(kThreads) sum_parts_kernel(SumParts args) {
  const std::int64_t i = (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kVector;
  if (i >= args.n) return;
  float sum[kVector];
  load(sum, args.parts.data + i);
#pragma unroll 4
  for (std::int64_t p = 1; p < args.num_parts; ++p) {
    float part[kVector];
    load(part, args.parts.data + p * args.n + i);
#pragma unroll
    for (int j = 0; j < kVector; ++j) sum[j] += part[j];
  }
  store(args.out.data + i, sum);
}

/// The squares of this thread's share of x.
template <int kVector>
__device__ __forceinline__ double sum_of_squares(const ConstView<float>& x) {
  const std::int64_t accesses = x.size / kVector;
  const std::int64_t thread = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const std::int64_t threads = static_cast<std::int64_t>(gridDim.x) * kThreads;
  double sum = 0.0;
  const auto add = [&sum](float value) {
    sum += static_cast<double>(value) * static_cast<double>(value);
  };
  for (std::int64_t i = thread; i < accesses; i += kInFlight * threads) {
    float values[kInFlight][kVector] = {};
#pragma unroll
    for (int k = 0; k < kInFlight; ++k) {
      const std::int64_t at = i + k * threads;
      if (at < accesses) load(values[k], x.data + at * kVector);
    }
#pragma unroll
    for (int k = 0; k < kInFlight; ++k) {
#pragma unroll
      for (int j = 0; j < kVector; ++j) add(values[k][j]);
    }
  }
  const std::int64_t tail = accesses * kVector + thread;
  if (tail < x.size) add(x.data[tail]);
  return sum;
}

template <int kVector>
__global__ void __launch_bounds__(kThreads)
    gradient_norm_kernel(GradientNorm args, ScratchMemory* scratch) {
  SHARED_ARRAY(double, shared, [kThreads / kWarpSize]);
  double sum = block_reduce<kThreads>(sum_of_squares<kVector>(args.gradients), shared, Sum{});
  if (threadIdx.x == 0) scratch->partials[blockIdx.x][0] = sum;
  if (!last_block(scratch)) return;

  sum = 0.0;
  for (unsigned block = threadIdx.x; block < gridDim.x; block += kThreads) {
    sum += scratch->partials[block][0];
  }
  sum = block_reduce<kThreads>(sum, shared, Sum{});
  if (threadIdx.x != 0) return;
  const double norm = sqrt(sum);
  OptimizerState& optimizer = *args.optimizer;
  optimizer.gradient_norm = norm;
  if (isfinite(norm)) {
    ++optimizer.adam_step;
  } else {
    ++optimizer.skipped_steps;
  }
}

}  // namespace

void CudaKernels::column_sum(const ColumnSum& args) {
  constexpr const char* kOperation = "column_sum";
  check_arguments(args);
  for_float_type(kOperation, args.x.dtype, [&]<typename T>() {
    const bool wide = vectorizable<T>(args.cols, args.x.data, args.out.data, args.workspace.data);
    for_bool(wide, [&](auto is_wide) {
      constexpr int kVector = is_wide.value ? kVectorWidth<T> : 1;
      const ColumnLayout layout = column_layout(args, kVector);
      const bool direct = layout.num_runs == 1;
      launch(kOperation, stream_, dim3(static_cast<unsigned>(layout.num_runs * layout.slices)),
             kThreads, 0, column_sum_kernel<T, kVector>, args, layout,
             direct ? args.out.data : args.workspace.data, direct && args.accumulate);
      if (direct) return;
      sum_partials(kOperation, stream_, args.out.data, args.workspace.data, layout.num_runs,
                   args.cols, args.cols, args.accumulate);
    });
  });
}

void CudaKernels::sum_parts(const SumParts& args) {
  constexpr const char* kOperation = "sum_parts";
  check_arguments(args);
  for_bool(vectorizable<float>(args.n, args.out.data, args.parts.data), [&](auto is_wide) {
    constexpr int kVector = is_wide.value ? kVectorWidth<float> : 1;
    launch(kOperation, stream_,
           dim3(static_cast<unsigned>(ceil_div(args.n, std::int64_t{kThreads} * kVector))),
           kThreads, 0, sum_parts_kernel<kVector>, args);
  });
}

void CudaKernels::gradient_norm(const GradientNorm& args) {
  constexpr const char* kOperation = "gradient_norm";
  check_arguments(args);
  for_bool(vectorizable<float>(0, args.gradients.data), [&](auto is_wide) {
    constexpr int kVector = is_wide.value ? kVectorWidth<float> : 1;
    const std::int64_t blocks = std::min<std::int64_t>(
        ScratchMemory::kMaxBlocks, ceil_div(args.gradients.size, kThreads * kInFlight * kVector));
    launch(kOperation, stream_, dim3(static_cast<unsigned>(blocks)), kThreads, 0,
           gradient_norm_kernel<kVector>, args, scratch_);
  });
}

}  // namespace vitrine::cuda
