// Atomic operations and fences. Relaxed, as on the device: only a fence orders other accesses.
#pragma once

#include <bit>
#include <cstdint>
#include <type_traits>

namespace simt {

/// Around an atomic access: ThreadSanitizer is told about it as memory_order.h says.
class AtomicAccess {
 public:
  AtomicAccess();
  ~AtomicAccess();
  AtomicAccess(const AtomicAccess&) = delete;
  AtomicAccess& operator=(const AtomicAccess&) = delete;
};

/// What this block did before is visible to whoever sees a later atomic access of this block.
void fence();

/// Adds to *target; returns what was there before.
template <typename T>
T atomic_add(T* target, T value) {
  using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
  static_assert(sizeof(T) == sizeof(Bits));
  Bits* bits = reinterpret_cast<Bits*>(target);
  const AtomicAccess access;
  Bits before = __atomic_load_n(bits, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(
      bits, &before, std::bit_cast<Bits>(static_cast<T>(std::bit_cast<T>(before) + value)), false,
      __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return std::bit_cast<T>(before);
}

}  // namespace simt

inline int atomicAdd(int* target, int value) {
  return simt::atomic_add(target, value);
}
inline unsigned atomicAdd(unsigned* target, unsigned value) {
  return simt::atomic_add(target, value);
}
inline unsigned long long atomicAdd(unsigned long long* target, unsigned long long value) {
  return simt::atomic_add(target, value);
}
inline float atomicAdd(float* target, float value) {
  return simt::atomic_add(target, value);
}
inline double atomicAdd(double* target, double value) {
  return simt::atomic_add(target, value);
}

inline void __threadfence() {
  simt::fence();
}
inline void __threadfence_block() {
  simt::fence();
}
