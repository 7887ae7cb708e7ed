#include "simt/fiber.h"

#include <sys/mman.h>

#include <new>

namespace simt {
namespace {

constexpr std::size_t kGuardBytes = 4096;
constexpr std::size_t kCacheLine = 64;

std::size_t stack_size() {
  const bool sanitized = sanitizer::sees_addresses() || sanitizer::sees_races();
  return (sanitized ? 256 : 64) * std::size_t{1024};
}

}  // namespace

void Fiber::begin(boost::context::detail::transfer_t transfer) {
  arrive(transfer, nullptr).entry_();
}

Fiber::Fiber() : race_identity_(sanitizer::sees_races() ? __tsan_get_current_fiber() : nullptr) {}

Fiber::Fiber(int color) : stack_bytes_(stack_size()), color_(color) {
  void* mapping = ::mmap(nullptr, kGuardBytes + stack_bytes_, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) throw std::bad_alloc();
  mapping_ = static_cast<char*>(mapping);
  ::mprotect(mapping_, kGuardBytes, PROT_NONE);
  stack_ = mapping_ + kGuardBytes;
  if (sanitizer::sees_races()) race_identity_ = __tsan_create_fiber(0);
}

Fiber::~Fiber() {
  if (mapping_ == nullptr) return;
  sanitizer::unpoison(stack_, stack_bytes_);
  if (sanitizer::sees_races()) __tsan_destroy_fiber(race_identity_);
  ::munmap(mapping_, kGuardBytes + stack_bytes_);
}

void Fiber::start(void (*entry)()) {
  const std::size_t used = stack_bytes_ - static_cast<std::size_t>(color_) * kCacheLine;
  context_ = boost::context::detail::make_fcontext(mapping_ + kGuardBytes + used, used, &begin);
  entry_ = entry;
}

bool Fiber::guards(const void* address) const {
  const char* byte = static_cast<const char*>(address);
  return mapping_ != nullptr && byte >= mapping_ && byte < mapping_ + kGuardBytes;
}

}  // namespace simt
