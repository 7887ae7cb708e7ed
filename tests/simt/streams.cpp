#include "simt/streams.h"

#include <cmath>
#include <cstdlib>
#include <string_view>

#include "simt/error.h"
#include "simt/gpu.h"
#include "simt/runtime.h"

namespace simt {
namespace {

constexpr const char* kVariable = "VITRINE_SIMT_STREAMS";
constexpr std::int64_t kDefaultNanoseconds = 1000;
constexpr float kNanosecondsPerMillisecond = 1e6f;

struct Duration {
  std::string what_prefix;
  std::int64_t nanoseconds;
};
std::vector<Duration>& durations = *new std::vector<Duration>;

std::int64_t duration_of(std::string_view what) {
  for (auto duration = durations.rbegin(); duration != durations.rend(); ++duration) {
    const std::string_view prefix = duration->what_prefix;
    if (what.substr(0, prefix.size()) == prefix) return duration->nanoseconds;
  }
  return kDefaultNanoseconds;
}

Streams mode_of_environment() {
  const char* value = std::getenv(kVariable);
  const std::string_view text = value == nullptr ? "late" : value;
  if (text == "late") return Streams::late;
  if (text == "eager") return Streams::eager;
  throw Error(std::string(kVariable) + ": expected eager or late, found \"" + std::string(text) +
              "\"");
}

void read_environment() {
  runtime.mode = mode_of_environment();
  read_faults_of_environment();
  runtime.configured = true;
}

/// Counts for faults and takes its time; false if a fault hits it.
bool begin(const Work& work, CUstream_st& stream) {
  if (fault_hits(work)) return false;
  stream.nanoseconds += duration_of(work.what);
  return true;
}

void pass(Point& point, const CUstream_st& stream) {
  point.passed = true;
  point.nanoseconds = stream.nanoseconds;
}

void run(const Work& work, CUstream_st& stream) {
  if (work.kind == Work::Kind::record) return pass(*work.point, stream);
  if (!begin(work, stream)) return;
  try {
    work.run();
  } catch (...) {
    drop_everything();
    throw;
  }
}

void run(const Replay& replay, CUstream_st& stream) {
  for (const Work& node : *replay.nodes) {
    if (runtime.sticky != cudaSuccess) return;
    run(node, stream);
  }
}

void run(const Record& record, CUstream_st& stream) {
  pass(*record.point, stream);
}

void run(const Wait& wait, CUstream_st& stream) {
  stream.nanoseconds = std::max(stream.nanoseconds, wait.point->nanoseconds);
}

/// The null stream and the blocking streams wait for each other.
void join_clocks() {
  std::int64_t& latest = runtime.null_stream.nanoseconds;
  for (const auto& stream : runtime.streams) {
    if (stream->blocking) latest = std::max(latest, stream->nanoseconds);
  }
  for (const auto& stream : runtime.streams) {
    if (stream->blocking) stream->nanoseconds = latest;
  }
}

void drop(CUstream_st& stream) {
  for (Item& item : stream.queue) {
    if (auto* record = std::get_if<Record>(&item)) record->point->passed = true;
  }
  stream.queue.clear();
}

cudaError_t give_null_stream(std::unique_lock<std::recursive_mutex>& lock, const Work& work) {
  if (const cudaError_t status = refuse_implicit_wait(); status != cudaSuccess) return status;
  count(work);
  run_blocking_streams();
  if (runtime.sticky != cudaSuccess || !begin(work, runtime.null_stream)) return runtime.sticky;
  join_clocks();
  lock.unlock();
  work.run();
  return cudaSuccess;
}

}  // namespace

// Never destroyed: helpers and other static objects may outlive main.
Runtime& runtime = *new Runtime;

std::unique_lock<std::recursive_mutex> lock_runtime() {
  std::unique_lock lock(runtime.mutex);
  if (!runtime.configured) read_environment();
  return lock;
}

CUstream_st* find_stream(cudaStream_t handle) {
  if (handle == nullptr || handle == cudaStreamLegacy) return &runtime.null_stream;
  return runtime.streams.has(handle) ? handle : nullptr;
}

cudaError_t give(cudaStream_t handle, Work work) {
  auto lock = lock_runtime();
  if (const cudaError_t status = state_of_device(); status != cudaSuccess) return status;
  CUstream_st* stream = find_stream(handle);
  if (stream == nullptr) return cudaErrorInvalidResourceHandle;
  if (stream == &runtime.null_stream) return give_null_stream(lock, work);
  if (stream->capture) return append(*stream->capture, std::move(work));
  count(work);
  enqueue(*stream, std::move(work));
  return runtime.sticky;
}

cudaError_t submit(cudaStream_t stream, const char* what, std::function<void()> work) {
  return note_error(give(stream, {what, std::move(work)}));
}

void enqueue(CUstream_st& stream, Item item) {
  const bool null_stream = &stream == &runtime.null_stream;
  if (null_stream) run_blocking_streams();
  if (runtime.sticky != cudaSuccess) return;
  stream.queue.push_back(std::move(item));
  if (null_stream || runtime.mode == Streams::eager) run_through(stream);
  if (null_stream) join_clocks();
}

void run_next(CUstream_st& stream) {
  if (stream.queue.empty()) return;
  if (const auto* wait = std::get_if<Wait>(&stream.queue.front())) {
    if (!wait->point->passed) return run_next(*wait->point->stream);
  }
  const Item item = std::move(stream.queue.front());
  stream.queue.pop_front();
  std::visit([&](const auto& what) { run(what, stream); }, item);
}

void run_through(CUstream_st& stream) {
  while (!stream.queue.empty()) run_next(stream);
}

void run_until(const Point& point) {
  while (!point.passed) run_next(*point.stream);
}

void run_blocking_streams() {
  for (const auto& stream : runtime.streams) {
    if (stream->blocking) run_through(*stream);
  }
  join_clocks();
}

void run_everything() {
  for (const auto& stream : runtime.streams) run_through(*stream);
}

void drop_everything() {
  for (const auto& stream : runtime.streams) drop(*stream);
  drop(runtime.null_stream);
}

void count(const Work& work) {
  Counters& counters = runtime.counters;
  if (work.kind == Work::Kind::launch) ++counters.launches;
  if (work.kind == Work::Kind::memset) ++counters.memsets;
  if (work.kind != Work::Kind::copy) return;
  const auto add = [&](std::int64_t& copies, std::int64_t& bytes) {
    ++copies;
    bytes += static_cast<std::int64_t>(work.bytes);
  };
  switch (work.direction) {
    case cudaMemcpyHostToDevice:
      return add(counters.copies_to_device, counters.bytes_to_device);
    case cudaMemcpyDeviceToHost:
      return add(counters.copies_to_host, counters.bytes_to_host);
    case cudaMemcpyDeviceToDevice:
      return add(counters.copies_on_device, counters.bytes_on_device);
    default:
      return add(counters.copies_on_host, counters.bytes_on_host);
  }
}

void set_streams(Streams streams) {
  const auto lock = lock_runtime();
  runtime.mode = streams;
}

void set_duration(const char* what_prefix, float milliseconds) {
  const auto lock = lock_runtime();
  durations.push_back({what_prefix, std::llround(milliseconds * kNanosecondsPerMillisecond)});
}

Counters counters() {
  const auto lock = lock_runtime();
  return runtime.counters;
}

void reset_counters() {
  const auto lock = lock_runtime();
  runtime.counters = {};
}

void reset_device() {
  const auto lock = lock_runtime();
  drop_everything();
  forget_faults();
  durations.clear();
  runtime.sticky = cudaSuccess;
  runtime.counters = {};
  reset_gpu();
  read_environment();
  cudaGetLastError();
}

}  // namespace simt
