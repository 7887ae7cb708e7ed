// What kernels do with memory: shared arrays, asynchronous copies, atomic accesses, fences.
#include <algorithm>

#include "simt/async_copy.h"
#include "simt/atomics.h"
#include "simt/multiprocessor.h"
#include "simt/shared_memory.h"

namespace simt {
namespace {

constexpr std::size_t kCopyBytes = AsyncCopy::kWords * sizeof(std::uint32_t);

}  // namespace

void* shared_array(const void* key, std::size_t bytes, CallSite site) {
  Multiprocessor& self = Multiprocessor::current();
  void* array = self.arena().array(key, bytes);
  const bool asked = self.arena().dynamic_bytes() > kSharedAskedBeyond;
  if (array == nullptr || (!asked && self.arena().bytes_in_use() > kStaticSharedBytesPerBlock)) {
    self.fail(site,
              "out of shared memory: %zu bytes with this array, %zu of them dynamic; a block may "
              "have %zu, and %zu of static arrays",
              self.arena().bytes_in_use(), self.arena().dynamic_bytes(), kSharedBytesPerBlock,
              kStaticSharedBytesPerBlock);
  }
  return array;
}

void* dynamic_shared() {
  return Multiprocessor::current().arena().dynamic();
}

void begin_async_copy(const AsyncCopy& copy) {
  Multiprocessor& self = Multiprocessor::current();
  const auto misaligned = [](const void* address) {
    return reinterpret_cast<std::uintptr_t>(address) % kCopyBytes != 0;
  };
  if (misaligned(copy.target) || misaligned(copy.source)) {
    self.fail(copy.site, "cp.async from %p to %p: not aligned to %zu bytes",
              static_cast<const void*>(copy.source), static_cast<void*>(copy.target), kCopyBytes);
  }
  if (!self.arena().contains(copy.target, kCopyBytes)) {
    self.fail(copy.site, "cp.async: the target is not in shared memory");
  }
  if (copy.valid != 0 && copy.valid != static_cast<int>(kCopyBytes)) {
    self.fail(copy.site, "cp.async of %d bytes: expected 0 or 16", copy.valid);
  }
  const sanitizer::IgnoreRaces ignore;
  Multiprocessor::current_thread().copies.copies.push_back(copy);
}

void end_async_group() {
  const sanitizer::IgnoreRaces ignore;
  CopyQueue& queue = Multiprocessor::current_thread().copies;
  queue.group_ends.push_back(queue.copies.size());
}

bool next_async_copy(int pending, AsyncCopy& copy) {
  const sanitizer::IgnoreRaces ignore;
  CopyQueue& queue = Multiprocessor::current_thread().copies;
  auto& ends = queue.group_ends;
  const std::size_t groups = ends.size() - std::min<std::size_t>(ends.size(), pending);
  if (groups == 0) return false;
  if (queue.done < ends[groups - 1]) {
    copy = queue.copies[queue.done++];
    return true;
  }
  queue.copies.erase(queue.copies.begin(), queue.copies.begin() + queue.done);
  ends.erase(ends.begin(), ends.begin() + groups);
  for (std::size_t& end : ends) end -= queue.done;
  queue.done = 0;
  return false;
}

AtomicAccess::AtomicAccess(const void* target, std::size_t bytes)
    : shared_(Multiprocessor::current().arena().contains(target, bytes)) {
  if (!shared_) Multiprocessor::current().memory_order().begin_access();
}
AtomicAccess::~AtomicAccess() {
  if (!shared_) Multiprocessor::current().memory_order().end_access();
}

void fence() {
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  Multiprocessor::current().memory_order().fence();
}

}  // namespace simt
