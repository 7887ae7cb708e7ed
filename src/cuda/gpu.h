// Finding the GPU that a user asked for, and saying in one line why it cannot be had.
#pragma once

#include <cstdint>
#include <string>

#include "cuda_kernels.h"

namespace vitrine::cuda {

struct Gpu {
  int number = 0;
  std::string name;
  CudaLimits limits;
  std::int64_t total_memory = 0, free_memory = 0;  ///< bytes
};

/// Takes the GPU that `device` ("cuda", "cuda:1", or "auto") means for the calling thread.
/// Throws DeviceError: no driver, driver too old, no GPU, no such number, compute capability below
/// what the kernels were compiled for, or held by somebody else.
Gpu take_gpu(const std::string& device);

}  // namespace vitrine::cuda
