// Layer normalisation over the last dimension, with the residual in front of it.
//
//   y = (x - mean) · rstd · weight + bias,   rstd = 1 / sqrt(var + eps)          Ba et al. 2016,
//   x = x_in + drop_path(dropout(branch))    with a branch; x is kept as x_out   arXiv:1607.06450
//
// A team of lanes owns a row (see layer_norm.cuh) and keeps it in registers: mean first, then the
// variance around it, then y. So x and branch are read once and no difference of large sums is
// taken. With a branch, x is rounded to T before the statistics: y normalises what x_out holds.
// All outputs are written (=).
//
// Page of account (H200: 132 multiprocessors, 4.3 TB/s copy rate; expectations: not measured, not
// run on a GPU). ViT-B, batch 256, bf16: [50432, 768].
//   without branch  3,080 bytes a row (x, y, mean, rstd), 155 MB, 36 µs
//   with branch     6,152 bytes a row (x, branch, x_out, y, mean, rstd), 310 MB, 72 µs
// weight and bias (3 KB) are read for every row, from L1: 18 bytes a clock at full speed, of 128.
// To hide 700 ns of latency a multiprocessor needs 23 KB of reads and writes under way (Little).
// nvcc for sm_90a, bf16, without dropout, no spills:
//   elements a lane   8    24    32    40     (24: widths 192, 384, 768; 32: 1024; 40: 1280)
//   registers        32    68    90   120
//   blocks           16     7     5     4     of 4 warps, on a multiprocessor
//   KB under way     32    42    40    40     x alone, if all warps wait; a branch doubles it
// The kernel of 24 elements has 864 instructions with both branches of the code, at most 36 for an
// element of which some 17 run without a branch; at 4.3 TB/s there is time for 28 (without branch)
// or 56 (with). Expected: 90 % of the copy rate, dropout some 80 %.
#include "cuda_kernels.h"
#include "layer_norm.cuh"
#include "primitives/dropout.cuh"
#include "primitives/reduce.cuh"
#include "primitives/vector.cuh"
#include "vitrine/arguments.h"

namespace vitrine::cuda {
namespace {

constexpr const char* kOperation = "layer_norm_forward";
constexpr int kTeamThreads = 128;
constexpr int kBlockThreads = 256;
constexpr int kBlocks = 4;  // of kBlockThreads, on a multiprocessor at once

__device__ __forceinline__ float inverse_deviation(float squares, std::int64_t cols, float eps) {
  return rsqrtf(squares / static_cast<float>(cols) + eps);
}

__device__ __forceinline__ void store_statistics(const LayerNormForward& args, std::int64_t row,
                                                 float mean, float rstd) {
  if (args.mean.data != nullptr) args.mean.data[row] = mean;
  if (args.rstd.data != nullptr) args.rstd.data[row] = rstd;
}

/// x = rounded(x + factors · branch), kept as x_out.
template <typename T, int kVector, bool kRandom>
__device__ __forceinline__ void add_branch(float (&x)[kVector], const float (&branch)[kVector],
                                           const LayerNormForward& args,
                                           const Branch<kRandom>& random, std::int64_t row,
                                           std::int64_t column) {
  float factors[kVector];
  random.factors(factors, row, column);
#pragma unroll
  for (int i = 0; i < kVector; ++i) x[i] += factors[i] * branch[i];
  const Held<T, kVector> kept(x);
  kept.store(elements<T>(args.x_out) + row * args.cols + column);
#pragma unroll
  for (int i = 0; i < kVector; ++i) x[i] = kept[i];
}

/// y of kVector elements.
template <typename T, int kVector>
__device__ __forceinline__ void normalise(const float (&x)[kVector], const LayerNormForward& args,
                                          std::int64_t row, std::int64_t column, float mean,
                                          float rstd) {
  float weight[kVector], bias[kVector];
  load(weight, elements<T>(args.weight) + column);
  load(bias, elements<T>(args.bias) + column);
#pragma unroll
  for (int i = 0; i < kVector; ++i) bias[i] += (x[i] - mean) * rstd * weight[i];
  Held<T, kVector>(bias).store(elements<T>(args.y) + row * args.cols + column);
}

template <typename T, int kVector, int kElements, bool kRandom>
__global__ void __launch_bounds__(kTeamThreads)
    layer_norm_forward_kernel(LayerNormForward args, int log2_lanes) {
  constexpr int kAccesses = kElements / kVector;
  const LaneColumns<kVector> columns(log2_lanes);
  const std::int64_t row =
      static_cast<std::int64_t>(blockIdx.x) * columns.teams(kTeamThreads) + columns.team();
  const int cols = row < args.rows ? static_cast<int>(args.cols) : 0;  // 0: no row, no accesses

  float x[kAccesses][kVector] = {};
  const T* const source = elements<T>(args.x) + row * args.cols;
#pragma unroll
  for (int j = 0; j < kAccesses; ++j) {
    if (columns.column(j) < cols) load(x[j], source + columns.column(j));
  }
  if (args.branch.data != nullptr) {
    float branch[kAccesses][kVector];
    const T* const branch_source = elements<T>(args.branch) + row * args.cols;
#pragma unroll
    for (int j = 0; j < kAccesses; ++j) {
      if (columns.column(j) < cols) load(branch[j], branch_source + columns.column(j));
    }
    const Branch<kRandom> random(args);
#pragma unroll
    for (int j = 0; j < kAccesses; ++j) {
      if (columns.column(j) < cols) {
        add_branch<T>(x[j], branch[j], args, random, row, columns.column(j));
      }
    }
  }

  float sum = 0.0f, squares = 0.0f;
#pragma unroll
  for (int j = 0; j < kAccesses; ++j) {
#pragma unroll
    for (int i = 0; i < kVector; ++i) sum += x[j][i];
  }
  columns.sum(sum);
  const float mean = sum / static_cast<float>(args.cols);
#pragma unroll
  for (int j = 0; j < kAccesses; ++j) {
    if (columns.column(j) >= cols) continue;
#pragma unroll
    for (int i = 0; i < kVector; ++i) squares += (x[j][i] - mean) * (x[j][i] - mean);
  }
  columns.sum(squares);
  const float rstd = inverse_deviation(squares, args.cols, args.eps);
  if (columns.lane() == 0 && row < args.rows) store_statistics(args, row, mean, rstd);
#pragma unroll
  for (int j = 0; j < kAccesses; ++j) {
    if (columns.column(j) < cols) normalise<T>(x[j], args, row, columns.column(j), mean, rstd);
  }
}

/// One block owns one row. A thread reads again only what it read or wrote itself.
template <typename T, int kVector, bool kRandom>
__global__ void __launch_bounds__(kBlockThreads, kRandom ? 1 : kBlocks)
    layer_norm_forward_long_kernel(LayerNormForward args) {
  SHARED_ARRAY(float, shared, [kBlockThreads / kWarpSize]);
  constexpr int kStep = kBlockThreads * kVector;
  const std::int64_t row = blockIdx.x;
  const std::int64_t first = static_cast<std::int64_t>(threadIdx.x) * kVector;
  const bool has_branch = args.branch.data != nullptr;
  const T* source = elements<T>(args.x) + row * args.cols;
  const Branch<kRandom> random(args);

  float x[kVector];
  float sum = 0.0f, squares = 0.0f;
  for (std::int64_t column = first; column < args.cols; column += kStep) {
    load(x, source + column);
    if (has_branch) {
      float branch[kVector];
      load(branch, elements<T>(args.branch) + row * args.cols + column);
      add_branch<T>(x, branch, args, random, row, column);
    }
#pragma unroll
    for (int i = 0; i < kVector; ++i) sum += x[i];
  }
  if (has_branch) source = elements<T>(args.x_out) + row * args.cols;
  const float mean =
      block_reduce<kBlockThreads>(sum, &shared[0], Sum{}) / static_cast<float>(args.cols);
  for (std::int64_t column = first; column < args.cols; column += kStep) {
    load(x, source + column);
#pragma unroll
    for (int i = 0; i < kVector; ++i) squares += (x[i] - mean) * (x[i] - mean);
  }
  const float rstd = inverse_deviation(block_reduce<kBlockThreads>(squares, &shared[0], Sum{}),
                                       args.cols, args.eps);
  if (threadIdx.x == 0) store_statistics(args, row, mean, rstd);
  for (std::int64_t column = first; column < args.cols; column += kStep) {
    load(x, source + column);
    normalise<T>(x, args, row, column, mean, rstd);
  }
}

}  // namespace

void CudaKernels::layer_norm_forward(const LayerNormForward& args) {
  check_arguments(args);
  for_float_type(kOperation, args.x.dtype, [&]<typename T>() {
    const bool wide = vectorizable<T>(args.cols, args.y.data, args.x_out.data, args.x.data,
                                      args.branch.data, args.weight.data, args.bias.data);
    const bool random = args.dropout.probability > 0.0f || args.drop_path.probability > 0.0f;
    const Team team = team_of(args.cols, wide);
    for_team<T>(team, wide, random, [&](auto vector, auto elements, auto is_random) {
      if constexpr (elements.value == 0) {
        launch(kOperation, stream_, dim3(static_cast<unsigned>(args.rows)), kBlockThreads, 0,
               layer_norm_forward_long_kernel<T, vector.value, is_random.value>, args);
      } else {
        const std::int64_t teams = kTeamThreads >> team.log2_lanes;
        launch(kOperation, stream_, dim3(static_cast<unsigned>(ceil_div(args.rows, teams))),
               kTeamThreads, 0,
               layer_norm_forward_kernel<T, vector.value, elements.value, is_random.value>, args,
               team.log2_lanes);
      }
    });
  });
}

}  // namespace vitrine::cuda
