// The residual stream: y = x + drop_path(dropout(branch)), its gradient, and plain sums.
//
//   He et al. 2016, arXiv:1512.03385;  drop-path: Huang et al. 2016, arXiv:1603.09382
//
// Rows of one sample are neighbours in the unpruned tensor too, so factors are drawn for runs of
// elements, a stack buffer at a time. Gradients are written (=).
#include <algorithm>

#include "cpu/branch.h"
#include "cpu/cpu_kernels.h"
#include "vitrine/arguments.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/residual.cpp"
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "cpu/for_vectors-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace vitrine::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// out = a + b
void add_vectors(float* out, const float* a, const float* b, std::int64_t n) {
  for_vectors(n, [=](auto d, std::int64_t i) HWY_ATTR {
    hn::StoreU(hn::Add(hn::LoadU(d, a + i), hn::LoadU(d, b + i)), d, out + i);
  });
}

/// out = a + b · factors · scale; no factors: 1
void add_scaled(float* out, const float* a, const float* b, const float* factors, float scale,
                std::int64_t n) {
  for_vectors(n, [=](auto d, std::int64_t i) HWY_ATTR {
    auto factor = hn::Set(d, scale);
    if (factors != nullptr) factor = hn::Mul(factor, hn::LoadU(d, factors + i));
    hn::StoreU(hn::MulAdd(hn::LoadU(d, b + i), factor, hn::LoadU(d, a + i)), d, out + i);
  });
}

/// out = in · factors · scale; no factors: 1
void scale_vectors(float* out, const float* in, const float* factors, float scale, std::int64_t n) {
  for_vectors(n, [=](auto d, std::int64_t i) HWY_ATTR {
    auto factor = hn::Set(d, scale);
    if (factors != nullptr) factor = hn::Mul(factor, hn::LoadU(d, factors + i));
    hn::StoreU(hn::Mul(hn::LoadU(d, in + i), factor), d, out + i);
  });
}

}  // namespace vitrine::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vitrine::cpu {

HWY_EXPORT(add_vectors);
HWY_EXPORT(add_scaled);
HWY_EXPORT(scale_vectors);

/// Calls apply(offset, n, factors, scale) for pieces that cover rows [begin, end).
template <typename Apply>
void Branch::for_pieces(std::int64_t begin, std::int64_t end, const Apply& apply) const {
  constexpr std::int64_t kPiece = 1024;
  float factors[kPiece];
  while (begin < end) {
    const std::int64_t sample = begin / window_.tokens;
    const std::int64_t run_end = std::min(end, (sample + 1) * window_.tokens);
    const std::int64_t run = (run_end - begin) * cols_;
    const float scale =
        drop_path_.probability > 0.0f
            ? drop_path_factor(static_cast<std::uint64_t>(state_->first_row + sample), drop_path_,
                               *state_)
            : 1.0f;
    if (dropout_.probability > 0.0f) {
      const std::uint64_t element = unpruned_element(begin, cols_, window_, *state_);
      for (std::int64_t i = 0; i < run; i += kPiece) {
        const std::int64_t n = std::min(kPiece, run - i);
        dropout_factors(factors, n, element + static_cast<std::uint64_t>(i), dropout_, *state_);
        apply(begin * cols_ + i, n, factors, scale);
      }
    } else {
      apply(begin * cols_, run, nullptr, scale);
    }
    begin = run_end;
  }
}

void Branch::add(float* out, const float* x, const float* branch, std::int64_t begin,
                 std::int64_t end) const {
  if (dropout_.probability == 0.0f && drop_path_.probability == 0.0f) {
    const std::int64_t i = begin * cols_;
    HWY_DYNAMIC_DISPATCH(add_vectors)(out + i, x + i, branch + i, (end - begin) * cols_);
    return;
  }
  const auto add = HWY_DYNAMIC_DISPATCH(add_scaled);
  for_pieces(begin, end, [&](std::int64_t i, std::int64_t n, const float* factors, float scale) {
    add(out + i, x + i, branch + i, factors, scale, n);
  });
}

void Branch::scale(float* out, const float* in, std::int64_t begin, std::int64_t end) const {
  const auto scale_piece = HWY_DYNAMIC_DISPATCH(scale_vectors);
  if (dropout_.probability == 0.0f && drop_path_.probability == 0.0f) {
    const std::int64_t i = begin * cols_;
    if (out != in) std::copy_n(in + i, (end - begin) * cols_, out + i);
    return;
  }
  for_pieces(begin, end, [&](std::int64_t i, std::int64_t n, const float* factors, float scale) {
    scale_piece(out + i, in + i, factors, scale, n);
  });
}

void CpuKernels::residual_forward(const ResidualForward& args) {
  check_arguments(args);
  const Branch branch(args);
  float* y = args.y.f32().data;
  const float* x = args.x.f32().data;
  const float* in = args.branch.f32().data;
  pool_.for_ranges(args.rows, row_grain(args.cols),
                   [&](std::int64_t begin, std::int64_t end) { branch.add(y, x, in, begin, end); });
}

void CpuKernels::residual_backward(const ResidualBackward& args) {
  check_arguments(args);
  const Branch branch(args);
  float* dbranch = args.dbranch.f32().data;
  const float* dy = args.dy.f32().data;
  pool_.for_ranges(args.rows, row_grain(args.cols), [&](std::int64_t begin, std::int64_t end) {
    branch.scale(dbranch, dy, begin, end);
  });
}

void CpuKernels::add(const Add& args) {
  check_arguments(args);
  float* out = args.out.f32().data;
  const float* a = args.a.f32().data;
  const float* b = args.b.f32().data;
  const auto add = HWY_DYNAMIC_DISPATCH(add_vectors);
  pool_.for_ranges(args.out.size, row_grain(1), [&](std::int64_t begin, std::int64_t end) {
    add(out + begin, a + begin, b + begin, end - begin);
  });
}

}  // namespace vitrine::cpu
#endif  // HWY_ONCE
