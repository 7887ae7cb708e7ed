// What all attention paths share: the softmax of a row and its gradient with 2^x, and the 4×4
// transpose that makes the packed copies the products read.
//
// Include after hwy/highway.h, inside a file compiled once per target.
#include "hwy/highway.h"

// Highway's per-target include guard.
#if defined(VITRINE_CPU_ATTENTION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VITRINE_CPU_ATTENTION_INL_H_
#undef VITRINE_CPU_ATTENTION_INL_H_
#else
#define VITRINE_CPU_ATTENTION_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace vitrine::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET <= HWY_AVX3
/// x - floor(x), and e · 2^floor(x), down to 0 without wrapping: two instructions of AVX-512.
HWY_INLINE __m128 FractionOf(__m128 x) {
  return _mm_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
}
HWY_INLINE __m256 FractionOf(__m256 x) {
  return _mm256_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
}
HWY_INLINE __m512 FractionOf(__m512 x) {
  return _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
}
HWY_INLINE __m128 TimesPowerOf2(__m128 e, __m128 x) {
  return _mm_scalef_ps(e, x);
}
HWY_INLINE __m256 TimesPowerOf2(__m256 e, __m256 x) {
  return _mm256_scalef_ps(e, x);
}
HWY_INLINE __m512 TimesPowerOf2(__m512 e, __m512 x) {
  return _mm512_scalef_ps(e, x);
}
#endif

/// 2^x for x up to 126, at most 2 ulp off for x ≥ -126 and 0 from -150 downwards; in between
/// AVX-512 gives the subnormal numbers, the others 0 from -127. No multiplication by log2 e, no
/// correction of the rounded exponent: the factor log2 e is in the scaled queries already.
template <class D, class V = hn::VFromD<D>>
HWY_INLINE V Exp2(D d, V x) {
#if HWY_TARGET <= HWY_AVX3
  const V r = V{FractionOf(x.raw)};
  // Minimax on 0 ≤ r ≤ 1, relative error 8.2e-8, exactly 1 at 0.
  V e = hn::MulAdd(r, hn::Set(d, 1.86713005e-3f), hn::Set(d, 9.017030708e-3f));
  e = hn::MulAdd(r, e, hn::Set(d, 5.579991266e-2f));
  e = hn::MulAdd(r, e, hn::Set(d, 2.401644439e-1f));
  e = hn::MulAdd(r, e, hn::Set(d, 6.931512952e-1f));
  e = hn::MulAdd(r, e, hn::Set(d, 1.0f));
  return V{TimesPowerOf2(e.raw, x.raw)};
#else
  constexpr float kRoundToInt = 12582912.0f;  // 1.5 · 2^23: adding it leaves n in the low bits
  const hn::RebindToSigned<D> di;
  const V lowest = hn::Set(d, -127.0f);
#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128
  x = hn::IfThenElse(hn::Lt(x, lowest), lowest, x);  // their Max forgets a NaN
#else
  x = hn::Max(lowest, x);  // in this order a NaN stays one
#endif
  const V shifted = hn::Add(x, hn::Set(d, kRoundToInt));
  const V r = hn::Sub(x, hn::Sub(shifted, hn::Set(d, kRoundToInt)));
  // Minimax on |r| ≤ 1/2, relative error 9.2e-8, exactly 1 at 0.
  V e = hn::MulAdd(r, hn::Set(d, 1.326472707e-3f), hn::Set(d, 9.671512649e-3f));
  e = hn::MulAdd(r, e, hn::Set(d, 5.550733744e-2f));
  e = hn::MulAdd(r, e, hn::Set(d, 2.402224209e-1f));
  e = hn::MulAdd(r, e, hn::Set(d, 6.931469776e-1f));
  e = hn::MulAdd(r, e, hn::Set(d, 1.0f));
  // n goes into the exponent; the upper bits of `shifted` leave on the left.
  const auto power = hn::ShiftLeft<23>(hn::BitCast(di, shifted));
  return hn::BitCast(d, hn::Add(hn::BitCast(di, e), power));
#endif
}

/// Element-wise maximum of `vectors` ≥ 1 vectors.
template <class D, class V = hn::VFromD<D>>
HWY_INLINE V MaxOfRow(D d, const float* HWY_RESTRICT p, std::int64_t vectors) {
  const auto n = static_cast<std::int64_t>(hn::Lanes(d));
  const float* end = p + vectors * n;
  V max = hn::Load(d, p), other = max;
  for (; p + 2 * n <= end; p += 2 * n) {
    max = hn::Max(hn::Load(d, p), max);
    other = hn::Max(hn::Load(d, p + n), other);
  }
  if (p < end) max = hn::Max(hn::Load(d, p), max);
  return hn::Max(other, max);
}

/// p = 2^(p - max) over a row of `vectors` vectors; returns their element-wise sum.
template <class D, class V>
HWY_INLINE V ExpOfRow(D d, float* HWY_RESTRICT p, std::int64_t vectors, V max) {
  const auto n = static_cast<std::int64_t>(hn::Lanes(d));
  V sum = hn::Zero(d);
  for (const float* end = p + vectors * n; p < end; p += n) {
    const V e = Exp2(d, hn::Sub(hn::Load(d, p), max));
    sum = hn::Add(sum, e);
    hn::Store(e, d, p);
  }
  return sum;
}

/// From scores and dP to P = 2^(p - log2_sum) and dS = P ∘ (dP - delta), in place.
template <class D, class V>
HWY_INLINE void GradientOfRow(D d, float* HWY_RESTRICT p, float* HWY_RESTRICT ds,
                              std::int64_t vectors, V log2_sum, V delta) {
  const auto n = static_cast<std::int64_t>(hn::Lanes(d));
  for (const float* end = p + vectors * n; p < end; p += n, ds += n) {
    const V e = Exp2(d, hn::Sub(hn::Load(d, p), log2_sum));
    hn::Store(e, d, p);
    hn::Store(hn::Mul(e, hn::Sub(hn::Load(d, ds), delta)), d, ds);
  }
}

/// to_c[r] = scale · from_r[c] for 4×4 elements.
HWY_INLINE void CopyTransposed4(const float* from0, const float* from1, const float* from2,
                                const float* from3, float scale, float* to0, float* to1, float* to2,
                                float* to3) {
#if HWY_TARGET == HWY_SCALAR
  const float* from[] = {from0, from1, from2, from3};
  for (int r = 0; r < 4; ++r) {
    to0[r] = scale * from[r][0];
    to1[r] = scale * from[r][1];
    to2[r] = scale * from[r][2];
    to3[r] = scale * from[r][3];
  }
#else
  const hn::CappedTag<float, 4> quad;
  const auto factor = hn::Set(quad, scale);
  const auto a = hn::Mul(hn::LoadU(quad, from0), factor);
  const auto b = hn::Mul(hn::LoadU(quad, from1), factor);
  const auto c = hn::Mul(hn::LoadU(quad, from2), factor);
  const auto d = hn::Mul(hn::LoadU(quad, from3), factor);
  const auto ab_low = hn::InterleaveLower(quad, a, b);
  const auto cd_low = hn::InterleaveLower(quad, c, d);
  const auto ab_high = hn::InterleaveUpper(quad, a, b);
  const auto cd_high = hn::InterleaveUpper(quad, c, d);
  hn::StoreU(hn::ConcatLowerLower(quad, cd_low, ab_low), quad, to0);
  hn::StoreU(hn::ConcatUpperUpper(quad, cd_low, ab_low), quad, to1);
  hn::StoreU(hn::ConcatLowerLower(quad, cd_high, ab_high), quad, to2);
  hn::StoreU(hn::ConcatUpperUpper(quad, cd_high, ab_high), quad, to3);
#endif
}

/// The same with the columns `to_stride` apart.
HWY_INLINE void CopyTransposed4(const float* from0, const float* from1, const float* from2,
                                const float* from3, float scale, float* to,
                                std::int64_t to_stride) {
  CopyTransposed4(from0, from1, from2, from3, scale, to, to + to_stride, to + 2 * to_stride,
                  to + 3 * to_stride);
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace vitrine::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // VITRINE_CPU_ATTENTION_INL_H_
