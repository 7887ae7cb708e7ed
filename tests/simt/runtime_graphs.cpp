// Captures and graphs of the emulated CUDA runtime. A capture belongs to one stream; nothing runs
// during it. A graph is its work in order, a launch of it runs that.
#include "simt/runtime.h"

namespace simt {
namespace {

cudaError_t begin(CUstream_st& stream, cudaStreamCaptureMode mode) {
  if (&stream == &runtime.null_stream) return cudaErrorStreamCaptureUnsupported;
  if (stream.capture) return cudaErrorIllegalState;
  stream.capture = std::make_shared<Capture>(Capture{mode, std::this_thread::get_id(), true, {}});
  return cudaSuccess;
}

cudaError_t end(CUstream_st& stream, cudaGraph_t* graph) {
  *graph = nullptr;
  if (!stream.capture) return cudaErrorIllegalState;
  const bool any_thread = stream.capture->mode == cudaStreamCaptureModeRelaxed;
  if (!any_thread && stream.capture->thread != std::this_thread::get_id()) {
    return spoil(*stream.capture, cudaErrorStreamCaptureWrongThread);
  }
  const std::shared_ptr<Capture> capture = std::move(stream.capture);
  if (!capture->valid) return cudaErrorStreamCaptureInvalidated;
  *graph = runtime.graphs.add({});
  for (Work& work : capture->nodes) {
    auto node = std::make_unique<CUgraphNode_st>();
    node->work = std::move(work);
    (*graph)->nodes.push_back(std::move(node));
  }
  return cudaSuccess;
}

cudaStreamCaptureStatus status_of(const CUstream_st& stream) {
  if (!stream.capture) return cudaStreamCaptureStatusNone;
  return stream.capture->valid ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusInvalidated;
}

/// With `nodes` up to *count of them, of which those beyond the last are null; without, their
/// number.
void list_nodes(const CUgraph_st& graph, cudaGraphNode_t* nodes, std::size_t* count) {
  const std::size_t room = *count;
  *count = graph.nodes.size();
  if (nodes == nullptr) return;
  for (std::size_t i = 0; i < room; ++i) {
    nodes[i] = i < graph.nodes.size() ? graph.nodes[i].get() : nullptr;
  }
  *count = std::min(room, graph.nodes.size());
}

cudaError_t instantiate(cudaGraphExec_t* executable, const CUgraph_st& graph) {
  std::vector<Work> nodes;
  for (const auto& node : graph.nodes) nodes.push_back(node->work);
  *executable =
      runtime.executable_graphs.add({std::make_shared<const std::vector<Work>>(std::move(nodes))});
  return cudaSuccess;
}

cudaError_t launch(const CUgraphExec_st& executable, CUstream_st& stream) {
  if (stream.capture) return spoil(*stream.capture, cudaErrorStreamCaptureUnsupported);
  if (&stream == &runtime.null_stream) {
    if (const cudaError_t status = refuse_implicit_wait(); status != cudaSuccess) return status;
  }
  ++runtime.counters.graph_launches;
  runtime.counters.nodes_replayed += static_cast<std::int64_t>(executable.nodes->size());
  for (const Work& node : *executable.nodes) {
    if (node.kind != Work::Kind::launch) count(node);
  }
  enqueue(stream, Replay{executable.nodes});
  return cudaSuccess;
}

}  // namespace

cudaError_t spoil(Capture& capture, cudaError_t status) {
  const bool first = std::exchange(capture.valid, false);
  return first ? status : cudaErrorStreamCaptureInvalidated;
}

cudaError_t append(Capture& capture, Work work) {
  if (!capture.valid) return cudaErrorStreamCaptureInvalidated;
  capture.nodes.push_back(std::move(work));
  return cudaSuccess;
}

cudaError_t refuse_while_capturing() {
  cudaError_t status = cudaSuccess;
  for (const auto& stream : runtime.streams) {
    if (!stream->capture) continue;
    const bool own = stream->capture->thread == std::this_thread::get_id();
    const bool forbids = own ? stream->capture->mode != cudaStreamCaptureModeRelaxed
                             : stream->capture->mode == cudaStreamCaptureModeGlobal;
    if (forbids) status = spoil(*stream->capture, cudaErrorStreamCaptureUnsupported);
  }
  return status;
}

cudaError_t refuse_implicit_wait() {
  cudaError_t status = cudaSuccess;
  for (const auto& stream : runtime.streams) {
    if (!stream->capture || !stream->blocking) continue;
    status = spoil(*stream->capture, cudaErrorStreamCaptureImplicit);
  }
  return status;
}

}  // namespace simt

extern "C" {

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode mode) {
  return simt::call("cudaStreamBeginCapture", [&] {
    CUstream_st* stream = simt::find_stream(handle);
    return stream == nullptr ? cudaErrorInvalidResourceHandle : simt::begin(*stream, mode);
  });
}

cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t* graph) {
  return simt::call("cudaStreamEndCapture", [&] {
    CUstream_st* stream = simt::find_stream(handle);
    return stream == nullptr ? cudaErrorInvalidResourceHandle : simt::end(*stream, graph);
  });
}

cudaError_t cudaStreamIsCapturing(cudaStream_t handle, cudaStreamCaptureStatus* status) {
  return simt::call("cudaStreamIsCapturing", [&] {
    const CUstream_st* stream = simt::find_stream(handle);
    if (stream == nullptr) return cudaErrorInvalidResourceHandle;
    *status = simt::status_of(*stream);
    return cudaSuccess;
  });
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, std::size_t* count) {
  return simt::call("cudaGraphGetNodes", [&] {
    if (!simt::runtime.graphs.has(graph) || count == nullptr) return cudaErrorInvalidValue;
    simt::list_nodes(*graph, nodes, count);
    return cudaSuccess;
  });
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph,
                                 unsigned long long) {
  return simt::call("cudaGraphInstantiate", [&] {
    if (!simt::runtime.graphs.has(graph)) return cudaErrorInvalidValue;
    return simt::instantiate(executable, *graph);
  });
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t handle) {
  return simt::call("cudaGraphLaunch", [&] {
    CUstream_st* stream = simt::find_stream(handle);
    if (stream == nullptr) return cudaErrorInvalidResourceHandle;
    if (!simt::runtime.executable_graphs.has(executable)) return cudaErrorInvalidValue;
    return simt::launch(*executable, *stream);
  });
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  return simt::call("cudaGraphExecDestroy", [&] {
    return simt::runtime.executable_graphs.remove(executable) ? cudaSuccess : cudaErrorInvalidValue;
  });
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  return simt::call("cudaGraphDestroy", [&] {
    return simt::runtime.graphs.remove(graph) ? cudaSuccess : cudaErrorInvalidValue;
  });
}

}  // extern "C"
