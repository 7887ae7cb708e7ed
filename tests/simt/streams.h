// Streams, events and graphs of the emulated device, and what a test may say and ask about them.
//
// All work a program gives the device passes submit(). While its stream captures, it becomes a node
// of a graph. Otherwise it runs at once (the null stream always, other streams when eager) or as
// late as CUDA allows (`late`, what streams are unless told otherwise): only when a synchronising
// call demands it, and no further than demanded. A host buffer reused too early, a forgotten wait
// for an event or a result read before it is there then show as wrong data, always.
//
// What demands work: cudaStreamSynchronize, cudaDeviceSynchronize, cudaEventSynchronize; work in
// the null stream and synchronous copies, of all streams but those made with cudaStreamNonBlocking;
// cudaFree, cudaFreeHost and cudaStreamDestroy; an asynchronous copy to pageable host memory. A
// stream that waits for an event runs the event's stream up to its record. cudaEventQuery and
// cudaStreamQuery on work that has not run each run one item, so that polling ends.
//
// Not modelled: work in the null stream that is late itself; captures that span several streams.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <functional>

namespace simt {

/// When work in a stream runs: at its submission, or as late as allowed.
enum class Streams { eager, late };

/// For work submitted from now on. At first VITRINE_SIMT_STREAMS = eager or late; late without it.
void set_streams(Streams streams);

/// Gives the device `work`, which must own what it needs and may run more than once (in a graph).
/// `what` names it for set_fault and set_duration. What `work` throws comes out of the call that
/// made it run; all that was queued is then dropped. Returns what the CUDA call that stands before
/// it returns: cudaSuccess, a sticky error, or the reason why `stream` cannot take work.
cudaError_t submit(cudaStream_t stream, const char* what, std::function<void()> work);

/// How long work takes whose name begins so, on the clock that cudaEventElapsedTime reads; the
/// latest that fits counts. 0.001 ms each at first.
void set_duration(const char* what_prefix, float milliseconds);

/// Lets something fail, once: the `nth` (from 1, counted from this call) work that runs and whose
/// name begins with `what_prefix` does nothing and leaves `error` sticky, as errors of a context
/// are: queued work is dropped, every call returns it from then on. A name that begins with "cuda"
/// has to be the whole name of a call. Calls that submit nothing (cudaMalloc) return `error`
/// themselves; it is sticky only if CUDA's context would not survive it.
///
/// At first VITRINE_SIMT_FAULT = "<prefix>:<nth>:<error>", several separated by ";".
void set_fault(const char* what_prefix, int nth, cudaError_t error);

/// What the program asked of the device since the start or reset_counters(). What a stream captures
/// counts only when it is replayed: copies and memsets each time, launches as nodes.
struct Counters {
  std::int64_t launches = 0;        ///< kernels and library calls, outside graphs
  std::int64_t graph_launches = 0;  ///< calls of cudaGraphLaunch
  std::int64_t nodes_replayed = 0;  ///< what these graphs consist of, copies and memsets included
  std::int64_t copies_to_device = 0, bytes_to_device = 0;  ///< by cudaMemcpyAsync
  std::int64_t copies_to_host = 0, bytes_to_host = 0;      ///< the same
  std::int64_t copies_on_device = 0, bytes_on_device = 0;  ///< the same
  std::int64_t copies_on_host = 0, bytes_on_host = 0;      ///< the same
  std::int64_t memsets = 0;                                ///< cudaMemset and cudaMemsetAsync
  std::int64_t host_waits = 0;  ///< calls that wait: cuda…Synchronize, copies that are synchronous
  std::int64_t profiler_starts = 0, profiler_stops = 0;
  std::int64_t allocations = 0;  ///< cudaMalloc, cudaMallocHost and cudaHostAlloc
};
Counters counters();
void reset_counters();

/// As in a new process: nothing queued, no fault and no error, no counts, all durations the same,
/// streams and GPU as the environment says. Memory, streams and events stay.
void reset_device();

}  // namespace simt
