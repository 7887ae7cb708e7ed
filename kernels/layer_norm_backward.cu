// Gradient of layer normalisation and of the residual in front of it.
//
//   dx      = rstd · (g - mean(g) - x̂ · mean(g · x̂)) + dresidual     g = dy · weight
//   dbranch = drop_path(dropout(dx))      of dx as it was written     x̂ = (x - mean) · rstd
//   dweight = Σ_rows dy · x̂,   dbias = Σ_rows dy
//
// dx and dbranch are written (=); dweight and dbias are written, or added to with `accumulate`. Of
// these two the ones that nobody asked for are summed in registers and left there.
//
// The rows are cut into as many runs as the workspace has partials, and a block owns a run. Its
// teams (see layer_norm.cuh) take the rows of the run in turn, so that a thread meets the same
// columns in every row: its sums for dweight and dbias stay in registers. dy, x and dresidual are
// read once, 16 bytes at a time, one row ahead of the work, and stay packed between the two passes
// over a row; weight comes from L1. At the end the teams' sums are added in halves and written as
// one partial; a second kernel adds the partials in order (see primitives/partials.cuh). A single
// run goes straight to dweight and dbias.
//
// Page of account (H200: 132 multiprocessors, 4.3 TB/s copy rate; expectations: not measured, not
// run on a GPU). ViT-B, batch 256, bf16, 264 runs: [50432, 768] with dresidual.
//   6,152 bytes a row (dy, x, dresidual, dx, mean, rstd): 310 MB, 72 µs;
//   the partials, 1.6 MB written and read in L2, and a second launch: 3 µs.
// nvcc for sm_90a, bf16, without dropout, no spills:
//   elements a lane   8    24    32    40     (24: widths 192, 384, 768; 32: 1024; 40: 1280)
//   registers        83   195   248   242     40: not a row ahead
// Two blocks of 4 warps a multiprocessor take all 264 runs at once. A warp has the next row under
// way, 4.6 KB, whatever it does: 37 KB a multiprocessor, where 23 KB hide 700 ns (Little). The 8
// warps need some 40 instructions an element, about 0.9 µs for their 8 rows, which take 1.5 µs of
// memory time. First row and last sums, 3 µs, overlap with nothing.
// Expected: 85 to 90 % of the copy rate.
#include <algorithm>

#include "cuda_kernels.h"
#include "layer_norm.cuh"
#include "primitives/dropout.cuh"
#include "primitives/partials.cuh"
#include "primitives/reduce.cuh"
#include "primitives/vector.cuh"
#include "vitrine/arguments.h"

namespace vitrine::cuda {
namespace {

constexpr const char* kOperation = "layer_norm_backward";
constexpr int kTeamThreads = 128;
constexpr int kBlockThreads = 256;
constexpr int kBlocks = 2;  // of kTeamThreads, on a multiprocessor at once
/// Whether the registers have room for the next row while one is worked on: beside the sums for
/// dweight and dbias, two rows of dy, x and dresidual.
template <typename T, int kElements, bool kRandom>
constexpr bool kReadAhead = !kRandom && (2 + 2 * 3 * sizeof(T) / 4.0) * kElements <= 192;

/// mean(g) and mean(g · x̂) of a row.
struct RowMeans {
  float g, gx;
};

struct RowStatistics {
  float mean = 0.0f, rstd = 0.0f;
};

template <typename T, int kVector, int kAccesses>
using HeldRow = Held<T, kVector>[kAccesses];

/// What a lane holds of a row; all 0 where there is no row, so that nothing is added to any sum.
template <typename T, int kVector, int kAccesses>
struct RowInputs {
  HeldRow<T, kVector, kAccesses> dy, x, residual;
  RowStatistics statistics;

  __device__ __forceinline__ void load(const LayerNormBackward& args,
                                       const LaneColumns<kVector>& columns, std::int64_t row,
                                       std::int64_t end) {
    *this = {};
    if (row >= end) return;
    const std::int64_t at = row * args.cols;
#pragma unroll
    for (int j = 0; j < kAccesses; ++j) {
      const int column = columns.column(j);
      if (column >= args.cols) continue;
      dy[j].load(elements<T>(args.dy) + at + column);
      x[j].load(elements<T>(args.x) + at + column);
      if (args.dresidual.data) residual[j].load(elements<T>(args.dresidual) + at + column);
    }
    statistics = {args.mean.data[row], args.rstd.data[row]};
  }
};

template <typename T, int kVector, int kAccesses>
__device__ __forceinline__ void load_weight(HeldRow<T, kVector, kAccesses>& weight,
                                            const LayerNormBackward& args,
                                            const LaneColumns<kVector>& columns) {
#pragma unroll
  for (int j = 0; j < kAccesses; ++j) {
    weight[j] = {};
    if (columns.column(j) < args.cols) {
      weight[j].load(elements<T>(args.weight) + columns.column(j));
    }
  }
}

/// Adds a row to dweight and dbias and returns this lane's part of Σ g and Σ g · x̂.
template <typename T, int kVector, int kAccesses>
__device__ __forceinline__ RowMeans add_row(float (&dweight)[kAccesses * kVector],
                                            float (&dbias)[kAccesses * kVector],
                                            const HeldRow<T, kVector, kAccesses>& dy,
                                            const HeldRow<T, kVector, kAccesses>& x,
                                            const HeldRow<T, kVector, kAccesses>& weight,
                                            const RowStatistics& row) {
  RowMeans sums{0.0f, 0.0f};
#pragma unroll
  for (int j = 0; j < kAccesses; ++j) {
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      const float gradient = dy[j][i];
      const float normalised = (x[j][i] - row.mean) * row.rstd;
      const float g = gradient * weight[j][i];
      dweight[j * kVector + i] += gradient * normalised;
      dbias[j * kVector + i] += gradient;
      sums.g += g;
      sums.gx += g * normalised;
    }
  }
  return sums;
}

/// dx of one access.
template <typename T, int kVector>
__device__ __forceinline__ void input_gradient(float (&dx)[kVector], const Held<T, kVector>& dy,
                                               const Held<T, kVector>& x,
                                               const Held<T, kVector>& weight,
                                               const Held<T, kVector>& residual,
                                               const RowStatistics& row, const RowMeans& means) {
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    const float normalised = (x[i] - row.mean) * row.rstd;
    const float g = dy[i] * weight[i];
    dx[i] = row.rstd * (g - means.g - normalised * means.gx) + residual[i];
  }
}

/// Writes dx, and dbranch where it is asked for.
template <typename T, int kVector, bool kRandom>
__device__ __forceinline__ void store_gradients(float (&dx)[kVector], const LayerNormBackward& args,
                                                const Branch<kRandom>& random, std::int64_t row,
                                                std::int64_t column) {
  const std::int64_t at = row * args.cols + column;
  const Held<T, kVector> written(dx);
  written.store(elements<T>(args.dx) + at);
  if (args.dbranch.data == nullptr) return;
  float factors[kVector];
  random.factors(factors, row, column);
#pragma unroll
  for (int i = 0; i < kVector; ++i) dx[i] = factors[i] * written[i];
  Held<T, kVector>(dx).store(elements<T>(args.dbranch) + at);
}

/// Where the block's sums go: its partial, or the outputs themselves when it is the only block;
/// nullptr: nowhere.
struct Target {
  float *dweight, *dbias;
  bool accumulate;

  __device__ explicit Target(const LayerNormBackward& args) {
    const bool alone = gridDim.x == 1;
    float* const partial = args.workspace.data + 2 * args.cols * blockIdx.x;
    dweight = alone || args.dweight.data == nullptr ? args.dweight.data : partial;
    dbias = alone || args.dbias.data == nullptr ? args.dbias.data : partial + args.cols;
    accumulate = alone && args.accumulate;
  }
  __device__ void put(float* out, float sum) const { *out = accumulate ? *out + sum : sum; }
};

/// Writes the sums over the block's teams to out[0 … cols), all threads side by side.
template <int kVector, int kElements>
__device__ __forceinline__ void store_sums(float* out, float (&sums)[kElements], float* shared,
                                           const LaneColumns<kVector>& columns, std::int64_t cols,
                                           const Target& target) {
  if (out == nullptr) return;
  sum_over_block<kTeamThreads>(sums, columns.lanes(), shared);
  if (columns.team() == 0) {
#pragma unroll
    for (int i = 0; i < kElements; ++i) shared[columns.column(i / kVector) + i % kVector] = sums[i];
  }
  __syncthreads();
  for (int c = static_cast<int>(threadIdx.x); c < cols; c += kTeamThreads)
    target.put(out + c, shared[c]);
  __syncthreads();
}

template <typename T, int kVector, int kElements, bool kRandom>
__global__ void __launch_bounds__(kTeamThreads, kBlocks)
    layer_norm_backward_kernel(LayerNormBackward args, int log2_lanes) {
  constexpr int kAccesses = kElements / kVector;
  constexpr bool kAhead = kReadAhead<T, kElements, kRandom>;
  SHARED_ARRAY(float, shared, [kElements * kTeamThreads / 2]);
  const LaneColumns<kVector> columns(log2_lanes);
  const Branch<kRandom> random(args);
  const RowRun run = row_run(args.rows, blockIdx.x, gridDim.x);
  const float inverse_cols = 1.0f / static_cast<float>(args.cols);
  const int teams = columns.teams(kTeamThreads);

  float dweight[kElements] = {}, dbias[kElements] = {};
  RowInputs<T, kVector, kAccesses> now, next;
  if constexpr (kAhead) next.load(args, columns, run.begin + columns.team(), run.end);
  // All teams go round equally often: a team without a row takes part in the warp's sums.
  for (std::int64_t first = run.begin; first < run.end; first += teams) {
    const std::int64_t row = first + columns.team();
    if constexpr (kAhead) {
      now = next;
      next.load(args, columns, row + teams, run.end);
    } else {
      now.load(args, columns, row, run.end);
    }
    HeldRow<T, kVector, kAccesses> weight;
    load_weight(weight, args, columns);
    RowMeans means = add_row<T>(dweight, dbias, now.dy, now.x, weight, now.statistics);
    columns.sum(means.g, means.gx);
    means = {means.g * inverse_cols, means.gx * inverse_cols};
    if (row >= run.end) continue;
    load_weight(weight, args, columns);
#pragma unroll
    for (int j = 0; j < kAccesses; ++j) {
      if (columns.column(j) >= args.cols) continue;
      now.dy[j].forget();
      now.x[j].forget();
      float dx[kVector];
      input_gradient(dx, now.dy[j], now.x[j], weight[j], now.residual[j], now.statistics, means);
      store_gradients<T>(dx, args, random, row, columns.column(j));
    }
  }
  const Target target(args);
  store_sums(target.dweight, dweight, &shared[0], columns, args.cols, target);
  store_sums(target.dbias, dbias, &shared[0], columns, args.cols, target);
}

/// The whole block works on one row of its run after another. dweight and dbias are summed in
/// shared memory, every thread its own columns.
template <typename T, int kVector>
__global__ void __launch_bounds__(kBlockThreads)
    layer_norm_backward_long_kernel(LayerNormBackward args) {
  DYNAMIC_SHARED(float, sums);  // [2, cols]
  SHARED_ARRAY(float, shared, [kBlockThreads / kWarpSize]);
  const std::int64_t cols = args.cols;
  const Branch<true> random(args);
  const RowRun run = row_run(args.rows, blockIdx.x, gridDim.x);
  const auto for_columns = [&](const auto& body) {
    constexpr std::int64_t kStep = kBlockThreads * kVector;
    for (std::int64_t c = static_cast<std::int64_t>(threadIdx.x) * kVector; c < cols; c += kStep) {
      body(c);
    }
  };
  const auto held = [](const T* source) {
    Held<T, kVector> elements;
    elements.load(source);
    return elements;
  };
  for_columns([&](std::int64_t c) {
    const float zeros[kVector] = {};
    store(sums + c, zeros);
    store(sums + cols + c, zeros);
  });
  for (std::int64_t row = run.begin; row < run.end; ++row) {
    const T* const dy = elements<T>(args.dy) + row * cols;
    const T* const x = elements<T>(args.x) + row * cols;
    const RowStatistics statistics{args.mean.data[row], args.rstd.data[row]};
    RowMeans means{0.0f, 0.0f};
    for_columns([&](std::int64_t c) {
      float dweight[kVector], dbias[kVector];
      load(dweight, sums + c);
      load(dbias, sums + cols + c);
      const HeldRow<T, kVector, 1> dy_row{held(dy + c)}, x_row{held(x + c)},
          weight_row{held(elements<T>(args.weight) + c)};
      const RowMeans part = add_row<T>(dweight, dbias, dy_row, x_row, weight_row, statistics);
      means = {means.g + part.g, means.gx + part.gx};
      store(sums + c, dweight);
      store(sums + cols + c, dbias);
    });
    means.g = block_reduce<kBlockThreads>(means.g, &shared[0], Sum{}) / static_cast<float>(cols);
    means.gx = block_reduce<kBlockThreads>(means.gx, &shared[0], Sum{}) / static_cast<float>(cols);
    for_columns([&](std::int64_t c) {
      Held<T, kVector> residual;
      if (args.dresidual.data != nullptr) {
        residual = held(elements<T>(args.dresidual) + row * cols + c);
      }
      float dx[kVector];
      input_gradient(dx, held(dy + c), held(x + c), held(elements<T>(args.weight) + c), residual,
                     statistics, means);
      store_gradients<T>(dx, args, random, row, c);
    });
  }
  const Target target(args);
  for_columns([&](std::int64_t c) {
    for (std::int64_t i = c; i < c + kVector; ++i) {
      if (target.dweight != nullptr) target.put(target.dweight + i, sums[i]);
      if (target.dbias != nullptr) target.put(target.dbias + i, sums[cols + i]);
    }
  });
}

/// Bytes of shared memory for rows that take a block.
std::size_t long_row_bytes(std::int64_t cols, const CudaLimits& limits) {
  constexpr int kSumBytes = 2 * sizeof(float);
  constexpr int kOwnBytes = 128;  // of the static array, as it is aligned
  const std::int64_t most = (limits.shared_memory_per_block - kOwnBytes) / kSumBytes;
  if (cols > most) {
    throw DeviceError(std::string(kOperation) + ": cols is " + std::to_string(cols) +
                      ", expected at most " + std::to_string(most) + " on this device");
  }
  return static_cast<std::size_t>(cols) * kSumBytes;
}

}  // namespace

void CudaKernels::layer_norm_backward(const LayerNormBackward& args) {
  check_arguments(args);
  const std::int64_t runs = std::max<std::int64_t>(args.workspace.size / (2 * args.cols), 1);
  const dim3 grid(static_cast<unsigned>(runs));
  for_float_type(kOperation, args.dx.dtype, [&]<typename T>() {
    const bool wide = vectorizable<T>(args.cols, args.dx.data, args.dbranch.data, args.dy.data,
                                      args.dresidual.data, args.x.data, args.weight.data);
    const bool random = args.dropout.probability > 0.0f || args.drop_path.probability > 0.0f;
    const Team team = team_of(args.cols, wide);
    for_team<T>(team, wide, random, [&](auto vector, auto elements, auto is_random) {
      // Two rows of floats and random numbers beside them do not fit into the registers.
      constexpr bool kSpills = sizeof(T) == 4 && elements.value > 24 && is_random.value;
      if constexpr (elements.value == 0 || kSpills) {
        launch(kOperation, stream_, grid, kBlockThreads, long_row_bytes(args.cols, limits_),
               layer_norm_backward_long_kernel<T, vector.value>, args);
      } else {
        launch(kOperation, stream_, grid, kTeamThreads, 0,
               layer_norm_backward_kernel<T, vector.value, elements.value, is_random.value>, args,
               team.log2_lanes);
      }
    });
  });
  if (runs > 1) {
    sum_partial_pairs(kOperation, stream_, args.dweight.data, args.dbias.data, args.workspace.data,
                      runs, args.cols, args.accumulate);
  }
}

}  // namespace vitrine::cuda
