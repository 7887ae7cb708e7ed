// A fixed team of bound threads.
//
// The caller is worker 0 and takes pieces too. Pieces are handed out by an atomic counter, so which
// worker runs a piece is open; results must not depend on it. An idle worker spins for some tens of
// microseconds, the length of a gap between two operations, before it sleeps: waking a sleeping
// thread costs about as much as a small operation, and spinning for longer starves other processes.
#include "cpu/thread_pool.h"

#include <omp.h>
#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <chrono>

namespace vitrine::cpu {
namespace {

constexpr auto kSpin = std::chrono::microseconds(50);

thread_local int current_worker = -1;  // ≥ 0 while the thread runs a piece of parallel work

// The affinity mask of the process. With OMP_PROC_BIND the OpenMP library has bound this thread to
// one place before `main`; its list of places is then what the process was allowed.
std::vector<int> allowed_processors() {
  std::vector<int> processors;
  if (omp_get_proc_bind() != omp_proc_bind_false) {
    for (int place = 0; place < omp_get_num_places(); ++place) {
      std::vector<int> of_place(static_cast<std::size_t>(omp_get_place_num_procs(place)));
      omp_get_place_proc_ids(place, of_place.data());
      processors.insert(processors.end(), of_place.begin(), of_place.end());
    }
    if (!processors.empty()) return processors;
  }
  cpu_set_t mask;
  CPU_ZERO(&mask);
  if (sched_getaffinity(0, sizeof mask, &mask) == 0) {
    for (int i = 0; i < CPU_SETSIZE; ++i) {
      if (CPU_ISSET(i, &mask)) processors.push_back(i);
    }
  }
  if (processors.empty()) processors.push_back(0);
  return processors;
}

void bind(std::thread& thread, int processor) {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  CPU_SET(processor, &mask);
  pthread_setaffinity_np(thread.native_handle(), sizeof mask, &mask);
}

}  // namespace

ThreadPool::ThreadPool(int threads) {
  const std::vector<int> processors = allowed_processors();
  threads_ = threads > 0 ? threads : static_cast<int>(processors.size());
  for (int worker = 1; worker < threads_; ++worker) {
    team_.emplace_back([this, worker] { work(worker); });
    // More threads than processors: leave placing them to the scheduler.
    if (threads_ <= static_cast<int>(processors.size())) bind(team_.back(), processors[worker]);
  }
}

ThreadPool::~ThreadPool() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
    ++generation_;
  }
  wake_.notify_all();
  for (std::thread& thread : team_) thread.join();
}

void ThreadPool::take(int worker) {
  current_worker = worker;
  try {
    for (std::int64_t i = next_++; i < n_; i = next_++) (*body_)(worker, i);
  } catch (...) {
    const std::lock_guard lock(mutex_);
    if (!error_) error_ = std::current_exception();
    next_ = n_;
  }
  current_worker = -1;
}

void ThreadPool::work(int worker) {
  std::uint64_t seen = 0;
  while (true) {
    const auto give_up = std::chrono::steady_clock::now() + kSpin;
    while (generation_.load(std::memory_order_acquire) == seen) {
      if (std::chrono::steady_clock::now() < give_up) continue;
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return generation_ != seen; });
    }
    ++seen;
    if (stop_) return;
    take(worker);
    busy_.fetch_sub(1, std::memory_order_release);
  }
}

void ThreadPool::parallel_for(std::int64_t n, const std::function<void(int, std::int64_t)>& body) {
  if (n <= 0) return;
  if (current_worker >= 0 || threads_ == 1 || n == 1) {
    const int worker = std::max(current_worker, 0);
    for (std::int64_t i = 0; i < n; ++i) body(worker, i);
    return;
  }
  {
    const std::lock_guard lock(mutex_);
    body_ = &body;
    n_ = n;
    next_ = 0;
    error_ = nullptr;
    busy_ = threads_ - 1;
    generation_.fetch_add(1, std::memory_order_release);
  }
  wake_.notify_all();
  take(0);
  const auto patience = std::chrono::steady_clock::now() + kSpin;
  while (busy_.load(std::memory_order_acquire) > 0) {
    // Another process may hold the processor that a worker needs.
    if (std::chrono::steady_clock::now() >= patience) std::this_thread::yield();
  }
  if (error_) std::rethrow_exception(error_);
}

void ThreadPool::for_ranges(std::int64_t n, std::int64_t grain,
                            const std::function<void(std::int64_t, std::int64_t)>& body) {
  grain = std::max<std::int64_t>(grain, 1);
  parallel_for((n + grain - 1) / grain,
               [&](int, std::int64_t i) { body(i * grain, std::min(n, (i + 1) * grain)); });
}

}  // namespace vitrine::cpu
