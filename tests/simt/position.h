// Where the running CUDA thread is: what threadIdx, blockIdx, blockDim and gridDim read.
#pragma once

#include <cuda_runtime.h>

namespace simt {

struct ThreadPosition {
  uint3 index;
  unsigned lane;
};

struct BlockPosition {
  uint3 index;
  dim3 dimensions, grid;
};

/// Of the CUDA thread that this operating system thread runs now; null outside kernels.
extern constinit thread_local ThreadPosition* this_thread;
extern constinit thread_local BlockPosition* this_block;

}  // namespace simt
