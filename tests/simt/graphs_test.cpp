// Captures and graphs on the emulated device.
#include <functional>
#include <thread>

#include "simt/streams_test.h"

namespace simt {
namespace {

class GraphsTest : public StreamsTest {
 protected:
  static void begin(cudaStream_t stream,
                    cudaStreamCaptureMode mode = cudaStreamCaptureModeThreadLocal) {
    require(cudaStreamBeginCapture(stream, mode));
  }
  static cudaGraph_t end(cudaStream_t stream) {
    cudaGraph_t graph = nullptr;
    require(cudaStreamEndCapture(stream, &graph));
    return graph;
  }
  static cudaStreamCaptureStatus status_of(cudaStream_t stream) {
    cudaStreamCaptureStatus status{};
    require(cudaStreamIsCapturing(stream, &status));
    return status;
  }
};

TEST_F(GraphsTest, CaptureRunsNothingAndReplaysRunEverythingInOrder) {
  const Values start = draw(), late = draw();
  const Stream stream;
  const DeviceValues a(start), b(start);
  PinnedValues input(start);
  const PinnedValues output(start);
  reset_counters();
  begin(stream);
  EXPECT_EQ(status_of(stream), cudaStreamCaptureStatusActive);
  require(upload(stream, a.data(), input.data()));
  add(stream, a.data(), a.data(), 3);
  require(cudaMemcpyAsync(b.data(), a.data(), kBytes, cudaMemcpyDeviceToDevice, stream));
  require(cudaMemsetAsync(a.data(), 0, kBytes, stream));
  require(download(stream, output.data(), b.data()));
  const Graph graph(end(stream));
  EXPECT_EQ(status_of(stream), cudaStreamCaptureStatusNone);
  require(cudaDeviceSynchronize());
  EXPECT_EQ(a.now(), start);
  EXPECT_EQ(graph.nodes(), 5u);
  EXPECT_EQ(counters().launches + counters().copies_to_device + counters().memsets, 0);
  for (const Values& values : {late, draw()}) {
    graph.launch(stream);
    input = values;
    require(cudaStreamSynchronize(stream));
    EXPECT_EQ(output.now(), plus(values, 3));
    EXPECT_EQ(a.now(), Values(kSize, 0));
  }
  EXPECT_EQ(counters().graph_launches, 2);
  EXPECT_EQ(counters().nodes_replayed, 10);
  EXPECT_EQ(counters().copies_to_device, 2);
  EXPECT_EQ(counters().bytes_to_device, std::int64_t{2 * kBytes});
  EXPECT_EQ(counters().memsets, 2);
  EXPECT_EQ(counters().launches, 0);
}

TEST_F(GraphsTest, NodesAreListedUpToTheRoomThereIs) {
  const Stream stream;
  const DeviceValues a(draw());
  begin(stream);
  for (int i = 0; i < 3; ++i) add(stream, a.data(), a.data(), 1);
  const Graph graph(end(stream));
  cudaGraphNode_t none{};
  std::vector<cudaGraphNode_t> nodes(4, reinterpret_cast<cudaGraphNode_t>(&none));
  std::size_t count = 2;
  require(cudaGraphGetNodes(graph.handle(), nodes.data(), &count));
  EXPECT_EQ(count, 2u);
  count = nodes.size();
  require(cudaGraphGetNodes(graph.handle(), nodes.data(), &count));
  EXPECT_EQ(count, 3u);
  EXPECT_NE(nodes[0], nodes[2]);
  EXPECT_EQ(nodes[3], nullptr);
}

TEST_F(GraphsTest, ReplaySurvivesItsGraphAndReadsPageableMemoryWhenItRuns) {
  const Values late = draw();
  const Stream stream;
  const DeviceValues a(draw());
  Values pageable = draw();
  begin(stream);
  require(upload(stream, a.data(), pageable.data()));
  {
    const Graph graph(end(stream));
    graph.launch(stream);
  }
  pageable = late;
  require(cudaStreamSynchronize(stream));
  EXPECT_EQ(a.now(), late);
}

/// A call that a capture of `stream` forbids and what it answers.
struct Forbidden {
  const char* what;
  cudaError_t expected;
  std::function<cudaError_t()> call;
};

TEST_F(GraphsTest, CallsThatCannotBeCapturedInvalidate) {
  const Values start = draw();
  const Stream stream, other;
  const Event captured, outside;
  const DeviceValues a(start);
  const PinnedValues pinned(start);
  void* memory = nullptr;
  require(cudaEventRecord(outside, other));
  constexpr cudaError_t kUnsupported = cudaErrorStreamCaptureUnsupported;
  const Forbidden calls[] = {
      {"cudaStreamSynchronize", kUnsupported, [&] { return cudaStreamSynchronize(stream); }},
      {"cudaStreamQuery", kUnsupported, [&] { return cudaStreamQuery(stream); }},
      {"cudaDeviceSynchronize", kUnsupported, [] { return cudaDeviceSynchronize(); }},
      {"cudaMalloc", kUnsupported, [&] { return cudaMalloc(&memory, 4); }},
      {"cudaFree", kUnsupported, [&] { return cudaFree(a.data()); }},
      {"cudaMallocHost", kUnsupported, [&] { return cudaMallocHost(&memory, 4); }},
      {"cudaFreeHost", kUnsupported, [&] { return cudaFreeHost(pinned.data()); }},
      {"cudaMemcpy", kUnsupported,
       [&] { return cudaMemcpy(a.data(), start.data(), 4, cudaMemcpyHostToDevice); }},
      {"cudaMemset", kUnsupported, [&] { return cudaMemset(a.data(), 0, 4); }},
      {"query of a captured event", cudaErrorCapturedEvent,
       [&] { return cudaEventQuery(captured); }},
      {"wait for a captured event", cudaErrorCapturedEvent,
       [&] { return cudaEventSynchronize(captured); }},
      {"query of another event", kUnsupported, [&] { return cudaEventQuery(outside); }},
      {"join of another stream", kUnsupported,
       [&] { return cudaStreamWaitEvent(other, captured, 0); }},
      {"wait for work outside", cudaErrorStreamCaptureIsolation,
       [&] { return cudaStreamWaitEvent(stream, outside, 0); }},
  };
  for (const Forbidden& forbidden : calls) {
    SCOPED_TRACE(forbidden.what);
    begin(stream);
    add(stream, a.data(), a.data(), 1);
    require(cudaEventRecord(captured, stream));
    require(cudaStreamWaitEvent(stream, captured, 0));
    EXPECT_EQ(forbidden.call(), forbidden.expected);
    EXPECT_EQ(status_of(stream), cudaStreamCaptureStatusInvalidated);
    EXPECT_EQ(submit(stream, "library", [] {}), cudaErrorStreamCaptureInvalidated);
    EXPECT_EQ(forbidden.call(), cudaErrorStreamCaptureInvalidated);
    cudaGraph_t graph = reinterpret_cast<cudaGraph_t>(&memory);
    EXPECT_EQ(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureInvalidated);
    EXPECT_EQ(graph, nullptr);
    EXPECT_EQ(status_of(stream), cudaStreamCaptureStatusNone);
    require(cudaStreamSynchronize(stream));
    EXPECT_EQ(a.now(), start);
  }
}

TEST_F(GraphsTest, CapturedEventsHaveNoTime) {
  const Stream stream;
  const Event first, second;
  require(cudaEventRecord(first, stream));
  require(cudaEventRecord(second, stream));
  require(cudaStreamSynchronize(stream));
  float milliseconds = -1.0f;
  require(cudaEventElapsedTime(&milliseconds, first, second));
  begin(stream);
  require(cudaEventRecord(second, stream));
  const Graph graph(end(stream));
  EXPECT_EQ(cudaEventElapsedTime(&milliseconds, first, second), cudaErrorInvalidResourceHandle);
  EXPECT_EQ(cudaEventQuery(second), cudaErrorCapturedEvent);
  require(cudaEventRecord(second, stream));
  require(cudaEventSynchronize(second));
  EXPECT_EQ(graph.nodes(), 0u);
}

TEST_F(GraphsTest, ModeSaysWhichThreadsMayAllocate) {
  const Stream stream;
  const auto allocate = [] {
    void* memory = nullptr;
    const cudaError_t status = cudaMalloc(&memory, 4);
    if (status == cudaSuccess) require(cudaFree(memory));
    return status;
  };
  const auto allocate_elsewhere = [&] {
    cudaError_t status{};
    std::thread([&] { status = allocate(); }).join();
    return status;
  };
  const auto end_capture = [&] {
    cudaGraph_t graph = nullptr;
    const cudaError_t status = cudaStreamEndCapture(stream, &graph);
    if (graph != nullptr) require(cudaGraphDestroy(graph));
    return status;
  };
  begin(stream, cudaStreamCaptureModeRelaxed);
  EXPECT_EQ(allocate(), cudaSuccess);
  EXPECT_EQ(end_capture(), cudaSuccess);
  begin(stream, cudaStreamCaptureModeThreadLocal);
  EXPECT_EQ(allocate_elsewhere(), cudaSuccess);
  EXPECT_EQ(end_capture(), cudaSuccess);
  begin(stream, cudaStreamCaptureModeGlobal);
  EXPECT_EQ(allocate_elsewhere(), cudaErrorStreamCaptureUnsupported);
  EXPECT_EQ(end_capture(), cudaErrorStreamCaptureInvalidated);
}

TEST_F(GraphsTest, CaptureEndsInItsThread) {
  const Stream stream;
  begin(stream);
  cudaGraph_t graph = nullptr;
  std::thread([&] {
    EXPECT_EQ(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureWrongThread);
  }).join();
  EXPECT_EQ(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureInvalidated);
  EXPECT_EQ(cudaStreamEndCapture(stream, &graph), cudaErrorIllegalState);
  EXPECT_EQ(cudaStreamBeginCapture(nullptr, cudaStreamCaptureModeGlobal),
            cudaErrorStreamCaptureUnsupported);
}

TEST_F(GraphsTest, NullStreamTakesNothingWhileABlockingStreamCaptures) {
  const Stream blocking(cudaStreamDefault), independent;
  const DeviceValues a(draw());
  cudaGraph_t graph = nullptr;
  begin(blocking, cudaStreamCaptureModeRelaxed);
  EXPECT_EQ(submit(nullptr, "library", [] {}), cudaErrorStreamCaptureImplicit);
  EXPECT_EQ(cudaStreamEndCapture(blocking, &graph), cudaErrorStreamCaptureInvalidated);
  begin(independent, cudaStreamCaptureModeRelaxed);
  bool ran = false;
  EXPECT_EQ(submit(nullptr, "library", [&] { ran = true; }), cudaSuccess);
  EXPECT_TRUE(ran);
  const Graph empty(end(independent));
  EXPECT_EQ(empty.nodes(), 0u);
}

}  // namespace
}  // namespace simt
