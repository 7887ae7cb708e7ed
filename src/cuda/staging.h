// Host memory on its way to the device: a ring of page-locked slots. What the host hands over is
// copied into the next slot and from there by the stream, so the host goes on at once; it waits
// only when it is a whole ring ahead of the device.
#pragma once

#include <array>
#include <cstddef>

#include "cuda/runtime.h"

namespace vitrine::cuda {

class Staging {
 public:
  static constexpr std::size_t kSlotBytes = std::size_t{1} << 20;
  static constexpr int kSlots = 8;

  explicit Staging(const Stream& stream) : stream_(stream), memory_(kSlots * kSlotBytes) {}

  /// Copies in the order of the stream; `host` may change when it returns.
  void upload(void* device, const void* host, std::size_t bytes);

 private:
  const Stream& stream_;
  PinnedMemory memory_;
  std::array<Event, kSlots> copied_;
  int slot_ = 0;
};

}  // namespace vitrine::cuda
