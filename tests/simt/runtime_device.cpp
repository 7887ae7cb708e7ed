// The devices of the emulated CUDA runtime, as gpu.h describes them.
#include <algorithm>

#include "simt/gpu.h"
#include "simt/launch.h"
#include "simt/runtime.h"

namespace simt {
namespace {

thread_local int this_device = 0;

bool exists(int device) {
  return device >= 0 && device < gpu().devices;
}

cudaError_t describe(cudaDeviceProp& properties) {
  const Gpu device = gpu();
  properties = {};
  device.name.copy(properties.name, sizeof(properties.name) - 1);
  properties.totalGlobalMem = device.memory;
  properties.major = device.major;
  properties.minor = device.minor;
  properties.multiProcessorCount = device.multiprocessors;
  properties.sharedMemPerBlock = kStaticSharedBytesPerBlock;
  properties.sharedMemPerBlockOptin = device.shared_memory_per_block;
  properties.warpSize = 32;
  properties.maxThreadsPerBlock = 1024;
  properties.unifiedAddressing = 1;
  return cudaSuccess;
}

cudaError_t find_attribute(int* value, cudaDeviceAttr attribute) {
  cudaDeviceProp properties;
  describe(properties);
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = properties.multiProcessorCount;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = static_cast<int>(properties.sharedMemPerBlock);
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(properties.sharedMemPerBlockOptin);
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = properties.major;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = properties.minor;
      return cudaSuccess;
    case cudaDevAttrWarpSize:
      *value = properties.warpSize;
      return cudaSuccess;
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace

int current_device() {
  return this_device;
}

}  // namespace simt

extern "C" {

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 0;
  return simt::call("cudaGetDeviceCount", [&] {
    *count = simt::gpu().devices;
    return cudaSuccess;
  });
}

cudaError_t cudaSetDevice(int device) {
  return simt::call("cudaSetDevice", [&] {
    if (!simt::exists(device)) return cudaErrorInvalidDevice;
    simt::this_device = device;
    return cudaSuccess;
  });
}

cudaError_t cudaGetDevice(int* device) {
  return simt::call("cudaGetDevice", [&] {
    *device = simt::this_device;
    return cudaSuccess;
  });
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  return simt::call("cudaGetDeviceProperties", [&] {
    return simt::exists(device) ? simt::describe(*properties) : cudaErrorInvalidDevice;
  });
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  return simt::call("cudaDeviceGetAttribute", [&] {
    return simt::exists(device) ? simt::find_attribute(value, attribute) : cudaErrorInvalidDevice;
  });
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = simt::gpu().driver_version;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = simt::gpu().runtime_version;
  return cudaSuccess;
}

}  // extern "C"
