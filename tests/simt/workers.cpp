#include "simt/workers.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

namespace simt {
namespace {

struct Job {
  const std::function<void()>& work;
  int wanted;
  int working = 0;
};

class Pool {
 public:
  void run(Job& job) {
    {
      const std::lock_guard lock(mutex_);
      for (; threads_ < job.wanted; ++threads_) std::thread([this] { help(); }).detach();
      jobs_.push_back(&job);
    }
    job.wanted == 1 ? work_.notify_one() : work_.notify_all();
    job.work();
    std::unique_lock lock(mutex_);
    std::erase(jobs_, &job);
    done_.wait(lock, [&job] { return job.working == 0; });
  }

 private:
  [[noreturn]] void help() {
    std::unique_lock lock(mutex_);
    for (;;) {
      work_.wait(lock, [this] { return !jobs_.empty(); });
      Job& job = *jobs_.front();
      ++job.working;
      if (--job.wanted == 0) jobs_.pop_front();
      lock.unlock();
      job.work();
      lock.lock();
      if (--job.working == 0) done_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable work_, done_;
  std::deque<Job*> jobs_;
  int threads_ = 0;
};

// Lives as long as its threads: to the end of the process. Made before main, see launch.cpp.
Pool& pool = *new Pool;

}  // namespace

void work_together(int helpers, const std::function<void()>& work) {
  if (helpers <= 0) return work();
  Job job{work, helpers};
  pool.run(job);
}

}  // namespace simt
