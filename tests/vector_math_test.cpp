// The vector functions against libm in double, on every instruction set this machine has.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "vector_math_test.cpp"
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "cpu/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace vitrine::cpu::HWY_NAMESPACE {

/// out[i] = function(in[i]); in.size() is a multiple of every vector length.
template <class Function>
void apply(const std::vector<float>& in, std::vector<float>& out, const Function& function) {
  const hn::ScalableTag<float> d;
  for (std::size_t i = 0; i < in.size(); i += hn::Lanes(d)) {
    hn::StoreU(function(d, hn::LoadU(d, &in[i])), d, &out[i]);
  }
}

void exp_values(const std::vector<float>& in, std::vector<float>& out) {
  apply(in, out, [](auto d, auto x) HWY_ATTR { return FastExp(d, x); });
}
void gelu_erf_derivatives(const std::vector<float>& in, std::vector<float>& out) {
  apply(in, out, [](auto d, auto x) HWY_ATTR { return GeluErf(d, x).derivative; });
}
void gelu_erf_values(const std::vector<float>& in, std::vector<float>& out) {
  apply(in, out, [](auto d, auto x) HWY_ATTR { return GeluErf(d, x).value; });
}
void gelu_tanh_derivatives(const std::vector<float>& in, std::vector<float>& out) {
  apply(in, out, [](auto d, auto x) HWY_ATTR { return GeluTanh(d, x).derivative; });
}
void gelu_tanh_values(const std::vector<float>& in, std::vector<float>& out) {
  apply(in, out, [](auto d, auto x) HWY_ATTR { return GeluTanh(d, x).value; });
}

}  // namespace vitrine::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "for_targets.h"
#include "reference_check.h"

namespace vitrine::cpu {
namespace {

HWY_EXPORT(exp_values);
HWY_EXPORT(gelu_erf_values);
HWY_EXPORT(gelu_erf_derivatives);
HWY_EXPORT(gelu_tanh_values);
HWY_EXPORT(gelu_tanh_derivatives);

std::vector<float> ramp(float low, float high, std::int64_t n) {
  std::vector<float> values(n);
  for (std::int64_t i = 0; i < n; ++i) values[i] = low + (high - low) * float(i) / float(n - 1);
  return values;
}

TEST(VectorMath, ExpIsWithinTwoUlp) {
  const auto x = ramp(-87.33f, 88.37f, 1 << 18);
  for_targets([&] {
    auto y = poisoned(1 << 18);
    HWY_DYNAMIC_DISPATCH(exp_values)(x, y);
    double worst = 0.0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double exact = std::exp(double(x[i]));
      const double ulp = std::ldexp(1.0, std::ilogb(exact) - 23);
      worst = std::max(worst, std::abs(y[i] - exact) / ulp);
      ASSERT_FALSE(std::isnan(y[i])) << x[i];
    }
    EXPECT_LE(worst, 2.0);
  });
}

TEST(VectorMath, ExpAtTheEdges) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  std::vector<float> x(16, 0.0f);
  const float special[] = {-kInfinity, -1e30f,  -1000.0f, -88.0f,    -0.0f,
                           88.7f,      1000.0f, 1e30f,    kInfinity, NAN};
  std::copy(std::begin(special), std::end(special), x.begin());
  for_targets([&] {
    auto y = poisoned(16);
    HWY_DYNAMIC_DISPATCH(exp_values)(x, y);
    for (const int i : {0, 1, 2, 3}) EXPECT_EQ(y[i], 0.0f) << x[i];
    EXPECT_EQ(y[4], 1.0f);
    EXPECT_NEAR(y[5] / std::exp(88.7), 1.0, 1e-4);
    for (const int i : {6, 7, 8}) EXPECT_EQ(y[i], kInfinity) << x[i];
    EXPECT_TRUE(std::isnan(y[9]));
    EXPECT_EQ(y[10], 1.0f);
  });
}

template <typename T>
T gelu_erf(T x) {
  return T(0.5) * x * (T(1) + std::erf(x * T(0.7071067811865476)));
}
template <typename T>
T gelu_erf_derivative(T x) {
  return T(0.5) * (T(1) + std::erf(x * T(0.7071067811865476))) +
         x * T(0.3989422804014327) * std::exp(T(-0.5) * x * x);
}
template <typename T>
T tanh_argument(T x) {
  return T(0.7978845608028654) * (x + T(0.044715) * x * x * x);
}
template <typename T>
T gelu_tanh(T x) {
  return T(0.5) * x * (T(1) + std::tanh(tanh_argument(x)));
}
template <typename T>
T gelu_tanh_derivative(T x) {
  const T tanh_u = std::tanh(tanh_argument(x));
  const T du = T(0.7978845608028654) * (T(1) + T(3 * 0.044715) * x * x);
  return T(0.5) * (T(1) + tanh_u) + T(0.5) * x * (T(1) - tanh_u * tanh_u) * du;
}

/// The error rule for `values`, computed from `x` by a function whose template gives the rest.
template <typename Naive, typename Reference>
void expect_function(const std::vector<float>& x, const std::vector<float>& values,
                     const Naive& naive, const Reference& reference, const char* what) {
  std::vector<float> in_float(x.size());
  std::vector<double> in_double(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    in_float[i] = naive(x[i]);
    in_double[i] = reference(double(x[i]));
  }
  expect_close(values, in_float, in_double, what);
}

TEST(VectorMath, GeluMatchesReference) {
  // Near 0 the results are small, and so must be the errors; ±30 reaches where exp is 0.
  for (const float limit : {0.01f, 1.0f, 6.0f, 30.0f}) {
    SCOPED_TRACE("limit " + std::to_string(limit));
    const auto x = ramp(-limit, limit, 1 << 14);
    for_targets([&] {
      auto y = poisoned(1 << 14);
      HWY_DYNAMIC_DISPATCH(gelu_erf_values)(x, y);
      expect_function(x, y, gelu_erf<float>, gelu_erf<double>, "gelu_erf");
      HWY_DYNAMIC_DISPATCH(gelu_erf_derivatives)(x, y);
      expect_function(x, y, gelu_erf_derivative<float>, gelu_erf_derivative<double>, "gelu_erf'");
      HWY_DYNAMIC_DISPATCH(gelu_tanh_values)(x, y);
      expect_function(x, y, gelu_tanh<float>, gelu_tanh<double>, "gelu_tanh");
      HWY_DYNAMIC_DISPATCH(gelu_tanh_derivatives)(x, y);
      expect_function(x, y, gelu_tanh_derivative<float>, gelu_tanh_derivative<double>,
                      "gelu_tanh'");
    });
  }
}

}  // namespace
}  // namespace vitrine::cpu
#endif  // HWY_ONCE
