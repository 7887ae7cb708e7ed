// A factor for each column, and its gradient.
//
//   y = x · scale,   dx = dy · scale,   dscale = Σ_rows dy · x     LayerScale: Touvron et al. 2021,
//                                                                  arXiv:2103.17239
//
// A block owns a run of rows and a slice of columns, at most 32 accesses of 16 bytes wide. A thread
// walks down the run in one access-wide column, four rows under way, so that it reads its piece of
// the scale once and sums its piece of dscale in registers; the block's threads are added pairwise.
// y and dx are written (=); dscale is written, or added to with `accumulate`: as many runs as the
// workspace has partials, added in order by primitives/partials.cuh. A single run goes straight to
// dscale.
//
// Page of account (H200: 132 multiprocessors, 4.3 TB/s copy rate; expectations: not measured, not
// run on a GPU). ViT-B, batch 256, bf16: [50432, 768], 77 MB a tensor; memory-bound.
//   forward 2 tensors, 36 µs; backward 3 tensors (dy, x, dx), 54 µs, and the partials, 264 runs of
//   3 KB, in L2: a second launch, 2 to 3 µs.
// nvcc for sm_90, bf16, no spills: forward 64 registers, 4 blocks of 8 warps a multiprocessor, 64
// bytes a thread under way; backward 112, 2 blocks, 128 bytes: 64 KB both, where 23 KB hide 700 ns
// (Little). Expected: 90 % of the copy rate.
#include <algorithm>
#include <bit>

#include "cuda_kernels.h"
#include "primitives/partials.cuh"
#include "primitives/vector.cuh"
#include "vitrine/arguments.h"

namespace vitrine::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kRowsUnderWay = 4;

/// How blocks lie over the rows and columns; `lanes` threads of a block side by side, a power of
/// two.
struct Layout {
  int lanes = 0;
  std::int64_t slices = 0;  ///< of columns
  std::int64_t runs = 0;    ///< of rows

  dim3 grid() const { return dim3(static_cast<unsigned>(slices * runs)); }
};

/// With `runs` runs, or, if that is 0, with runs that give every thread kRowsUnderWay rows.
Layout layout_of(std::int64_t rows, std::int64_t cols, int vector, std::int64_t runs) {
  const std::int64_t accesses = cols / vector;
  const auto lanes = static_cast<int>(
      std::bit_ceil(static_cast<unsigned>(std::min<std::int64_t>(accesses, kWarpSize))));
  if (runs == 0) runs = ceil_div(rows, std::int64_t{kThreads / lanes} * kRowsUnderWay);
  return {lanes, ceil_div(accesses, lanes), runs};
}

/// A thread's place: one column of accesses, and every step-th row of the block's run.
template <int kVector>
struct Place {
  std::int64_t run, column, row, end;
  int group, step;
  bool inside;

  __device__ Place(const Layout& layout, std::int64_t rows, std::int64_t cols)
      : run(blockIdx.x / layout.slices),
        column((blockIdx.x % layout.slices * layout.lanes + threadIdx.x % layout.lanes) * kVector),
        group(static_cast<int>(threadIdx.x) / layout.lanes),
        step(kThreads / layout.lanes),
        inside(column < cols) {
    const RowRun rows_of_run = row_run(rows, run, layout.runs);
    row = rows_of_run.begin + group;
    end = inside ? rows_of_run.end : row;
  }
};

template <typename T, int kVector>
__global__ void __launch_bounds__(kThreads)
    scale_columns_forward_kernel(ScaleColumnsForward args, Layout layout) {
  const Place<kVector> place(layout, args.rows, args.cols);
  if (!place.inside) return;
  float scale[kVector];
  load(scale, elements<T>(args.scale) + place.column);
  for (std::int64_t row = place.row; row < place.end; row += kRowsUnderWay * place.step) {
    float x[kRowsUnderWay][kVector];
#pragma unroll
    for (int i = 0; i < kRowsUnderWay; ++i) {
      const std::int64_t at = row + i * place.step;
      if (at < place.end) load(x[i], elements<T>(args.x) + at * args.cols + place.column);
    }
#pragma unroll
    for (int i = 0; i < kRowsUnderWay; ++i) {
      const std::int64_t at = row + i * place.step;
      if (at >= place.end) continue;
#pragma unroll
      for (int j = 0; j < kVector; ++j) x[i][j] *= scale[j];
      store(elements<T>(args.y) + at * args.cols + place.column, x[i]);
    }
  }
}

/// One row of a thread: its part of dscale, and dx.
template <typename T, int kVector>
__device__ __forceinline__ void finish_row(const ScaleColumnsBackward& args, std::int64_t at,
                                           float (&dy)[kVector], const float (&x)[kVector],
                                           const float (&scale)[kVector], float (&sum)[kVector]) {
#pragma unroll
  for (int j = 0; j < kVector; ++j) {
    sum[j] += dy[j] * x[j];
    dy[j] *= scale[j];
  }
  if (args.dx.data != nullptr) store(elements<T>(args.dx) + at, dy);
}

/// Sums of the block's threads that share a column, in the first group's `sum`. Added in halves.
template <int kVector>
__device__ __forceinline__ void sum_groups(const Place<kVector>& place, int lanes,
                                           float (&sum)[kVector]) {
  SHARED_ARRAY(float, tile, [kVector][kThreads]);
#pragma unroll
  for (int j = 0; j < kVector; ++j) tile[j][threadIdx.x] = sum[j];
  for (int half = place.step / 2; half > 0; half /= 2) {
    __syncthreads();
    if (place.group >= half) continue;
#pragma unroll
    for (int j = 0; j < kVector; ++j) tile[j][threadIdx.x] += tile[j][threadIdx.x + half * lanes];
  }
#pragma unroll
  for (int j = 0; j < kVector; ++j) sum[j] = tile[j][threadIdx.x];
}

/// `sums` [runs, cols] or null where nobody asks for dscale.
template <typename T, int kVector>
__global__ void __launch_bounds__(kThreads)
    scale_columns_backward_kernel(ScaleColumnsBackward args, Layout layout, float* sums,
                                  bool accumulate) {
  const Place<kVector> place(layout, args.rows, args.cols);
  float scale[kVector] = {}, sum[kVector] = {};
  if (place.inside) load(scale, elements<T>(args.scale) + place.column);
  for (std::int64_t row = place.row; row < place.end; row += kRowsUnderWay * place.step) {
    float dy[kRowsUnderWay][kVector], x[kRowsUnderWay][kVector];
#pragma unroll
    for (int i = 0; i < kRowsUnderWay; ++i) {
      const std::int64_t at = row + i * place.step;
      if (at >= place.end) continue;
      load(dy[i], elements<T>(args.dy) + at * args.cols + place.column);
      load(x[i], elements<T>(args.x) + at * args.cols + place.column);
    }
#pragma unroll
    for (int i = 0; i < kRowsUnderWay; ++i) {
      const std::int64_t at = row + i * place.step;
      if (at >= place.end) continue;
      finish_row<T>(args, at * args.cols + place.column, dy[i], x[i], scale, sum);
    }
  }
  if (sums == nullptr) return;
  sum_groups(place, layout.lanes, sum);
  if (place.group > 0 || !place.inside) return;
  float* out = sums + place.run * args.cols + place.column;
  float before[kVector] = {};
  if (accumulate) load(before, out);
#pragma unroll
  for (int j = 0; j < kVector; ++j) sum[j] += before[j];
  store(out, sum);
}

}  // namespace

void CudaKernels::scale_columns_forward(const ScaleColumnsForward& args) {
  constexpr const char* kOperation = "scale_columns_forward";
  check_arguments(args);
  for_float_type(kOperation, args.x.dtype, [&]<typename T>() {
    const bool wide = vectorizable<T>(args.cols, args.y.data, args.x.data, args.scale.data);
    for_bool(wide, [&](auto is_wide) {
      constexpr int kVector = is_wide.value ? kVectorWidth<T> : 1;
      const Layout layout = layout_of(args.rows, args.cols, kVector, 0);
      launch(kOperation, stream_, layout.grid(), kThreads, 0,
             scale_columns_forward_kernel<T, kVector>, args, layout);
    });
  });
}

void CudaKernels::scale_columns_backward(const ScaleColumnsBackward& args) {
  constexpr const char* kOperation = "scale_columns_backward";
  check_arguments(args);
  const std::int64_t runs = args.dscale ? args.workspace.size / args.cols : 0;
  for_float_type(kOperation, args.dy.dtype, [&]<typename T>() {
    const bool wide = vectorizable<T>(args.cols, args.dx.data, args.dy.data, args.x.data,
                                      args.scale.data, args.dscale.data, args.workspace.data);
    for_bool(wide, [&](auto is_wide) {
      constexpr int kVector = is_wide.value ? kVectorWidth<T> : 1;
      const Layout layout = layout_of(args.rows, args.cols, kVector, runs);
      const bool direct = runs == 1;
      launch(kOperation, stream_, layout.grid(), kThreads, 0,
             scale_columns_backward_kernel<T, kVector>, args, layout,
             runs == 0 ? nullptr
             : direct  ? args.dscale.data
                       : args.workspace.data,
             direct && args.accumulate);
      if (runs <= 1) return;
      sum_partials(kOperation, stream_, args.dscale.data, args.workspace.data, runs, args.cols,
                   args.cols, args.accumulate);
    });
  });
}

}  // namespace vitrine::cuda
