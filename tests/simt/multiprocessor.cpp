#include "simt/multiprocessor.h"

#include <cstdarg>
#include <cstdio>
#include <map>
#include <tuple>

namespace simt {

constinit thread_local ThreadPosition* this_thread = nullptr;
constinit thread_local BlockPosition* this_block = nullptr;

namespace {

/// Differs between blocks; never zero.
std::uint64_t random_state_of(const Schedule& schedule, uint3 block) {
  std::uint64_t state = schedule.seed + 1;
  for (const unsigned part : {block.x, block.y, block.z}) {
    state = (state ^ part) * 0x9E3779B97F4A7C15u + 0xBF58476D1CE4E5B9u;
    state ^= state >> 29;
  }
  return state == 0 ? 1 : state;
}

constexpr int kStackColors = 64;

std::string formatted(const char* format, std::va_list values) {
  char buffer[1024];
  std::vsnprintf(buffer, sizeof(buffer), format, values);
  return buffer;
}

}  // namespace

std::string text(const char* format, ...) {
  std::va_list values;
  va_start(values, format);
  std::string text = formatted(format, values);
  va_end(values);
  return text;
}

Multiprocessor::Multiprocessor()
    : threads_(new Thread[kMaxThreadsPerBlock]),
      warps_(new Warp[kMaxThreadsPerBlock / kWarpSize]) {}

void Multiprocessor::run_block(const Launch& launch, uint3 block, const Schedule& schedule,
                               sanitizer::Clock& finished) {
  Fiber main;
  main_ = &main;
  finished_ = &finished;
  prepare(launch, block, schedule);
  this_block = this;
  resume(main, *ready_.take(order_, random_state_), false);
  this_thread = nullptr;
  this_block = nullptr;
  if (report_.empty() && finished_count_ < thread_count_) report_ = deadlock();
  if (report_.empty() && arena_.gap_was_written()) {
    report_ = place(nullptr, {}) + "shared memory was written beyond an array";
  }
  if (report_.empty()) return;
  abandon_threads();
  throw Error(report_);
}

void Multiprocessor::prepare(const Launch& launch, uint3 block, const Schedule& schedule) {
  launch_ = &launch;
  index = block;
  dimensions = launch.block;
  grid = launch.grid;
  order_ = schedule.order;
  random_state_ = random_state_of(schedule, block);
  thread_count_ = launch.block.x * launch.block.y * launch.block.z;
  finished_count_ = 0;
  ++blocks_run_;
  arena_.start_block(launch.shared_bytes);
  prepare_threads();
  started_.release_anew();
  memory_order_.start_block();
}

void Multiprocessor::prepare_threads() {
  ready_.clear();
  uint3 position = {0, 0, 0};
  for (unsigned number = 0; number < thread_count_; ++number) {
    Thread& thread = threads_[number];
    thread.index = position;
    thread.number = number;
    thread.lane = number % kWarpSize;
    thread.warp = &warps_[number / kWarpSize];
    thread.fiber = nullptr;
    thread.state = Thread::State::ready;
    if (thread.lane == 0) {
      thread.warp->lanes = 0;
      thread.warp->finished = 0;
    }
    thread.warp->lanes |= 1u << thread.lane;
    thread.warp->threads[thread.lane] = &thread;
    ready_.add(thread);
    if (++position.x == dimensions.x) {
      position.x = 0;
      if (++position.y == dimensions.y) {
        position.y = 0;
        ++position.z;
      }
    }
  }
}

/// Any free stack will do; but to ThreadSanitizer what runs on one fiber is one thread. There each
/// thread has its own, and a block does not share them with the block before: it is not ordered
/// after it.
Fiber& Multiprocessor::fiber_for(const Thread& thread) {
  const auto add_fiber = [this] {
    const int color = static_cast<int>(fibers_.size() * 5 % kStackColors);
    fibers_.push_back(std::make_unique<Fiber>(color));
    return fibers_.back().get();
  };
  if (sanitizer::sees_races()) {
    const sanitizer::IgnoreRaces ignore;
    while (fibers_.size() < 2 * thread_count_) add_fiber();
    return *fibers_[2 * thread.number + blocks_run_ % 2];
  }
  if (free_fibers_.empty()) return *add_fiber();
  Fiber* fiber = free_fibers_.back();
  free_fibers_.pop_back();
  return *fiber;
}

/// What every fiber does: runs its thread, and after it others that have not started yet.
void Multiprocessor::run_threads() {
  Multiprocessor& self = current();
  for (;;) {
    Thread& thread = current_thread();
    self.started_.acquire();
    self.launch_->run_thread(self.launch_->kernel);
    self.finish(thread);
    Fiber& fiber = *thread.fiber;
    Thread* next = self.ready_.take(self.order_, self.random_state_);
    if (next != nullptr && next->fiber == nullptr && !sanitizer::sees_races()) {
      next->fiber = &fiber;
      this_thread = next;
      continue;
    }
    if (!sanitizer::sees_races()) self.free_fibers_.push_back(&fiber);
    if (next == nullptr) fiber.switch_to(*self.main_, true);
    self.resume(fiber, *next, true);
  }
}

void Multiprocessor::finish(Thread& thread) {
  const std::size_t copies = thread.copies.copies.size();
  if (copies > 0) {
    fail(thread.copies.copies.front().site,
         "the thread exits with %zu cp.async copies it has not waited for", copies);
  }
  if (barrier_.arrived > 0) {
    fail(barrier_.site, "the thread exits while %u threads wait at __syncthreads",
         barrier_.arrived);
  }
  Warp& warp = *thread.warp;
  for (unsigned open = warp.open; open != 0; open &= open - 1) {
    const Meeting& meeting = warp.meetings[__builtin_ctz(open)];
    if ((meeting.mask >> thread.lane & 1) == 0) continue;
    fail(meeting.site, "the thread exits while lanes of its warp wait for it in %s, mask %08x",
         meeting.collective->name, meeting.mask);
  }
  thread.copies.group_ends.clear();
  finished_->release();
  thread.state = Thread::State::finished;
  warp.finished |= 1u << thread.lane;
  ++finished_count_;
}

void Multiprocessor::fail(CallSite site, const char* format, ...) {
  {
    const sanitizer::IgnoreRaces ignore;
    std::va_list values;
    va_start(values, format);
    report_ = place(&current_thread(), site) + formatted(format, values);
    va_end(values);
  }
  current_thread().fiber->switch_to(*main_, true);
  __builtin_unreachable();
}

/// To ThreadSanitizer, what abandoned threads did is over now.
void Multiprocessor::abandon_threads() {
  if (!sanitizer::sees_races()) return;
  for (unsigned number = 0; number < thread_count_; ++number) {
    if (threads_[number].fiber == nullptr) continue;
    const sanitizer::ActAs thread(threads_[number].fiber->race_identity());
    finished_->release();
  }
  finished_->acquire();
}

bool Multiprocessor::overflowed_stack(const void* address) const {
  return this_thread != nullptr && current_thread().fiber->guards(address);
}

std::string Multiprocessor::place(const Thread* thread, CallSite site) const {
  std::string place = text("%s: block (%u,%u,%u)", launch_->operation, index.x, index.y, index.z);
  if (thread != nullptr) {
    place += text(" thread (%u,%u,%u)", thread->index.x, thread->index.y, thread->index.z);
  }
  if (site.line > 0) place += text(" at %s:%d", site.file, site.line);
  return place + ": ";
}

std::string Multiprocessor::deadlock() const {
  std::map<std::tuple<std::string, std::string, int>, unsigned> waiting;
  for (unsigned number = 0; number < thread_count_; ++number) {
    const Thread& thread = threads_[number];
    if (thread.state == Thread::State::finished) continue;
    ++waiting[{thread.waits_in, thread.site.file, thread.site.line}];
  }
  std::string report = place(nullptr, {}) + text("deadlock: %u of %u threads wait for ever",
                                                 thread_count_ - finished_count_, thread_count_);
  for (const auto& [where, count] : waiting) {
    const auto& [what, file, line] = where;
    report += text(", %u in %s at %s:%d", count, what.c_str(), file.c_str(), line);
  }
  return report;
}

}  // namespace simt
