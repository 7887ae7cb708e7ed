// What the emulator tells AddressSanitizer and ThreadSanitizer. It is compiled without either, so
// that they never look at its own bookkeeping; a program that has one defines these functions.
#pragma once

#include <cstddef>

extern "C" {
[[gnu::weak]] void __sanitizer_start_switch_fiber(void** fake_stack, const void* bottom,
                                                  std::size_t size);
[[gnu::weak]] void __sanitizer_finish_switch_fiber(void* fake_stack, const void** bottom,
                                                   std::size_t* size);
[[gnu::weak]] void __asan_poison_memory_region(const volatile void* start, std::size_t size);
[[gnu::weak]] void __asan_unpoison_memory_region(const volatile void* start, std::size_t size);
[[gnu::weak]] void __asan_set_error_report_callback(void (*callback)(const char*));

[[gnu::weak]] void* __tsan_get_current_fiber();
[[gnu::weak]] void* __tsan_create_fiber(unsigned flags);
[[gnu::weak]] void __tsan_destroy_fiber(void* fiber);
[[gnu::weak]] void __tsan_switch_to_fiber(void* fiber, unsigned flags);
[[gnu::weak]] void __tsan_acquire(void* object);
[[gnu::weak]] void __tsan_release(void* object);
[[gnu::weak]] void __tsan_atomic8_store(volatile unsigned char* object, unsigned char value,
                                        int order);
[[gnu::weak]] void __tsan_ignore_thread_begin();
[[gnu::weak]] void __tsan_ignore_thread_end();
}

namespace simt::sanitizer {

inline bool sees_addresses() {
  return __asan_poison_memory_region != nullptr;
}
inline bool sees_races() {
  return __tsan_create_fiber != nullptr;
}

inline void poison(const void* start, std::size_t size) {
  if (sees_addresses()) __asan_poison_memory_region(start, size);
}
inline void unpoison(const void* start, std::size_t size) {
  if (sees_addresses()) __asan_unpoison_memory_region(start, size);
}

/// What ThreadSanitizer knows to have happened before whoever acquires it.
class Clock {
 public:
  /// Forgets all former releases.
  void release_anew() {
    constexpr int kRelease = 3;
    if (sees_races()) __tsan_atomic8_store(&object_, 0, kRelease);
  }
  void release() {
    if (sees_races()) __tsan_release(&object_);
  }
  void acquire() {
    if (sees_races()) __tsan_acquire(&object_);
  }

 private:
  unsigned char object_ = 0;
};

/// Accesses that library functions make for the emulator are none of the kernel's.
class IgnoreRaces {
 public:
  IgnoreRaces() {
    if (sees_races()) __tsan_ignore_thread_begin();
  }
  ~IgnoreRaces() {
    if (sees_races()) __tsan_ignore_thread_end();
  }
  IgnoreRaces(const IgnoreRaces&) = delete;
  IgnoreRaces& operator=(const IgnoreRaces&) = delete;
};

/// Runs as ThreadSanitizer's thread `fiber` without leaving the stack.
class ActAs {
 public:
  explicit ActAs(void* fiber) : self_(sees_races() ? __tsan_get_current_fiber() : nullptr) {
    if (sees_races()) __tsan_switch_to_fiber(fiber, kOrdersNothing);
  }
  ~ActAs() {
    if (sees_races()) __tsan_switch_to_fiber(self_, kOrdersNothing);
  }
  ActAs(const ActAs&) = delete;
  ActAs& operator=(const ActAs&) = delete;

  static constexpr unsigned kOrdersNothing = 1;

 private:
  void* self_;
};

}  // namespace simt::sanitizer
