#include "cuda/transfer_ring.h"

namespace vitrine::cuda {

CudaTransferRing::CudaTransferRing(const Stream& compute, Buffer memory, std::size_t slot_bytes)
    : compute_(compute),
      memory_(std::move(memory)),
      host_(slot_bytes * kTransferSlots),
      slot_bytes_(slot_bytes),
      slots_(kTransferSlots) {
  // The memory was zeroed on the compute stream; copies must not overtake that.
  for (Slot& slot : slots_) slot.read.record(compute_);
}

CudaTransferRing::~CudaTransferRing() {
  cudaStreamSynchronize(copies_.get());
}

void* CudaTransferRing::fill() {
  slots_[next_].copied.wait();
  return host_.data() + next_ * slot_bytes_;
}

int CudaTransferRing::send() {
  const std::size_t sent = next_;
  Slot& slot = slots_[sent];
  slot.read.hold_back(copies_);
  check("cudaMemcpyAsync",
        cudaMemcpyAsync(memory_.as<char>() + sent * slot_bytes_, host_.data() + sent * slot_bytes_,
                        slot_bytes_, cudaMemcpyHostToDevice, copies_.get()));
  slot.copied.record(copies_);
  slot.copied.hold_back(compute_);
  next_ = (next_ + 1) % slots_.size();
  return static_cast<int>(sent);
}

void CudaTransferRing::release() {
  slots_[(next_ + slots_.size() - 1) % slots_.size()].read.record(compute_);
}

}  // namespace vitrine::cuda
