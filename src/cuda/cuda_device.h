// The CUDA device: one GPU, one stream that all work passes in order, and beside it only copies of
// images that do not fit on the device.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "cuda/cublaslt_matmul.h"
#include "cuda/cudnn_convolution.h"
#include "cuda/gpu.h"
#include "cuda/readback.h"
#include "cuda/runtime.h"
#include "cuda/staging.h"
#include "cuda_kernels.h"
#include "vitrine/device.h"

namespace vitrine::cuda {

class CudaDevice final : public Device {
 public:
  explicit CudaDevice(const DeviceOptions& options);
  ~CudaDevice() override;

  const DeviceTraits& traits() const override { return traits_; }
  Kernels& kernels() override { return kernels_; }

  Buffer allocate(std::size_t bytes, const std::string& what) override;
  Buffer share(const void* host, std::size_t bytes, const std::string& what) override;
  Buffer to_host(const Buffer& buffer) override;
  void upload(void* device, const void* host, std::size_t bytes) override;
  void download(void* host, const void* device, std::size_t bytes) override;
  void copy(void* to, const void* from, std::size_t bytes) override;
  void fill_zero(void* device, std::size_t bytes) override;
  std::unique_ptr<Readback> read_back(const void* device, std::size_t bytes) override;
  std::unique_ptr<TransferRing> make_ring(std::size_t slot_bytes, const std::string& what) override;

  int workers() const override { return 1; }
  void for_each(std::int64_t n, const std::function<void(int, std::int64_t)>& body) override;
  std::int64_t peak_bytes() const override { return usage_->most; }
  std::unique_ptr<Program> program(const std::string& name, std::function<void()> work) override;
  void synchronize() override { stream_.synchronize(); }

  std::unique_ptr<Stopwatch> make_stopwatch(std::int64_t points) override;

  void begin_capture() override;
  void end_capture() override;
  bool traces() const override { return true; }
  void begin_range(const std::string& name) override;
  void end_range() override;
  void operation_done() override;

  const CublasLtMatmul& matmul() const { return matmul_; }
  /// Of all work; for what is timed beside the catalogue.
  cudaStream_t stream() const { return stream_.get(); }

 private:
  /// Bytes of device memory.
  struct Usage {
    std::int64_t now = 0, most = 0;
  };

  void keep_tuning();

  DeviceOptions options_;
  Gpu gpu_;
  DeviceTraits traits_;
  Stream stream_;
  Staging staging_;
  std::shared_ptr<ReadbackMemory> readbacks_;
  std::shared_ptr<Usage> usage_ = std::make_shared<Usage>();
  Buffer scratch_, workspace_;
  CublasLtMatmul matmul_;
  CudnnConvolution convolution_;
  CudaKernels kernels_;
};

}  // namespace vitrine::cuda
