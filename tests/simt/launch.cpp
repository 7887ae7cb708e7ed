#include "simt/launch.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <memory>
#include <mutex>
#include <numeric>
#include <thread>
#include <vector>

#include "simt/faults.h"
#include "simt/gpu.h"
#include "simt/multiprocessor.h"
#include "simt/streams.h"
#include "simt/workers.h"

namespace simt {
namespace {

constexpr unsigned kMaxGridYZ = 65535;
constexpr unsigned kMaxGridX = 0x7fffffff;
constexpr unsigned kMaxBlockZ = 64;
constexpr std::uint64_t kBlocksWorthHelp = 4;

std::string to_string(dim3 size) {
  return text("(%u,%u,%u)", size.x, size.y, size.z);
}

void check(const Launch& launch) {
  const dim3 grid = launch.grid, block = launch.block;
  const std::string operation = std::string(launch.operation) + ": ";
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > kMaxGridX || grid.y > kMaxGridYZ ||
      grid.z > kMaxGridYZ) {
    throw Error(operation + "grid " + to_string(grid) +
                ": expected 1 to (2147483647,65535,65535) blocks");
  }
  const std::uint64_t threads = std::uint64_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > kMaxThreadsPerBlock || block.z > kMaxBlockZ) {
    throw Error(operation + "block " + to_string(block) +
                ": expected 1 to 1024 threads, of which 64 in z");
  }
  const std::size_t allowed =
      std::min(kSharedBytesPerBlock, static_cast<std::size_t>(gpu().shared_memory_per_block));
  if (launch.shared_bytes > allowed) {
    throw Error(operation + text("%zu bytes of shared memory, expected at most %zu",
                                 launch.shared_bytes, allowed));
  }
}

/// The numbers of all blocks in the order of the schedule; chance is an affine permutation.
class BlockOrder {
 public:
  BlockOrder(std::uint64_t count, const Schedule& schedule) : count_(count) {
    if (schedule.order == Order::lifo) {
      first_ = count - 1;
      step_ = count - 1;
    } else if (schedule.order == Order::random && count > 1) {
      constexpr std::uint64_t kGolden = 0x9E3779B97F4A7C15u;
      const std::uint64_t random = (schedule.seed + 1) * kGolden;
      first_ = (random >> 8) % count;
      step_ = (random * kGolden >> 8) % count;
      while (std::gcd(step_, count) != 1) step_ = (step_ + 1) % count;
    }
  }
  std::uint64_t operator[](std::uint64_t i) const {
    return static_cast<std::uint64_t>((static_cast<unsigned __int128>(i) * step_ + first_) %
                                      count_);
  }

 private:
  std::uint64_t count_, first_ = 0, step_ = 1;
};

/// Multiprocessors keep their stacks from launch to launch.
class IdleMultiprocessors {
 public:
  std::unique_ptr<Multiprocessor> take() {
    {
      const std::lock_guard lock(mutex_);
      if (!idle_.empty()) {
        auto multiprocessor = std::move(idle_.back());
        idle_.pop_back();
        return multiprocessor;
      }
    }
    return std::make_unique<Multiprocessor>();
  }
  void give_back(std::unique_ptr<Multiprocessor> multiprocessor) {
    const std::lock_guard lock(mutex_);
    idle_.push_back(std::move(multiprocessor));
  }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<Multiprocessor>> idle_;
};

// Never destroyed, since helpers run to the end of the process. Made before main: ThreadSanitizer
// does not see the guard of a static object inside a function of this uninstrumented library.
IdleMultiprocessors& idle_multiprocessors = *new IdleMultiprocessors;

/// One launch: hands out its blocks until all are run or one has failed.
class GridRun {
 public:
  GridRun(const Launch& launch, const Schedule& schedule)
      : launch_(launch),
        schedule_(schedule),
        blocks_(std::uint64_t{launch.grid.x} * launch.grid.y * launch.grid.z),
        order_(blocks_, schedule) {}

  void run() {
    int workers = schedule_.workers;
    if (workers <= 0) workers = static_cast<int>(std::thread::hardware_concurrency());
    const bool alone = blocks_ < kBlocksWorthHelp;
    work_together(alone ? 0 : workers - 1, [this] { run_blocks(); });
    finished_.acquire();
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  void run_blocks() {
    report_faults_on_this_thread();
    auto multiprocessor = idle_multiprocessors.take();
    try {
      for (;;) {
        const std::uint64_t i = next_.fetch_add(1, std::memory_order_relaxed);
        if (i >= blocks_) break;
        multiprocessor->run_block(launch_, position_of(order_[i]), schedule_, finished_);
      }
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!failure_) failure_ = std::current_exception();
      next_.store(blocks_, std::memory_order_relaxed);
      return;
    }
    idle_multiprocessors.give_back(std::move(multiprocessor));
  }

  uint3 position_of(std::uint64_t block) const {
    const dim3 grid = launch_.grid;
    return {static_cast<unsigned>(block % grid.x), static_cast<unsigned>(block / grid.x % grid.y),
            static_cast<unsigned>(block / grid.x / grid.y)};
  }

  const Launch& launch_;
  const Schedule& schedule_;
  std::uint64_t blocks_;
  BlockOrder order_;
  std::atomic<std::uint64_t> next_{0};
  std::mutex mutex_;
  std::exception_ptr failure_;
  sanitizer::Clock finished_;
};

}  // namespace

void run(const Launch& launch) {
  check(launch);
  const Schedule schedule = current_schedule();
  GridRun(launch, schedule).run();
}

void submit(cudaStream_t stream, const Launch& launch, std::shared_ptr<const void> kernel) {
  check(launch);
  auto deferred = [launch = launch, operation = std::string(launch.operation),
                   kernel = std::move(kernel)]() mutable {
    launch.operation = operation.c_str();
    run(launch);
  };
  const cudaError_t status = submit(stream, launch.operation, std::move(deferred));
  if (status == cudaSuccess) return;
  throw Error(std::string(launch.operation) + ": " + cudaGetErrorName(status) + ": " +
              cudaGetErrorString(status));
}

}  // namespace simt
