#include "cuda_peers.h"

#include <cublasLt.h>
#include <cudnn.h>

#include <cmath>
#include <type_traits>

#include "cuda/cuda_device.h"
#include "graph_case.h"
#include "reference/inputs.h"
#include "reference/layer_norm.h"
#include "vitrine/conversion.h"
#include "vitrine/error.h"

namespace vitrine::bench {
namespace {

constexpr float kOne = 1.0f, kZero = 0.0f;
constexpr double kEps = 1e-6;
constexpr std::int64_t kRowsChecked = 64;

void check(const char* call, cudnnStatus_t status) {
  if (status == CUDNN_STATUS_SUCCESS) return;
  throw DeviceError(std::string(call) + " returned " + cudnnGetErrorString(status) +
                    ", expected success");
}

template <auto kDestroy>
struct Destroy {
  template <typename T>
  void operator()(T* object) const {
    kDestroy(object);
  }
};
using Handle = std::unique_ptr<std::remove_pointer_t<cudnnHandle_t>, Destroy<cudnnDestroy>>;
using Descriptor = std::unique_ptr<std::remove_pointer_t<cudnnTensorDescriptor_t>,
                                   Destroy<cudnnDestroyTensorDescriptor>>;

/// cuDNN on the stream of the device, which the device's stopwatch sees.
Handle make_handle(Device& device) {
  const auto* const cuda = dynamic_cast<const cuda::CudaDevice*>(&device);
  if (cuda == nullptr) throw DeviceError("cuDNN: found the device " + device.traits().name);
  cudnnHandle_t handle = nullptr;
  check("cudnnCreate", cudnnCreate(&handle));
  Handle owned(handle);
  check("cudnnSetStream", cudnnSetStream(handle, cuda->stream()));
  return owned;
}

/// Packed [n, c, h, 1].
Descriptor describe(DType dtype, std::int64_t n, std::int64_t c, std::int64_t h) {
  cudnnTensorDescriptor_t descriptor = nullptr;
  check("cudnnCreateTensorDescriptor", cudnnCreateTensorDescriptor(&descriptor));
  Descriptor owned(descriptor);
  const auto type = dtype == DType::bf16 ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_FLOAT;
  check("cudnnSetTensor4dDescriptorEx",
        cudnnSetTensor4dDescriptorEx(descriptor, type, static_cast<int>(n), static_cast<int>(c),
                                     static_cast<int>(h), 1, static_cast<int>(c * h),
                                     static_cast<int>(h), 1, 1));
  return owned;
}

/// One input and one output [rows, cols] of the same type.
class RowsCase : public Case {
 public:
  RowsCase(Device& device, std::int64_t rows, std::int64_t cols, DType dtype, const Cost& cost)
      : device_(device),
        handle_(make_handle(device)),
        rows_(rows),
        cols_(cols),
        dtype_(dtype),
        cost_(cost),
        numbers_(as_floats(converted(random_normal(kNumbers, kSeed, 0), dtype), dtype)),
        x_(device.allocate(bytes(), "x")),
        y_(device.allocate(bytes(), "y")) {
    fill(device, x_.data(), bytes(), converted(numbers_, dtype));
  }
  ~RowsCase() override { device_.synchronize(); }
  Cost cost() const override { return cost_; }

 protected:
  std::vector<float> x_row(std::int64_t row) const {
    std::vector<float> values;
    for (std::int64_t i = row * cols_; i < (row + 1) * cols_; ++i) {
      values.push_back(numbers_[static_cast<std::size_t>(i % kNumbers)]);
    }
    return values;
  }
  std::vector<float> y_row(std::int64_t row) const {
    const std::int64_t size = cols_ * size_of(dtype_);
    std::vector<char> elements(static_cast<std::size_t>(size));
    device_.download(elements.data(), y_.as<char>() + row * size, elements.size());
    return as_floats(elements, dtype_);
  }

  static constexpr std::int64_t kNumbers = 262147;  // a prime
  std::size_t bytes() const { return static_cast<std::size_t>(rows_ * cols_ * size_of(dtype_)); }

  Device& device_;
  Handle handle_;
  std::int64_t rows_, cols_;
  DType dtype_;
  Cost cost_;
  std::vector<float> numbers_;
  Buffer x_, y_;
};

template <typename T>
std::vector<T> softmax(const std::vector<float>& x) {
  std::vector<T> y;
  T sum = 0, most = T(x[0]);
  for (const float v : x) most = std::max(most, T(v));
  for (const float v : x) sum += std::exp(T(v) - most);
  for (const float v : x) y.push_back(std::exp(T(v) - most) / sum);
  return y;
}

class SoftmaxCase final : public RowsCase {
 public:
  SoftmaxCase(Device& device, std::int64_t rows, std::int64_t cols, DType dtype, const Cost& cost)
      : RowsCase(device, rows, cols, dtype, cost), layout_(describe(dtype, rows, cols, 1)) {}

  void run() override {
    check("cudnnSoftmaxForward",
          cudnnSoftmaxForward(handle_.get(), CUDNN_SOFTMAX_ACCURATE, CUDNN_SOFTMAX_MODE_INSTANCE,
                              &kOne, layout_.get(), x_.data(), &kZero, layout_.get(), y_.data()));
  }
  std::string error() const override {
    Comparison y("y", dtype_);
    for (const std::int64_t row : sample(rows_, kRowsChecked)) {
      y.add(y_row(row), softmax<float>(x_row(row)), softmax<double>(x_row(row)));
    }
    return y.error();
  }

 private:
  Descriptor layout_;
};

class NormalizationCase final : public RowsCase {
 public:
  NormalizationCase(Device& device, std::int64_t rows, std::int64_t cols, DType dtype,
                    const Cost& cost)
      : RowsCase(device, rows, cols, dtype, cost),
        layout_(describe(dtype, 1, rows, cols)),
        of_rows_(describe(DType::f32, 1, rows, 1)),
        weight_(row_numbers()),
        bias_(row_numbers()),
        mean_(row_numbers()),
        rstd_(row_numbers()) {
    const std::vector<float> ones(static_cast<std::size_t>(rows), 1.0f);
    device.upload(weight_.data(), ones.data(), ones.size() * sizeof(float));
  }

  void run() override {
    check("cudnnBatchNormalizationForwardTraining",
          cudnnBatchNormalizationForwardTraining(
              handle_.get(), CUDNN_BATCHNORM_SPATIAL, &kOne, &kZero, layout_.get(), x_.data(),
              layout_.get(), y_.data(), of_rows_.get(), weight_.data(), bias_.data(), 1.0, nullptr,
              nullptr, kEps, mean_.data(), rstd_.data()));
  }
  std::string error() const override {
    const std::vector<float> weight(static_cast<std::size_t>(cols_), 1.0f);
    const std::vector<float> bias(static_cast<std::size_t>(cols_), 0.0f);
    Comparison y("y", dtype_);
    for (const std::int64_t row : sample(rows_, kRowsChecked)) {
      const std::vector<float> x = x_row(row);
      constexpr auto kEpsilon = static_cast<float>(kEps);
      y.add(y_row(row), reference::layer_norm(x, weight, bias, cols_, kEpsilon).y,
            reference::layer_norm(converted<double>(x), converted<double>(weight),
                                  converted<double>(bias), cols_, kEpsilon)
                .y);
    }
    return y.error();
  }

 private:
  Buffer row_numbers() {
    return device_.allocate(static_cast<std::size_t>(rows_) * sizeof(float), "numbers of rows");
  }

  Descriptor layout_, of_rows_;
  Buffer weight_, bias_, mean_, rstd_;
};

}  // namespace

std::unique_ptr<Case> cudnn_softmax(Device& device, std::int64_t rows, std::int64_t cols,
                                    DType dtype, const Cost& cost) {
  return std::make_unique<SoftmaxCase>(device, rows, cols, dtype, cost);
}

std::unique_ptr<Case> cudnn_normalization(Device& device, std::int64_t rows, std::int64_t cols,
                                          DType dtype, const Cost& cost) {
  return std::make_unique<NormalizationCase>(device, rows, cols, dtype, cost);
}

std::vector<std::pair<std::string, std::string>> cuda_library_versions() {
  int runtime = 0;
  cudaRuntimeGetVersion(&runtime);
  return {{"cudart", std::to_string(runtime)},
          {"cublaslt", std::to_string(cublasLtGetVersion())},
          {"cudnn", std::to_string(cudnnGetVersion())}};
}

}  // namespace vitrine::bench
