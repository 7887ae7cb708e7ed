// A stand-in for the calls of cuDNN that the engine makes, written from their documentation:
// plain loops over any strides. What descriptors, alpha and beta say is read at the call, memory
// when the work runs. With beta = 0 the output is not read.
//
// Stricter than cuDNN: a workspace is asked for and overwritten by every convolution but
// IMPLICIT_GEMM; algorithms that do not keep the order of their sums are not supported. Operands in
// f32 are rounded to tf32 wherever the math type permits it. Convolutions without padding and
// dilation only.
#include "simt/cudnn.h"

#include <cudnn.h>

#include <atomic>
#include <cstdint>
#include <cstring>
#include <functional>
#include <utility>

#include "simt/cudnn_tensor.h"
#include "simt/streams.h"

namespace {

using simt::Blend, simt::Four, simt::Layout;
using simt::kC, simt::kH, simt::kN, simt::kW;

struct Counter {
  std::atomic<std::int64_t> handles{0}, descriptors{0}, queries{0}, work{0}, alive{0};
} counter;

}  // namespace

struct cudnnFilterStruct : Layout {};
struct cudnnConvolutionStruct {
  std::int64_t stride_h = 0, stride_w = 0;
  cudnnMathType_t math = CUDNN_DEFAULT_MATH;
};

namespace {

template <typename Object>
cudnnStatus_t create(Object** object, std::atomic<std::int64_t>& made) {
  if (object == nullptr) return CUDNN_STATUS_BAD_PARAM_NULL_POINTER;
  *object = new Object;
  ++made;
  ++counter.alive;
  return CUDNN_STATUS_SUCCESS;
}

template <typename Object>
cudnnStatus_t destroy(Object* object) {
  if (object == nullptr) return CUDNN_STATUS_BAD_PARAM_NULL_POINTER;
  delete object;
  --counter.alive;
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t set(Layout* descriptor, const Layout& layout) {
  if (descriptor == nullptr || !layout.valid()) return CUDNN_STATUS_BAD_PARAM;
  *descriptor = layout;
  ++counter.descriptors;
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t submit(cudnnHandle_t handle, const char* what, std::function<void()> work) {
  ++counter.work;
  const cudaError_t error = simt::submit(handle->stream, what, std::move(work));
  return error == cudaSuccess ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_EXECUTION_FAILED_CUDART;
}

/// y = x * w: what the three tensors of a convolution and its descriptor say together.
struct Convolution {
  Layout x, w, y;
  std::int64_t stride_h, stride_w;
  bool tf32;

  /// One type, and sizes that follow from each other.
  bool consistent() const {
    const auto out = [](std::int64_t in, std::int64_t filter, std::int64_t stride) {
      return in < filter ? 0 : (in - filter) / stride + 1;
    };
    return x.is_set && w.is_set && y.is_set && x.type == w.type && x.type == y.type &&
           stride_h > 0 && stride_w > 0 && x.sizes[kC] == w.sizes[kC] &&
           y.sizes == Four{x.sizes[kN], w.sizes[kN], out(x.sizes[kH], w.sizes[kH], stride_h),
                           out(x.sizes[kW], w.sizes[kW], stride_w)};
  }
  float operand(const Layout& layout, const void* data, std::int64_t i) const {
    const float value = load(layout, data, i);
    return tf32 ? simt::to_tf32(value) : value;
  }
  std::size_t workspace() const { return 4 * w.sizes[kC] * w.sizes[kH] * w.sizes[kW]; }
};

Convolution describe(const Layout* x, const Layout* w, const Layout* y,
                     cudnnConvolutionDescriptor_t convolution) {
  if (x == nullptr || w == nullptr || y == nullptr || convolution == nullptr) return {};
  return {*x,
          *w,
          *y,
          convolution->stride_h,
          convolution->stride_w,
          x->type == CUDNN_DATA_FLOAT && convolution->math != CUDNN_FMA_MATH};
}

// A chip starts a sum from zero and adds the products in float.
void convolve(const Convolution& c, const Blend& blend, const void* x, const void* w, void* y) {
  c.y.for_each([&](auto n, auto k, auto h, auto v) {
    float sum = 0.0f;
    for (std::int64_t channel = 0; channel < c.x.sizes[kC]; ++channel) {
      for (std::int64_t i = 0; i < c.w.sizes[kH]; ++i) {
        for (std::int64_t j = 0; j < c.w.sizes[kW]; ++j) {
          sum += c.operand(c.x, x, c.x.at(n, channel, h * c.stride_h + i, v * c.stride_w + j)) *
                 c.operand(c.w, w, c.w.at(k, channel, i, j));
        }
      }
    }
    blend.store(c.y, y, c.y.at(n, k, h, v), sum);
  });
}

void convolve_gradient(const Convolution& c, const Blend& blend, const void* x, const void* dy,
                       void* dw) {
  c.w.for_each([&](auto k, auto channel, auto i, auto j) {
    float sum = 0.0f;
    for (std::int64_t n = 0; n < c.y.sizes[kN]; ++n) {
      for (std::int64_t h = 0; h < c.y.sizes[kH]; ++h) {
        for (std::int64_t v = 0; v < c.y.sizes[kW]; ++v) {
          sum += c.operand(c.x, x, c.x.at(n, channel, h * c.stride_h + i, v * c.stride_w + j)) *
                 c.operand(c.y, dy, c.y.at(n, k, h, v));
        }
      }
    }
    blend.store(c.w, dw, c.w.at(k, channel, i, j), sum);
  });
}

cudnnStatus_t workspace_size(const Convolution& convolution, bool needed, std::size_t* bytes) {
  if (bytes == nullptr || !convolution.consistent()) return CUDNN_STATUS_BAD_PARAM;
  ++counter.queries;
  *bytes = needed ? convolution.workspace() : 0;
  return CUDNN_STATUS_SUCCESS;
}

/// Whether a convolution may be called so, the memory behind its pointers apart.
cudnnStatus_t check_call(const Convolution& convolution, std::size_t needed, const void* workspace,
                         std::size_t workspace_bytes) {
  if (!convolution.consistent()) return CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH;
  if (needed == 0) return CUDNN_STATUS_SUCCESS;
  if (workspace == nullptr) return CUDNN_STATUS_BAD_PARAM_NULL_POINTER;
  return workspace_bytes < needed ? CUDNN_STATUS_BAD_PARAM_SIZE_INSUFFICIENT : CUDNN_STATUS_SUCCESS;
}

}  // namespace

namespace simt {

CudnnCalls cudnn_calls() {
  return {counter.handles, counter.descriptors, counter.queries, counter.work, counter.alive};
}

}  // namespace simt

extern "C" {

const char* cudnnGetErrorString(cudnnStatus_t status) {
  switch (status) {
    case CUDNN_STATUS_SUCCESS:
      return "CUDNN_STATUS_SUCCESS";
    case CUDNN_STATUS_NOT_SUPPORTED:
      return "CUDNN_STATUS_NOT_SUPPORTED";
    case CUDNN_STATUS_EXECUTION_FAILED_CUDART:
      return "CUDNN_STATUS_EXECUTION_FAILED_CUDART";
    default:
      return "CUDNN_STATUS_BAD_PARAM";
  }
}

std::size_t cudnnGetVersion() {
  return CUDNN_VERSION;
}

cudnnStatus_t cudnnCreate(cudnnHandle_t* handle) {
  return create(handle, counter.handles);
}

cudnnStatus_t cudnnDestroy(cudnnHandle_t handle) {
  return destroy(handle);
}

cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream) {
  if (handle == nullptr) return CUDNN_STATUS_BAD_PARAM_NULL_POINTER;
  handle->stream = stream;
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnCreateTensorDescriptor(cudnnTensorDescriptor_t* descriptor) {
  return create(descriptor, counter.descriptors);
}

cudnnStatus_t cudnnSetTensor4dDescriptorEx(cudnnTensorDescriptor_t descriptor, cudnnDataType_t type,
                                           int n, int c, int h, int w, int n_stride, int c_stride,
                                           int h_stride, int w_stride) {
  return set(descriptor, {type, {n, c, h, w}, {n_stride, c_stride, h_stride, w_stride}, true});
}

cudnnStatus_t cudnnDestroyTensorDescriptor(cudnnTensorDescriptor_t descriptor) {
  return destroy(descriptor);
}

cudnnStatus_t cudnnCreateFilterDescriptor(cudnnFilterDescriptor_t* descriptor) {
  return create(descriptor, counter.descriptors);
}

cudnnStatus_t cudnnSetFilter4dDescriptor(cudnnFilterDescriptor_t descriptor, cudnnDataType_t type,
                                         cudnnTensorFormat_t format, int k, int c, int h, int w) {
  if (format != CUDNN_TENSOR_NCHW) return CUDNN_STATUS_NOT_SUPPORTED;
  return set(descriptor, simt::packed(type, {k, c, h, w}));
}

cudnnStatus_t cudnnDestroyFilterDescriptor(cudnnFilterDescriptor_t descriptor) {
  return destroy(descriptor);
}

cudnnStatus_t cudnnCreateConvolutionDescriptor(cudnnConvolutionDescriptor_t* descriptor) {
  return create(descriptor, counter.descriptors);
}

cudnnStatus_t cudnnSetConvolution2dDescriptor(cudnnConvolutionDescriptor_t descriptor, int pad_h,
                                              int pad_w, int stride_h, int stride_w, int dilation_h,
                                              int dilation_w, cudnnConvolutionMode_t mode,
                                              cudnnDataType_t compute_type) {
  if (descriptor == nullptr || stride_h < 1 || stride_w < 1) return CUDNN_STATUS_BAD_PARAM;
  if (pad_h != 0 || pad_w != 0 || dilation_h != 1 || dilation_w != 1 ||
      mode != CUDNN_CROSS_CORRELATION || compute_type != CUDNN_DATA_FLOAT) {
    return CUDNN_STATUS_NOT_SUPPORTED;
  }
  descriptor->stride_h = stride_h;
  descriptor->stride_w = stride_w;
  ++counter.descriptors;
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetConvolutionMathType(cudnnConvolutionDescriptor_t descriptor,
                                          cudnnMathType_t math) {
  if (descriptor == nullptr) return CUDNN_STATUS_BAD_PARAM_NULL_POINTER;
  descriptor->math = math;
  ++counter.descriptors;
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnDestroyConvolutionDescriptor(cudnnConvolutionDescriptor_t descriptor) {
  return destroy(descriptor);
}

cudnnStatus_t cudnnGetConvolutionForwardWorkspaceSize(
    cudnnHandle_t handle, const cudnnTensorDescriptor_t x, const cudnnFilterDescriptor_t w,
    const cudnnConvolutionDescriptor_t convolution, const cudnnTensorDescriptor_t y,
    cudnnConvolutionFwdAlgo_t algorithm, size_t* bytes) {
  if (handle == nullptr) return CUDNN_STATUS_BAD_PARAM_NULL_POINTER;
  return workspace_size(describe(x, w, y, convolution),
                        algorithm != CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM, bytes);
}

cudnnStatus_t cudnnConvolutionForward(cudnnHandle_t handle, const void* alpha,
                                      const cudnnTensorDescriptor_t x_descriptor, const void* x,
                                      const cudnnFilterDescriptor_t w_descriptor, const void* w,
                                      const cudnnConvolutionDescriptor_t descriptor,
                                      cudnnConvolutionFwdAlgo_t algorithm, void* workspace,
                                      size_t workspace_bytes, const void* beta,
                                      const cudnnTensorDescriptor_t y_descriptor, void* y) {
  if (handle == nullptr) return CUDNN_STATUS_BAD_PARAM_NULL_POINTER;
  if (algorithm != CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM &&
      algorithm != CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM) {
    return CUDNN_STATUS_NOT_SUPPORTED;
  }
  const Convolution convolution = describe(x_descriptor, w_descriptor, y_descriptor, descriptor);
  const bool precomputes = algorithm == CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM;
  const std::size_t scratch = precomputes ? convolution.workspace() : 0;
  const cudnnStatus_t status = check_call(convolution, scratch, workspace, workspace_bytes);
  if (status != CUDNN_STATUS_SUCCESS) return status;
  return submit(handle, "cudnnConvolutionForward", [=, blend = Blend(alpha, beta)] {
    if (scratch > 0) std::memset(workspace, 0xFF, scratch);
    convolve(convolution, blend, x, w, y);
  });
}

cudnnStatus_t cudnnGetConvolutionBackwardFilterWorkspaceSize(
    cudnnHandle_t handle, const cudnnTensorDescriptor_t x, const cudnnTensorDescriptor_t dy,
    const cudnnConvolutionDescriptor_t convolution, const cudnnFilterDescriptor_t dw,
    cudnnConvolutionBwdFilterAlgo_t, size_t* bytes) {
  if (handle == nullptr) return CUDNN_STATUS_BAD_PARAM_NULL_POINTER;
  return workspace_size(describe(x, dw, dy, convolution), true, bytes);
}

cudnnStatus_t cudnnConvolutionBackwardFilter(
    cudnnHandle_t handle, const void* alpha, const cudnnTensorDescriptor_t x_descriptor,
    const void* x, const cudnnTensorDescriptor_t dy_descriptor, const void* dy,
    const cudnnConvolutionDescriptor_t descriptor, cudnnConvolutionBwdFilterAlgo_t algorithm,
    void* workspace, size_t workspace_bytes, const void* beta,
    const cudnnFilterDescriptor_t dw_descriptor, void* dw) {
  if (handle == nullptr) return CUDNN_STATUS_BAD_PARAM_NULL_POINTER;
  if (algorithm != CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1) return CUDNN_STATUS_NOT_SUPPORTED;
  const Convolution convolution = describe(x_descriptor, dw_descriptor, dy_descriptor, descriptor);
  const std::size_t scratch = convolution.workspace();
  const cudnnStatus_t status = check_call(convolution, scratch, workspace, workspace_bytes);
  if (status != CUDNN_STATUS_SUCCESS) return status;
  return submit(handle, "cudnnConvolutionBackwardFilter", [=, blend = Blend(alpha, beta)] {
    std::memset(workspace, 0xFF, scratch);
    convolve_gradient(convolution, blend, x, dy, dw);
  });
}

cudnnStatus_t cudnnTransformTensor(cudnnHandle_t handle, const void* alpha,
                                   const cudnnTensorDescriptor_t x_descriptor, const void* x,
                                   const void* beta, const cudnnTensorDescriptor_t y_descriptor,
                                   void* y) {
  if (handle == nullptr || x_descriptor == nullptr || y_descriptor == nullptr) {
    return CUDNN_STATUS_BAD_PARAM_NULL_POINTER;
  }
  const Layout from = *x_descriptor, to = *y_descriptor;
  if (!from.is_set || from.sizes != to.sizes || from.type != to.type) return CUDNN_STATUS_BAD_PARAM;
  return submit(handle, "cudnnTransformTensor", [=, blend = Blend(alpha, beta)] {
    to.for_each([&](auto n, auto c, auto h, auto w) {
      blend.store(to, y, to.at(n, c, h, w), load(from, x, from.at(n, c, h, w)));
    });
  });
}

// A dimension of size 1 is repeated.
cudnnStatus_t cudnnAddTensor(cudnnHandle_t handle, const void* alpha,
                             const cudnnTensorDescriptor_t a_descriptor, const void* a,
                             const void* beta, const cudnnTensorDescriptor_t c_descriptor,
                             void* c) {
  if (handle == nullptr || a_descriptor == nullptr || c_descriptor == nullptr) {
    return CUDNN_STATUS_BAD_PARAM_NULL_POINTER;
  }
  Layout added = *a_descriptor;
  const Layout sum = *c_descriptor;
  if (!added.is_set || !sum.is_set || added.type != sum.type) return CUDNN_STATUS_BAD_PARAM;
  for (int i = 0; i < 4; ++i) {
    if (added.sizes[i] != 1 && added.sizes[i] != sum.sizes[i]) return CUDNN_STATUS_BAD_PARAM;
    if (added.sizes[i] == 1) added.strides[i] = 0;
  }
  return submit(handle, "cudnnAddTensor", [=, blend = Blend(alpha, beta)] {
    sum.for_each([&](auto n, auto k, auto h, auto w) {
      blend.store(sum, c, sum.at(n, k, h, w), load(added, a, added.at(n, k, h, w)));
    });
  });
}

}  // extern "C"
