// Every PTX instruction the kernels use, one wrapper each.
//
//   PTX ISA 8.5, 9.7.14 (mma, ldmatrix), 9.7.9.25 (cp.async), 9.7.9 (st), 9.7.3 (rcp, ex2,
//   lg2)
//
// mma and cp.async need sm_80; code for an older chip traps there, and no launcher goes there.
//
// Unproven: no wrapper has run on a GPU yet. tests/simt/ptx_test.cu holds each to literal
// fragments of the manual, on the emulation in tests/simt/ptx.h and, where there is one, on a GPU.
#pragma once

#include "primitives/cuda.cuh"

#ifndef __CUDACC__
#include "simt/ptx.h"
#else

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#define VITRINE_PTX_SM80(...) __trap()
#else
#define VITRINE_PTX_SM80(...) asm volatile(__VA_ARGS__)
#endif

namespace vitrine::cuda::ptx {

__device__ __forceinline__ unsigned shared_address(const void* pointer) {
  return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

/// d += a · b for a 16×16 (row-major), b 16×8 (column-major), bf16 with f32 accumulators. Lane
/// 4g + t holds a: (g, 2t), (g+8, 2t), (g, 2t+8), (g+8, 2t+8), each with its right neighbour;
/// b: (2t, g), (2t+8, g), each with the one below; d: (g, 2t), (g, 2t+1), (g+8, 2t), (g+8, 2t+1).
__device__ __forceinline__ void mma_bf16_16x8x16(float (&d)[4], const unsigned (&a)[4],
                                                 const unsigned (&b)[2]) {
  VITRINE_PTX_SM80(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/// Four 8×8 matrices of 16-bit elements; lane 8j + r gives the address of row r of matrix j (16
/// bytes, aligned, in shared memory). Lane 4g + t receives elements 2t, 2t+1 of row g of each.
__device__ __forceinline__ void ldmatrix_x4(unsigned (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3},[%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
/// The same with each matrix transposed: lane 4g + t receives rows 2t, 2t+1 of column g.
__device__ __forceinline__ void ldmatrix_x4_trans(unsigned (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3},[%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

/// Starts copying 16 bytes to shared memory, of which the first `valid` (0 or 16) are read and the
/// rest are zero. Both addresses are aligned to 16 bytes.
__device__ __forceinline__ void cp_async_16(void* target, const void* source, int valid) {
  VITRINE_PTX_SM80("cp.async.cg.shared.global [%0],[%1],16,%2;\n" ::"r"(shared_address(target)),
                   "l"(source), "r"(valid)
                   : "memory");
}
/// Ends a group of copies of this thread.
__device__ __forceinline__ void cp_async_commit() {
  VITRINE_PTX_SM80("cp.async.commit_group;\n" ::: "memory");
}
/// Waits until at most the kPending newest groups of this thread are under way.
template <int kPending>
__device__ __forceinline__ void cp_async_wait() {
  VITRINE_PTX_SM80("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
}

/// 16 bytes in one access, of global or of shared memory; the address is aligned.
__device__ __forceinline__ uint4 load_16(const void* source) {
  return *static_cast<const uint4*>(source);
}
__device__ __forceinline__ void store_16(void* target, const uint4& words) {
  *static_cast<uint4*>(target) = words;
}
/// For global memory only. Where a kernel branches much, the compiler may make of store_16 four
/// stores, or eight; this stays one. No access to memory moves across it.
__device__ __forceinline__ void store_global_16(void* target, const uint4& words) {
  asm volatile("st.global.v4.b32 [%0],{%1,%2,%3,%4};\n" ::"l"(target), "r"(words.x), "r"(words.y),
               "r"(words.z), "r"(words.w)
               : "memory");
}

/// Makes the compiler forget what it has derived from a register: it would keep that as well.
__device__ __forceinline__ void forget(unsigned& word) {
  asm volatile("" : "+r"(word));
}

/// 1 / x, relative error 2^-23; subnormal numbers count as zero.
__device__ __forceinline__ float reciprocal_approx(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0,%1;" : "=f"(y) : "f"(x));
  return y;
}
/// 2^x, relative error 2^-22; subnormal results are zero.
__device__ __forceinline__ float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0,%1;" : "=f"(y) : "f"(x));
  return y;
}
/// log2(x), absolute error 2^-22.
__device__ __forceinline__ float log2_approx(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0,%1;" : "=f"(y) : "f"(x));
  return y;
}

/// blockIdx.x and threadIdx.x read anew: addresses made of them after a long loop do not occupy
/// registers inside it.
__device__ __forceinline__ unsigned block_x() {
  unsigned x;
  asm volatile("mov.u32 %0,%%ctaid.x;" : "=r"(x));
  return x;
}
__device__ __forceinline__ unsigned thread_x() {
  unsigned x;
  asm volatile("mov.u32 %0,%%tid.x;" : "=r"(x));
  return x;
}

}  // namespace vitrine::cuda::ptx

#undef VITRINE_PTX_SM80
#endif
