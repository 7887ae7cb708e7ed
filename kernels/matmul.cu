// Matrix products: handed to the library. A bias gradient that the library cannot write beside the
// product is summed in a pass of its own.
#include "cuda_kernels.h"
#include "vitrine/arguments.h"

namespace vitrine::cuda {

void CudaKernels::matmul(const Matmul& args) {
  check_arguments(args);
  if (matmul_ == nullptr) throw DeviceError("matmul: no library, expected one");
  const BatchedMatmul product{
      .out = args.out.data,
      .bias_gradient = args.bias_gradient.data,
      .bias_gradient_partials = args.bias_gradient ? args.workspace.size / args.m : 1,
      .a = args.a.data,
      .b = args.b.data,
      .bias = args.bias.data,
      .dtype = args.a.dtype,
      .out_dtype = args.out.dtype,
      .m = args.m,
      .n = args.n,
      .k = args.k,
      .out_leading = args.n,
      .a_leading = args.transpose_a ? args.m : args.k,
      .b_leading = args.transpose_b ? args.k : args.n,
      .transpose_a = args.transpose_a,
      .transpose_b = args.transpose_b,
      .accumulate = args.accumulate,
      .tf32 = args.tf32};
  if (matmul_->run(product, stream_) || !args.bias_gradient) return;
  column_sum({.out = args.bias_gradient,
              .x = args.a,
              .workspace = args.workspace,
              .rows = args.k,
              .cols = args.m});
}

}  // namespace vitrine::cuda
