// Runs a kernel: every CUDA thread a fiber, blocks spread over operating system threads.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <memory>
#include <tuple>
#include <utility>

#include "simt/error.h"

namespace simt {

/// Shared memory of a block: what compute capability 9.0 lets a block have, and what it may have
/// without asking.
constexpr std::size_t kSharedBytesPerBlock = 227 * 1024;
constexpr std::size_t kStaticSharedBytesPerBlock = 48 * 1024;
/// Dynamic shared memory beyond which launch() of primitives/cuda.cuh asks.
constexpr std::size_t kSharedAskedBeyond = 40 * 1024;

struct Launch {
  const char* operation;
  dim3 grid, block;
  std::size_t shared_bytes;
  void (*run_thread)(const void* kernel);
  const void* kernel;
};

/// Runs all blocks under the current schedule. Throws Error: the first report of any of them, or a
/// grid, block or amount of shared memory that CUDA refuses.
void run(const Launch& launch);

/// Submits run(launch) to the stream (streams.h); `kernel` owns what `launch.kernel` points to.
/// Throws Error for what CUDA refuses, then and there, and for a stream or device that takes no
/// work.
void submit(cudaStream_t stream, const Launch& launch, std::shared_ptr<const void> kernel);

template <typename... Parameters, typename... Arguments>
void launch(const char* operation, cudaStream_t stream, dim3 grid, dim3 block,
            std::size_t shared_bytes, void (*kernel)(Parameters...), Arguments&&... arguments) {
  const auto run_thread = [kernel, parameters = std::tuple<Parameters...>(std::forward<Arguments>(
                                       arguments)...)] { std::apply(kernel, parameters); };
  using Thread = decltype(run_thread);
  auto thread = std::make_shared<Thread>(run_thread);
  const Launch launch{operation,
                      grid,
                      block,
                      shared_bytes,
                      [](const void* body) { (*static_cast<Thread*>(body))(); },
                      thread.get()};
  // Kept by nobody here: ThreadSanitizer sees only this side of counting references.
  submit(stream, launch, std::move(thread));
}

}  // namespace simt
