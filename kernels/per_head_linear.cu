// One d×d map for each head and part (q, k, v): a block-diagonal linear layer.
//
//   y[r, p, h, :] = weight[p, h] x[r, h, :] + bias[p, h]
//   dx[r, h, :] = sum_p weight[p, h]^T dy[r, p, h, :]
//   dweight[p, h] = sum_r dy[r, p, h, :] x[r, h, :]^T,   dbias[p, h] = sum_r dy[r, p, h, :]
//
// Made for few, small heads (the tutorial model: H = 2, d = 4, 3 parts, 6400 rows), where launches
// and latencies are the cost; any d works. Accesses are of 4 elements when 4 divides d, else of 1.
// Forward: a thread owns one access of y and reads its rows of the weight through the L1 cache: it
// needs nothing that other threads would have to fetch first.
// Backward: the rows are cut into as many runs as the workspace has partials. A block owns one run
// and a slice of dweight; each thread one access of dweight over every n-th row of the run, added
// in order; and the block computes its share of the run's dx. The block that finishes last adds
// the runs in order, so that the tutorial model has one launch; where that is too much for one
// block, the kernel of primitives/partials.cuh does it.
// dx is written (=), or added to (+=) with accumulate_dx; dweight and dbias (=), or (+=) with
// accumulate. What nobody asked for is not computed.
//
// Heads of 32 and more are the matrix library's, where there is one: one batched product over the
// heads for each part and each of y, dx and dweight, with x, y and dy read and written in place.
// There dx takes the parts one after the other and is rounded to T after each.
//
// Page of account (H200; expectations: not measured, not run on a GPU). Tutorial model in f32:
// forward 0.2 MB read, 0.6 MB written, 1.2 MFLOP; backward 0.8 MB read, 0.2 MB written, 2.5 MFLOP:
// all of it in the L2 cache, 0.3 us of traffic. Forward: 150 blocks, one round trip to memory,
// expected 2 to 3 us, most of it the launch. Backward, of 100 runs: 100 blocks and six round trips
// to the L2 cache, one after the other, expected 5 to 6 us. Registers forward 56, backward 108
// (f32), no spills.
#include "cuda_kernels.h"
#include "primitives/last_block.cuh"
#include "primitives/partials.cuh"
#include "primitives/vector.cuh"
#include "vitrine/arguments.h"

namespace vitrine::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWide = 4;
constexpr int kRowsInFlight = 4;
/// The last block adds the runs if the workspace has at most so many elements.
constexpr std::int64_t kMaxLastBlock = 65536;

template <typename T, int kVector>
__global__ void __launch_bounds__(kThreads)
    per_head_linear_forward_kernel(PerHeadLinearForward args) {
  const std::int64_t d = args.head_size, y_cols = args.parts * args.heads * d;
  const std::int64_t i = (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kVector;
  if (i >= args.rows * y_cols) return;
  const std::int64_t row = i / y_cols;
  const auto y_col = static_cast<std::uint32_t>(i - row * y_cols);
  const auto x_col = y_col % static_cast<std::uint32_t>(args.heads * d);
  const auto out = y_col % static_cast<std::uint32_t>(d);
  const T* x = elements<T>(args.x) + row * args.heads * d + (x_col - out);
  const T* weight = elements<T>(args.weight) + y_col * d;

  float sum[kVector] = {};
  if (args.bias.data != nullptr) load(sum, elements<T>(args.bias) + y_col);
  for (std::int64_t in = 0; in < d; in += kVector) {
    float values[kVector];
    load(values, x + in);
#pragma unroll
    for (int j = 0; j < kVector; ++j) {
      float coefficients[kVector];
      load(coefficients, weight + j * d + in);
#pragma unroll
      for (int k = 0; k < kVector; ++k) sum[j] += coefficients[k] * values[k];
    }
  }
  store(elements<T>(args.y) + i, sum);
}

/// How a block's threads share `columns` accesses: `slots` columns at a time, and each by `lanes`
/// threads. A thread without a lane has nothing to add.
struct Shares {
  int slots, lanes, slot, lane;

  __device__ explicit Shares(std::int64_t columns)
      : slots(columns < kThreads ? static_cast<int>(columns) : kThreads),
        lanes(kThreads / slots),
        slot(static_cast<int>(threadIdx.x) % slots),
        lane(static_cast<int>(threadIdx.x) / slots) {}
};

/// Adds the values of the lanes in order, into those of lane 0. All threads call; who calls again
/// without a barrier between has one lane a column, and so nothing to read from others.
template <int kCount>
__device__ __forceinline__ void add_lanes(float (&values)[kCount], float (*tile)[kThreads],
                                          const Shares& shares) {
#pragma unroll
  for (int j = 0; j < kCount; ++j) tile[j][threadIdx.x] = values[j];
  __syncthreads();
  if (shares.lane == 0) {
    for (int lane = 1; lane < shares.lanes; ++lane) {
#pragma unroll
      for (int j = 0; j < kCount; ++j) values[j] += tile[j][lane * shares.slots + shares.slot];
    }
  }
}

/// Rows [begin, end), one of `num_runs` runs of which this block sees one slice of `slices`.
struct Run {
  std::int64_t index, begin, end, slice, slices;
};

/// The workspace's row of this run: dweight, then dbias. This block's slice of it.
template <typename T, int kVector>
__device__ __forceinline__ void weight_gradient(const PerHeadLinearBackward& args, const Run& run,
                                                float (*tile)[kThreads]) {
  const std::int64_t d = args.head_size, x_cols = args.heads * d, y_cols = args.parts * x_cols;
  const std::int64_t columns = y_cols * d / kVector;
  const Shares shares(columns);
  const std::int64_t column = run.slice * shares.slots + shares.slot;
  const std::int64_t y_col = column * kVector / d, in = column * kVector - y_col * d;
  const std::int64_t x_col =
      static_cast<std::uint32_t>(y_col) % static_cast<std::uint32_t>(x_cols) -
      static_cast<std::uint32_t>(y_col) % static_cast<std::uint32_t>(d) + in;
  const bool inside = column < columns && shares.lane < shares.lanes;

  float sum[kVector + 1] = {};  // the last one is dbias
  std::int64_t row = run.begin + shares.lane;
  for (; inside && row < run.end; row += kRowsInFlight * shares.lanes) {
    float x[kRowsInFlight][kVector] = {}, dy[kRowsInFlight][1] = {};
#pragma unroll
    for (int i = 0; i < kRowsInFlight; ++i) {
      const std::int64_t at = row + i * shares.lanes;
      if (at >= run.end) continue;
      load(x[i], elements<T>(args.x) + at * x_cols + x_col);
      load(dy[i], elements<T>(args.dy) + at * y_cols + y_col);
    }
#pragma unroll
    for (int i = 0; i < kRowsInFlight; ++i) {
#pragma unroll
      for (int j = 0; j < kVector; ++j) sum[j] += dy[i][0] * x[i][j];
      sum[kVector] += dy[i][0];
    }
  }
  add_lanes(sum, tile, shares);
  if (!inside || shares.lane > 0) return;
  float* partial = args.workspace.data + run.index * y_cols * (d + 1);
  const float dbias = sum[kVector];
  float dweight[kVector];
#pragma unroll
  for (int j = 0; j < kVector; ++j) dweight[j] = sum[j];
  store(partial + column * kVector, dweight);
  if (in == 0) partial[y_cols * d + y_col] = dbias;
}

/// One access of dx: all parts' gradients, each through its map transposed.
template <typename T, int kVector>
__device__ __forceinline__ void input_gradient_at(const PerHeadLinearBackward& args,
                                                  std::int64_t row, std::uint32_t x_col) {
  const std::int64_t d = args.head_size, x_cols = args.heads * d;
  const std::uint32_t in = x_col % static_cast<std::uint32_t>(d);
  T* dx = elements<T>(args.dx) + row * x_cols + x_col;
  float sum[kVector] = {};
  if (args.accumulate_dx) load(sum, dx);
  for (std::int64_t part = 0; part < args.parts; ++part) {
    const std::int64_t head = part * x_cols + (x_col - in);  // of dy's row and of weight's rows
    const T* dy = elements<T>(args.dy) + row * args.parts * x_cols + head;
    const T* weight = elements<T>(args.weight) + head * d + in;
    for (std::int64_t out = 0; out < d; out += kVector) {
      float gradient[kVector];
      load(gradient, dy + out);
#pragma unroll
      for (int k = 0; k < kVector; ++k) {
        float coefficients[kVector];
        load(coefficients, weight + (out + k) * d);
#pragma unroll
        for (int j = 0; j < kVector; ++j) sum[j] += coefficients[j] * gradient[k];
      }
    }
  }
  store(dx, sum);
}

/// This block's share of the run's dx.
template <typename T, int kVector>
__device__ __forceinline__ void input_gradient(const PerHeadLinearBackward& args, const Run& run) {
  const std::int64_t columns = args.heads * args.head_size / kVector;
  const Shares shares(columns);
  if (shares.lane >= shares.lanes) return;
  std::int64_t row = run.begin + run.slice * shares.lanes + shares.lane;
  for (; row < run.end; row += run.slices * shares.lanes) {
    for (std::int64_t column = shares.slot; column < columns; column += shares.slots) {
      input_gradient_at<T, kVector>(args, row, static_cast<std::uint32_t>(column * kVector));
    }
  }
}

/// Elements of the weight.
__host__ __device__ __forceinline__ std::int64_t weight_size(const PerHeadLinearBackward& args) {
  return args.parts * args.heads * args.head_size * args.head_size;
}

/// dweight and dbias from the workspace, by one block. What nobody asked for is added up and left,
/// so that the order of the sums, and with it their bits, does not depend on it.
template <int kVector>
__device__ __forceinline__ void add_runs(const PerHeadLinearBackward& args, std::int64_t num_runs,
                                         float (*tile)[kThreads]) {
  const std::int64_t weights = weight_size(args), stride = weights + weights / args.head_size;
  const Shares shares(stride / kVector);
  for (std::int64_t first = 0; first < stride; first += shares.slots * kVector) {
    const std::int64_t i = first + shares.slot * kVector;
    float sum[kVector] = {};
    if (i < stride && shares.lane < shares.lanes) {
#pragma unroll 8
      for (std::int64_t run = shares.lane; run < num_runs; run += shares.lanes) {
        float part[kVector];
        load(part, args.workspace.data + run * stride + i);
#pragma unroll
        for (int j = 0; j < kVector; ++j) sum[j] += part[j];
      }
    }
    add_lanes(sum, tile, shares);
    const bool is_weight = i < weights;
    if (i >= stride || shares.lane > 0 || !(is_weight ? args.dweight : args.dbias)) continue;
    float* out = is_weight ? args.dweight.data + i : args.dbias.data + (i - weights);
    float before[kVector] = {};
    if (args.accumulate) load(before, out);
#pragma unroll
    for (int j = 0; j < kVector; ++j) sum[j] += before[j];
    store(out, sum);
  }
}

/// Two blocks a multiprocessor are enough: registers matter more than occupancy.
template <typename T, int kVector>
__global__ void __launch_bounds__(kThreads, 2)
    per_head_linear_backward_kernel(PerHeadLinearBackward args, std::int64_t num_runs,
                                    std::uint32_t slices, bool finish, ScratchMemory* scratch) {
  SHARED_ARRAY(float, tile, [kVector + 1][kThreads]);
  const std::uint32_t index = blockIdx.x / slices;
  const RowRun rows = row_run(args.rows, index, num_runs);
  const Run run{.index = index,
                .begin = rows.begin,
                .end = rows.end,
                .slice = blockIdx.x % slices,
                .slices = slices};
  const bool sums = args.dweight || args.dbias;
  if (sums) weight_gradient<T, kVector>(args, run, tile);
  if (args.dx) input_gradient<T, kVector>(args, run);
  if (sums && finish && last_block(scratch)) add_runs<kVector>(args, num_runs, tile);
}

/// Calls `launch(vector)` with the width of the accesses.
template <typename Launch, typename... Pointers>
void choose(std::int64_t head_size, const Launch& launch, Pointers... pointers) {
  if (vectorizable<float>(head_size, pointers...)) {
    launch(Constant<kWide>{});
  } else {
    launch(Constant<1>{});
  }
}

/// Heads from here on fill the tiles that the library's products are made of.
constexpr std::int64_t kMatmulHeadSize = 32;

/// Where element `i` of a view is.
void* address(const View<void>& view, std::int64_t i) {
  return static_cast<char*>(view.data) + i * size_of(view.dtype);
}
const void* address(const ConstView<void>& view, std::int64_t i) {
  return static_cast<const char*>(view.data) + i * size_of(view.dtype);
}

/// A product for each head, from T to T.
template <typename Args>
BatchedMatmul product_of_heads(const Args& args) {
  return {.dtype = args.x.dtype, .out_dtype = args.x.dtype, .batch = args.heads};
}

void forward_by_library(const PerHeadLinearForward& args, MatmulLibrary& library,
                        cudaStream_t stream) {
  const std::int64_t d = args.head_size, x_cols = args.heads * d;
  for (std::int64_t part = 0; part < args.parts; ++part) {
    BatchedMatmul product = product_of_heads(args);
    product.m = args.rows, product.n = d, product.k = d;
    product.out = address(args.y, part * x_cols);
    product.out_leading = args.parts * x_cols, product.out_stride = d;
    product.a = args.x.data;
    product.a_leading = x_cols, product.a_stride = d;
    product.b = address(args.weight, part * x_cols * d);
    product.b_leading = d, product.b_stride = d * d;
    product.transpose_b = true;
    if (args.bias) product.bias = address(args.bias, part * x_cols);
    product.bias_stride = d;
    library.run(product, stream);
  }
}

void input_gradient_by_library(const PerHeadLinearBackward& args, MatmulLibrary& library,
                               cudaStream_t stream) {
  const std::int64_t d = args.head_size, x_cols = args.heads * d;
  for (std::int64_t part = 0; part < args.parts; ++part) {
    BatchedMatmul product = product_of_heads(args);
    product.m = args.rows, product.n = d, product.k = d;
    product.out = args.dx.data;
    product.out_leading = x_cols, product.out_stride = d;
    product.a = address(args.dy, part * x_cols);
    product.a_leading = args.parts * x_cols, product.a_stride = d;
    product.b = address(args.weight, part * x_cols * d);
    product.b_leading = d, product.b_stride = d * d;
    product.accumulate = part > 0 || args.accumulate_dx;
    library.run(product, stream);
  }
}

void weight_gradient_by_library(const PerHeadLinearBackward& args, MatmulLibrary& library,
                                cudaStream_t stream) {
  const std::int64_t d = args.head_size, x_cols = args.heads * d;
  for (std::int64_t part = 0; part < args.parts; ++part) {
    BatchedMatmul product = product_of_heads(args);
    product.m = d, product.n = d, product.k = args.rows;
    product.out = args.dweight.data + part * x_cols * d;
    product.out_dtype = DType::f32;
    product.out_leading = d, product.out_stride = d * d;
    product.a = address(args.dy, part * x_cols);
    product.a_leading = args.parts * x_cols, product.a_stride = d;
    product.transpose_a = true;
    product.b = args.x.data;
    product.b_leading = x_cols, product.b_stride = d;
    product.accumulate = args.accumulate;
    library.run(product, stream);
  }
}

/// The sum of dy's columns, in as many runs as the workspace was made for.
ColumnSum bias_gradient(const PerHeadLinearBackward& args) {
  const std::int64_t cols = args.parts * args.heads * args.head_size;
  const std::int64_t num_runs = args.workspace.size / (cols * (args.head_size + 1));
  return {.out = args.dbias,
          .x = args.dy,
          .workspace = {args.workspace.data, num_runs * cols},
          .rows = args.rows,
          .cols = cols,
          .accumulate = args.accumulate};
}

}  // namespace

void CudaKernels::per_head_linear_forward(const PerHeadLinearForward& args) {
  constexpr const char* kOperation = "per_head_linear_forward";
  check_arguments(args);
  if (matmul_ != nullptr && args.head_size >= kMatmulHeadSize) {
    forward_by_library(args, *matmul_, stream_);
    return;
  }
  for_float_type(kOperation, args.x.dtype, [&]<typename T>() {
    const auto run = [&](auto vector) {
      const std::int64_t blocks = ceil_div(args.y.size, std::int64_t{kThreads} * vector.value);
      launch(kOperation, stream_, dim3(static_cast<unsigned>(blocks)), kThreads, 0,
             per_head_linear_forward_kernel<T, vector.value>, args);
    };
    choose(args.head_size, run, args.y.data, args.x.data, args.weight.data, args.bias.data);
  });
}

void CudaKernels::per_head_linear_backward(const PerHeadLinearBackward& args) {
  constexpr const char* kOperation = "per_head_linear_backward";
  check_arguments(args);
  if (matmul_ != nullptr && args.head_size >= kMatmulHeadSize) {
    if (args.dx) input_gradient_by_library(args, *matmul_, stream_);
    if (args.dweight) weight_gradient_by_library(args, *matmul_, stream_);
    if (args.dbias) column_sum(bias_gradient(args));
    return;
  }
  const std::int64_t weights = weight_size(args), stride = weights + weights / args.head_size;
  const std::int64_t num_runs = args.workspace.size / stride;
  const bool finish = args.workspace.size <= kMaxLastBlock;
  for_float_type(kOperation, args.x.dtype, [&]<typename T>() {
    const auto run = [&](auto vector) {
      const std::int64_t slices = ceil_div(weights, std::int64_t{kThreads} * vector.value);
      launch(kOperation, stream_, dim3(static_cast<unsigned>(num_runs * slices)), kThreads, 0,
             per_head_linear_backward_kernel<T, vector.value>, args, num_runs, slices, finish,
             scratch_);
    };
    choose(args.head_size, run, args.dx.data, args.dy.data, args.x.data, args.weight.data,
           args.dweight.data, args.dbias.data, args.workspace.data);
  });
  if (finish || (!args.dweight && !args.dbias)) return;
  launch_sum_partials(kOperation, stream_,
                      {.partials = args.workspace.data + (args.dweight ? 0 : weights),
                       .num_partials = num_runs,
                       .stride = stride,
                       .n = args.dweight.size + args.dbias.size,
                       .first = args.dweight.data,
                       .second = args.dbias.data,
                       .split = args.dweight.size,
                       .accumulate = args.accumulate});
}

}  // namespace vitrine::cuda
