// What the tests of the emulated CUDA runtime share: owners of its handles and memory, a kernel,
// and values that differ from run to run.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <iostream>
#include <random>
#include <vector>

#include "primitives/cuda.cuh"
#include "simt/gpu.h"
#include "simt/streams.h"

namespace simt {

inline constexpr int kSize = 37;
inline constexpr std::size_t kBytes = kSize * sizeof(int);
using Values = std::vector<int>;

inline void require(cudaError_t status) {
  vitrine::cuda::check_cuda("test", status);
}

class Stream {
 public:
  explicit Stream(unsigned flags = cudaStreamNonBlocking) {
    require(cudaStreamCreateWithFlags(&stream_, flags));
  }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream() { cudaStreamDestroy(stream_); }
  operator cudaStream_t() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

class Event {
 public:
  explicit Event(unsigned flags = cudaEventDefault) {
    require(cudaEventCreateWithFlags(&event_, flags));
  }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  ~Event() { cudaEventDestroy(event_); }
  operator cudaEvent_t() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

/// kSize integers on the device.
class DeviceValues {
 public:
  explicit DeviceValues(const Values& values) {
    require(cudaMalloc(reinterpret_cast<void**>(&data_), kBytes));
    require(cudaMemcpy(data_, values.data(), kBytes, cudaMemcpyHostToDevice));
  }
  DeviceValues(const DeviceValues&) = delete;
  DeviceValues& operator=(const DeviceValues&) = delete;
  ~DeviceValues() { cudaFree(data_); }
  int* data() const { return data_; }
  /// As they are now: emulated device memory is host memory, looking at it demands no work.
  Values now() const { return Values(data_, data_ + kSize); }

 private:
  int* data_ = nullptr;
};

/// kSize integers in pinned memory.
class PinnedValues {
 public:
  explicit PinnedValues(const Values& values) {
    require(cudaMallocHost(reinterpret_cast<void**>(&data_), kBytes));
    *this = values;
  }
  PinnedValues(const PinnedValues&) = delete;
  PinnedValues& operator=(const PinnedValues&) = delete;
  PinnedValues& operator=(const Values& values) {
    std::copy(values.begin(), values.end(), data_);
    return *this;
  }
  ~PinnedValues() { cudaFreeHost(data_); }
  int* data() const { return data_; }
  Values now() const { return Values(data_, data_ + kSize); }

 private:
  int* data_ = nullptr;
};

class Graph {
 public:
  explicit Graph(cudaGraph_t graph) : graph_(graph) {
    require(cudaGraphInstantiate(&executable_, graph, 0));
  }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  ~Graph() {
    cudaGraphExecDestroy(executable_);
    cudaGraphDestroy(graph_);
  }
  void launch(cudaStream_t stream) const { require(cudaGraphLaunch(executable_, stream)); }
  std::size_t nodes() const {
    std::size_t count = 0;
    require(cudaGraphGetNodes(graph_, nullptr, &count));
    return count;
  }
  cudaGraph_t handle() const { return graph_; }

 private:
  cudaGraph_t graph_;
  cudaGraphExec_t executable_ = nullptr;
};

inline __global__ void add_kernel(int* out, const int* in, int amount) {
  out[threadIdx.x] = in[threadIdx.x] + amount;
}

/// out = in + amount
inline void add(cudaStream_t stream, int* out, const int* in, int amount,
                const char* operation = "add") {
  vitrine::cuda::launch(operation, stream, 1, kSize, 0, &add_kernel, out, in, amount);
}

inline cudaError_t upload(cudaStream_t stream, int* device, const int* host) {
  return cudaMemcpyAsync(device, host, kBytes, cudaMemcpyHostToDevice, stream);
}
inline cudaError_t download(cudaStream_t stream, int* host, const int* device) {
  return cudaMemcpyAsync(host, device, kBytes, cudaMemcpyDeviceToHost, stream);
}

inline Values plus(Values values, int amount) {
  for (int& value : values) value += amount;
  return values;
}

/// Late streams on a device as new, and values drawn from a seed that is printed.
class StreamsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    reset_device();
    set_streams(Streams::late);
    const std::uint32_t seed = std::random_device{}();
    std::cout << "seed " << seed << "\n";
    random_.seed(seed);
  }
  void TearDown() override { reset_device(); }

  /// Nowhere equal to what other calls give.
  Values draw() {
    constexpr int kRange = 1'000'000;
    std::uniform_int_distribution<int> distribution(0, kRange - 1);
    Values values(kSize);
    for (int& value : values) value = draws_ * kRange + distribution(random_);
    ++draws_;
    return values;
  }

 private:
  std::mt19937 random_;
  int draws_ = 1;
};

}  // namespace simt
