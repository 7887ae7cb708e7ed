// What the calls of the emulated CUDA runtime share: streams with what they have queued, events,
// graphs, and the errors that outlive a call.
//
// One mutex guards all of it, held while queued work runs: what runs is ordered after what was
// submitted, whichever threads did it. Work in the null stream runs without it, at its submission.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "simt/streams.h"

namespace simt {

/// One thing that the device does. A node of a graph is this and nothing else.
struct Point;
struct Work {
  enum class Kind { launch, copy, memset, record };
  std::string what;
  std::function<void()> run;
  Kind kind = Kind::launch;
  cudaMemcpyKind direction = cudaMemcpyDefault;  ///< of a copy
  std::size_t bytes = 0;                         ///< of a copy
  std::shared_ptr<Point> point = nullptr;        ///< of an external event, passed anew each time
};
using Nodes = std::shared_ptr<const std::vector<Work>>;

/// A place in a stream: one recording of an event. Events are recorded anew, points are not.
struct Point {
  CUstream_st* stream;
  bool passed = false;
  std::int64_t nanoseconds = 0;  ///< the stream's clock when it passed
};

struct Replay {
  Nodes nodes;
};
struct Record {
  std::shared_ptr<Point> point;
};
struct Wait {
  std::shared_ptr<Point> point;
};
using Item = std::variant<Work, Replay, Record, Wait>;

struct Capture {
  cudaStreamCaptureMode mode;
  std::thread::id thread;
  bool valid = true;
  std::vector<Work> nodes;
};

/// Handles that exist, in the order of their creation.
template <typename T>
class Handles {
 public:
  T* add(T value) {
    handles_.push_back(std::make_unique<T>(std::move(value)));
    return handles_.back().get();
  }
  bool has(const T* handle) const {
    return std::any_of(handles_.begin(), handles_.end(),
                       [&](const auto& own) { return own.get() == handle; });
  }
  /// False if there is no such handle.
  bool remove(const T* handle) {
    return std::erase_if(handles_, [&](const auto& own) { return own.get() == handle; }) > 0;
  }
  auto begin() const { return handles_.begin(); }
  auto end() const { return handles_.end(); }

 private:
  std::vector<std::unique_ptr<T>> handles_;
};

}  // namespace simt

struct CUstream_st {
  bool blocking;  ///< waits for the null stream, and that for it
  std::deque<simt::Item> queue;
  std::int64_t nanoseconds = 0;  ///< how long it has run on the clock of set_duration
  std::shared_ptr<simt::Capture> capture;
};
struct CUevent_st {
  bool timed;
  std::shared_ptr<simt::Point> point;      ///< of the latest recording
  std::shared_ptr<simt::Capture> capture;  ///< if it was recorded into one
  std::shared_ptr<simt::Point> external;   ///< what all graphs pass that it is a node of
};
struct CUgraphNode_st {
  simt::Work work;
};
struct CUgraph_st {
  std::vector<std::unique_ptr<CUgraphNode_st>> nodes;
};
struct CUgraphExec_st {
  simt::Nodes nodes;
};

namespace simt {

struct Runtime {
  std::recursive_mutex mutex;
  bool configured = false;  ///< the environment has been read
  Streams mode = Streams::late;
  CUstream_st null_stream{true, {}, 0, nullptr};
  Handles<CUstream_st> streams;
  Handles<CUevent_st> events;
  Handles<CUgraph_st> graphs;
  Handles<CUgraphExec_st> executable_graphs;
  cudaError_t sticky = cudaSuccess;
  Counters counters;
};
extern Runtime& runtime;

/// Holds the runtime's mutex; the first call reads the environment.
std::unique_lock<std::recursive_mutex> lock_runtime();

// Errors (runtime_errors.cpp).

/// Why no call works at all: no device, no driver, or a sticky error.
cudaError_t state_of_device();
/// Keeps an error for cudaGetLastError.
cudaError_t note_error(cudaError_t status);
/// Whether a fault is due for a call of this name, or for work. Work that is hit makes it sticky.
cudaError_t fault_of_call(const char* name);
bool fault_hits(const Work& work);
void read_faults_of_environment();
void forget_faults();

/// A call of the runtime that submits no work: `body` returns its status.
template <typename Body>
cudaError_t call(const char* name, const Body& body) {
  const auto lock = lock_runtime();
  if (const cudaError_t status = state_of_device(); status != cudaSuccess) {
    return note_error(status);
  }
  if (const cudaError_t status = fault_of_call(name); status != cudaSuccess) {
    return note_error(status);
  }
  const cudaError_t status = body();
  return note_error(runtime.sticky != cudaSuccess ? runtime.sticky : status);
}

// Queues (streams.cpp).

/// Null if there is no such stream.
CUstream_st* find_stream(cudaStream_t handle);
/// What submit() does, for work of every kind.
cudaError_t give(cudaStream_t stream, Work work);
/// Adds to the queue of a stream that does not capture, and runs it if it is eager.
void enqueue(CUstream_st& stream, Item item);
/// Runs one item of the stream, or of that for which it waits.
void run_next(CUstream_st& stream);
void run_through(CUstream_st& stream);
void run_until(const Point& point);
void run_blocking_streams();
void run_everything();
/// What is queued will not run; who waits for it waits no longer.
void drop_everything();
void count(const Work& work);

/// What cudaSetDevice chose in this thread (runtime_device.cpp).
int current_device();

// Captures (runtime_graphs.cpp).

/// The status of a call that a capture forbids, in this thread or, by its mode, in all; such a call
/// spoils the capture.
cudaError_t refuse_while_capturing();
/// The same for work in the null stream, which would have to wait for blocking streams.
cudaError_t refuse_implicit_wait();
/// Spoils a capture and says so.
cudaError_t spoil(Capture& capture, cudaError_t status);
cudaError_t append(Capture& capture, Work work);

}  // namespace simt
