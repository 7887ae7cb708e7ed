// The device `simt`: the CUDA device (src/cuda) over an emulated GPU.
#pragma once

#include <memory>

#include "vitrine/device.h"

namespace vitrine {

inline std::unique_ptr<Device> make_simt_device(DeviceOptions options = {.name = "cuda"}) {
  return make_cuda_device(options);
}

}  // namespace vitrine
