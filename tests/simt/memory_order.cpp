#include "simt/memory_order.h"

#include <atomic>

namespace simt {
namespace {

using sanitizer::sees_races;

sanitizer::Clock accesses;        // of memory itself
sanitizer::Clock carried;         // what fences gave before an access
std::atomic_flag access_is_made;  // an access and its place on the clocks are one

void act_as(void* fiber) {
  __tsan_switch_to_fiber(fiber, sanitizer::ActAs::kOrdersNothing);
}

}  // namespace

MemoryOrder::MemoryOrder()
    : memory_(sees_races() ? __tsan_create_fiber(0) : nullptr),
      messenger_(sees_races() ? __tsan_create_fiber(0) : nullptr) {}

MemoryOrder::~MemoryOrder() {
  if (!sees_races()) return;
  __tsan_destroy_fiber(memory_);
  __tsan_destroy_fiber(messenger_);
}

void MemoryOrder::start_block() {
  started_.release_anew();
  given_.release_anew();
  taken_.release_anew();
}

void MemoryOrder::begin_access() {
  if (!sees_races()) return;
  while (access_is_made.test_and_set(std::memory_order_acquire)) {
  }
  thread_ = __tsan_get_current_fiber();
  act_as(memory_);
  started_.acquire();
  accesses.acquire();
}

void MemoryOrder::end_access() {
  if (!sees_races()) return;
  accesses.release();
  act_as(messenger_);
  given_.acquire();
  carried.acquire();
  carried.release();
  taken_.release();
  act_as(thread_);
  accesses.acquire();
  access_is_made.clear(std::memory_order_release);
}

void MemoryOrder::fence() {
  taken_.acquire();
  given_.release();
}

}  // namespace simt
