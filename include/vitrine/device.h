// A device: memory, the catalogue, and how the pieces of a step reach it.
//
// Work is submitted in order and may run later: a device that works beside the host returns at once
// and the host waits only in `synchronize`, `download`, `to_host` and Readback::wait.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "vitrine/kernels.h"

namespace vitrine {

/// What a plan needs to know of a device. A plain value, so that a plan can be made, printed and
/// tested for a device that is absent.
struct DeviceTraits {
  std::string name = "cpu";
  std::string description;          ///< "2 threads", "NVIDIA H200, 132 multiprocessors"
  std::int64_t memory = 0;          ///< bytes that may be allocated
  std::int64_t runtime = 0;         ///< bytes that libraries and context take, whatever runs
  std::int64_t held_by_others = 0;  ///< bytes that other processes hold, where they are many
  bool chunks = true;               ///< gains from running a batch in cache-sized chunks
  bool reads_host_memory = true;    ///< stored images stay where they are
  bool asynchronous = false;        ///< host clocks do not see when an operation runs
  bool bf16 = false;                ///< has kernels for Precision::bf16
  bool fuse_residual_norm = true;
  bool fuse_bias_gradient = false;  ///< a matmul sums its factor's columns while it reads them
  bool prune_last_block = true;
  int max_partials = 1;    ///< pieces of a column reduction that run side by side
  int max_row_blocks = 1;  ///< pieces of a matmul that run side by side
  std::string tuning;      ///< hash of the tuned algorithms in use; "" without a tuning file
};

/// The traits of a CUDA device with `memory` bytes; whatever it is, the same work is cut the same
/// way, so bits do not depend on the number of multiprocessors where libraries agree.
DeviceTraits cuda_traits(std::int64_t memory);

/// Memory on a device, freed with the object. Zero-filled, aligned to 256 bytes.
class Buffer {
 public:
  Buffer() = default;
  Buffer(void* data, std::size_t bytes, std::function<void(void*)> release)
      : data_(data, std::move(release)), bytes_(bytes) {}

  void* data() const { return data_.get(); }
  std::size_t bytes() const { return bytes_; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_.get());
  }

 private:
  std::unique_ptr<void, std::function<void(void*)>> data_{nullptr, [](void*) {}};
  std::size_t bytes_ = 0;
};

/// A piece of work that is the same at every step.
class Program {
 public:
  virtual ~Program() = default;
  /// Submits it. A device that records does so at the second run, when everything is loaded, and
  /// replays from then on.
  virtual void run() = 0;
};

/// A copy of device memory on its way to the host.
class Readback {
 public:
  virtual ~Readback() = default;
  virtual bool ready() = 0;
  /// Waits for the copy; the memory lives as long as the object.
  virtual const void* wait() = 0;
};

/// Points in submitted work, and when the device reached them.
class Stopwatch {
 public:
  virtual ~Stopwatch() = default;
  /// The time from which points are counted.
  virtual void start() = 0;
  /// Point `i` is here in the order of submission. Work that a device records marks it again with
  /// every replay. Pieces of `for_each` may mark different points at a time.
  virtual void mark(std::int64_t i) = 0;
  /// Waits for what was submitted. Seconds of each point since `start`; what was not marked since
  /// means nothing.
  virtual const std::vector<double>& seconds() = 0;
};

/// How many batches a TransferRing holds: one being filled, one under way, one being read.
inline constexpr int kTransferSlots = 3;

/// Device memory in slots that the host fills one after another while earlier ones are being read.
class TransferRing {
 public:
  virtual ~TransferRing() = default;
  /// All slots, one behind the other.
  virtual const void* device_data() const = 0;
  /// Host memory for the next slot; waits while work that reads the slot is under way.
  virtual void* fill() = 0;
  /// Starts the copy of what was filled; work submitted from now on sees it. The slot's number.
  virtual int send() = 0;
  /// All work that reads the slots sent so far has been submitted.
  virtual void release() = 0;
};

class Device {
 public:
  virtual ~Device() = default;

  virtual const DeviceTraits& traits() const = 0;
  virtual Kernels& kernels() = 0;

  /// Throws OutOfMemory with what was asked, for what, and what is free.
  virtual Buffer allocate(std::size_t bytes, const std::string& what) = 0;
  /// Host memory the device reads in place where it can, else a copy of it. The host memory must
  /// outlive the buffer and not change.
  virtual Buffer share(const void* host, std::size_t bytes, const std::string& what) = 0;
  /// A buffer's contents for the host: the same memory where the host can read it, else a copy.
  /// `buffer` must outlive it.
  virtual Buffer to_host(const Buffer& buffer) = 0;
  /// The most bytes that were allocated at a time; 0: the system's count of the process tells.
  virtual std::int64_t peak_bytes() const { return 0; }
  /// Copies are ordered with the work submitted before and after them. `host` may change as soon as
  /// `upload` returns.
  virtual void upload(void* device, const void* host, std::size_t bytes) = 0;
  virtual void download(void* host, const void* device, std::size_t bytes) = 0;
  virtual void copy(void* to, const void* from, std::size_t bytes) = 0;
  virtual void fill_zero(void* device, std::size_t bytes) = 0;
  /// A copy as of now, in the order of submission, for later.
  virtual std::unique_ptr<Readback> read_back(const void* device, std::size_t bytes) = 0;
  /// For data that does not fit; a device that reads host memory needs none and has none.
  virtual std::unique_ptr<TransferRing> make_ring(std::size_t /*slot_bytes*/,
                                                  const std::string& what) {
    throw DeviceError(what + ": the device " + traits().name + " has no transfer ring");
  }

  /// How many pieces `for_each` runs at a time, each with its own worker number.
  virtual int workers() const = 0;
  /// Calls body(worker, i) once for each i in [0, n). Results must not depend on the worker.
  virtual void for_each(std::int64_t n, const std::function<void(int, std::int64_t)>& body) = 0;

  /// `work` submits operations, copies and fills, always the same ones on the same memory.
  virtual std::unique_ptr<Program> program(const std::string& name, std::function<void()> work) = 0;
  /// Waits until everything submitted is done; errors of submitted work surface here.
  virtual void synchronize() = 0;

  virtual std::unique_ptr<Stopwatch> make_stopwatch(std::int64_t points) = 0;

  /// Between the two calls a profiler that was told to wait for it looks (cudaProfilerStart).
  virtual void begin_capture() {}
  virtual void end_capture() {}
  /// Named ranges on a profiler's timeline, around what is submitted between the two calls; nobody
  /// looks at them unless `traces`.
  virtual bool traces() const { return false; }
  virtual void begin_range(const std::string& /*name*/) {}
  virtual void end_range() {}
  /// After each operation of a plan: a device told to check waits, and throws DeviceError when the
  /// operation failed.
  virtual void operation_done() {}
};

/// A range that ends with the scope.
class Range {
 public:
  Range(Device& device, const std::string& name) : device_(device) { device.begin_range(name); }
  ~Range() { device_.end_range(); }
  Range(const Range&) = delete;
  Range& operator=(const Range&) = delete;

 private:
  Device& device_;
};

struct DeviceOptions {
  std::string name = "auto";      ///< "cpu", "cuda", "cuda:1", or "auto": CUDA where there is one
  int threads = 0;                ///< of the CPU device; 0: one per processor of the affinity mask
  bool cuda_graph = true;         ///< record steps and replay them; false: launch by launch
  bool check_operations = false;  ///< launch by launch, wait after each operation, name the faulty
  std::string tune;               ///< file of matmul algorithms: read, completed by measuring
};

std::unique_ptr<Device> make_cpu_device(int threads = 0);
/// Throws DeviceError in one line: no device, driver too old, compute capability too low, no such
/// number, or a build without CUDA.
std::unique_ptr<Device> make_cuda_device(const DeviceOptions& options);

bool built_with_cuda();

/// By name. Throws BadInput for an unknown name. "auto" falls to the CPU, and in a build with
/// CUDA writes to `notice` why.
std::unique_ptr<Device> make_device(const DeviceOptions& options, std::string* notice = nullptr);

}  // namespace vitrine
