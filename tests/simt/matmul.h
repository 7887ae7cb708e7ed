// Matrix products of the device `simt`: oneDNN's sgemm on one thread. The product is in float;
// operands and result pass through their own types.
#pragma once

#include "cuda_kernels.h"

namespace vitrine::cuda {

class OneDnnMatmul final : public MatmulLibrary {
 public:
  void run(const Matmul& args, cudaStream_t stream) override;
};

}  // namespace vitrine::cuda
