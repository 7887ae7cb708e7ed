// The device `simt`: CudaKernels executed on the CPU, with matmul by oneDNN.
#pragma once

#include <memory>

#include "vitrine/device.h"

namespace vitrine {

std::unique_ptr<Device> make_simt_device();

}  // namespace vitrine
