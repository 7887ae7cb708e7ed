// Memory, errors and the GPU that the emulated CUDA runtime says it has.
#include <cstdlib>

#include "simt/error.h"
#include "simt/streams_test.h"

namespace simt {
namespace {

class RuntimeTest : public StreamsTest {};

/// An environment variable for as long as this lives; the device reads it anew before and after.
class Environment {
 public:
  Environment(const char* name, const char* value) : name_(name) {
    setenv(name, value, 1);
    reset_device();
  }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;
  ~Environment() {
    unsetenv(name_);
    reset_device();
  }

 private:
  const char* name_;
};

TEST_F(RuntimeTest, MemoryIsUnwrittenAndCountsAgainstTheGpu) {
  Gpu gpu;
  gpu.memory = 1000;
  gpu.used_by_others = 300;
  std::size_t before = 0, free = 0, total = 0;
  set_gpu(gpu);
  require(cudaMemGetInfo(&before, &total));
  EXPECT_EQ(before, 700u);
  EXPECT_EQ(total, 1000u);
  unsigned char *first = nullptr, *second = nullptr, *pinned = nullptr;
  require(cudaMalloc(reinterpret_cast<void**>(&first), 500));
  EXPECT_EQ(first[0], 0xFF);
  EXPECT_EQ(first[499], 0xFF);
  EXPECT_EQ(cudaMalloc(reinterpret_cast<void**>(&second), 201), cudaErrorMemoryAllocation);
  EXPECT_EQ(second, nullptr);
  require(cudaMalloc(reinterpret_cast<void**>(&second), 200));
  require(cudaMallocHost(reinterpret_cast<void**>(&pinned), 5000));
  require(cudaMemGetInfo(&free, &total));
  EXPECT_EQ(free, 0u);
  require(cudaFree(first));
  require(cudaMemGetInfo(&free, &total));
  EXPECT_EQ(free, 500u);
  EXPECT_EQ(cudaFree(pinned), cudaErrorInvalidValue);
  require(cudaFreeHost(pinned));
  require(cudaFree(second));
  EXPECT_EQ(cudaFree(second), cudaErrorInvalidValue);
  require(cudaFree(nullptr));
}

TEST_F(RuntimeTest, FreeRunsWhatIsQueuedFirst) {
  const Values start = draw();
  const Stream stream;
  const DeviceValues a(start);
  int *device = nullptr, *pinned = nullptr;
  require(cudaMalloc(reinterpret_cast<void**>(&device), kBytes));
  require(cudaMallocHost(reinterpret_cast<void**>(&pinned), kBytes));
  add(stream, device, a.data(), 1);
  add(stream, a.data(), device, 1);
  require(cudaFree(device));
  EXPECT_EQ(a.now(), plus(start, 2));
  require(download(stream, pinned, a.data()));
  require(cudaMemsetAsync(a.data(), 0, kBytes, stream));
  require(cudaFreeHost(pinned));
  EXPECT_EQ(a.now(), Values(kSize, 0));
}

TEST_F(RuntimeTest, CopiesThatContradictTheirPointersAreInvalid) {
  const Stream stream;
  const DeviceValues a(draw()), b(draw());
  Values host = draw();
  constexpr cudaMemcpyKind kToDevice = cudaMemcpyHostToDevice;
  EXPECT_EQ(cudaMemcpy(host.data(), a.data(), kBytes, kToDevice), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy(a.data(), b.data(), kBytes, kToDevice), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpyAsync(a.data(), b.data(), kBytes, cudaMemcpyDeviceToHost, stream),
            cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy(a.data() + 1, host.data(), kBytes, kToDevice), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy(a.data() - 1, host.data(), kBytes, kToDevice), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy(host.data(), a.data() - 1, kBytes, cudaMemcpyDefault),
            cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemset(a.data() + 1, 0, kBytes), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemset(host.data(), 0, kBytes), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy(a.data() + 1, host.data(), kBytes - sizeof(int), kToDevice), cudaSuccess);
  EXPECT_EQ(cudaMemcpy(nullptr, nullptr, 0, kToDevice), cudaSuccess);
}

TEST_F(RuntimeTest, FaultStopsTheNthWorkOfThatNameForGood) {
  const Values start = draw();
  const Stream stream, other;
  const Event event;
  const DeviceValues a(start), b(start);
  set_fault("add", 2, cudaErrorIllegalAddress);
  add(other, b.data(), b.data(), 1, "other");
  require(cudaStreamSynchronize(other));
  add(stream, a.data(), a.data(), 1, "add_one");
  add(stream, a.data(), a.data(), 10, "add_ten");
  add(stream, a.data(), a.data(), 100, "add_hundred");
  require(cudaEventRecord(event, stream));
  require(cudaStreamWaitEvent(other, event, 0));
  add(other, b.data(), b.data(), 10, "other");
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaErrorIllegalAddress);
  EXPECT_EQ(a.now(), plus(start, 1));
  EXPECT_EQ(b.now(), plus(start, 1));
  void* memory = nullptr;
  EXPECT_EQ(cudaMalloc(&memory, 4), cudaErrorIllegalAddress);
  EXPECT_EQ(upload(stream, a.data(), start.data()), cudaErrorIllegalAddress);
  EXPECT_EQ(cudaEventQuery(event), cudaErrorIllegalAddress);
  EXPECT_EQ(submit(nullptr, "library", [] { FAIL(); }), cudaErrorIllegalAddress);
  EXPECT_EQ(cudaGetLastError(), cudaErrorIllegalAddress);
  EXPECT_EQ(cudaGetLastError(), cudaErrorIllegalAddress);
  EXPECT_THROW(add(nullptr, a.data(), a.data(), 1), Error);
  EXPECT_EQ(a.now(), plus(start, 1));
  reset_device();
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
}

TEST_F(RuntimeTest, FaultHitsInsideAReplay) {
  const Values start = draw();
  const Stream stream;
  const DeviceValues a(start);
  cudaGraph_t captured = nullptr;
  require(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < 3; ++i) add(stream, a.data(), a.data(), 1);
  require(cudaStreamEndCapture(stream, &captured));
  const Graph graph(captured);
  set_fault("add", 5, cudaErrorLaunchFailure);
  graph.launch(stream);
  graph.launch(stream);
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaErrorLaunchFailure);
  EXPECT_EQ(a.now(), plus(start, 4));
}

TEST_F(RuntimeTest, FaultsOfCallsAreStickyOnlyIfTheyDestroyTheContext) {
  const Stream stream;
  const DeviceValues a(draw());
  void *first = nullptr, *second = nullptr;
  set_fault("cudaMalloc", 2, cudaErrorMemoryAllocation);
  require(cudaMallocHost(&first, 4));
  require(cudaFreeHost(first));
  require(cudaMalloc(&first, 4));
  EXPECT_EQ(cudaMalloc(&second, 4), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaPeekAtLastError(), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaGetLastError(), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  require(cudaMalloc(&second, 4));
  require(cudaFree(first));
  require(cudaFree(second));
  set_fault("cudaStreamSynchronize", 1, cudaErrorIllegalAddress);
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaErrorIllegalAddress);
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaErrorIllegalAddress);
}

TEST_F(RuntimeTest, FaultsComeFromTheEnvironment) {
  const Environment environment("VITRINE_SIMT_FAULT",
                                "cudaMalloc:2:2;cudaMemcpyAsync:1:716;never:1:700");
  const Stream stream;
  const DeviceValues a(draw());
  void* memory = nullptr;
  EXPECT_EQ(cudaMalloc(&memory, 4), cudaErrorMemoryAllocation);
  const Values host = draw();
  require(cudaMemcpy(a.data(), host.data(), kBytes, cudaMemcpyHostToDevice));
  require(upload(stream, a.data(), draw().data()));
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaErrorMisalignedAddress);
  EXPECT_EQ(a.now(), host);
  setenv("VITRINE_SIMT_FAULT", "add:2", 1);
  EXPECT_THROW(reset_device(), Error);
}

TEST_F(RuntimeTest, GpuIsAsToldByTheProgram) {
  Gpu gpu;
  gpu.devices = 2;
  gpu.major = 8;
  gpu.minor = 6;
  gpu.multiprocessors = 84;
  gpu.shared_memory_per_block = 99 * 1024;
  gpu.name = "A Name";
  set_gpu(gpu);
  int count = -1, device = -1;
  require(cudaGetDeviceCount(&count));
  EXPECT_EQ(count, 2);
  require(cudaSetDevice(1));
  require(cudaGetDevice(&device));
  EXPECT_EQ(device, 1);
  EXPECT_EQ(cudaSetDevice(2), cudaErrorInvalidDevice);
  EXPECT_EQ(cudaSetDevice(-1), cudaErrorInvalidDevice);
  require(cudaSetDevice(0));
  cudaDeviceProp properties;
  require(cudaGetDeviceProperties(&properties, 1));
  EXPECT_STREQ(properties.name, "A Name");
  EXPECT_EQ(properties.major * 10 + properties.minor, 86);
  EXPECT_EQ(properties.totalGlobalMem, gpu.memory);
  EXPECT_EQ(cudaGetDeviceProperties(&properties, 2), cudaErrorInvalidDevice);
  const auto attribute = [](cudaDeviceAttr which) {
    int value = -1;
    require(cudaDeviceGetAttribute(&value, which, 0));
    return value;
  };
  EXPECT_EQ(attribute(cudaDevAttrMultiProcessorCount), 84);
  EXPECT_EQ(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin), 99 * 1024);
  EXPECT_EQ(attribute(cudaDevAttrComputeCapabilityMajor), 8);
  EXPECT_EQ(attribute(cudaDevAttrComputeCapabilityMinor), 6);
}

TEST_F(RuntimeTest, LaunchesFitTheSharedMemoryOfTheGpu) {
  Gpu gpu;
  gpu.shared_memory_per_block = 64 * 1024;
  set_gpu(gpu);
  const Values start = draw();
  const DeviceValues a(start);
  const auto launch = [&](std::size_t shared_bytes) {
    vitrine::cuda::launch("add", nullptr, 1, kSize, shared_bytes, &add_kernel, a.data(), a.data(),
                          1);
  };
  launch(64 * 1024);
  EXPECT_THROW(launch(64 * 1024 + 1), Error);
  EXPECT_EQ(a.now(), plus(start, 1));
}

TEST_F(RuntimeTest, GpuIsAsTheEnvironmentSays) {
  const Environment environment("VITRINE_SIMT_GPU",
                                "devices=3;capability=7.5;multiprocessors=7;shared=64k;memory=2g;"
                                "used=1g;name=Some GPU");
  const Gpu found = gpu();
  EXPECT_EQ(found.devices, 3);
  EXPECT_EQ(found.major * 10 + found.minor, 75);
  EXPECT_EQ(found.multiprocessors, 7);
  EXPECT_EQ(found.shared_memory_per_block, 65536);
  EXPECT_EQ(found.name, "Some GPU");
  std::size_t free = 0, total = 0;
  require(cudaMemGetInfo(&free, &total));
  EXPECT_EQ(free, std::size_t{1} << 30);
  EXPECT_EQ(total, std::size_t{2} << 30);
  for (const char* wrong : {"memory=two", "colour=red", "devices"}) {
    setenv("VITRINE_SIMT_GPU", wrong, 1);
    EXPECT_THROW(reset_gpu(), Error) << wrong;
  }
}

TEST_F(RuntimeTest, NothingWorksWithoutADeviceOrADriver) {
  struct Case {
    const char* gpu;
    cudaError_t expected;
  };
  for (const Case& each :
       {Case{"devices=0", cudaErrorNoDevice}, Case{"error=35", cudaErrorInsufficientDriver},
        Case{"driver=11080;runtime=12040", cudaErrorInsufficientDriver}}) {
    SCOPED_TRACE(each.gpu);
    const Environment environment("VITRINE_SIMT_GPU", each.gpu);
    int count = -1, version = -1;
    void* memory = nullptr;
    EXPECT_EQ(cudaGetDeviceCount(&count), each.expected);
    EXPECT_EQ(count, 0);
    EXPECT_EQ(cudaMalloc(&memory, 4), each.expected);
    EXPECT_EQ(cudaSetDevice(0), each.expected);
    EXPECT_EQ(submit(nullptr, "library", [] { FAIL(); }), each.expected);
    EXPECT_EQ(cudaDriverGetVersion(&version), cudaSuccess);
    EXPECT_EQ(version, gpu().driver_version);
    EXPECT_EQ(cudaRuntimeGetVersion(&version), cudaSuccess);
    EXPECT_EQ(version, gpu().runtime_version);
  }
  const Environment environment("VITRINE_SIMT_GPU", "driver=12000;runtime=12040");
  int count = 0;
  EXPECT_EQ(cudaGetDeviceCount(&count), cudaSuccess);
  EXPECT_EQ(count, 1);
}

TEST_F(RuntimeTest, ErrorsHaveNames) {
  for (const int code : {1, 2, 3, 35, 100, 101, 209, 400, 600, 700, 716, 719, 900, 901}) {
    const auto error = static_cast<cudaError_t>(code);
    EXPECT_EQ(std::string(cudaGetErrorName(error)).substr(0, 9), "cudaError") << code;
    EXPECT_STRNE(cudaGetErrorString(error), cudaGetErrorString(cudaSuccess)) << code;
  }
  EXPECT_STREQ(cudaGetErrorName(cudaErrorIllegalAddress), "cudaErrorIllegalAddress");
  EXPECT_STREQ(cudaGetErrorName(static_cast<cudaError_t>(-1)), "unrecognized error code");
}

}  // namespace
}  // namespace simt
