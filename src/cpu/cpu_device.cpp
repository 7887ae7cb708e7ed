// The CPU device: host memory, a team of threads, and work that runs where it is submitted.
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <fstream>
#include <utility>
#include <vector>

#include "cpu/cpu_kernels.h"
#include "cpu/thread_pool.h"
#include "vitrine/device.h"

namespace vitrine {
namespace {

// Code and tables of oneDNN, OpenMP and this program that come into memory with the first step
// (measured with oneDNN 2.6: 7 to 8 MiB for every preset).
constexpr std::int64_t kRuntimeBytes = std::int64_t{8} << 20;

constexpr std::size_t kLargeBuffer = std::size_t{8} << 20;

// Bytes that can be had without swapping, the limit of a container included.
std::int64_t available_memory() {
  std::int64_t bytes = std::int64_t{1} << 40;
  std::ifstream meminfo("/proc/meminfo");
  std::string key;
  for (std::int64_t kib = 0; meminfo >> key >> kib; meminfo.ignore(64, '\n')) {
    if (key == "MemAvailable:") bytes = kib * 1024;
  }
  std::int64_t limit = 0, used = 0;
  std::ifstream maximum("/sys/fs/cgroup/memory.max"), current("/sys/fs/cgroup/memory.current");
  if (maximum >> limit && current >> used) bytes = std::min(bytes, limit - used);
  return std::max<std::int64_t>(bytes, 0);
}

std::string gibibytes(double bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2f GiB", bytes / (1 << 30));
  return text;
}

/// Work that runs where it is submitted.
class CpuProgram final : public Program {
 public:
  explicit CpuProgram(std::function<void()> work) : work_(std::move(work)) {}
  void run() override { work_(); }

 private:
  std::function<void()> work_;
};

/// A copy that is there at once.
class CpuReadback final : public Readback {
 public:
  CpuReadback(const void* data, std::size_t bytes)
      : copy_(static_cast<const char*>(data), static_cast<const char*>(data) + bytes) {}
  bool ready() override { return true; }
  const void* wait() override { return copy_.data(); }

 private:
  std::vector<char> copy_;
};

/// The host's clock: work runs where it is submitted.
class CpuStopwatch final : public Stopwatch {
 public:
  explicit CpuStopwatch(std::int64_t points) : seconds_(static_cast<std::size_t>(points)) {}
  void start() override { start_ = Clock::now(); }
  void mark(std::int64_t i) override {
    seconds_[static_cast<std::size_t>(i)] =
        std::chrono::duration<double>(Clock::now() - start_).count();
  }
  const std::vector<double>& seconds() override { return seconds_; }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
  std::vector<double> seconds_;
};

class CpuDevice final : public Device {
 public:
  explicit CpuDevice(int threads) : pool_(threads), kernels_(pool_) {
    traits_ = {.name = "cpu",
               .description = std::to_string(pool_.threads()) +
                              (pool_.threads() == 1 ? " thread" : " threads"),
               .memory = available_memory(),
               .runtime = kRuntimeBytes,
               .chunks = true,
               .max_partials = 16,
               .max_row_blocks = 32};
  }

  const DeviceTraits& traits() const override { return traits_; }
  Kernels& kernels() override { return kernels_; }

  // Fresh pages from the system are zero and cost nothing until they are touched.
  Buffer allocate(std::size_t bytes, const std::string& what) override {
    const std::int64_t available = available_memory();
    void* data = MAP_FAILED;
    if (static_cast<double>(bytes) <= static_cast<double>(available)) {
      data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    }
    if (data == MAP_FAILED) {
      throw OutOfMemory("out of memory: " + what + ": needed " +
                        gibibytes(static_cast<double>(bytes)) + ", free " +
                        gibibytes(static_cast<double>(available)));
    }
    // Large pages: the first touch of 86 million parameters is otherwise seconds of page faults.
    if (bytes >= kLargeBuffer) madvise(data, bytes, MADV_HUGEPAGE);
    return {data, bytes, [bytes](void* pointer) { munmap(pointer, bytes); }};
  }
  Buffer share(const void* host, std::size_t bytes, const std::string&) override {
    return {const_cast<void*>(host), bytes, [](void*) {}};
  }
  Buffer to_host(const Buffer& buffer) override { return share(buffer.data(), buffer.bytes(), ""); }
  void upload(void* device, const void* host, std::size_t bytes) override {
    std::memcpy(device, host, bytes);
  }
  void download(void* host, const void* device, std::size_t bytes) override {
    std::memcpy(host, device, bytes);
  }
  void copy(void* to, const void* from, std::size_t bytes) override {
    std::memcpy(to, from, bytes);
  }
  void fill_zero(void* device, std::size_t bytes) override { std::memset(device, 0, bytes); }

  std::unique_ptr<Readback> read_back(const void* data, std::size_t bytes) override {
    return std::make_unique<CpuReadback>(data, bytes);
  }

  int workers() const override { return pool_.threads(); }
  void for_each(std::int64_t n, const std::function<void(int, std::int64_t)>& body) override {
    pool_.parallel_for(n, body);
  }
  std::unique_ptr<Program> program(const std::string&, std::function<void()> work) override {
    return std::make_unique<CpuProgram>(std::move(work));
  }
  void synchronize() override {}
  std::unique_ptr<Stopwatch> make_stopwatch(std::int64_t points) override {
    return std::make_unique<CpuStopwatch>(points);
  }

 private:
  cpu::ThreadPool pool_;
  cpu::CpuKernels kernels_;
  DeviceTraits traits_;
};

}  // namespace

std::unique_ptr<Device> make_cpu_device(int threads) {
  return std::make_unique<CpuDevice>(threads);
}

}  // namespace vitrine
