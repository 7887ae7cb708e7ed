// A stand-in for what cuDNN does to rows, which benchmarks of the catalogue's kernels are held
// beside: softmax over all but the first dimension, and batch normalisation of channels, forward.
//
//   softmax   y = exp(x - max) / sum exp(x - max)
//   batch     y = (x - mean) * rstd * scale + shift over n, h, w of each channel
#include <cudnn.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "simt/cudnn_tensor.h"
#include "simt/streams.h"

namespace {

using simt::Blend, simt::Four, simt::Layout;
using simt::kC, simt::kH, simt::kN, simt::kW;

cudnnStatus_t submit(cudnnHandle_t handle, const char* what, std::function<void()> work) {
  const cudaError_t error = simt::submit(handle->stream, what, std::move(work));
  return error == cudaSuccess ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_EXECUTION_FAILED_CUDART;
}

void softmax(const Layout& from, const Layout& to, const Blend& blend, const void* x, void* y) {
  for (std::int64_t row = 0; row < from.sizes[kN]; ++row) {
    Layout one = from;
    one.sizes[kN] = 1;
    const std::int64_t x0 = row * from.strides[kN], y0 = row * to.strides[kN];
    float most = -INFINITY, sum = 0.0f;
    one.for_each([&](auto n, auto c, auto h, auto w) {
      most = std::max(most, load(from, x, x0 + from.at(n, c, h, w)));
    });
    one.for_each([&](auto n, auto c, auto h, auto w) {
      sum += std::exp(load(from, x, x0 + from.at(n, c, h, w)) - most);
    });
    one.for_each([&](auto n, auto c, auto h, auto w) {
      const float value = std::exp(load(from, x, x0 + from.at(n, c, h, w)) - most) / sum;
      blend.store(to, y, y0 + to.at(n, c, h, w), value);
    });
  }
}

struct Channels {
  Layout x, y;
  const float *scale, *shift;
  float *mean, *rstd;
  double eps;
};

void normalize(const Channels& channels, const Blend& blend, const void* x, void* y) {
  const Layout &from = channels.x, &to = channels.y;
  const auto count = static_cast<float>(from.sizes[kN] * from.sizes[kH] * from.sizes[kW]);
  for (std::int64_t channel = 0; channel < from.sizes[kC]; ++channel) {
    Layout one = from;
    one.sizes[kC] = 1;
    const std::int64_t x0 = channel * from.strides[kC], y0 = channel * to.strides[kC];
    float sum = 0.0f, squares = 0.0f;
    one.for_each(
        [&](auto n, auto c, auto h, auto w) { sum += load(from, x, x0 + from.at(n, c, h, w)); });
    const float mean = sum / count;
    one.for_each([&](auto n, auto c, auto h, auto w) {
      const float off = load(from, x, x0 + from.at(n, c, h, w)) - mean;
      squares += off * off;
    });
    const float rstd = 1.0f / std::sqrt(squares / count + static_cast<float>(channels.eps));
    if (channels.mean != nullptr) channels.mean[channel] = mean;
    if (channels.rstd != nullptr) channels.rstd[channel] = rstd;
    one.for_each([&](auto n, auto c, auto h, auto w) {
      const float normalised = (load(from, x, x0 + from.at(n, c, h, w)) - mean) * rstd;
      blend.store(to, y, y0 + to.at(n, c, h, w),
                  normalised * channels.scale[channel] + channels.shift[channel]);
    });
  }
}

}  // namespace

extern "C" {

cudnnStatus_t cudnnSoftmaxForward(cudnnHandle_t handle, cudnnSoftmaxAlgorithm_t algorithm,
                                  cudnnSoftmaxMode_t mode, const void* alpha,
                                  const cudnnTensorDescriptor_t x_descriptor, const void* x,
                                  const void* beta, const cudnnTensorDescriptor_t y_descriptor,
                                  void* y) {
  if (handle == nullptr || x_descriptor == nullptr || y_descriptor == nullptr) {
    return CUDNN_STATUS_BAD_PARAM_NULL_POINTER;
  }
  const Layout from = *x_descriptor, to = *y_descriptor;
  if (!from.is_set || from.sizes != to.sizes || from.type != to.type) return CUDNN_STATUS_BAD_PARAM;
  if (algorithm != CUDNN_SOFTMAX_ACCURATE || mode != CUDNN_SOFTMAX_MODE_INSTANCE) {
    return CUDNN_STATUS_NOT_SUPPORTED;
  }
  return submit(handle, "cudnnSoftmaxForward",
                [=, blend = Blend(alpha, beta)] { softmax(from, to, blend, x, y); });
}

cudnnStatus_t cudnnBatchNormalizationForwardTraining(
    cudnnHandle_t handle, cudnnBatchNormMode_t mode, const void* alpha, const void* beta,
    const cudnnTensorDescriptor_t x_descriptor, const void* x,
    const cudnnTensorDescriptor_t y_descriptor, void* y, const cudnnTensorDescriptor_t of_channels,
    const void* scale, const void* shift, double, void* running_mean, void* running_variance,
    double eps, void* saved_mean, void* saved_rstd) {
  if (handle == nullptr || x_descriptor == nullptr || y_descriptor == nullptr ||
      of_channels == nullptr) {
    return CUDNN_STATUS_BAD_PARAM_NULL_POINTER;
  }
  const Layout from = *x_descriptor, to = *y_descriptor;
  if (!from.is_set || from.sizes != to.sizes || from.type != to.type ||
      of_channels->type != CUDNN_DATA_FLOAT ||
      of_channels->sizes != Four{1, from.sizes[kC], 1, 1}) {
    return CUDNN_STATUS_BAD_PARAM;
  }
  if (mode != CUDNN_BATCHNORM_SPATIAL || running_mean != nullptr || running_variance != nullptr) {
    return CUDNN_STATUS_NOT_SUPPORTED;
  }
  const Channels channels{from,
                          to,
                          static_cast<const float*>(scale),
                          static_cast<const float*>(shift),
                          static_cast<float*>(saved_mean),
                          static_cast<float*>(saved_rstd),
                          eps};
  return submit(handle, "cudnnBatchNormalizationForwardTraining",
                [=, blend = Blend(alpha, beta)] { normalize(channels, blend, x, y); });
}

}  // extern "C"
