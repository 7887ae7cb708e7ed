#include "cuda/readback.h"

#include <algorithm>

namespace vitrine::cuda {

namespace {

constexpr std::size_t kSmallest = 4096;
constexpr int kAtFirst = 4;  // two log intervals under way, two numbers each

}  // namespace

ReadbackMemory::ReadbackMemory() {
  for (int i = 0; i < kAtFirst; ++i) free_.push_back(std::make_unique<Block>(kSmallest));
}

std::unique_ptr<ReadbackMemory::Block> ReadbackMemory::take(std::size_t bytes) {
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

// The copy may still be under way: the next one into this block follows it in the stream.
CudaReadback::~CudaReadback() {
  memory_->give_back(std::move(block_));
}

const void* CudaReadback::wait() {
  block_->copied.wait();
  return block_->memory.data();
}

}  // namespace vitrine::cuda
