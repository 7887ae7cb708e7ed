// One d×d map for each head and part (q, k, v): a block-diagonal linear layer.
//
//   y[r, p, h, :] = weight[p, h] x[r, h, :] + bias[p, h]
//   dx[r, h, :] = sum_p weight[p, h]^T dy[r, p, h, :]
//   dweight[p, h] = sum_r dy[r, p, h, :] x[r, h, :]^T,   dbias[p, h] = sum_r dy[r, p, h, :]
//
// d = 4, the tutorial model's, has a path of its own (per_head_linear_4.cpp); any other d runs as
// one strided matrix product for each head and part. Forward and dx divide the rows into runs of
// 512. dweight and dbias divide them into as many runs as the workspace has partials, summed in
// order; they are written (=), or added to (+=) with accumulate, as dx is with accumulate_dx.
#include "cpu/per_head_linear.h"

#include <algorithm>

#include "cpu/cpu_kernels.h"
#include "cpu/sgemm.h"
#include "vitrine/arguments.h"

namespace vitrine::cpu {
namespace {

constexpr std::int64_t kRowsPerTask = 512;

void forward_rows(const PerHeadShape& s, const float* x, const float* weight, const float* bias,
                  std::int64_t rows, float* y) {
  const std::int64_t d = s.head_size;
  const std::int64_t x_stride = s.heads * d;
  const std::int64_t y_stride = s.parts * x_stride;
  for (std::int64_t map = 0; map < s.parts * s.heads; ++map) {
    if (bias != nullptr) {
      for (std::int64_t row = 0; row < rows; ++row) {
        std::copy_n(bias + map * d, d, y + row * y_stride + map * d);
      }
    }
    sgemm(rows, d, d, {x + map % s.heads * d, x_stride}, {weight + map * d * d, d, true},
          bias != nullptr ? 1.0f : 0.0f, y + map * d, y_stride);
  }
}

void input_gradient_rows(const PerHeadShape& s, const float* dy, const float* weight,
                         std::int64_t rows, bool accumulate, float* dx) {
  const std::int64_t d = s.head_size;
  const std::int64_t x_stride = s.heads * d;
  const std::int64_t y_stride = s.parts * x_stride;
  for (std::int64_t map = 0; map < s.parts * s.heads; ++map) {
    sgemm(rows, d, d, {dy + map * d, y_stride}, {weight + map * d * d, d},
          accumulate || map >= s.heads ? 1.0f : 0.0f, dx + map % s.heads * d, x_stride);
  }
}

void weight_gradient_rows(const PerHeadShape& s, const float* dy, const float* x, std::int64_t rows,
                          float* partial) {
  std::fill_n(partial, s.parameters(), 0.0f);
  if (rows == 0) return;
  const std::int64_t d = s.head_size;
  const std::int64_t x_stride = s.heads * d;
  const std::int64_t y_stride = s.parts * x_stride;
  for (std::int64_t map = 0; map < s.parts * s.heads; ++map) {
    sgemm(d, d, rows, {dy + map * d, y_stride, true}, {x + map % s.heads * d, x_stride}, 0.0f,
          partial + map * d * d, d);
  }
  float* dbias = partial + s.parts * s.heads * d * d;
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t i = 0; i < y_stride; ++i) dbias[i] += dy[row * y_stride + i];
  }
}

// Adds n values of each partial, `stride` apart, in their order.
void add_partials(const float* partials, std::int64_t num_partials, std::int64_t stride,
                  bool accumulate, View<float> out) {
  for (std::int64_t i = 0; i < out.size; ++i) {
    float sum = partials[i];
    for (std::int64_t p = 1; p < num_partials; ++p) sum += partials[p * stride + i];
    out[i] = accumulate ? out[i] + sum : sum;
  }
}

}  // namespace

void CpuKernels::per_head_linear_forward(const PerHeadLinearForward& args) {
  check_arguments(args);
  const PerHeadShape s{args.parts, args.heads, args.head_size};
  const std::int64_t x_stride = s.heads * s.head_size;
  const std::int64_t y_stride = s.parts * x_stride;
  float* y = args.y.f32().data;
  const float* x = args.x.f32().data;
  const float* weight = args.weight.f32().data;
  const float* bias = args.bias.f32().data;
  const auto run = has_per_head_linear_4(s) ? per_head_linear_4_forward : forward_rows;
  pool_.for_ranges(args.rows, kRowsPerTask, [&](std::int64_t begin, std::int64_t end) {
    run(s, x + begin * x_stride, weight, bias, end - begin, y + begin * y_stride);
  });
}

void CpuKernels::per_head_linear_backward(const PerHeadLinearBackward& args) {
  check_arguments(args);
  const PerHeadShape s{args.parts, args.heads, args.head_size};
  const std::int64_t x_stride = s.heads * s.head_size;
  const std::int64_t y_stride = s.parts * x_stride;
  const std::int64_t partials = args.workspace.size / s.parameters();
  const bool four = has_per_head_linear_4(s);
  const auto weight_gradient = four ? per_head_linear_4_weight_gradient : weight_gradient_rows;
  const auto input_gradient = four ? per_head_linear_4_input_gradient : input_gradient_rows;
  float* dx = args.dx.f32().data;
  const float* dy = args.dy.f32().data;
  const float* x = args.x.f32().data;
  const float* weight = args.weight.f32().data;

  if (dx != nullptr) {
    pool_.for_ranges(args.rows, kRowsPerTask, [&](std::int64_t begin, std::int64_t end) {
      input_gradient(s, dy + begin * y_stride, weight, end - begin, args.accumulate_dx,
                     dx + begin * x_stride);
    });
  }
  if (!args.dweight && !args.dbias) return;
  pool_.parallel_for(partials, [&](int, std::int64_t part) {
    const std::int64_t begin = args.rows * part / partials;
    const std::int64_t end = args.rows * (part + 1) / partials;
    weight_gradient(s, dy + begin * y_stride, x + begin * x_stride, end - begin,
                    args.workspace.data + part * s.parameters());
  });
  const float* dweights = args.workspace.data;
  const float* dbiases = dweights + y_stride * s.head_size;
  add_partials(dweights, partials, s.parameters(), args.accumulate, args.dweight);
  add_partials(dbiases, partials, s.parameters(), args.accumulate, args.dbias);
}

}  // namespace vitrine::cpu
