// Executes CUDA kernels on the CPU: what primitives/cuda.cuh includes under a plain C++ compiler.
//
// Every CUDA thread is a fiber (Boost.Context). A block runs on one operating system thread, blocks
// are spread over several. A thread that must wait hands over to the next ready one in the order of
// the schedule (schedule.h): run fifo, lifo and several seeds, each of the first two hides bugs.
//
// Reported as simt::Error, with operation, block, thread, file and line:
//   threads at different __syncthreads, or gone before one; lanes of a warp that disagree about an
//   operation or its mask, are not in it, do not exist or are gone; deadlock, with who waits where;
//   cp.async never waited for; cp.async and ldmatrix with wrong addresses; writes beyond an array
//   in shared memory; too much of it; launches beyond CUDA's limits.
// Shows as NaN or as a wrong number, under one of the schedules:
//   shared or fresh device memory that nobody wrote; a missing barrier or cp.async wait; an
//   inactive lane's shuffle.
// Found by the sanitizers, whose builds run the same tests:
//   any access out of bounds or misaligned (address,undefined; clang overlooks misaligned copies of
//   whole structs, g++ does not); races within and between blocks, missing fences (thread): only
//   __syncthreads, __syncwarp and __threadfence order memory, shuffles and mma do not; atomics
//   order only accesses to what they change.
// Cannot be found here:
//   errors in the text of asm; memory so weakly ordered that a race-free program notices; bank
//   conflicts, registers, speed; numbers that differ from the device's in the last bits, as its
//   fast functions and its order of summation in mma do. Of streams see streams.h.
//
// Rules for kernels: launch() only, PTX through primitives/ptx.cuh only, shared memory through
// SHARED_ARRAY and DYNAMIC_SHARED only; no cooperative groups, cub or __activemask; arithmetic of
// 16-bit types in float; every thread reaches each __syncthreads, and its line is the same for all
// of them; masks name existing lanes; frames under 32 KB; no locks that spin: a thread that does
// not wait in one of the operations above does not hand over.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <type_traits>

#include "simt/atomics.h"
#include "simt/collectives.h"
#include "simt/intrinsics.h"
#include "simt/launch.h"
#include "simt/position.h"
#include "simt/shared_memory.h"

#undef __shared__  // see SHARED_ARRAY: a kernel that says it otherwise does not compile
#undef __launch_bounds__
#ifdef __clang__  // warns of a constant that nothing else names
#define __launch_bounds__(...) __attribute__((annotate("launch bounds", __VA_ARGS__)))
#else
#define __launch_bounds__(...)
#endif
#undef __forceinline__
#define __forceinline__ inline __attribute__((always_inline))

#define threadIdx (static_cast<const uint3&>(simt::this_thread->index))
#define blockIdx (static_cast<const uint3&>(simt::this_block->index))
#define blockDim (static_cast<const dim3&>(simt::this_block->dimensions))
#define gridDim (static_cast<const dim3&>(simt::this_block->grid))
