// Runs one block at a time: its threads as fibers, which of them is next, what they wait for.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "simt/arena.h"
#include "simt/async_copy.h"
#include "simt/collectives.h"
#include "simt/fiber.h"
#include "simt/launch.h"
#include "simt/memory_order.h"
#include "simt/position.h"
#include "simt/sanitizer.h"
#include "simt/schedule.h"

namespace simt {

constexpr unsigned kMaxThreadsPerBlock = 1024;

/// Copies of one thread that are not done yet, in their order.
struct CopyQueue {
  std::vector<AsyncCopy> copies;
  std::size_t done = 0;
  std::vector<std::size_t> group_ends;  ///< index behind the last copy of each group
};

struct Warp;

struct Thread : ThreadPosition {
  enum class State { ready, waiting, finished };

  unsigned number = 0;  ///< in the block
  Warp* warp = nullptr;
  Fiber* fiber = nullptr;  ///< null before the thread starts
  State state = State::ready;
  const char* waits_in = "";
  CallSite site;
  CopyQueue copies;
};

/// Lanes of one warp on their way into one collective.
struct Meeting {
  const Collective* collective = nullptr;
  unsigned mask = 0, arrived = 0;
  CallSite site;
  void* arguments[kWarpSize] = {};
  // Lanes that leave one meeting are ordered by its clock while others already enter the next.
  unsigned round = 0;
  sanitizer::Clock clocks[2];
};

struct Warp {
  unsigned lanes = 0, finished = 0;
  Thread* threads[kWarpSize] = {};
  unsigned open = 0;            ///< which of the meetings somebody has come to
  Meeting meetings[kWarpSize];  ///< by the lowest lane of their mask
};

struct Barrier {
  unsigned arrived = 0;
  CallSite site;
  unsigned round = 0;
  sanitizer::Clock clocks[2];
};

/// Threads that can run, in the order in which they became so.
class ReadyList {
 public:
  void clear() { first_ = count_ = 0; }
  void add(Thread& thread) { threads_[(first_ + count_++) % kMaxThreadsPerBlock] = &thread; }
  /// Null if there is none.
  Thread* take(Order order, std::uint64_t& random_state);

 private:
  Thread* threads_[kMaxThreadsPerBlock];
  unsigned first_ = 0, count_ = 0;
};

class Multiprocessor : public BlockPosition {
 public:
  Multiprocessor();
  Multiprocessor(const Multiprocessor&) = delete;
  Multiprocessor& operator=(const Multiprocessor&) = delete;

  /// The one whose kernel code is running.
  static Multiprocessor& current() { return static_cast<Multiprocessor&>(*this_block); }
  static Thread& current_thread() { return static_cast<Thread&>(*this_thread); }

  /// Runs a block to its end. Throws Error, after which this object runs no further block.
  /// `finished` is what the threads did.
  void run_block(const Launch& launch, uint3 block, const Schedule& schedule,
                 sanitizer::Clock& finished);

  // For the running thread.
  /// Lets others run until somebody wakes this thread.
  void wait(const char* waits_in, CallSite site);
  /// May let others run.
  void yield();
  void wake(Thread& thread);
  /// Ends the block with this report, in printf's format. The thread's stack is left as it is: no
  /// object on it is destroyed.
  [[noreturn, gnu::cold, gnu::format(printf, 3, 4)]] void fail(CallSite site, const char* format,
                                                               ...);

  unsigned thread_count() const { return thread_count_; }
  unsigned finished_count() const { return finished_count_; }
  Thread& thread(unsigned number) { return threads_[number]; }
  Barrier& barrier() { return barrier_; }
  Arena& arena() { return arena_; }
  MemoryOrder& memory_order() { return memory_order_; }
  bool overflowed_stack(const void* address) const;

 private:
  void prepare(const Launch& launch, uint3 block, const Schedule& schedule);
  void prepare_threads();
  Fiber& fiber_for(const Thread& thread);
  void resume(Fiber& from, Thread& thread, bool for_ever);
  static void run_threads();
  void finish(Thread& thread);
  void abandon_threads();
  std::string place(const Thread* thread, CallSite site) const;
  std::string deadlock() const;

  const Launch* launch_ = nullptr;
  unsigned thread_count_ = 0, finished_count_ = 0;
  std::unique_ptr<Thread[]> threads_;
  std::unique_ptr<Warp[]> warps_;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Fiber*> free_fibers_;
  unsigned blocks_run_ = 0;
  ReadyList ready_;
  Order order_ = Order::random;
  std::uint64_t random_state_ = 1;
  Barrier barrier_;
  Arena arena_;
  Fiber* main_ = nullptr;
  sanitizer::Clock started_;
  sanitizer::Clock* finished_ = nullptr;
  MemoryOrder memory_order_;
  std::string report_;
};

// Inline for the sake of return prediction, see fiber.h.

inline std::uint64_t next_random(std::uint64_t& state) {  // xorshift64, Marsaglia 2003
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return state;
}

[[gnu::always_inline]] inline Thread* ReadyList::take(Order order, std::uint64_t& random_state) {
  if (count_ == 0) return nullptr;
  const unsigned last = first_ + count_ - 1;
  unsigned chosen = last;
  if (order == Order::fifo) {
    chosen = first_++;
  } else if (order == Order::random) {
    chosen = first_ + static_cast<unsigned>((next_random(random_state) >> 32) * count_ >> 32);
  }
  --count_;
  Thread* thread = threads_[chosen % kMaxThreadsPerBlock];
  if (order == Order::random) {
    threads_[chosen % kMaxThreadsPerBlock] = threads_[last % kMaxThreadsPerBlock];
  }
  return thread;
}

[[gnu::always_inline]] inline void Multiprocessor::resume(Fiber& from, Thread& thread,
                                                          bool for_ever) {
  if (thread.fiber == nullptr) {
    thread.fiber = &fiber_for(thread);
    thread.fiber->start(&run_threads);
  }
  this_thread = &thread;
  from.switch_to(*thread.fiber, for_ever);
}

[[gnu::always_inline]] inline void Multiprocessor::wait(const char* waits_in, CallSite site) {
  Thread& thread = current_thread();
  thread.state = Thread::State::waiting;
  thread.waits_in = waits_in;
  thread.site = site;
  Thread* next = ready_.take(order_, random_state_);
  if (next == nullptr) {
    thread.fiber->switch_to(*main_);
  } else {
    resume(*thread.fiber, *next, false);
  }
}

[[gnu::always_inline]] inline void Multiprocessor::yield() {
  if (order_ != Order::random) return;
  Thread& thread = current_thread();
  ready_.add(thread);
  Thread* next = ready_.take(order_, random_state_);
  if (next != &thread) resume(*thread.fiber, *next, false);
}

[[gnu::always_inline]] inline void Multiprocessor::wake(Thread& thread) {
  thread.state = Thread::State::ready;
  ready_.add(thread);
}

/// printf's format as a string.
[[gnu::format(printf, 1, 2)]] std::string text(const char* format, ...);

}  // namespace simt
