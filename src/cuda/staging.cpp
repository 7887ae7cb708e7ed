#include "cuda/staging.h"

#include <algorithm>
#include <cstring>

namespace vitrine::cuda {

void Staging::upload(void* device, const void* host, std::size_t bytes) {
  const auto* from = static_cast<const char*>(host);
  auto* to = static_cast<char*>(device);
  for (std::size_t done = 0; done < bytes; done += kSlotBytes) {
    const std::size_t piece = std::min(kSlotBytes, bytes - done);
    Event& copied = copied_[static_cast<std::size_t>(slot_)];
    char* slot = memory_.data() + static_cast<std::size_t>(slot_) * kSlotBytes;
    copied.wait();
    std::memcpy(slot, from + done, piece);
    check("cudaMemcpyAsync",
          cudaMemcpyAsync(to + done, slot, piece, cudaMemcpyHostToDevice, stream_.get()));
    copied.record(stream_);
    slot_ = (slot_ + 1) % kSlots;
  }
}

}  // namespace vitrine::cuda
