// The GPU that the emulated CUDA runtime says it has, for tests of what a program does about it.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <string>

namespace simt {

struct Gpu {
  int devices = 1;
  cudaError_t error = cudaSuccess;  ///< of every call that needs a device, as without a driver
  int driver_version = CUDART_VERSION;
  int runtime_version = CUDART_VERSION;
  int major = 9, minor = 0;  ///< compute capability
  int multiprocessors = 132;
  int shared_memory_per_block = 227 * 1024;  ///< bytes that a block may opt in to
  std::size_t memory = std::size_t{8} << 30;
  std::size_t used_by_others = 0;  ///< of `memory`
  std::string name = "Emulated GPU";
};

/// What set_gpu gave, at first what the environment says: VITRINE_SIMT_GPU =
/// "devices=0;error=35;driver=12000;runtime=12040;capability=7.5;multiprocessors=2;
/// shared=101376;memory=2g;used=1g;name=…", each optional; sizes end in k, m, g or nothing.
/// Throws Error if it says anything else.
Gpu gpu();

/// From now on, for all threads.
void set_gpu(const Gpu& gpu);

/// Back to what the environment says.
void reset_gpu();

}  // namespace simt
