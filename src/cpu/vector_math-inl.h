// Elementary functions on Highway vectors: exp, and GELU with its derivative.
//
//   exp(x)       = 2^n · exp(r), n = round(x / ln 2), |r| ≤ ln 2 / 2, exp(r) by a polynomial
//   gelu_erf(x)  = x Φ(x)                 Hendrycks and Gimpel 2016, arXiv:1606.08415
//   gelu_tanh(x) = x σ(2u),  u = √(2/π) (x + 0.044715 x³);  ½ (1 + tanh u) = σ(2u)
//   Φ(-|x|)      = exp(-x²/2) · t P(t),  t = 1 / (1 + 0.33 |x|)     form: Abramowitz, Stegun 7.1.26
//
// One exp serves a function and its derivative. The coefficients are minimax fits.
// Included by files that foreach_target.h compiles once per target.
#include "hwy/highway.h"

// Highway's per-target include guard.
#if defined(VITRINE_CPU_VECTOR_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VITRINE_CPU_VECTOR_MATH_INL_H_
#undef VITRINE_CPU_VECTOR_MATH_INL_H_
#else
#define VITRINE_CPU_VECTOR_MATH_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace vitrine::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

/// exp(x), at most 2 ulp off for x in [-87.33, 88.37]: 0 below, growing to +inf above, NaN for NaN.
template <class D, class V = hn::VFromD<D>>
HWY_INLINE V FastExp(D d, V x) {
  constexpr float kLog2E = 1.44269504f;
  constexpr float kLn2High = 0.693359375f;  // few bits: n · kLn2High is exact
  constexpr float kLn2Low = -2.12194440e-4f;
  constexpr float kLowest = -87.3365448f;     // exp(kLowest) is the smallest normal number
  constexpr float kRoundToInt = 12582912.0f;  // 1.5 · 2^23: adding it leaves n in the low bits
  const hn::RebindToSigned<D> di;

  const V magic = hn::Set(d, kRoundToInt);
  // n ≤ 127, so that 2^n is finite; what is missing is left in r, whose polynomial then overflows.
  const V shifted =
      hn::Min(hn::MulAdd(x, hn::Set(d, kLog2E), magic), hn::Set(d, kRoundToInt + 127.0f));
  const V n = hn::Sub(shifted, magic);
  const V r = hn::NegMulAdd(n, hn::Set(d, kLn2Low), hn::NegMulAdd(n, hn::Set(d, kLn2High), x));

  // (exp(r) - 1 - r) / r², minimax on |r| ≤ ln 2 / 2: relative error of exp(r) 3e-9.
  const V r2 = hn::Mul(r, r);
  const V high = hn::MulAdd(hn::MulAdd(hn::Set(d, 1.38131448e-3f), r, hn::Set(d, 8.36941879e-3f)),
                            r, hn::Set(d, 4.16684560e-2f));
  const V low = hn::MulAdd(hn::Set(d, 1.66665152e-1f), r, hn::Set(d, 4.99999940e-1f));
  const V exp_r = hn::Add(hn::MulAdd(hn::MulAdd(high, r2, low), r2, r), hn::Set(d, 1.0f));

  const auto exponent = hn::ShiftLeft<23>(hn::BitCast(di, shifted));
  const V power = hn::BitCast(d, hn::Add(exponent, hn::Set(di, 0x3F800000)));
  return hn::IfThenZeroElse(hn::Lt(x, hn::Set(d, kLowest)), hn::Mul(exp_r, power));
}

/// A function and its derivative at the same point.
template <class V>
struct ValueAndDerivative {
  V value, derivative;
};

/// gelu_erf, absolute error of Φ 2e-7. Both results keep their sign and size in the left tail,
/// where 1 + erf would cancel.
template <class D, class V = hn::VFromD<D>>
HWY_INLINE ValueAndDerivative<V> GeluErf(D d, V x) {
  constexpr float kInvSqrt2Pi = 0.398942280f;
  const V one = hn::Set(d, 1.0f);
  const V gauss = FastExp(d, hn::Mul(hn::Mul(x, x), hn::Set(d, -0.5f)));

  const V t = hn::Div(one, hn::MulAdd(hn::Abs(x), hn::Set(d, 0.33f), one));
  const V t2 = hn::Mul(t, t);
  const V c0 = hn::MulAdd(hn::Set(d, 0.118378744f), t, hn::Set(d, 0.132751003f));
  const V c2 = hn::MulAdd(hn::Set(d, -0.0955820158f), t, hn::Set(d, 0.184600160f));
  const V c4 = hn::MulAdd(hn::Set(d, -0.223795608f), t, hn::Set(d, 0.337411910f));
  const V high = hn::MulAdd(hn::Set(d, 0.0462358221f), t2, c4);
  const V polynomial = hn::MulAdd(hn::MulAdd(high, t2, c2), t2, c0);

  const V tail = hn::Mul(hn::Mul(polynomial, t), gauss);  // Φ(-|x|)
  const V phi = hn::IfThenElse(hn::Lt(x, hn::Zero(d)), tail, hn::Sub(one, tail));
  const V density = hn::Mul(gauss, hn::Set(d, kInvSqrt2Pi));
  return {hn::Mul(x, phi), hn::MulAdd(x, density, phi)};
}

/// gelu_tanh.
template <class D, class V = hn::VFromD<D>>
HWY_INLINE ValueAndDerivative<V> GeluTanh(D d, V x) {
  constexpr float kLinear = 1.59576912f;   // 2 √(2/π)
  constexpr float kCubic = 0.0713548163f;  // 2 √(2/π) · 0.044715
  const V one = hn::Set(d, 1.0f);
  const V linear = hn::Set(d, kLinear);
  const V x2 = hn::Mul(x, x);
  const V u2 = hn::Mul(x, hn::MulAdd(x2, hn::Set(d, kCubic), linear));
  const V du2 = hn::MulAdd(x2, hn::Set(d, 3 * kCubic), linear);

  // With e = exp(-|2u|) no quotient overflows and σ(-|2u|) = e / (1 + e) keeps its precision.
  const V e = FastExp(d, hn::Neg(hn::Abs(u2)));
  const V inverse = hn::Div(one, hn::Add(one, e));
  const V small = hn::Mul(e, inverse);
  const V sigmoid = hn::IfThenElse(hn::Lt(x, hn::Zero(d)), small, inverse);
  const V slope = hn::Mul(hn::Mul(small, inverse), du2);  // derivative of σ(2u)
  return {hn::Mul(x, sigmoid), hn::MulAdd(x, slope, sigmoid)};
}

/// max(x, 0), with derivative 0 at 0.
template <class D, class V = hn::VFromD<D>>
HWY_INLINE ValueAndDerivative<V> Relu(D d, V x) {
  const V zero = hn::Zero(d);
  const auto positive = hn::Gt(x, zero);
  return {hn::IfThenZeroElse(hn::Lt(x, zero), x), hn::IfThenElseZero(positive, hn::Set(d, 1.0f))};
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace vitrine::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // VITRINE_CPU_VECTOR_MATH_INL_H_
