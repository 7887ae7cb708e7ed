// Errors of the emulated CUDA runtime: the last one of each thread, sticky ones, faults that a test
// asks for, and their names.
#include <cstdlib>
#include <string_view>

#include "simt/environment.h"
#include "simt/gpu.h"
#include "simt/runtime.h"

namespace simt {
namespace {

constexpr const char* kVariable = "VITRINE_SIMT_FAULT";
constexpr std::string_view kCallPrefix = "cuda";
constexpr int kVersionsPerMajor = 1000;

struct Fault {
  std::string what_prefix;
  int remaining;
  cudaError_t error;
};

std::vector<Fault>& faults = *new std::vector<Fault>;
thread_local cudaError_t last_error = cudaSuccess;

bool begins_with(std::string_view text, std::string_view prefix) {
  return text.substr(0, prefix.size()) == prefix;
}

/// Counts for all faults that fit; the error of one that is due.
template <typename Fits>
cudaError_t count_down(const Fits& fits) {
  cudaError_t due = cudaSuccess;
  std::erase_if(faults, [&](Fault& fault) {
    if (!fits(fault.what_prefix) || --fault.remaining > 0) return false;
    due = fault.error;
    return true;
  });
  return due;
}

/// Errors that leave a CUDA context useless.
bool destroys_context(cudaError_t error) {
  switch (error) {
    case cudaErrorECCUncorrectable:
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
      return true;
    default:
      return false;
  }
}

void fail(cudaError_t error) {
  runtime.sticky = error;
  drop_everything();
}

struct ErrorText {
  cudaError_t error;
  const char *name, *description;
};
constexpr ErrorText kErrorTexts[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInitializationError, "cudaErrorInitializationError", "initialization error"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
     "CUDA driver version is insufficient for CUDA runtime version"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorNoKernelImageForDevice, "cudaErrorNoKernelImageForDevice",
     "no kernel image is available for execution on the device"},
    {cudaErrorECCUncorrectable, "cudaErrorECCUncorrectable", "uncorrectable ECC error encountered"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorIllegalState, "cudaErrorIllegalState",
     "the operation cannot be performed in the present state"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress",
     "an illegal memory access was encountered"},
    {cudaErrorLaunchOutOfResources, "cudaErrorLaunchOutOfResources",
     "too many resources requested for launch"},
    {cudaErrorLaunchTimeout, "cudaErrorLaunchTimeout", "the launch timed out and was terminated"},
    {cudaErrorAssert, "cudaErrorAssert", "device-side assert triggered"},
    {cudaErrorMisalignedAddress, "cudaErrorMisalignedAddress", "misaligned address"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported",
     "operation not permitted when stream is capturing"},
    {cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated",
     "operation failed due to a previous error during capture"},
    {cudaErrorStreamCaptureIsolation, "cudaErrorStreamCaptureIsolation",
     "dependency created on uncaptured work in another stream"},
    {cudaErrorStreamCaptureImplicit, "cudaErrorStreamCaptureImplicit",
     "operation would make the legacy stream depend on a capturing blocking stream"},
    {cudaErrorCapturedEvent, "cudaErrorCapturedEvent",
     "operation not permitted on an event last recorded in a capturing stream"},
    {cudaErrorStreamCaptureWrongThread, "cudaErrorStreamCaptureWrongThread",
     "attempt to terminate a thread-local capture sequence from another thread"},
    {cudaErrorUnknown, "cudaErrorUnknown", "unknown error"},
};

const ErrorText* find_text(cudaError_t error) {
  for (const ErrorText& text : kErrorTexts) {
    if (text.error == error) return &text;
  }
  return nullptr;
}

}  // namespace

cudaError_t state_of_device() {
  const Gpu device = gpu();
  if (device.error != cudaSuccess) return device.error;
  if (device.driver_version / kVersionsPerMajor < device.runtime_version / kVersionsPerMajor) {
    return cudaErrorInsufficientDriver;
  }
  return device.devices == 0 ? cudaErrorNoDevice : runtime.sticky;
}

cudaError_t note_error(cudaError_t status) {
  if (status != cudaSuccess) last_error = status;
  return status;
}

cudaError_t fault_of_call(const char* name) {
  const cudaError_t due = count_down([&](std::string_view prefix) { return prefix == name; });
  if (destroys_context(due)) fail(due);
  return due;
}

bool fault_hits(const Work& work) {
  const cudaError_t due = count_down([&](std::string_view prefix) {
    return begins_with(prefix, kCallPrefix) ? work.what == prefix : begins_with(work.what, prefix);
  });
  if (due == cudaSuccess) return false;
  fail(due);
  return true;
}

void forget_faults() {
  faults.clear();
}

void read_faults_of_environment() {
  const char* text = std::getenv(kVariable);
  if (text == nullptr) return;
  for (const std::string_view field : split(text, ';')) {
    const auto parts = split(field, ':');
    if (parts.size() != 3) {
      throw Error(std::string(kVariable) + ": expected <prefix>:<nth>:<error>, found \"" +
                  std::string(field) + "\"");
    }
    faults.push_back({std::string(parts[0]), number_in<int>(kVariable, parts[1]),
                      static_cast<cudaError_t>(number_in<int>(kVariable, parts[2]))});
  }
}

void set_fault(const char* what_prefix, int nth, cudaError_t error) {
  const auto lock = lock_runtime();
  faults.push_back({what_prefix, nth, error});
}

}  // namespace simt

extern "C" {

cudaError_t cudaPeekAtLastError() {
  const auto lock = simt::lock_runtime();
  return simt::runtime.sticky != cudaSuccess ? simt::runtime.sticky : simt::last_error;
}

cudaError_t cudaGetLastError() {
  const cudaError_t error = cudaPeekAtLastError();
  simt::last_error = cudaSuccess;
  return error;
}

const char* cudaGetErrorName(cudaError_t error) {
  const simt::ErrorText* text = simt::find_text(error);
  return text != nullptr ? text->name : "unrecognized error code";
}

const char* cudaGetErrorString(cudaError_t error) {
  const simt::ErrorText* text = simt::find_text(error);
  return text != nullptr ? text->description : "unrecognized error code";
}

}  // extern "C"
