// Atomic operations and fences. Relaxed, as on the device: only a fence orders other accesses.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace simt {

/// Around an atomic access: ThreadSanitizer is told about it as memory_order.h says. In a block's
/// shared memory the thread itself makes it, and barriers order it.
class AtomicAccess {
 public:
  AtomicAccess(const void* target, std::size_t bytes);
  ~AtomicAccess();
  AtomicAccess(const AtomicAccess&) = delete;
  AtomicAccess& operator=(const AtomicAccess&) = delete;

 private:
  bool shared_;
};

/// What this block did before is visible to whoever sees a later atomic access of this block.
void fence();

/// *target = change(*target); returns what was there before.
template <typename T, typename Change>
T atomic_change(T* target, const Change& change) {
  using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
  static_assert(sizeof(T) == sizeof(Bits));
  Bits* bits = reinterpret_cast<Bits*>(target);
  const AtomicAccess access(bits, sizeof(T));
  Bits before = __atomic_load_n(bits, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(
      bits, &before, std::bit_cast<Bits>(static_cast<T>(change(std::bit_cast<T>(before)))), false,
      __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return std::bit_cast<T>(before);
}

/// Adds to *target; returns what was there before.
template <typename T>
T atomic_add(T* target, T value) {
  return atomic_change(target, [value](T before) { return before + value; });
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

/// Counts up to `last` and then from 0 again.
inline unsigned atomicInc(unsigned* target, unsigned last) {
  return simt::atomic_change(target,
                             [last](unsigned before) { return before >= last ? 0 : before + 1; });
}

inline void __threadfence() {
  simt::fence();
}
