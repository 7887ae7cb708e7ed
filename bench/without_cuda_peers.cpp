// The peers of a build without CUDA: none.
#include "cuda_peers.h"

namespace vitrine::bench {

std::unique_ptr<Case> cudnn_softmax(Device&, std::int64_t, std::int64_t, DType, const Cost&) {
  throw DeviceError("cuDNN: this build is without CUDA");
}

std::unique_ptr<Case> cudnn_normalization(Device&, std::int64_t, std::int64_t, DType, const Cost&) {
  throw DeviceError("cuDNN: this build is without CUDA");
}

}  // namespace vitrine::bench
