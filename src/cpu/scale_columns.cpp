// A factor for each column, and its gradient.
//
//   y = x · scale,   dx = dy · scale,   dscale = Σ_rows dy · x     LayerScale: Touvron et al. 2021,
//                                                                  arXiv:2103.17239
//
// dx is written (=). dscale is written, or added to (+=) with accumulate: the rows are cut into as
// many runs as the workspace has rows, summed row by row within a run and run by run after that.
#include <algorithm>

#include "cpu/branch.h"
#include "cpu/cpu_kernels.h"
#include "vitrine/arguments.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/scale_columns.cpp"
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "cpu/for_vectors-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace vitrine::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// out[r, c] = in[r, c] · scale[c]
void scale_rows(float* out, const float* in, const float* scale, std::int64_t rows,
                std::int64_t cols) {
  for (std::int64_t row = 0; row < rows; ++row, in += cols, out += cols) {
    for_vectors(cols, [=](auto d, std::int64_t i) HWY_ATTR {
      hn::StoreU(hn::Mul(hn::LoadU(d, in + i), hn::LoadU(d, scale + i)), d, out + i);
    });
  }
}

/// sums[c] += Σ_r a[r, c] · b[r, c]
void add_products(float* sums, const float* a, const float* b, std::int64_t rows,
                  std::int64_t cols) {
  for (std::int64_t row = 0; row < rows; ++row, a += cols, b += cols) {
    for_vectors(cols, [=](auto d, std::int64_t i) HWY_ATTR {
      const auto sum = hn::LoadU(d, sums + i);
      hn::StoreU(hn::MulAdd(hn::LoadU(d, a + i), hn::LoadU(d, b + i), sum), d, sums + i);
    });
  }
}

}  // namespace vitrine::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vitrine::cpu {

HWY_EXPORT(scale_rows);
HWY_EXPORT(add_products);

namespace {

/// Rows [begin, end): their part of dscale into `sums`, unless that is null, and then dx, which may
/// take the place of what the sums are made of.
void backward_rows(const ScaleColumnsBackward& args, std::int64_t begin, std::int64_t end,
                   float* sums) {
  const std::int64_t cols = args.cols, tile = std::max<std::int64_t>(2048 / cols, 1);  // 8 KB
  for (; begin < end; begin += tile) {
    const std::int64_t rows = std::min(tile, end - begin), at = begin * cols;
    const float* dy = args.dy.f32().data + at;
    if (sums != nullptr) {
      HWY_DYNAMIC_DISPATCH(add_products)(sums, dy, args.x.f32().data + at, rows, cols);
    }
    if (!args.dx) continue;
    HWY_DYNAMIC_DISPATCH(scale_rows)
    (args.dx.f32().data + at, dy, args.scale.f32().data, rows, cols);
  }
}

}  // namespace

void CpuKernels::scale_columns_forward(const ScaleColumnsForward& args) {
  check_arguments(args);
  const auto scale = HWY_DYNAMIC_DISPATCH(scale_rows);
  pool_.for_ranges(args.rows, row_grain(args.cols), [&](std::int64_t begin, std::int64_t end) {
    scale(args.y.f32().data + begin * args.cols, args.x.f32().data + begin * args.cols,
          args.scale.f32().data, end - begin, args.cols);
  });
}

void CpuKernels::scale_columns_backward(const ScaleColumnsBackward& args) {
  check_arguments(args);
  if (!args.dscale) {
    pool_.for_ranges(args.rows, row_grain(args.cols), [&](std::int64_t begin, std::int64_t end) {
      backward_rows(args, begin, end, nullptr);
    });
    return;
  }
  const std::int64_t partials = args.workspace.size / args.cols;
  pool_.parallel_for(partials, [&](int, std::int64_t part) {
    float* sums = args.workspace.data + part * args.cols;
    std::fill_n(sums, args.cols, 0.0f);
    backward_rows(args, args.rows * part / partials, args.rows * (part + 1) / partials, sums);
  });
  for (std::int64_t col = 0; col < args.cols; ++col) {
    float sum = args.workspace[col];
    for (std::int64_t part = 1; part < partials; ++part) {
      sum += args.workspace[part * args.cols + col];
    }
    args.dscale[col] = args.accumulate ? args.dscale[col] + sum : sum;
  }
}

}  // namespace vitrine::cpu
#endif  // HWY_ONCE
