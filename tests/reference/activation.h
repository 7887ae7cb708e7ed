// The activation functions by their definitions, in any precision.
#pragma once

#include <cmath>
#include <vector>

#include "vitrine/kernels.h"

namespace vitrine::reference {

template <typename T>
T activation(ActivationKind kind, T x) {
  if (kind == ActivationKind::relu) return x > 0 ? x : T(0);
  if (kind == ActivationKind::gelu_erf) {
    return T(0.5) * x * (T(1) + std::erf(x * T(0.7071067811865476)));
  }
  const T u = T(0.7978845608028654) * (x + T(0.044715) * x * x * x);
  return T(0.5) * x * (T(1) + std::tanh(u));
}

template <typename T>
T activation_derivative(ActivationKind kind, T x) {
  if (kind == ActivationKind::relu) return x > 0 ? T(1) : T(0);
  if (kind == ActivationKind::gelu_erf) {
    return T(0.5) * (T(1) + std::erf(x * T(0.7071067811865476))) +
           x * T(0.3989422804014327) * std::exp(T(-0.5) * x * x);
  }
  const T tanh_u = std::tanh(T(0.7978845608028654) * (x + T(0.044715) * x * x * x));
  const T du = T(0.7978845608028654) * (T(1) + T(3 * 0.044715) * x * x);
  return T(0.5) * (T(1) + tanh_u) + T(0.5) * x * (T(1) - tanh_u * tanh_u) * du;
}

template <typename T>
struct ActivationValues {
  std::vector<T> y, derivative, pre_activation;
};

/// `bias` may be empty; `factors` are dropout's.
template <typename T>
ActivationValues<T> activation_forward(ActivationKind kind, const std::vector<T>& x,
                                       const std::vector<T>& bias,
                                       const std::vector<float>& factors) {
  ActivationValues<T> out{x, x, x};
  for (std::size_t i = 0; i < x.size(); ++i) {
    const T v = x[i] + (bias.empty() ? T(0) : bias[i % bias.size()]);
    out.pre_activation[i] = v;
    out.y[i] = activation(kind, v) * factors[i];
    out.derivative[i] = activation_derivative(kind, v) * factors[i];
  }
  return out;
}

}  // namespace vitrine::reference
