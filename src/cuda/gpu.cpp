#include "cuda/gpu.h"

#include <cuda_runtime_api.h>

#include "cuda/check.h"

#ifndef VITRINE_OLDEST_ARCHITECTURE
#error "VITRINE_OLDEST_ARCHITECTURE: the least compute capability compiled for, times ten"
#endif

namespace vitrine::cuda {
namespace {

// 13000 → "13.0"
std::string version(int number) {
  return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10);
}

std::string capability(int number) {
  return std::to_string(number / 10) + "." + std::to_string(number % 10);
}

[[noreturn]] void fail(const std::string& device, const std::string& message) {
  throw DeviceError("--device " + (device == "auto" ? "cuda" : device) + ": " + message);
}

int count_gpus(const std::string& device) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaSuccess && count > 0) return count;
  static_cast<void>(cudaGetLastError());
  int driver = 0, runtime = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  if (status == cudaErrorInsufficientDriver && driver > 0) {
    fail(device, "the driver is too old: found CUDA " + version(driver) + ", expected " +
                     version(runtime) + " or newer");
  }
  if (driver == 0) fail(device, "found no NVIDIA driver, expected one for a CUDA GPU");
  if (status == cudaSuccess || status == cudaErrorNoDevice) {
    fail(device, "found no CUDA GPU, expected at least one");
  }
  fail(device, std::string(cudaGetErrorName(status)) + ": " + cudaGetErrorString(status));
}

int attribute(cudaDeviceAttr which, int number) {
  int value = 0;
  check("cudaDeviceGetAttribute", cudaDeviceGetAttribute(&value, which, number));
  return value;
}

}  // namespace

Gpu take_gpu(const std::string& device) {
  const int count = count_gpus(device);
  Gpu gpu;
  gpu.number = device.starts_with("cuda:") ? std::stoi(device.substr(5)) : 0;
  if (gpu.number >= count) {
    fail(device, "found " + std::to_string(count) + (count == 1 ? " GPU" : " GPUs") +
                     ", expected a number from 0 to " + std::to_string(count - 1));
  }
  cudaDeviceProp properties{};
  check("cudaGetDeviceProperties", cudaGetDeviceProperties(&properties, gpu.number));
  gpu.name = properties.name;
  gpu.limits.multiprocessors = properties.multiProcessorCount;
  gpu.limits.compute_capability = 10 * properties.major + properties.minor;
  gpu.limits.shared_memory_per_block =
      attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, gpu.number);
  if (gpu.limits.compute_capability < VITRINE_OLDEST_ARCHITECTURE) {
    fail(device, gpu.name + ": found compute capability " +
                     capability(gpu.limits.compute_capability) + ", expected " +
                     capability(VITRINE_OLDEST_ARCHITECTURE) + " or higher");
  }
  std::size_t free = 0, total = 0;
  cudaError_t status = cudaSetDevice(gpu.number);  // makes the context
  if (status == cudaSuccess) status = cudaMemGetInfo(&free, &total);
  if (status != cudaSuccess) {
    static_cast<void>(cudaGetLastError());
    fail(device, gpu.name + ": " + cudaGetErrorName(status) + ": " + cudaGetErrorString(status) +
                     "; another process may hold its memory or have it for itself");
  }
  gpu.free_memory = static_cast<std::int64_t>(free);
  gpu.total_memory = static_cast<std::int64_t>(total);
  return gpu;
}

}  // namespace vitrine::cuda
