// CudnnConvolution over the stand-in for cuDNN: numbers in every type, what a second call still
// asks the library for, and the stand-in's own refusals.
#include "simt/cudnn.h"

#include <cudnn.h>
#include <gtest/gtest.h>

#include "cuda/cudnn_convolution.h"
#include "kernels/kernel_device.h"
#include "reference/patch_convolution.h"
#include "simt/streams.h"

namespace vitrine::cuda {
namespace {

using namespace reference::patch_convolution;

constexpr std::size_t kWorkspaceBytes = 1 << 16;

/// A problem on the device. Outputs and workspaces are NaN before a call.
struct DeviceProblem {
  Problem host;
  DType dtype;
  DeviceTensor images, weight, bias, dy;
  DeviceMemory library_workspace;
  CudnnConvolution library;

  DeviceProblem(const Case& c, DType dtype_, std::uint64_t seed,
                std::size_t workspace_bytes = kWorkspaceBytes)
      : host(rounded(c, dtype_, seed)),
        dtype(dtype_),
        images(dtype, host.images),
        weight(dtype, host.weight),
        bias(dtype, host.bias),
        dy(dtype, host.dy),
        library_workspace(std::max<std::size_t>(workspace_bytes, 1)),
        library(workspace_bytes > 0 ? library_workspace.data() : nullptr, workspace_bytes) {}

  static Problem rounded(const Case& c, DType dtype, std::uint64_t seed) {
    Problem p(c, seed);
    for (std::vector<float>* values : {&p.images, &p.weight, &p.bias, &p.dy}) {
      *values = rounded_to(dtype, *values);
    }
    return p;
  }
  template <typename Args>
  Args geometry(Args args) const {
    args.batch = host.c.batch, args.channels = host.c.channels, args.hidden = host.c.hidden;
    args.height = host.c.height, args.width = host.c.width, args.patch_size = host.c.patch_size;
    return args;
  }
  PatchConvolutionForward forward_arguments(const DeviceTensor& y, const DeviceArray<float>& space,
                                            bool with_bias) const {
    return geometry(PatchConvolutionForward{
        .y = y.view(),
        .images = images.view(),
        .weight = weight.view(),
        .bias = with_bias ? ConstView<void>(bias.view()) : ConstView<void>(),
        .workspace = space.view()});
  }
  PatchConvolutionBackward backward_arguments(const DeviceArray<float>& dweight,
                                              const DeviceArray<float>& space) const {
    return geometry(PatchConvolutionBackward{.dweight = dweight.view(),
                                             .dy = dy.view(),
                                             .images = images.view(),
                                             .workspace = space.view()});
  }
  std::vector<float> forward(bool with_bias, bool tf32 = false) {
    const DeviceTensor y(dtype, host.c.y_size());
    const DeviceArray<float> space(host.c.y_size());
    PatchConvolutionForward args = forward_arguments(y, space, with_bias);
    args.tf32 = tf32;
    CudaKernels(nullptr, {}, nullptr, nullptr, &library).patch_convolution_forward(args);
    return y.values();
  }
  std::vector<float> backward(bool accumulate, bool tf32 = false) {
    const DeviceArray<float> dweight(accumulate ? host.dweight_before
                                                : poisoned(host.c.weight_size()));
    const DeviceArray<float> space(host.c.y_size() + host.c.weight_size());
    PatchConvolutionBackward args = backward_arguments(dweight, space);
    args.accumulate = accumulate;
    args.tf32 = tf32;
    CudaKernels(nullptr, {}, nullptr, nullptr, &library).patch_convolution_backward(args);
    return dweight.values();
  }
};

/// What an implementation in T does that rounds after the convolution and after adding the bias.
std::vector<float> naive_forward(const Problem& p, DType dtype, bool with_bias) {
  std::vector<float> y = rounded_to(dtype, reference::patch_convolution::forward<float>(p, false));
  for (std::size_t i = 0; with_bias && i < y.size(); ++i) y[i] += p.bias[i % p.c.hidden];
  return rounded_to(dtype, y);
}

std::vector<float> naive_backward(const Problem& p, DType dtype, bool accumulate) {
  std::vector<float> dweight = rounded_to(dtype, weight_gradient<float>(p, false));
  for (std::size_t i = 0; accumulate && i < dweight.size(); ++i) dweight[i] += p.dweight_before[i];
  return dweight;
}

/// The sum of the magnitudes of what is added: what errors of the factors are relative to.
Problem magnitudes(Problem p) {
  for (std::vector<float>* values : {&p.images, &p.weight, &p.dy}) {
    for (float& value : *values) value = std::abs(value);
  }
  return p;
}

TEST(CudnnConvolution, ForwardAgreesWithDoublePrecision) {
  std::uint64_t seed = 5100;
  for (const DType dtype : kFloatTypes) {
    for (const Case& c : kCases) {
      DeviceProblem p(c, dtype, ++seed);
      for (const bool with_bias : {false, true}) {
        SCOPED_TRACE("seed " + std::to_string(seed) + " bias " + std::to_string(with_bias));
        expect_close(p.forward(with_bias), naive_forward(p.host, dtype, with_bias),
                     reference::patch_convolution::forward<double>(p.host, with_bias), "y");
      }
    }
  }
}

TEST(CudnnConvolution, BackwardAgreesWithDoublePrecision) {
  std::uint64_t seed = 5200;
  for (const DType dtype : kFloatTypes) {
    for (const Case& c : kCases) {
      DeviceProblem p(c, dtype, ++seed);
      for (const bool accumulate : {false, true}) {
        SCOPED_TRACE("seed " + std::to_string(seed) + " accumulate " + std::to_string(accumulate));
        expect_close(p.backward(accumulate), naive_backward(p.host, dtype, accumulate),
                     weight_gradient<double>(p.host, accumulate), "dweight");
      }
    }
  }
}

// Both factors are rounded to 11 significant bits, so a product is off by 2^-10 of itself at most.
TEST(CudnnConvolution, UsesTf32OnlyWhenToldTo) {
  constexpr double kTf32Error = 1.0 / 1024, kOfTheSum = 1.001;
  DeviceProblem p({2, 3, 12, 8, 4, 48}, DType::f32, 5300);
  const Problem sizes = magnitudes(p.host);
  const auto largest = [](const std::vector<double>& values) {
    return *std::max_element(values.begin(), values.end());
  };
  const std::vector<float> y = p.forward(false, true), dweight = p.backward(false, true);
  EXPECT_FALSE(same_bits(y, p.forward(false)));
  EXPECT_FALSE(same_bits(dweight, p.backward(false)));
  EXPECT_LE(largest_error(y, reference::patch_convolution::forward<double>(p.host, false)),
            kOfTheSum * kTf32Error *
                largest(reference::patch_convolution::forward<double>(sizes, false)));
  EXPECT_LE(largest_error(dweight, weight_gradient<double>(p.host, false)),
            kOfTheSum * kTf32Error * largest(weight_gradient<double>(sizes, false)));
}

TEST(CudnnConvolution, ASecondCallOnlySubmitsWork) {
  const simt::CudnnCalls before = simt::cudnn_calls();
  {
    DeviceProblem p({2, 3, 8, 4, 2, 65}, DType::bf16, 5400);
    EXPECT_EQ(simt::cudnn_calls().handles, before.handles) << "made without need";
    const std::vector<float> y = p.forward(true), dweight = p.backward(true);
    const simt::CudnnCalls first = simt::cudnn_calls();
    EXPECT_EQ(first.handles, before.handles + 1);
    EXPECT_GT(first.descriptors, before.descriptors);
    EXPECT_TRUE(same_bits(p.forward(true), y));
    EXPECT_TRUE(same_bits(p.backward(true), dweight));
    const simt::CudnnCalls second = simt::cudnn_calls();
    EXPECT_EQ(second.handles, first.handles);
    EXPECT_EQ(second.descriptors, first.descriptors);
    EXPECT_EQ(second.queries, first.queries);
    EXPECT_EQ(second.work - first.work, first.work - before.work);
    EXPECT_GT(second.alive, before.alive);
  }
  EXPECT_EQ(simt::cudnn_calls().alive, before.alive) << "not destroyed";
}

TEST(CudnnConvolution, PlansDependOnEverythingDescribed) {
  DeviceProblem p({2, 3, 8, 4, 2, 5}, DType::f32, 5500);
  p.forward(true);
  std::int64_t made = simt::cudnn_calls().descriptors;
  const auto makes_a_plan = [&](auto change) {
    const Case& c = p.host.c;
    const DeviceTensor y(DType::f32, 4 * c.y_size()), images(DType::f32, 4 * c.image_size()),
        weight(DType::f32, 4 * c.weight_size()), bias(DType::f32, 4 * c.hidden);
    const DeviceArray<float> space(4 * c.y_size());
    PatchConvolutionForward args = p.forward_arguments(y, space, true);
    args.images = images.view(), args.weight = weight.view(), args.bias = bias.view();
    change(args);
    p.library.forward(args, nullptr);
    const std::int64_t now = simt::cudnn_calls().descriptors;
    return now > std::exchange(made, now);
  };
  EXPECT_FALSE(makes_a_plan([](PatchConvolutionForward&) {}));
  EXPECT_TRUE(makes_a_plan([](auto& args) { args.batch = 1; }));
  EXPECT_TRUE(makes_a_plan([](auto& args) { args.channels = 2; }));
  EXPECT_TRUE(makes_a_plan([](auto& args) { args.height = 6; }));
  EXPECT_TRUE(makes_a_plan([](auto& args) { args.width = 6; }));
  EXPECT_TRUE(makes_a_plan([](auto& args) { args.patch_size = 4; }));
  EXPECT_TRUE(makes_a_plan([](auto& args) { args.hidden = 4; }));
  EXPECT_TRUE(makes_a_plan([](auto& args) { args.tf32 = true; }));
  EXPECT_TRUE(makes_a_plan([](auto& args) { args.images.dtype = DType::bf16; }));
  EXPECT_FALSE(makes_a_plan([](auto& args) { args.batch = 1; }));
}

std::size_t free_device_memory() {
  std::size_t free = 0, total = 0;
  require_cuda(cudaMemGetInfo(&free, &total));
  return free;
}

// The stand-in asks for the bytes of one filter in f32, in either direction.
TEST(CudnnConvolution, TakesMemoryOfItsOwnWhereTheWorkspaceIsTooSmall) {
  const Case c{2, 3, 12, 8, 4, 48};
  constexpr std::size_t kNeeded = 4 * 3 * 4 * 4;
  const std::size_t before = free_device_memory();
  for (const DType dtype : kFloatTypes) {
    for (const std::size_t shared : {std::size_t{0}, kNeeded - 1, kNeeded}) {
      SCOPED_TRACE(std::string(to_string(dtype)) + " shared " + std::to_string(shared));
      const std::size_t taken = shared < kNeeded ? kNeeded : 0;
      DeviceProblem p(c, dtype, 5600, shared);
      const std::size_t at_first = free_device_memory();
      const std::vector<float> y = p.forward(true);
      EXPECT_EQ(free_device_memory(), at_first - taken);
      const std::vector<float> dweight = p.backward(false);
      EXPECT_EQ(free_device_memory(), at_first - 2 * taken);
      EXPECT_TRUE(same_bits(p.forward(true), y));
      EXPECT_TRUE(same_bits(p.backward(false), dweight));
      EXPECT_EQ(free_device_memory(), at_first - 2 * taken) << "taken again";
      expect_close(y, naive_forward(p.host, dtype, true),
                   reference::patch_convolution::forward<double>(p.host, true), "y");
      expect_close(dweight, naive_backward(p.host, dtype, false),
                   weight_gradient<double>(p.host, false), "dweight");
    }
  }
  EXPECT_EQ(free_device_memory(), before) << "not freed";
}

TEST(CudnnConvolution, SaysThatItNeedsMemory) {
  DeviceProblem p({2, 3, 12, 8, 4, 48}, DType::bf16, 5650, 0);
  const DeviceTensor y(p.dtype, p.host.c.y_size());
  const DeviceArray<float> dweight(p.host.c.weight_size());
  const DeviceArray<float> space(p.host.c.y_size()),
      both(p.host.c.y_size() + p.host.c.weight_size());
  const auto refused = [](const auto& call, cudaError_t status) -> std::string {
    simt::set_fault("cudaMalloc", 1, status);
    try {
      call();
    } catch (const OutOfMemory& error) {
      EXPECT_EQ(cudaGetLastError(), cudaSuccess);
      return std::string("out of memory: ") + error.what();
    } catch (const DeviceError& error) {
      cudaGetLastError();
      return error.what();
    }
    return "accepted";
  };
  const auto forward = [&] { p.library.forward(p.forward_arguments(y, space, true), nullptr); };
  const auto backward = [&] { p.library.backward(p.backward_arguments(dweight, both), nullptr); };
  const std::string found =
      ": found no 192 bytes of device memory for cuDNN's workspace, expected them free";
  EXPECT_EQ(refused(forward, cudaErrorMemoryAllocation),
            "out of memory: patch_convolution_forward" + found);
  EXPECT_EQ(refused(backward, cudaErrorMemoryAllocation),
            "out of memory: patch_convolution_backward" + found);
  EXPECT_EQ(refused(forward, cudaErrorNotSupported).rfind("cudaMalloc: ", 0), 0u);
  EXPECT_EQ(refused(backward, cudaErrorNotSupported).rfind("cudaMalloc: ", 0), 0u);
  forward();
  backward();
}

TEST(CudnnConvolution, RefusesShapesThatItHasNotSeenWhileRecording) {
  DeviceProblem p({1, 3, 4, 4, 2, 5}, DType::f32, 5680, 0);
  const DeviceTensor y(DType::f32, p.host.c.y_size());
  const DeviceArray<float> space(p.host.c.y_size());
  const PatchConvolutionForward args = p.forward_arguments(y, space, false);
  cudaStream_t stream = nullptr;
  cudaGraph_t graph = nullptr;
  require_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  require_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  const simt::CudnnCalls before = simt::cudnn_calls();
  expect_refused([&] { p.library.forward(args, stream); }, "first used while recording");
  EXPECT_EQ(simt::cudnn_calls().queries, before.queries);
  require_cuda(cudaStreamEndCapture(stream, &graph));
  p.library.forward(args, stream);
  require_cuda(cudaStreamSynchronize(stream));
  require_cuda(cudaGraphDestroy(graph));
  require_cuda(cudaStreamDestroy(stream));
}

TEST(CudnnConvolution, RefusesTensorsThatCudnnCannotCount) {
  DeviceProblem p({1, 3, 4, 4, 2, 5}, DType::f32, 5700);
  const DeviceTensor y(DType::f32, p.host.c.y_size());
  const DeviceArray<float> space(p.host.c.y_size());
  PatchConvolutionForward args = p.forward_arguments(y, space, false);
  args.batch = std::int64_t{1} << 26;
  expect_refused([&] { p.library.forward(args, nullptr); }, "images has 3221225472 elements");
}

TEST(CudnnConvolution, IsAskedOnlyWhereThereIsOne) {
  const DeviceProblem p({1, 3, 4, 4, 2, 5}, DType::f32, 5800);
  const DeviceTensor y(DType::f32, p.host.c.y_size());
  const DeviceArray<float> dweight(p.host.c.weight_size());
  const DeviceArray<float> space(p.host.c.y_size()),
      both(p.host.c.y_size() + p.host.c.weight_size());
  CudaKernels kernels(nullptr, {}, nullptr);
  expect_refused([&] { kernels.patch_convolution_forward(p.forward_arguments(y, space, false)); },
                 "patch_convolution_forward: no library");
  expect_refused([&] { kernels.patch_convolution_backward(p.backward_arguments(dweight, both)); },
                 "patch_convolution_backward: no library");
  PatchConvolutionForward args = p.forward_arguments(y, space, false);
  args.workspace.size -= 1;
  expect_refused([&] { kernels.patch_convolution_forward(args); }, "workspace");
}

/// A captured call is replayed on what the memory holds then; here it uses memory of its plan's.
TEST(CudnnConvolution, CanBeCaptured) {
  DeviceProblem p({2, 3, 12, 8, 4, 48}, DType::bf16, 5900, 0);
  const Problem other = DeviceProblem::rounded(p.host.c, p.dtype, 5901);
  const DeviceTensor y(p.dtype, p.host.c.y_size());
  const DeviceArray<float> dweight(p.host.dweight_before);
  const DeviceArray<float> space(p.host.c.y_size() + p.host.c.weight_size());
  PatchConvolutionForward forward = p.forward_arguments(y, space, true);
  forward.workspace.size = p.host.c.y_size();
  PatchConvolutionBackward backward = p.backward_arguments(dweight, space);
  backward.accumulate = true;
  cudaStream_t stream = nullptr;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t program = nullptr;
  require_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  const auto call = [&] {
    p.library.forward(forward, stream);
    p.library.backward(backward, stream);
  };
  call();
  require_cuda(cudaStreamSynchronize(stream));
  require_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  call();
  require_cuda(cudaStreamEndCapture(stream, &graph));
  require_cuda(cudaGraphInstantiate(&program, graph, 0));
  const DeviceTensor images(p.dtype, other.images);
  require_cuda(cudaMemcpy(p.images.view().data, images.view().data,
                          other.images.size() * size_of(p.dtype), cudaMemcpyDeviceToDevice));
  require_cuda(cudaMemcpy(dweight.data(), DeviceArray<float>(p.host.dweight_before).data(),
                          p.host.dweight_before.size() * sizeof(float), cudaMemcpyDeviceToDevice));
  require_cuda(cudaGraphLaunch(program, stream));
  require_cuda(cudaStreamSynchronize(stream));
  p.host.images = other.images;
  EXPECT_TRUE(same_bits(y.values(), p.forward(true)));
  EXPECT_TRUE(same_bits(dweight.values(), p.backward(true)));
  expect_close(y.values(), naive_forward(p.host, p.dtype, true),
               reference::patch_convolution::forward<double>(p.host, true), "y");
  require_cuda(cudaGraphExecDestroy(program));
  require_cuda(cudaGraphDestroy(graph));
  require_cuda(cudaStreamDestroy(stream));
}

/// A handle and descriptors of [2, 3, 4, 4] * [5, 3, 2, 2] in f32.
struct StandIn : ::testing::Test {
  cudnnHandle_t handle = nullptr;
  cudnnTensorDescriptor_t x = nullptr, y = nullptr;
  cudnnFilterDescriptor_t w = nullptr;
  cudnnConvolutionDescriptor_t convolution = nullptr;
  DeviceTensor x_data{DType::f32, 2 * 3 * 16}, w_data{DType::f32, 5 * 3 * 4},
      y_data{DType::f32, 2 * 5 * 4}, scratch{DType::f32, 1024};
  const float one = 1.0f, zero = 0.0f;

  void SetUp() override {
    cudnnCreate(&handle);
    cudnnCreateTensorDescriptor(&x);
    cudnnCreateTensorDescriptor(&y);
    cudnnCreateFilterDescriptor(&w);
    cudnnCreateConvolutionDescriptor(&convolution);
    set(x, CUDNN_DATA_FLOAT, 3, 4);
    set(y, CUDNN_DATA_FLOAT, 5, 2);
    cudnnSetFilter4dDescriptor(w, CUDNN_DATA_FLOAT, CUDNN_TENSOR_NCHW, 5, 3, 2, 2);
    cudnnSetConvolution2dDescriptor(convolution, 0, 0, 2, 2, 1, 1, CUDNN_CROSS_CORRELATION,
                                    CUDNN_DATA_FLOAT);
  }
  void TearDown() override {
    cudnnDestroyConvolutionDescriptor(convolution);
    cudnnDestroyFilterDescriptor(w);
    cudnnDestroyTensorDescriptor(y);
    cudnnDestroyTensorDescriptor(x);
    cudnnDestroy(handle);
  }
  static cudnnStatus_t set(cudnnTensorDescriptor_t tensor, cudnnDataType_t type, int c, int size) {
    return cudnnSetTensor4dDescriptorEx(tensor, type, 2, c, size, size, c * size * size,
                                        size * size, size, 1);
  }
  cudnnStatus_t forward(
      std::size_t bytes = 4096,
      cudnnConvolutionFwdAlgo_t algorithm = CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM) {
    return cudnnConvolutionForward(handle, &one, x, x_data.view().data, w, w_data.view().data,
                                   convolution, algorithm, scratch.view().data, bytes, &zero, y,
                                   y_data.view().data);
  }
  cudnnStatus_t backward(cudnnConvolutionBwdFilterAlgo_t algorithm) {
    return cudnnConvolutionBackwardFilter(handle, &one, x, x_data.view().data, y,
                                          y_data.view().data, convolution, algorithm,
                                          scratch.view().data, 4096, &zero, w, w_data.view().data);
  }
};

TEST_F(StandIn, RefusesDescriptorsThatContradict) {
  EXPECT_EQ(forward(), CUDNN_STATUS_SUCCESS);
  EXPECT_EQ(set(x, CUDNN_DATA_FLOAT, 3, 0), CUDNN_STATUS_BAD_PARAM);
  const auto refused = [&](cudnnTensorDescriptor_t tensor, cudnnDataType_t type, int c, int size) {
    set(tensor, type, c, size);
    const cudnnStatus_t status = forward();
    set(x, CUDNN_DATA_FLOAT, 3, 4);
    set(y, CUDNN_DATA_FLOAT, 5, 2);
    return status != CUDNN_STATUS_SUCCESS;
  };
  EXPECT_TRUE(refused(y, CUDNN_DATA_FLOAT, 5, 3));
  EXPECT_TRUE(refused(y, CUDNN_DATA_FLOAT, 4, 2));
  EXPECT_TRUE(refused(y, CUDNN_DATA_BFLOAT16, 5, 2));
  EXPECT_TRUE(refused(x, CUDNN_DATA_FLOAT, 2, 4));
  EXPECT_NE(forward(4), CUDNN_STATUS_SUCCESS) << "workspace";
  EXPECT_EQ(forward(), CUDNN_STATUS_SUCCESS);
}

TEST_F(StandIn, RefusesGradientsInAnotherType) {
  EXPECT_EQ(backward(CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1), CUDNN_STATUS_SUCCESS);
  set(x, CUDNN_DATA_BFLOAT16, 3, 4);
  set(y, CUDNN_DATA_BFLOAT16, 5, 2);
  EXPECT_NE(backward(CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1), CUDNN_STATUS_SUCCESS);
}

TEST_F(StandIn, RefusesAlgorithmsWithAtomics) {
  EXPECT_EQ(backward(CUDNN_CONVOLUTION_BWD_FILTER_ALGO_0), CUDNN_STATUS_NOT_SUPPORTED);
  EXPECT_EQ(backward(CUDNN_CONVOLUTION_BWD_FILTER_ALGO_3), CUDNN_STATUS_NOT_SUPPORTED);
}

TEST_F(StandIn, TransformsTensorsOfOneShapeAndType) {
  cudnnTensorDescriptor_t last = nullptr;
  cudnnCreateTensorDescriptor(&last);
  cudnnSetTensor4dDescriptorEx(last, CUDNN_DATA_FLOAT, 2, 5, 2, 2, 20, 1, 10, 5);
  std::vector<float> planes(40);
  for (int i = 0; i < 40; ++i) planes[i] = static_cast<float>(i);
  const DeviceArray<float> from(planes), to(std::int64_t{40});
  const auto transform = [&](const float& beta) {
    return cudnnTransformTensor(handle, &one, y, from.data(), &beta, last, to.data());
  };
  ASSERT_EQ(transform(zero), CUDNN_STATUS_SUCCESS);
  EXPECT_EQ(to.values()[1], 4.0f) << "second channel of the first pixel";
  EXPECT_EQ(to.values()[5], 1.0f) << "first channel of the second pixel";
  ASSERT_EQ(transform(one), CUDNN_STATUS_SUCCESS);
  EXPECT_EQ(to.values()[39], 78.0f);
  cudnnSetTensor4dDescriptorEx(last, CUDNN_DATA_BFLOAT16, 2, 5, 2, 2, 20, 1, 10, 5);
  EXPECT_EQ(transform(zero), CUDNN_STATUS_BAD_PARAM);
  cudnnSetTensor4dDescriptorEx(last, CUDNN_DATA_FLOAT, 2, 4, 2, 2, 16, 1, 8, 4);
  EXPECT_EQ(transform(zero), CUDNN_STATUS_BAD_PARAM);
  cudnnDestroyTensorDescriptor(last);
}

TEST_F(StandIn, AddsWhatFitsOrIsRepeated) {
  cudnnTensorDescriptor_t bias = nullptr;
  cudnnCreateTensorDescriptor(&bias);
  cudnnSetTensor4dDescriptorEx(bias, CUDNN_DATA_FLOAT, 1, 5, 1, 1, 5, 1, 1, 1);
  const DeviceArray<float> values(std::vector<float>{1, 2, 3, 4, 5});
  const DeviceArray<float> sum(std::vector<float>(40, 10.0f));
  const auto add = [&] {
    return cudnnAddTensor(handle, &one, bias, values.data(), &one, y, sum.data());
  };
  ASSERT_EQ(add(), CUDNN_STATUS_SUCCESS);
  EXPECT_EQ(sum.values()[3], 11.0f);
  EXPECT_EQ(sum.values()[4], 12.0f);
  EXPECT_EQ(sum.values()[39], 15.0f);
  cudnnSetTensor4dDescriptorEx(bias, CUDNN_DATA_FLOAT, 1, 4, 1, 1, 4, 1, 1, 1);
  EXPECT_EQ(add(), CUDNN_STATUS_BAD_PARAM);
  cudnnDestroyTensorDescriptor(bias);
}

}  // namespace
}  // namespace vitrine::cuda
