// The patch projection as a convolution: handed to the library.
#include "cuda_kernels.h"
#include "vitrine/arguments.h"

namespace vitrine::cuda {

void CudaKernels::patch_convolution_forward(const PatchConvolutionForward& args) {
  check_arguments(args);
  if (convolution_ == nullptr) {
    throw DeviceError("patch_convolution_forward: no library, expected one");
  }
  convolution_->forward(args, stream_);
}

void CudaKernels::patch_convolution_backward(const PatchConvolutionBackward& args) {
  check_arguments(args);
  if (convolution_ == nullptr) {
    throw DeviceError("patch_convolution_backward: no library, expected one");
  }
  convolution_->backward(args, stream_);
}

}  // namespace vitrine::cuda
