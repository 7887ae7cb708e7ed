// Sums: of columns (the gradient of a bias), of parts, and the norm of all gradients.
//
//   column_sum     out[c] = sum_r x[r, c]
//   sum_parts      out[i] = sum_p parts[p, i]
//   gradient_norm  sqrt(sum_i g[i]^2), in double
//
// Every order of summation is fixed by the arguments: column_sum cuts the rows into as many runs as
// the workspace has rows and adds the runs in order, gradient_norm does so with blocks of 65,536
// elements. column_sum's `out` is written (=), or added to (+=) with accumulate.
#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/cpu_kernels.h"
#include "vitrine/arguments.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/reduce.cpp"
#include "hwy/foreach_target.h"
// clang-format off: the line above decides what the next one compiles for
#include "hwy/highway.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace vitrine::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Lanes(d) columns from `x` on, over all rows, kept in a register.
template <class D>
HWY_INLINE void sum_columns_at(D d, const float* x, std::int64_t rows, std::int64_t cols,
                               float* out) {
  auto even = hn::Zero(d);
  auto odd = hn::Zero(d);
  std::int64_t row = 0;
  for (; row + 2 <= rows; row += 2) {
    even = hn::Add(even, hn::LoadU(d, x + row * cols));
    odd = hn::Add(odd, hn::LoadU(d, x + (row + 1) * cols));
  }
  if (row < rows) even = hn::Add(even, hn::LoadU(d, x + row * cols));
  hn::StoreU(hn::Add(even, odd), d, out);
}

// Four vectors of columns at a time: a cache line or more of each row.
template <class D>
HWY_INLINE void sum_four_columns_at(D d, const float* x, std::int64_t rows, std::int64_t cols,
                                    float* out) {
  const std::int64_t lanes = hn::Lanes(d);
  auto sum0 = hn::Zero(d), sum1 = sum0, sum2 = sum0, sum3 = sum0;
  for (std::int64_t row = 0; row < rows; ++row, x += cols) {
    sum0 = hn::Add(sum0, hn::LoadU(d, x));
    sum1 = hn::Add(sum1, hn::LoadU(d, x + lanes));
    sum2 = hn::Add(sum2, hn::LoadU(d, x + 2 * lanes));
    sum3 = hn::Add(sum3, hn::LoadU(d, x + 3 * lanes));
  }
  hn::StoreU(sum0, d, out);
  hn::StoreU(sum1, d, out + lanes);
  hn::StoreU(sum2, d, out + 2 * lanes);
  hn::StoreU(sum3, d, out + 3 * lanes);
}

// Rows narrower than a vector that fill it several at a time: the rows of a vector are summed lane
// by lane, and these sums in their order.
void sum_narrow_columns(const float* x, std::int64_t rows, std::int64_t cols, float* out) {
  const hn::ScalableTag<float> d;
  const std::int64_t lanes = hn::Lanes(d);
  const std::int64_t rows_at_once = lanes / cols;
  const std::int64_t whole = rows / (4 * rows_at_once) * (4 * rows_at_once);
  HWY_ALIGN float sums[4 * HWY_MAX_BYTES / sizeof(float)];
  sum_four_columns_at(d, x, whole / (4 * rows_at_once), 4 * lanes, sums);
  for (std::int64_t col = 0; col < cols; ++col) {
    float sum = 0.0f;
    for (std::int64_t row = 0; row < 4 * rows_at_once; ++row) sum += sums[row * cols + col];
    for (std::int64_t row = whole; row < rows; ++row) sum += x[row * cols + col];
    out[col] = sum;
  }
}

void sum_columns(const float* x, std::int64_t rows, std::int64_t cols, float* out) {
  const hn::ScalableTag<float> d;
  const hn::CappedTag<float, 1> one;
  const std::int64_t lanes = hn::Lanes(d);
  if (cols < lanes && lanes % cols == 0) return sum_narrow_columns(x, rows, cols, out);
  std::int64_t col = 0;
  for (; col + 4 * lanes <= cols; col += 4 * lanes) {
    sum_four_columns_at(d, x + col, rows, cols, out + col);
  }
  for (; col + lanes <= cols; col += lanes) sum_columns_at(d, x + col, rows, cols, out + col);
  for (; col < cols; ++col) sum_columns_at(one, x + col, rows, cols, out + col);
}

template <class D>
HWY_INLINE void sum_parts_at(D d, const float* parts, std::int64_t num_parts, std::int64_t stride,
                             float* out) {
  auto sum = hn::LoadU(d, parts);
  for (std::int64_t p = 1; p < num_parts; ++p) {
    sum = hn::Add(sum, hn::LoadU(d, parts + p * stride));
  }
  hn::StoreU(sum, d, out);
}

void sum_parts_range(const float* parts, std::int64_t num_parts, std::int64_t stride,
                     std::int64_t begin, std::int64_t end, float* out) {
  const hn::ScalableTag<float> d;
  const hn::CappedTag<float, 1> one;
  const std::int64_t lanes = hn::Lanes(d);
  std::int64_t i = begin;
  for (; i + lanes <= end; i += lanes) sum_parts_at(d, parts + i, num_parts, stride, out + i);
  for (; i < end; ++i) sum_parts_at(one, parts + i, num_parts, stride, out + i);
}

// Squares are summed in double; a float's square cannot overflow there.
double sum_of_squares(const float* x, std::int64_t n) {
  const hn::ScalableTag<double> d;
  const hn::Rebind<float, decltype(d)> single;
  const std::int64_t lanes = hn::Lanes(d);
  auto sum0 = hn::Zero(d), sum1 = sum0;
  std::int64_t i = 0;
  for (; i + 2 * lanes <= n; i += 2 * lanes) {
    const auto x0 = hn::PromoteTo(d, hn::LoadU(single, x + i));
    const auto x1 = hn::PromoteTo(d, hn::LoadU(single, x + i + lanes));
    sum0 = hn::MulAdd(x0, x0, sum0);
    sum1 = hn::MulAdd(x1, x1, sum1);
  }
  double sum = hn::GetLane(hn::SumOfLanes(d, hn::Add(sum0, sum1)));
  for (; i < n; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return sum;
}

}  // namespace HWY_NAMESPACE
}  // namespace vitrine::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vitrine::cpu {

HWY_EXPORT(sum_columns);
HWY_EXPORT(sum_parts_range);
HWY_EXPORT(sum_of_squares);

namespace {
constexpr std::int64_t kPartsGrain = 16384;
constexpr std::int64_t kNormBlock = 65536;
}  // namespace

void CpuKernels::column_sum(const ColumnSum& args) {
  check_arguments(args);
  const std::int64_t partials = args.workspace.size / args.cols;
  const float* x = args.x.f32().data;
  pool_.parallel_for(partials, [&](int, std::int64_t part) {
    const std::int64_t begin = args.rows * part / partials;
    const std::int64_t end = args.rows * (part + 1) / partials;
    HWY_DYNAMIC_DISPATCH(sum_columns)
    (x + begin * args.cols, end - begin, args.cols, args.workspace.data + part * args.cols);
  });
  for (std::int64_t col = 0; col < args.cols; ++col) {
    float sum = args.workspace[col];
    for (std::int64_t part = 1; part < partials; ++part) {
      sum += args.workspace[part * args.cols + col];
    }
    args.out[col] = args.accumulate ? args.out[col] + sum : sum;
  }
}

void CpuKernels::sum_parts(const SumParts& args) {
  check_arguments(args);
  pool_.for_ranges(args.n, kPartsGrain, [&](std::int64_t begin, std::int64_t end) {
    HWY_DYNAMIC_DISPATCH(sum_parts_range)
    (args.parts.data, args.num_parts, args.n, begin, end, args.out.data);
  });
}

void CpuKernels::gradient_norm(const GradientNorm& args) {
  check_arguments(args);
  const std::int64_t n = args.gradients.size;
  std::vector<double> sums((n + kNormBlock - 1) / kNormBlock);
  pool_.for_ranges(n, kNormBlock, [&](std::int64_t begin, std::int64_t end) {
    sums[begin / kNormBlock] =
        HWY_DYNAMIC_DISPATCH(sum_of_squares)(args.gradients.data + begin, end - begin);
  });
  double sum = 0.0;
  for (const double s : sums) sum += s;
  OptimizerState& optimizer = *args.optimizer;
  optimizer.gradient_norm = std::sqrt(sum);
  if (std::isfinite(optimizer.gradient_norm)) {
    ++optimizer.adam_step;
  } else {
    ++optimizer.skipped_steps;
  }
}

}  // namespace vitrine::cpu
#endif  // HWY_ONCE
