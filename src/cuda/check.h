// Errors of the CUDA runtime and of cuBLASLt become DeviceError: "what: name: explanation".
#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <string>

#include "vitrine/error.h"

namespace vitrine::cuda {

/// Whether work that was submitted earlier failed in a way that ends the context.
inline bool is_fault(cudaError_t status) {
  switch (status) {
    case cudaErrorECCUncorrectable:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchFailure:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorUnknown:
      return true;
    default:
      return false;
  }
}

/// Throws DeviceError unless `status` is cudaSuccess; DeviceFault for the errors of is_fault.
inline void check(const char* what, cudaError_t status) {
  if (status == cudaSuccess) return;
  const std::string message =
      std::string(what) + ": " + cudaGetErrorName(status) + ": " + cudaGetErrorString(status);
  if (is_fault(status)) throw DeviceFault(message);
  if (status == cudaErrorMemoryAllocation) throw OutOfMemory("out of memory: " + message);
  throw DeviceError(message);
}

/// Throws DeviceError unless `status` is CUBLAS_STATUS_SUCCESS.
inline void check(const char* what, cublasStatus_t status) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw DeviceError(std::string(what) + ": " + cublasLtGetStatusName(status) + ": " +
                    cublasLtGetStatusString(status));
}

}  // namespace vitrine::cuda
