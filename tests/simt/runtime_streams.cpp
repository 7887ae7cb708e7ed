// Streams and events of the emulated CUDA runtime.
#include <cuda_profiler_api.h>

#include "simt/runtime.h"

namespace simt {
namespace {

constexpr float kMillisecondsPerNanosecond = 1e-6f;

/// A call about a stream, which gets it.
template <typename Body>
cudaError_t call_on_stream(const char* name, cudaStream_t handle, const Body& body) {
  return call(name, [&] {
    CUstream_st* stream = find_stream(handle);
    return stream == nullptr ? cudaErrorInvalidResourceHandle : body(*stream);
  });
}

/// A call about an event, which gets it.
template <typename Body>
cudaError_t call_on_event(const char* name, cudaEvent_t event, const Body& body) {
  return call(name, [&] {
    return runtime.events.has(event) ? body(*event) : cudaErrorInvalidResourceHandle;
  });
}

cudaError_t create_stream(cudaStream_t* stream, unsigned flags) {
  *stream = runtime.streams.add({(flags & cudaStreamNonBlocking) == 0, {}, 0, nullptr});
  return cudaSuccess;
}

cudaError_t create_event(cudaEvent_t* event, unsigned flags) {
  *event = runtime.events.add({(flags & cudaEventDisableTiming) == 0, nullptr, nullptr, nullptr});
  return cudaSuccess;
}

cudaError_t destroy(CUstream_st& stream) {
  if (&stream == &runtime.null_stream) return cudaErrorInvalidResourceHandle;
  run_through(stream);
  runtime.streams.remove(&stream);
  return cudaSuccess;
}

cudaError_t synchronize(CUstream_st& stream) {
  if (stream.capture) return spoil(*stream.capture, cudaErrorStreamCaptureUnsupported);
  ++runtime.counters.host_waits;
  if (&stream != &runtime.null_stream) {
    run_through(stream);
    return cudaSuccess;
  }
  if (const cudaError_t status = refuse_implicit_wait(); status != cudaSuccess) return status;
  run_blocking_streams();
  return cudaSuccess;
}

cudaError_t query(CUstream_st& stream) {
  if (stream.capture) return spoil(*stream.capture, cudaErrorStreamCaptureUnsupported);
  if (stream.queue.empty()) return cudaSuccess;
  run_next(stream);
  return cudaErrorNotReady;
}

cudaError_t record(CUevent_st& event, CUstream_st& stream) {
  event.capture = stream.capture;
  event.point = nullptr;
  if (stream.capture) return cudaSuccess;
  event.point = std::make_shared<Point>(Point{&stream});
  enqueue(stream, Record{event.point});
  return cudaSuccess;
}

/// A node of the graph that is being captured; each replay times the event anew.
cudaError_t record_external(CUevent_st& event, CUstream_st& stream) {
  if (!stream.capture) return cudaErrorInvalidValue;
  event.capture = nullptr;
  if (!event.external) event.external = std::make_shared<Point>(Point{&stream});
  event.point = event.external;
  return append(*stream.capture,
                {.what = "event", .kind = Work::Kind::record, .point = event.point});
}

cudaError_t wait(CUstream_st& stream, const CUevent_st& event) {
  if (event.capture) {
    if (event.capture == stream.capture) return cudaSuccess;
    return spoil(*event.capture, cudaErrorStreamCaptureUnsupported);
  }
  if (event.point == nullptr) return cudaSuccess;
  if (stream.capture) return spoil(*stream.capture, cudaErrorStreamCaptureIsolation);
  enqueue(stream, Wait{event.point});
  return cudaSuccess;
}

/// Whether the host may ask for the event's state.
cudaError_t refuse_captured(CUevent_st& event) {
  return event.capture ? spoil(*event.capture, cudaErrorCapturedEvent) : cudaSuccess;
}

cudaError_t query(CUevent_st& event) {
  if (const cudaError_t status = refuse_captured(event); status != cudaSuccess) return status;
  if (const cudaError_t status = refuse_while_capturing(); status != cudaSuccess) return status;
  if (event.point == nullptr || event.point->passed) return cudaSuccess;
  run_next(*event.point->stream);
  return cudaErrorNotReady;
}

cudaError_t synchronize(CUevent_st& event) {
  if (const cudaError_t status = refuse_captured(event); status != cudaSuccess) return status;
  ++runtime.counters.host_waits;
  if (event.point != nullptr) run_until(*event.point);
  return cudaSuccess;
}

cudaError_t elapsed(float* milliseconds, const CUevent_st& start, const CUevent_st& end) {
  const bool recorded = start.point != nullptr && end.point != nullptr;
  if (!start.timed || !end.timed || !recorded) return cudaErrorInvalidResourceHandle;
  if (!start.point->passed || !end.point->passed) return cudaErrorNotReady;
  *milliseconds = static_cast<float>(end.point->nanoseconds - start.point->nanoseconds) *
                  kMillisecondsPerNanosecond;
  return cudaSuccess;
}

}  // namespace
}  // namespace simt

extern "C" {

cudaError_t cudaDeviceSynchronize() {
  return simt::call("cudaDeviceSynchronize", [] {
    for (const auto& stream : simt::runtime.streams) {
      if (stream->capture) {
        return simt::spoil(*stream->capture, cudaErrorStreamCaptureUnsupported);
      }
    }
    ++simt::runtime.counters.host_waits;
    simt::run_everything();
    return cudaSuccess;
  });
}

cudaError_t cudaProfilerStart() {
  return simt::call("cudaProfilerStart", [] {
    ++simt::runtime.counters.profiler_starts;
    return cudaSuccess;
  });
}

cudaError_t cudaProfilerStop() {
  return simt::call("cudaProfilerStop", [] {
    ++simt::runtime.counters.profiler_stops;
    return cudaSuccess;
  });
}

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  return simt::call("cudaStreamCreate",
                    [&] { return simt::create_stream(stream, cudaStreamDefault); });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  return simt::call("cudaStreamCreateWithFlags",
                    [&] { return simt::create_stream(stream, flags); });
}

cudaError_t cudaStreamDestroy(cudaStream_t handle) {
  return simt::call_on_stream("cudaStreamDestroy", handle,
                              [](CUstream_st& stream) { return simt::destroy(stream); });
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  return simt::call_on_stream("cudaStreamSynchronize", handle,
                              [](CUstream_st& stream) { return simt::synchronize(stream); });
}

cudaError_t cudaStreamQuery(cudaStream_t handle) {
  return simt::call_on_stream("cudaStreamQuery", handle,
                              [](CUstream_st& stream) { return simt::query(stream); });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event, unsigned) {
  return simt::call_on_stream("cudaStreamWaitEvent", handle, [&](CUstream_st& stream) {
    if (!simt::runtime.events.has(event)) return cudaErrorInvalidResourceHandle;
    return simt::wait(stream, *event);
  });
}

cudaError_t cudaEventCreate(cudaEvent_t* event) {
  return simt::call("cudaEventCreate", [&] { return simt::create_event(event, cudaEventDefault); });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  return simt::call("cudaEventCreateWithFlags", [&] { return simt::create_event(event, flags); });
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  return simt::call_on_event("cudaEventDestroy", event, [](CUevent_st& own) {
    simt::runtime.events.remove(&own);
    return cudaSuccess;
  });
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t handle) {
  return simt::call_on_stream("cudaEventRecord", handle, [&](CUstream_st& stream) {
    if (!simt::runtime.events.has(event)) return cudaErrorInvalidResourceHandle;
    return simt::record(*event, stream);
  });
}

cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t handle, unsigned flags) {
  return simt::call_on_stream("cudaEventRecordWithFlags", handle, [&](CUstream_st& stream) {
    if (!simt::runtime.events.has(event)) return cudaErrorInvalidResourceHandle;
    return flags == cudaEventRecordExternal ? simt::record_external(*event, stream)
                                            : simt::record(*event, stream);
  });
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  return simt::call_on_event("cudaEventQuery", event,
                             [](CUevent_st& own) { return simt::query(own); });
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  return simt::call_on_event("cudaEventSynchronize", event,
                             [](CUevent_st& own) { return simt::synchronize(own); });
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  return simt::call_on_event("cudaEventElapsedTime", start, [&](const CUevent_st& first) {
    if (!simt::runtime.events.has(end)) return cudaErrorInvalidResourceHandle;
    return simt::elapsed(milliseconds, first, *end);
  });
}

}  // extern "C"
