// Streams, events, page-locked and device memory of the CUDA runtime, each freed with its object.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>
#include <string>
#include <utility>

#include "cuda/check.h"

namespace vitrine::cuda {

class Stream {
 public:
  Stream() {
    check("cudaStreamCreateWithFlags", cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream() { cudaStreamDestroy(stream_); }

  cudaStream_t get() const { return stream_; }
  void synchronize() const { check("cudaStreamSynchronize", cudaStreamSynchronize(stream_)); }

 private:
  cudaStream_t stream_ = nullptr;
};

/// A point in a stream; before the first record there is nothing to wait for.
class Event {
 public:
  Event() {
    check("cudaEventCreateWithFlags", cudaEventCreateWithFlags(&event_, cudaEventDisableTiming));
  }
  Event(Event&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
  Event& operator=(Event&&) = delete;
  ~Event() {
    if (event_ != nullptr) cudaEventDestroy(event_);
  }

  void record(const Stream& stream) {
    check("cudaEventRecord", cudaEventRecord(event_, stream.get()));
  }
  /// Returns at once when the point is reached.
  void wait() const {
    if (!reached()) check("cudaEventSynchronize", cudaEventSynchronize(event_));
  }
  /// Work submitted to `stream` from now on comes after this point.
  void hold_back(const Stream& stream) const {
    check("cudaStreamWaitEvent", cudaStreamWaitEvent(stream.get(), event_, 0));
  }
  bool reached() const {
    const cudaError_t status = cudaEventQuery(event_);
    if (status == cudaErrorNotReady) {
      static_cast<void>(cudaGetLastError());
      return false;
    }
    check("cudaEventQuery", status);
    return true;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

/// Page-locked host memory, which copies can read and write beside the host.
class PinnedMemory {
 public:
  explicit PinnedMemory(std::size_t bytes) {
    void* data = nullptr;
    const cudaError_t status = cudaMallocHost(&data, bytes);
    if (status == cudaErrorMemoryAllocation) {
      static_cast<void>(cudaGetLastError());
      throw OutOfMemory("out of memory: page-locked host memory: needed " +
                        std::to_string(bytes >> 20) + " MiB");
    }
    check("cudaMallocHost", status);
    data_.reset(static_cast<char*>(data));
  }
  char* data() const { return data_.get(); }

 private:
  struct Free {
    void operator()(char* data) const { cudaFreeHost(data); }
  };
  std::unique_ptr<char, Free> data_;
};

}  // namespace vitrine::cuda
