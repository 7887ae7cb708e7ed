// Sums over a grid in one launch: every block stores its part in the scratch memory, and the block
// that finishes last adds the parts in the order of the blocks.
//
//   "threadFenceReduction" of the CUDA samples; CUDA C++ Programming Guide, memory fence functions
#pragma once

#include "cuda_kernels.h"
#include "primitives/cuda.cuh"

namespace vitrine::cuda {

/// True in every thread of the block that calls it last; by then the writes of all other blocks'
/// calling threads are visible to it. All threads of all blocks call, once. Leaves the counter 0.
__device__ __forceinline__ bool last_block(ScratchMemory* scratch) {
  SHARED_ARRAY(bool, is_last, [1]);
  __syncthreads();
  if (threadIdx.x == 0) {  // its fences carry what the block wrote before the barrier
    __threadfence();
    const unsigned last = gridDim.x * gridDim.y * gridDim.z - 1;
    is_last[0] = atomicInc(&scratch->blocks_done, last) == last;  // 0 follows `last`
    __threadfence();
  }
  __syncthreads();
  return is_last[0];
}

}  // namespace vitrine::cuda
