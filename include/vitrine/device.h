// A device: memory, the catalogue, and how independent pieces of a step run on it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "vitrine/kernels.h"

namespace vitrine {

/// What a plan needs to know of a device. A plain value, so that a plan can be made, printed and
/// tested for a device that is absent.
struct DeviceTraits {
  std::string name = "cpu";
  std::int64_t memory = 0;   ///< bytes that may be allocated
  std::int64_t runtime = 0;  ///< bytes that libraries and context take, whatever runs
  bool chunks = true;        ///< gains from running a batch in cache-sized chunks
  bool fuse_residual_norm = true;
  bool prune_last_block = true;
  int max_partials = 1;    ///< pieces of a column reduction that run side by side
  int max_row_blocks = 1;  ///< pieces of a matmul that run side by side
};

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
  /// Copies are ordered with the work submitted before and after them.
  virtual void upload(void* device, const void* host, std::size_t bytes) = 0;
  virtual void download(void* host, const void* device, std::size_t bytes) = 0;
  virtual void copy(void* to, const void* from, std::size_t bytes) = 0;
  virtual void fill_zero(void* device, std::size_t bytes) = 0;

  /// How many pieces `for_each` runs at a time, each with its own worker number.
  virtual int workers() const = 0;
  /// Calls body(worker, i) once for each i in [0, n). Results must not depend on the worker.
  virtual void for_each(std::int64_t n, const std::function<void(int, std::int64_t)>& body) = 0;

  /// Runs a piece of work that is the same at every step. A device that can record work runs
  /// `work` to record it and replays it from then on; the CPU device just calls it.
  virtual void submit(std::uint64_t program, const std::function<void()>& work) = 0;
  /// Waits until everything submitted is done; errors of submitted work surface here.
  virtual void synchronize() = 0;
};

/// The CPU device. `threads` = 0: one per processor of the affinity mask.
std::unique_ptr<Device> make_cpu_device(int threads = 0);

/// By name: "cpu", "cuda", "cuda:1", or "auto" (CUDA where there is one, else the CPU).
/// Throws BadInput for an unknown name, DeviceError for a device this build or machine lacks.
std::unique_ptr<Device> make_device(const std::string& name, int threads = 0);

}  // namespace vitrine
