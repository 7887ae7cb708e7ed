// What tests of the CUDA kernels share: device arrays, conversions and schedules.
//
// The tests see the CUDA runtime API and the catalogue only. Built against tests/simt they run on
// the CPU (device `simt`), built by nvcc on a GPU (device `cuda`).
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cuda_kernels.h"
#include "reference_check.h"
#include "vitrine/tensor.h"

#ifdef VITRINE_SIMT
#include "simt/schedule.h"
#endif

namespace vitrine::cuda {

#ifdef VITRINE_REDUCED
inline constexpr bool kReduced = true;  ///< sanitizer builds: fewer and smaller shapes
#else
inline constexpr bool kReduced = false;
#endif

inline void require_cuda(cudaError_t status) {
  if (status != cudaSuccess) throw DeviceError(cudaGetErrorString(status));
}

/// Bytes of device memory of exactly the size asked for, so that overruns are seen; every byte 0xFF
/// (NaN in all float types) until something is written.
class DeviceMemory {
 public:
  explicit DeviceMemory(std::size_t bytes) : bytes_(bytes) {
    require_cuda(cudaMalloc(&data_, bytes));
    require_cuda(cudaMemset(data_, 0xFF, bytes));
  }
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  DeviceMemory(DeviceMemory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_) {}
  ~DeviceMemory() { cudaFree(data_); }

  void* data() const { return data_; }
  void upload(const void* host) {
    require_cuda(cudaMemcpy(data_, host, bytes_, cudaMemcpyHostToDevice));
  }
  void download(void* host) const {
    require_cuda(cudaMemcpy(host, data_, bytes_, cudaMemcpyDeviceToHost));
  }

 private:
  void* data_ = nullptr;
  std::size_t bytes_;
};

/// Values of a plain type on the device.
template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(std::int64_t size) : size_(size), memory_(size * sizeof(T)) {}
  explicit DeviceArray(const std::vector<T>& values)
      : DeviceArray(static_cast<std::int64_t>(values.size())) {
    memory_.upload(values.data());
  }
  explicit DeviceArray(const T& value) : DeviceArray(std::vector<T>{value}) {}

  T* data() const { return static_cast<T*>(memory_.data()); }
  View<T> view() const { return {data(), size_}; }
  std::vector<T> values() const {
    std::vector<T> host(size_);
    memory_.download(host.data());
    return host;
  }

 private:
  std::int64_t size_;
  DeviceMemory memory_;
};

inline float rounded_to(DType dtype, float value) {
  switch (dtype) {
    case DType::bf16:
      return __bfloat162float(__float2bfloat16_rn(value));
    case DType::f16:
      return __half2float(__float2half_rn(value));
    default:
      return value;
  }
}

/// Values as they are after a trip through memory of that type.
inline std::vector<float> rounded_to(DType dtype, std::vector<float> values) {
  for (float& value : values) value = rounded_to(dtype, value);
  return values;
}

/// Values of the working type T on the device; the host side sees float.
class DeviceTensor {
 public:
  DeviceTensor(DType dtype, std::int64_t size)
      : dtype_(dtype), size_(size), memory_(size * size_of(dtype)) {}
  DeviceTensor(DType dtype, const std::vector<float>& values)
      : DeviceTensor(dtype, static_cast<std::int64_t>(values.size())) {
    std::vector<char> bytes(size_ * size_of(dtype));
    for (std::int64_t i = 0; i < size_; ++i) put(bytes.data(), i, values[i]);
    memory_.upload(bytes.data());
  }

  View<void> view() const { return {memory_.data(), size_, dtype_}; }
  /// Elements [first, first + size).
  View<void> view(std::int64_t first, std::int64_t size) const {
    return {static_cast<char*>(memory_.data()) + first * size_of(dtype_), size, dtype_};
  }
  DType dtype() const { return dtype_; }
  std::vector<float> values() const {
    std::vector<char> bytes(size_ * size_of(dtype_));
    memory_.download(bytes.data());
    std::vector<float> host(size_);
    for (std::int64_t i = 0; i < size_; ++i) host[i] = get(bytes.data(), i);
    return host;
  }

 private:
  void put(char* bytes, std::int64_t i, float value) const {
    switch (dtype_) {
      case DType::bf16: {
        const __nv_bfloat16 element = __float2bfloat16_rn(value);
        std::memcpy(bytes + 2 * i, &element, 2);
        break;
      }
      case DType::f16: {
        const __half element = __float2half_rn(value);
        std::memcpy(bytes + 2 * i, &element, 2);
        break;
      }
      default:
        std::memcpy(bytes + 4 * i, &value, 4);
    }
  }
  float get(const char* bytes, std::int64_t i) const {
    switch (dtype_) {
      case DType::bf16: {
        __nv_bfloat16 element;
        std::memcpy(&element, bytes + 2 * i, 2);
        return __bfloat162float(element);
      }
      case DType::f16: {
        __half element;
        std::memcpy(&element, bytes + 2 * i, 2);
        return __half2float(element);
      }
      default: {
        float value;
        std::memcpy(&value, bytes + 4 * i, 4);
        return value;
      }
    }
  }

  DType dtype_;
  std::int64_t size_;
  DeviceMemory memory_;
};

inline constexpr DType kFloatTypes[] = {DType::f32, DType::bf16, DType::f16};

/// The kernels under test on the default stream, with their scratch memory.
class KernelTest : public ::testing::Test {
 protected:
  void SetUp() override {
#ifdef VITRINE_SIMT
    simt::set_schedule(first_schedule_);
#else
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
      GTEST_SKIP() << "SKIPPED: this test needs a GPU and there is none";
    }
#endif
    scratch_ = std::make_unique<DeviceArray<ScratchMemory>>(1);
    require_cuda(cudaMemset(scratch_->data(), 0, sizeof(ScratchMemory)));
    kernels_ = std::make_unique<CudaKernels>(nullptr, limits_, scratch_->data());
  }

  CudaKernels& kernels() {
    return *kernels_;
  }
  /// Kernels that believe to run on another chip.
  CudaKernels kernels_with(const CudaLimits& limits) {
    return CudaKernels(nullptr, limits, scratch_->data());
  }
  /// Runs `call` under another schedule of threads and blocks (on a GPU: once more).
  template <typename Call>
  void in_another_order(const Call& call) {
#ifdef VITRINE_SIMT
    simt::Schedule schedule = first_schedule_;
    schedule.order = schedule.order == simt::Order::lifo ? simt::Order::random : simt::Order::lifo;
    schedule.seed += 17;
    simt::set_schedule(schedule);
    call();
    simt::set_schedule(first_schedule_);
#else
    call();
#endif
  }

 private:
#ifdef VITRINE_SIMT
  simt::Schedule first_schedule_ = simt::current_schedule();
#endif
  CudaLimits limits_;
  std::unique_ptr<DeviceArray<ScratchMemory>> scratch_;
  std::unique_ptr<CudaKernels> kernels_;
};

/// The error rule for a result in `dtype`: 2 · error(naive) + a rounding of the largest value times
/// a few float epsilons; `naive` is already rounded where an unfused implementation rounds.
inline void expect_close(const std::vector<float>& values, const std::vector<float>& naive,
                         const std::vector<double>& reference, const std::string& what) {
  vitrine::expect_close(values, naive, reference, what.c_str());
}

}  // namespace vitrine::cuda
