// Matrix products: handed to the library.
#include "cuda_kernels.h"
#include "vitrine/arguments.h"

namespace vitrine::cuda {

void CudaKernels::matmul(const Matmul& args) {
  check_arguments(args);
  if (matmul_ == nullptr) throw DeviceError("matmul: no library, expected one");
  matmul_->run(args, stream_);
}

}  // namespace vitrine::cuda
