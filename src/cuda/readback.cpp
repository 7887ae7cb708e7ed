#include "cuda/readback.h"

#include <algorithm>

namespace vitrine::cuda {

std::unique_ptr<ReadbackMemory::Block> ReadbackMemory::take(std::size_t bytes) {
  constexpr std::size_t kSmallest = 4096;
  const auto found = std::find_if(free_.begin(), free_.end(),
                                  [&](const auto& block) { return block->bytes >= bytes; });
  if (found == free_.end()) return std::make_unique<Block>(std::max(bytes, kSmallest));
  std::unique_ptr<Block> block = std::move(*found);
  free_.erase(found);
  return block;
}

CudaReadback::CudaReadback(std::shared_ptr<ReadbackMemory> memory, const Stream& stream,
                           const void* device, std::size_t bytes)
    : memory_(std::move(memory)), block_(memory_->take(bytes)) {
  check("cudaMemcpyAsync", cudaMemcpyAsync(block_->memory.data(), device, bytes,
                                           cudaMemcpyDeviceToHost, stream.get()));
  block_->copied.record(stream);
}

// A block that is still being written to must not be handed out again.
CudaReadback::~CudaReadback() {
  try {
    block_->copied.synchronize();
    memory_->give_back(std::move(block_));
  } catch (const DeviceError&) {  // the device is lost, and with it the copy
  }
}

const void* CudaReadback::wait() {
  block_->copied.synchronize();
  return block_->memory.data();
}

}  // namespace vitrine::cuda
