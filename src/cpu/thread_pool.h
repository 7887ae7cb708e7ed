// Threads that are bound to processors, spin briefly between pieces of work, then sleep.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace vitrine::cpu {

/// A fixed team. One piece of parallel work at a time; work started from inside another piece runs
/// at once on the calling thread, so kernels may be written as if they owned the machine.
class ThreadPool {
 public:
  /// `threads` = 0: as many as the affinity mask of the process allows.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return threads_; }

  /// Calls body(worker, i) once for each i in [0, n), 0 ≤ worker < threads(). Returns when all are
  /// done; the first exception is rethrown here.
  void parallel_for(std::int64_t n, const std::function<void(int, std::int64_t)>& body);

  /// Cuts [0, n) into runs of `grain` and calls body(begin, end) for each. The cut depends on n
  /// and grain alone.
  void for_ranges(std::int64_t n, std::int64_t grain,
                  const std::function<void(std::int64_t, std::int64_t)>& body);

 private:
  void work(int worker);
  void take(int worker);

  int threads_;
  std::vector<std::thread> team_;
  const std::function<void(int, std::int64_t)>* body_ = nullptr;
  std::int64_t n_ = 0;
  std::atomic<std::int64_t> next_{0};
  std::atomic<std::uint64_t> generation_{0};
  std::atomic<int> busy_{0};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
  std::exception_ptr error_;
};

}  // namespace vitrine::cpu
