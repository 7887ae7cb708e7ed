#include "simt/device.h"

#include <cuda_runtime_api.h>

#include "simt/matmul.h"

namespace vitrine {
namespace {

void require_cuda(cudaError_t status) {
  if (status != cudaSuccess) throw DeviceError(cudaGetErrorString(status));
}

// One stream, one worker, no recording: every call has run when it returns.
class SimtDevice final : public Device {
 public:
  SimtDevice()
      : scratch_(allocate(sizeof(cuda::ScratchMemory), "scratch")),
        kernels_(nullptr, cuda::CudaLimits{}, scratch_.as<cuda::ScratchMemory>(), &matmul_) {}

  const DeviceTraits& traits() const override { return traits_; }
  Kernels& kernels() override { return kernels_; }

  Buffer allocate(std::size_t bytes, const std::string&) override {
    void* data = nullptr;
    require_cuda(cudaMalloc(&data, bytes));
    require_cuda(cudaMemset(data, 0, bytes));
    return {data, bytes, [](void* pointer) { cudaFree(pointer); }};
  }
  Buffer share(const void* host, std::size_t bytes, const std::string& what) override {
    Buffer buffer = allocate(bytes, what);
    upload(buffer.data(), host, bytes);
    return buffer;
  }
  Buffer to_host(const Buffer& buffer) override {
    auto* host = new char[buffer.bytes()];
    Buffer copy(host, buffer.bytes(), [](void* pointer) { delete[] static_cast<char*>(pointer); });
    download(host, buffer.data(), buffer.bytes());
    return copy;
  }
  void upload(void* device, const void* host, std::size_t bytes) override {
    require_cuda(cudaMemcpy(device, host, bytes, cudaMemcpyHostToDevice));
  }
  void download(void* host, const void* device, std::size_t bytes) override {
    require_cuda(cudaMemcpy(host, device, bytes, cudaMemcpyDeviceToHost));
  }
  void copy(void* to, const void* from, std::size_t bytes) override {
    require_cuda(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToDevice));
  }
  void fill_zero(void* device, std::size_t bytes) override {
    require_cuda(cudaMemset(device, 0, bytes));
  }

  int workers() const override { return 1; }
  void for_each(std::int64_t n, const std::function<void(int, std::int64_t)>& body) override {
    for (std::int64_t i = 0; i < n; ++i) body(0, i);
  }
  void submit(std::uint64_t, const std::function<void()>& work) override { work(); }
  void synchronize() override { require_cuda(cudaDeviceSynchronize()); }

 private:
  DeviceTraits traits_{.name = "simt",
                       .memory = std::int64_t{1} << 40,
                       .chunks = false,
                       .max_partials = 16,
                       .max_row_blocks = 1};
  Buffer scratch_;
  cuda::OneDnnMatmul matmul_;
  cuda::CudaKernels kernels_;
};

}  // namespace

std::unique_ptr<Device> make_simt_device() {
  return std::make_unique<SimtDevice>();
}

}  // namespace vitrine
