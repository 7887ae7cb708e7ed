#include "cuda/cuda_device.h"

#include <cuda_profiler_api.h>
#include <nvtx3/nvToolsExt.h>

#include <algorithm>

#include "cuda/program.h"
#include "cuda/stopwatch.h"
#include "cuda/transfer_ring.h"
#include "io/format.h"

namespace vitrine::cuda {
namespace {

// What modules loaded later and launches with much local memory may still take.
std::int64_t reserve_of(std::int64_t free) {
  constexpr std::int64_t kMost = std::int64_t{128} << 20;
  return std::min(kMost, free / 16);
}

// More than a context takes: somebody else's.
constexpr std::int64_t kContextBytes = std::int64_t{1} << 30;

nvtxDomainHandle_t domain() {
  static const nvtxDomainHandle_t handle = nvtxDomainCreateA("vitrine");
  return handle;
}

std::string describe(const Gpu& gpu) {
  return gpu.name + ", " + std::to_string(gpu.limits.multiprocessors) + " multiprocessors, " +
         format_bytes(static_cast<double>(gpu.free_memory)) + " of " +
         format_bytes(static_cast<double>(gpu.total_memory)) + " free";
}

DeviceTraits traits_of(const Gpu& gpu) {
  DeviceTraits traits = cuda_traits(gpu.free_memory - reserve_of(gpu.free_memory));
  traits.description = describe(gpu);
  traits.bf16 = gpu.limits.compute_capability >= 80;
  const std::int64_t held = gpu.total_memory - gpu.free_memory;
  if (held > kContextBytes) traits.held_by_others = held;
  return traits;
}

}  // namespace

CudaDevice::CudaDevice(const DeviceOptions& options)
    : options_(options),
      gpu_(take_gpu(options.name)),
      traits_(traits_of(gpu_)),
      staging_(stream_),
      readbacks_(std::make_shared<ReadbackMemory>()),
      scratch_(allocate(sizeof(ScratchMemory), "scratch memory")),
      // Matrix products and convolutions follow each other on the one stream and share it.
      workspace_(allocate(static_cast<std::size_t>(traits_.runtime), "workspace of libraries")),
      matmul_({.workspace = workspace_.data(),
               .workspace_bytes = workspace_.bytes(),
               .tuning_file = options.tune,
               .gpu = gpu_.name,
               .measuring_stream = stream_.get()}),
      convolution_(workspace_.data(), workspace_.bytes()),
      kernels_(stream_.get(), gpu_.limits, scratch_.as<ScratchMemory>(), &matmul_, &convolution_) {
  traits_.tuning = matmul_.hash();
}

CudaDevice::~CudaDevice() {
  cudaStreamSynchronize(stream_.get());
}

Buffer CudaDevice::allocate(std::size_t bytes, const std::string& what) {
  void* data = nullptr;
  const cudaError_t status = cudaMalloc(&data, bytes);
  if (status == cudaErrorMemoryAllocation) {
    static_cast<void>(cudaGetLastError());
    std::size_t free = 0, total = 0;
    check("cudaMemGetInfo", cudaMemGetInfo(&free, &total));
    throw OutOfMemory("out of memory: " + what + ": needed " +
                      format_bytes(static_cast<double>(bytes)) + ", free " +
                      format_bytes(static_cast<double>(free)) + " of " +
                      format_bytes(static_cast<double>(total)) + " on " + gpu_.name);
  }
  check("cudaMalloc", status);
  const auto size = static_cast<std::int64_t>(bytes);
  usage_->now += size;
  usage_->most = std::max(usage_->most, usage_->now);
  Buffer buffer(data, bytes, [usage = usage_, size](void* pointer) {
    usage->now -= size;
    cudaFree(pointer);
  });
  fill_zero(data, bytes);
  return buffer;
}

Buffer CudaDevice::share(const void* host, std::size_t bytes, const std::string& what) {
  Buffer buffer = allocate(bytes, what);
  upload(buffer.data(), host, bytes);
  return buffer;
}

Buffer CudaDevice::to_host(const Buffer& buffer) {
  auto* host = new char[buffer.bytes()];
  Buffer copy(host, buffer.bytes(), [](void* pointer) { delete[] static_cast<char*>(pointer); });
  download(host, buffer.data(), buffer.bytes());
  return copy;
}

void CudaDevice::upload(void* device, const void* host, std::size_t bytes) {
  staging_.upload(device, host, bytes);
}

void CudaDevice::download(void* host, const void* device, std::size_t bytes) {
  check("cudaMemcpyAsync",
        cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream_.get()));
  stream_.synchronize();
}

void CudaDevice::copy(void* to, const void* from, std::size_t bytes) {
  check("cudaMemcpyAsync",
        cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_.get()));
}

void CudaDevice::fill_zero(void* device, std::size_t bytes) {
  check("cudaMemsetAsync", cudaMemsetAsync(device, 0, bytes, stream_.get()));
}

std::unique_ptr<Readback> CudaDevice::read_back(const void* device, std::size_t bytes) {
  return std::make_unique<CudaReadback>(readbacks_, stream_, device, bytes);
}

std::unique_ptr<TransferRing> CudaDevice::make_ring(std::size_t slot_bytes,
                                                    const std::string& what) {
  return std::make_unique<CudaTransferRing>(stream_, allocate(slot_bytes * kTransferSlots, what),
                                            slot_bytes);
}

void CudaDevice::for_each(std::int64_t n, const std::function<void(int, std::int64_t)>& body) {
  for (std::int64_t i = 0; i < n; ++i) body(0, i);
}

std::unique_ptr<Program> CudaDevice::program(const std::string& name, std::function<void()> work) {
  const bool records = options_.cuda_graph && !options_.check_operations;
  return std::make_unique<CudaProgram>(stream_, name, std::move(work), records,
                                       [this] { keep_tuning(); });
}

// All products of a program are known once it has run.
void CudaDevice::keep_tuning() {
  matmul_.save();
  traits_.tuning = matmul_.hash();
}

std::unique_ptr<Stopwatch> CudaDevice::make_stopwatch(std::int64_t points) {
  return std::make_unique<CudaStopwatch>(stream_, points);
}

void CudaDevice::begin_capture() {
  stream_.synchronize();
  check("cudaProfilerStart", cudaProfilerStart());
}

void CudaDevice::end_capture() {
  stream_.synchronize();
  check("cudaProfilerStop", cudaProfilerStop());
}

void CudaDevice::begin_range(const std::string& name) {
  nvtxEventAttributes_t attributes{};
  attributes.version = NVTX_VERSION;
  attributes.size = NVTX_EVENT_ATTRIB_STRUCT_SIZE;
  attributes.messageType = NVTX_MESSAGE_TYPE_ASCII;
  attributes.message.ascii = name.c_str();
  nvtxDomainRangePushEx(domain(), &attributes);
}

void CudaDevice::end_range() {
  nvtxDomainRangePop(domain());
}

void CudaDevice::operation_done() {
  if (!options_.check_operations) return;
  const cudaError_t status = cudaStreamSynchronize(stream_.get());
  if (status == cudaSuccess) return;
  throw DeviceFault(std::string(cudaGetErrorName(status)) + ": " + cudaGetErrorString(status));
}

}  // namespace vitrine::cuda

namespace vitrine {

bool built_with_cuda() {
  return true;
}

std::unique_ptr<Device> make_cuda_device(const DeviceOptions& options) {
  return std::make_unique<cuda::CudaDevice>(options);
}

}  // namespace vitrine
