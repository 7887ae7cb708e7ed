// Copies to the host that nobody waits for yet.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "cuda/runtime.h"
#include "vitrine/device.h"

namespace vitrine::cuda {

/// Page-locked memory for readbacks, used again and again: making it stops the device.
class ReadbackMemory {
 public:
  ReadbackMemory();
  struct Block {
    explicit Block(std::size_t size) : bytes(size), memory(size) {}
    std::size_t bytes;
    PinnedMemory memory;
    Event copied;
  };

  std::unique_ptr<Block> take(std::size_t bytes);
  void give_back(std::unique_ptr<Block> block) { free_.push_back(std::move(block)); }

 private:
  std::vector<std::unique_ptr<Block>> free_;
};

class CudaReadback final : public Readback {
 public:
  CudaReadback(std::shared_ptr<ReadbackMemory> memory, const Stream& stream, const void* device,
               std::size_t bytes);
  ~CudaReadback() override;

  bool ready() override { return block_->copied.reached(); }
  const void* wait() override;

 private:
  std::shared_ptr<ReadbackMemory> memory_;
  std::unique_ptr<ReadbackMemory::Block> block_;
};

}  // namespace vitrine::cuda
