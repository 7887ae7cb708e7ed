// What the wrappers of kernels/primitives/ptx.cuh do, for execution on the CPU.
//
//   PTX ISA 8.5, 9.7.14 (mma, ldmatrix), 9.7.9.25 (cp.async), 9.7.3 (ex2, lg2)
//
// Lane 4g + t holds the elements that ptx.cuh names; ptx_test.cu holds both to the manual.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>

#include "simt/async_copy.h"
#include "simt/collectives.h"

namespace simt {

extern const Collective kMmaBf16, kLdmatrix, kLdmatrixTrans;

struct MmaArguments {
  float* d;
  const unsigned* a;
  const unsigned* b;
};

/// One lane's part of ldmatrix: the row it names, and the rows it reads from: of each matrix the
/// one its elements lie in, or, transposed, the two.
struct LdmatrixArguments {
  const void* row;
  const std::uint16_t* sources[8] = {};
};

/// Reports a row that is not aligned or not in shared memory.
void meet_ldmatrix(const Collective& collective, LdmatrixArguments& arguments, CallSite site);

/// Ends the kernel: an address is no multiple of 16.
[[noreturn]] void report_misaligned(const void* address, CallSite site);
/// Ends the kernel if the address is in shared memory.
void check_global(const void* address, CallSite site);

inline void check_alignment_16(const void* address, CallSite site) {
  if (reinterpret_cast<std::uintptr_t>(address) % 16 != 0) report_misaligned(address, site);
}

/// Subnormal numbers as the .ftz forms see them.
inline float flushed(float x) {
  return std::fabs(x) < FLT_MIN ? std::copysign(0.0f, x) : x;
}

}  // namespace simt

namespace vitrine::cuda::ptx {

[[gnu::always_inline]] inline void mma_bf16_16x8x16(float (&d)[4], const unsigned (&a)[4],
                                                    const unsigned (&b)[2],
                                                    simt::CallSite site = simt::CallSite::here()) {
  simt::MmaArguments arguments{d, a, b};
  simt::meet_warp(simt::kMmaBf16, 0xffffffffu, &arguments, site);
}

// The lane that gets an element reads it here, where a sanitizer sees the access.
[[gnu::always_inline]] inline void ldmatrix_x4(unsigned (&r)[4], const void* row,
                                               simt::CallSite site = simt::CallSite::here()) {
  simt::LdmatrixArguments arguments{row};
  simt::meet_ldmatrix(simt::kLdmatrix, arguments, site);
  const unsigned t = simt::this_thread->lane % 4;
  for (int i = 0; i < 4; ++i) {
    const std::uint16_t* source = arguments.sources[i] + 2 * t;
    r[i] = source[0] | static_cast<unsigned>(source[1]) << 16;
  }
}

[[gnu::always_inline]] inline void ldmatrix_x4_trans(unsigned (&r)[4], const void* row,
                                                     simt::CallSite site = simt::CallSite::here()) {
  simt::LdmatrixArguments arguments{row};
  simt::meet_ldmatrix(simt::kLdmatrixTrans, arguments, site);
  const unsigned g = simt::this_thread->lane / 4;
  for (int i = 0; i < 4; ++i) {
    r[i] = arguments.sources[2 * i][g] | static_cast<unsigned>(arguments.sources[2 * i + 1][g])
                                             << 16;
  }
}

inline void cp_async_16(void* target, const void* source, int valid,
                        simt::CallSite site = simt::CallSite::here()) {
  simt::async_copy({static_cast<std::uint32_t*>(target), static_cast<const std::uint32_t*>(source),
                    valid, site});
}
inline void cp_async_commit() {
  simt::end_async_group();
}
template <int kPending>
void cp_async_wait() {
  simt::wait_for_async_groups(kPending);
}

inline uint4 load_16(const void* source, simt::CallSite site = simt::CallSite::here()) {
  simt::check_alignment_16(source, site);
  return *static_cast<const uint4*>(source);
}
inline void store_16(void* target, const uint4& words,
                     simt::CallSite site = simt::CallSite::here()) {
  simt::check_alignment_16(target, site);
  *static_cast<uint4*>(target) = words;
}
inline void store_global_16(void* target, const uint4& words,
                            simt::CallSite site = simt::CallSite::here()) {
  simt::check_alignment_16(target, site);
  simt::check_global(target, site);
  *static_cast<uint4*>(target) = words;
}
inline void forget(unsigned&) {}

inline float reciprocal_approx(float x) {
  return simt::flushed(1.0f / simt::flushed(x));
}
inline float exp2_approx(float x) {
  return simt::flushed(std::exp2(simt::flushed(x)));
}
inline float log2_approx(float x) {
  return std::log2(simt::flushed(x));
}

inline unsigned block_x() {
  return simt::this_block->index.x;
}
inline unsigned thread_x() {
  return simt::this_thread->index.x;
}

}  // namespace vitrine::cuda::ptx
