// The patch projection by cuDNN's convolution.
//
// cuDNN convolves planes: images are [B, C, H, W] and so is its output, [B, D, H/s, W/s]. That goes
// to the caller's workspace, and from there to y [B, P, D] by cudnnTransformTensor; dy comes the
// same way back. All arithmetic is f32. What cuDNN writes has the type T of its operands:
//   y        is rounded to T by the convolution and, with a bias, once more by its addition
//   dweight  is rounded to T once, then widened to f32 or added to it; the convolutions of this
//            interface know no f32 gradient of 16-bit operands
// With T = f32 neither happens.
#pragma once

#include <cstddef>
#include <memory>

#include "cuda_kernels.h"

namespace vitrine::cuda {

/// The library is loaded and everything is described at the first call of a shape; from the second
/// on a call only submits work, so that it can be recorded. Calls of several threads wait for each
/// other; they share the workspace, so their streams must be ordered. A shape that needs more than
/// the workspace has gets memory of its own at its first call: the gradient of 16-bit images may be
/// computed from copies as large as these.
class CudnnConvolution final : public ConvolutionLibrary {
 public:
  /// `workspace`: device memory of the caller's, aligned to 256 bytes, for cuDNN's own use.
  CudnnConvolution(void* workspace, std::size_t workspace_bytes);
  ~CudnnConvolution() override;

  /// Both throw DeviceError for what cuDNN refuses, for tensors of 2³¹ elements and more, and for a
  /// first call of a shape while the stream is recorded; OutOfMemory, which names the bytes needed,
  /// where the workspace is too small and the device has no more.
  void forward(const PatchConvolutionForward& args, cudaStream_t stream) override;
  void backward(const PatchConvolutionBackward& args, cudaStream_t stream) override;

 private:
  class Library;
  std::unique_ptr<Library> library_;
};

}  // namespace vitrine::cuda
