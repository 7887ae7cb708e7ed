// Descriptors and memory, one set per shape, and the calls that use them.
//
// Algorithms are fixed, not searched for, and sum in a fixed order: of the filter gradients
// BWD_FILTER_ALGO_0 and _3 add with atomics, _1 does not; forward algorithms all keep an order.
#include "cuda/cudnn_convolution.h"

#include <cuda_runtime_api.h>
#include <cudnn.h>

#include <algorithm>
#include <compare>
#include <limits>
#include <map>
#include <mutex>
#include <string>
#include <type_traits>
#include <utility>

#include "cuda/check.h"

namespace vitrine::cuda {
namespace {

constexpr float kOne = 1.0f, kZero = 0.0f;
constexpr auto kForward = CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM;
constexpr auto kFilterGradient = CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1;

void check(cudnnStatus_t status, const char* call) {
  if (status == CUDNN_STATUS_SUCCESS) return;
  throw DeviceError(std::string("patch_convolution: ") + call + " returned " +
                    cudnnGetErrorString(status) + ", expected success");
}

/// Owns what cuDNN made.
template <auto kDestroy>
struct Destroy {
  template <typename T>
  void operator()(T* object) const {
    kDestroy(object);
  }
};
template <typename Pointer, auto kDestroy>
using Owned = std::unique_ptr<std::remove_pointer_t<Pointer>, Destroy<kDestroy>>;

using Handle = Owned<cudnnHandle_t, cudnnDestroy>;
using TensorDescriptor = Owned<cudnnTensorDescriptor_t, cudnnDestroyTensorDescriptor>;
using FilterDescriptor = Owned<cudnnFilterDescriptor_t, cudnnDestroyFilterDescriptor>;
using ConvolutionDescriptor =
    Owned<cudnnConvolutionDescriptor_t, cudnnDestroyConvolutionDescriptor>;

template <typename Object>
Object created(cudnnStatus_t (*create)(typename Object::pointer*), const char* call) {
  typename Object::pointer object = nullptr;
  check(create(&object), call);
  return Object(object);
}

cudnnDataType_t cudnn_type(DType dtype) {
  switch (dtype) {
    case DType::bf16:
      return CUDNN_DATA_BFLOAT16;
    case DType::f16:
      return CUDNN_DATA_HALF;
    default:
      return CUDNN_DATA_FLOAT;
  }
}

enum class Direction { forward, backward };

/// What a plan depends on.
struct Problem {
  std::int64_t batch, channels, height, width, patch_size, hidden;
  DType dtype;
  bool tf32;
  Direction direction;

  auto operator<=>(const Problem&) const = default;
  std::int64_t rows() const { return height / patch_size; }
  std::int64_t cols() const { return width / patch_size; }
  std::int64_t y_size() const { return batch * hidden * rows() * cols(); }
};

template <typename Args>
Problem problem_of(const Args& args, Direction direction) {
  return {.batch = args.batch,
          .channels = args.channels,
          .height = args.height,
          .width = args.width,
          .patch_size = args.patch_size,
          .hidden = args.hidden,
          .dtype = args.images.dtype,
          .tf32 = args.tf32,
          .direction = direction};
}

/// cuDNN counts in int.
int checked(const char* what, std::int64_t count) {
  constexpr std::int64_t kMost = std::numeric_limits<int>::max();
  if (count > kMost) {
    throw DeviceError(std::string("patch_convolution: ") + what + " has " + std::to_string(count) +
                      " elements, expected at most " + std::to_string(kMost));
  }
  return static_cast<int>(count);
}

struct Strides {
  std::int64_t n, c, h, w;
};

TensorDescriptor tensor(const char* what, DType dtype, std::int64_t n, std::int64_t c,
                        std::int64_t h, std::int64_t w, const Strides& strides) {
  checked(what, n * c * h * w);
  auto descriptor =
      created<TensorDescriptor>(cudnnCreateTensorDescriptor, "cudnnCreateTensorDescriptor");
  check(cudnnSetTensor4dDescriptorEx(descriptor.get(), cudnn_type(dtype), static_cast<int>(n),
                                     static_cast<int>(c), static_cast<int>(h), static_cast<int>(w),
                                     static_cast<int>(strides.n), static_cast<int>(strides.c),
                                     static_cast<int>(strides.h), static_cast<int>(strides.w)),
        "cudnnSetTensor4dDescriptorEx");
  return descriptor;
}

TensorDescriptor planes(const char* what, DType dtype, std::int64_t n, std::int64_t c,
                        std::int64_t h, std::int64_t w) {
  return tensor(what, dtype, n, c, h, w, {.n = c * h * w, .c = h * w, .h = w, .w = 1});
}

FilterDescriptor filter(const Problem& p) {
  checked("weight", p.hidden * p.channels * p.patch_size * p.patch_size);
  auto descriptor =
      created<FilterDescriptor>(cudnnCreateFilterDescriptor, "cudnnCreateFilterDescriptor");
  check(cudnnSetFilter4dDescriptor(descriptor.get(), cudnn_type(p.dtype), CUDNN_TENSOR_NCHW,
                                   static_cast<int>(p.hidden), static_cast<int>(p.channels),
                                   static_cast<int>(p.patch_size), static_cast<int>(p.patch_size)),
        "cudnnSetFilter4dDescriptor");
  return descriptor;
}

/// The default would use tf32 for f32 operands: that is said with FMA_MATH, allowed with DEFAULT.
cudnnMathType_t math_type(const Problem& p) {
  if (p.dtype != DType::f32) return CUDNN_TENSOR_OP_MATH;
  return p.tf32 ? CUDNN_DEFAULT_MATH : CUDNN_FMA_MATH;
}

ConvolutionDescriptor convolution(const Problem& p) {
  auto descriptor = created<ConvolutionDescriptor>(cudnnCreateConvolutionDescriptor,
                                                   "cudnnCreateConvolutionDescriptor");
  const int stride = static_cast<int>(p.patch_size);
  check(cudnnSetConvolution2dDescriptor(descriptor.get(), 0, 0, stride, stride, 1, 1,
                                        CUDNN_CROSS_CORRELATION, CUDNN_DATA_FLOAT),
        "cudnnSetConvolution2dDescriptor");
  check(cudnnSetConvolutionMathType(descriptor.get(), math_type(p)), "cudnnSetConvolutionMathType");
  return descriptor;
}

struct FreeDeviceMemory {
  void operator()(void* data) const { cudaFree(data); }
};
using DeviceMemory = std::unique_ptr<void, FreeDeviceMemory>;

DeviceMemory allocate(const Problem& p, std::size_t bytes) {
  void* data = nullptr;
  const cudaError_t status = cudaMalloc(&data, bytes);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // the runtime would report it again
    throw OutOfMemory(std::string("patch_convolution_") +
                      (p.direction == Direction::forward ? "forward" : "backward") + ": found no " +
                      std::to_string(bytes) +
                      " bytes of device memory for cuDNN's workspace, expected them free");
  }
  cuda::check("cudaMalloc", status);
  return DeviceMemory(data);
}

/// Memory for cuDNN's own use.
struct Workspace {
  void* data = nullptr;
  std::size_t bytes = 0;
  DeviceMemory owned;  ///< null: it is the one that all plans share
};

/// [B, D, H/s, W/s] in planes and as it lies in [B, P, D]; the rest as the caller has it.
struct Plan {
  TensorDescriptor images, y_planes, y_patches, bias;
  FilterDescriptor weight;
  ConvolutionDescriptor convolution;
  Workspace workspace;

  explicit Plan(const Problem& p)
      : images(planes("images", p.dtype, p.batch, p.channels, p.height, p.width)),
        y_planes(planes("y", p.dtype, p.batch, p.hidden, p.rows(), p.cols())),
        y_patches(tensor("y", p.dtype, p.batch, p.hidden, p.rows(), p.cols(),
                         {.n = p.rows() * p.cols() * p.hidden,
                          .c = 1,
                          .h = p.cols() * p.hidden,
                          .w = p.hidden})),
        bias(planes("bias", p.dtype, 1, p.hidden, 1, 1)),
        weight(filter(p)),
        convolution(vitrine::cuda::convolution(p)) {}
};

/// Where a 16-bit gradient is put: behind dy's planes, at 16 bytes where the workspace has room.
void* behind_planes(const PatchConvolutionBackward& args) {
  constexpr std::int64_t kAlignment = 16;
  const std::int64_t bytes = size_of(args.dy.dtype);
  const std::int64_t aligned = (args.dy.size * bytes + kAlignment - 1) / kAlignment * kAlignment;
  const std::int64_t last = args.workspace.size * size_of(DType::f32) - args.dweight.size * bytes;
  return reinterpret_cast<char*>(args.workspace.data) + std::min(aligned, last);
}

}  // namespace

class CudnnConvolution::Library {
 public:
  Library(void* workspace, std::size_t bytes) : workspace_(workspace), bytes_(bytes) {}

  void forward(const PatchConvolutionForward& args, cudaStream_t stream);
  void backward(const PatchConvolutionBackward& args, cudaStream_t stream);

 private:
  void use(cudaStream_t stream);
  const Plan& plan(const Problem& problem);
  std::size_t workspace_bytes(const Problem& problem, const Plan& plan) const;
  Workspace workspace(const Problem& problem, const Plan& plan) const;
  void transform(const TensorDescriptor& from_descriptor, const void* from,
                 const TensorDescriptor& to_descriptor, void* to) const;

  void* workspace_;
  std::size_t bytes_;
  std::mutex mutex_;
  Handle handle_;
  cudaStream_t stream_ = nullptr;
  std::map<Problem, Plan> plans_;
};

void CudnnConvolution::Library::use(cudaStream_t stream) {
  if (handle_ == nullptr) handle_ = created<Handle>(cudnnCreate, "cudnnCreate");
  if (stream == stream_) return;
  check(cudnnSetStream(handle_.get(), stream), "cudnnSetStream");
  stream_ = stream;
}

const Plan& CudnnConvolution::Library::plan(const Problem& problem) {
  const auto found = plans_.find(problem);
  if (found != plans_.end()) return found->second;
  // Loading code and allocating are forbidden there. The run that warms up before the recording has
  // made all plans.
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  check("cudaStreamIsCapturing", cudaStreamIsCapturing(stream_, &capture));
  if (capture != cudaStreamCaptureStatusNone) {
    throw DeviceError("patch_convolution: a shape first used while recording, expected before");
  }
  Plan plan(problem);
  plan.workspace = workspace(problem, plan);
  return plans_.emplace(problem, std::move(plan)).first->second;
}

std::size_t CudnnConvolution::Library::workspace_bytes(const Problem& problem,
                                                       const Plan& plan) const {
  std::size_t bytes = 0;
  if (problem.direction == Direction::forward) {
    check(cudnnGetConvolutionForwardWorkspaceSize(handle_.get(), plan.images.get(),
                                                  plan.weight.get(), plan.convolution.get(),
                                                  plan.y_planes.get(), kForward, &bytes),
          "cudnnGetConvolutionForwardWorkspaceSize");
  } else {
    check(cudnnGetConvolutionBackwardFilterWorkspaceSize(
              handle_.get(), plan.images.get(), plan.y_planes.get(), plan.convolution.get(),
              plan.weight.get(), kFilterGradient, &bytes),
          "cudnnGetConvolutionBackwardFilterWorkspaceSize");
  }
  return bytes;
}

Workspace CudnnConvolution::Library::workspace(const Problem& problem, const Plan& plan) const {
  const std::size_t needed = workspace_bytes(problem, plan);
  Workspace workspace{.data = workspace_, .bytes = bytes_};
  if (needed <= bytes_) return workspace;
  workspace.owned = allocate(problem, needed);
  workspace.data = workspace.owned.get();
  workspace.bytes = needed;
  return workspace;
}

void CudnnConvolution::Library::transform(const TensorDescriptor& from_descriptor, const void* from,
                                          const TensorDescriptor& to_descriptor, void* to) const {
  check(cudnnTransformTensor(handle_.get(), &kOne, from_descriptor.get(), from, &kZero,
                             to_descriptor.get(), to),
        "cudnnTransformTensor");
}

void CudnnConvolution::Library::forward(const PatchConvolutionForward& args, cudaStream_t stream) {
  const std::lock_guard lock(mutex_);
  use(stream);
  const Plan& plan = this->plan(problem_of(args, Direction::forward));
  void* y = args.workspace.data;
  check(cudnnConvolutionForward(handle_.get(), &kOne, plan.images.get(), args.images.data,
                                plan.weight.get(), args.weight.data, plan.convolution.get(),
                                kForward, plan.workspace.data, plan.workspace.bytes, &kZero,
                                plan.y_planes.get(), y),
        "cudnnConvolutionForward");
  if (args.bias) {
    check(cudnnAddTensor(handle_.get(), &kOne, plan.bias.get(), args.bias.data, &kOne,
                         plan.y_planes.get(), y),
          "cudnnAddTensor");
  }
  transform(plan.y_planes, y, plan.y_patches, args.y.data);
}

void CudnnConvolution::Library::backward(const PatchConvolutionBackward& args,
                                         cudaStream_t stream) {
  const std::lock_guard lock(mutex_);
  use(stream);
  const Plan& plan = this->plan(problem_of(args, Direction::backward));
  const bool rounded = args.dy.dtype != DType::f32;
  void* dy = args.workspace.data;
  void* dweight = rounded ? behind_planes(args) : args.dweight.data;
  const float& beta = args.accumulate && !rounded ? kOne : kZero;
  transform(plan.y_patches, args.dy.data, plan.y_planes, dy);
  check(cudnnConvolutionBackwardFilter(handle_.get(), &kOne, plan.images.get(), args.images.data,
                                       plan.y_planes.get(), dy, plan.convolution.get(),
                                       kFilterGradient, plan.workspace.data, plan.workspace.bytes,
                                       &beta, plan.weight.get(), dweight),
        "cudnnConvolutionBackwardFilter");
  if (!rounded) return;
  // The sum of one row: cuDNN documents no conversion between types. One run needs no workspace.
  CudaKernels(stream, CudaLimits{}, nullptr)
      .column_sum({.out = args.dweight,
                   .x = {dweight, args.dweight.size, args.dy.dtype},
                   .workspace = {args.workspace.data, args.dweight.size},
                   .rows = 1,
                   .cols = args.dweight.size,
                   .accumulate = args.accumulate});
}

CudnnConvolution::CudnnConvolution(void* workspace, std::size_t workspace_bytes)
    : library_(std::make_unique<Library>(workspace, workspace_bytes)) {}

CudnnConvolution::~CudnnConvolution() = default;

void CudnnConvolution::forward(const PatchConvolutionForward& args, cudaStream_t stream) {
  library_->forward(args, stream);
}

void CudnnConvolution::backward(const PatchConvolutionBackward& args, cudaStream_t stream) {
  library_->backward(args, stream);
}

}  // namespace vitrine::cuda
