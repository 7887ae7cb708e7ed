// What a build without CUDA has of cuda_peers.h: nothing.
#include "cuda_peers.h"

namespace vitrine::bench {

std::unique_ptr<Case> cudnn_softmax(Device&, std::int64_t, std::int64_t, DType, const Cost&) {
  throw DeviceError("cuDNN: this build is without CUDA");
}

std::unique_ptr<Case> cudnn_normalization(Device&, std::int64_t, std::int64_t, DType, const Cost&) {
  throw DeviceError("cuDNN: this build is without CUDA");
}

std::vector<std::pair<std::string, std::string>> cuda_library_versions() {
  return {};
}

}  // namespace vitrine::bench
