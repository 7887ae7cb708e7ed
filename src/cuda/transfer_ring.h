// Batches of images on their way to the device, copied on a stream of their own while earlier ones
// are being read.
#pragma once

#include <cstddef>
#include <vector>

#include "cuda/runtime.h"
#include "vitrine/device.h"

namespace vitrine::cuda {

/// A slot is filled by the host (when its last copy is done), copied by the copy stream (when the
/// work that read it is done), and read by work of the compute stream (when the copy is done). Only
/// the first of these waits is the host's.
class CudaTransferRing final : public TransferRing {
 public:
  /// `memory`: device memory of kTransferSlots · slot_bytes.
  CudaTransferRing(const Stream& compute, Buffer memory, std::size_t slot_bytes);
  ~CudaTransferRing() override;

  const void* device_data() const override { return memory_.data(); }
  void* fill() override;
  int send() override;
  void release() override;

 private:
  struct Slot {
    Event copied, read;
  };

  const Stream& compute_;
  Stream copies_;
  Buffer memory_;
  PinnedMemory host_;
  std::size_t slot_bytes_;
  std::vector<Slot> slots_;
  std::size_t next_ = 0;
};

}  // namespace vitrine::cuda
