// The CUDA device of a build that has none.
#include "vitrine/device.h"

namespace vitrine {

bool built_with_cuda() {
  return false;
}

std::unique_ptr<Device> make_cuda_device(const DeviceOptions& options) {
  throw DeviceError("--device " + options.name +
                    ": this build has no CUDA; build where the CUDA Toolkit and cuDNN are, or with "
                    "-DVITRINE_CUDA=ON to see what is missing");
}

}  // namespace vitrine
