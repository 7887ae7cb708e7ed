// The one header every kernel file includes first: CUDA as it is under nvcc, and under a plain C++
// compiler the layer that executes kernels on the CPU (tests/simt).
//
// What a kernel keeps to, so that both work: launched by launch(); shared memory by SHARED_ARRAY
// and DYNAMIC_SHARED only; PTX by primitives/ptx.cuh only; no cooperative groups, cub or
// __activemask; every thread of a block reaches each __syncthreads; frames under 32 KB.
#pragma once

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
/// SHARED_ARRAY(float, tile, [8][33]); declares an array in shared memory, aligned to 16 bytes.
#define SHARED_ARRAY(type, name, ...) __shared__ __align__(16) type name __VA_ARGS__
/// DYNAMIC_SHARED(float, name); is the launch's dynamic shared memory, aligned to 128 bytes.
#define DYNAMIC_SHARED(type, name)                                       \
  extern __shared__ __align__(128) unsigned char vitrine_dynamic_smem[]; \
  type* const name = reinterpret_cast<type*>(vitrine_dynamic_smem)
#else
#include "simt/cuda.h"
#endif

#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>

#include "vitrine/error.h"

namespace vitrine::cuda {

using bf16 = __nv_bfloat16;
using f16 = __half;

constexpr int kWarpSize = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr float kLog2E = 1.4426950408889634f;  ///< e^x = 2^(x · kLog2E)

template <typename I>
__host__ __device__ constexpr I ceil_div(I a, std::type_identity_t<I> b) {
  return (a + b - 1) / b;
}

/// A whole-number template argument as a value: `[](auto kCols) { kernel<kCols.value> }`.
template <auto kValue>
using Constant = std::integral_constant<decltype(kValue), kValue>;

/// Calls `body` with the value as a Constant, to choose between two instances of a kernel.
template <typename Body>
void for_bool(bool value, const Body& body) {
  value ? body(Constant<true>{}) : body(Constant<false>{});
}

/// Throws DeviceError naming the operation unless `status` is cudaSuccess.
inline void check_cuda(const char* operation, cudaError_t status) {
  if (status == cudaSuccess) return;
  throw DeviceError(std::string(operation) + ": " + cudaGetErrorName(status) + ": " +
                    cudaGetErrorString(status));
}

/// Dynamic shared memory beyond this is asked for. CUDA grants 48 KB with the static arrays.
constexpr std::size_t kSharedWithoutAsking = 40 * 1024;

/// Launches `kernel` and throws DeviceError naming the operation if CUDA refuses.
template <typename... Parameters, typename... Arguments>
void launch(const char* operation, cudaStream_t stream, dim3 grid, dim3 block,
            std::size_t shared_bytes, void (*kernel)(Parameters...), Arguments&&... arguments) {
#ifdef __CUDACC__
  if (shared_bytes > kSharedWithoutAsking) {
    check_cuda(operation, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                               static_cast<int>(shared_bytes)));
  }
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  check_cuda(operation, cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...));
#else
  simt::launch(operation, stream, grid, block, shared_bytes, kernel,
               std::forward<Arguments>(arguments)...);
#endif
}

}  // namespace vitrine::cuda
