#include "simt/matmul.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <vector>

#include "cpu/sgemm.h"

namespace vitrine::cuda {
namespace {

template <typename Void>
float element(const AnyView<Void>& view, std::int64_t i) {
  switch (view.dtype) {
    case DType::bf16:
      return __bfloat162float(static_cast<const __nv_bfloat16*>(view.data)[i]);
    case DType::f16:
      return __half2float(static_cast<const __half*>(view.data)[i]);
    default:
      return static_cast<const float*>(view.data)[i];
  }
}

void set_element(const View<void>& view, std::int64_t i, float value) {
  switch (view.dtype) {
    case DType::bf16:
      static_cast<__nv_bfloat16*>(view.data)[i] = __float2bfloat16_rn(value);
      break;
    case DType::f16:
      static_cast<__half*>(view.data)[i] = __float2half_rn(value);
      break;
    default:
      static_cast<float*>(view.data)[i] = value;
  }
}

template <typename Void>
std::vector<float> as_floats(const AnyView<Void>& view) {
  std::vector<float> values(static_cast<std::size_t>(view.size));
  for (std::int64_t i = 0; i < view.size; ++i) values[i] = element(view, i);
  return values;
}

}  // namespace

void OneDnnMatmul::run(const Matmul& args, cudaStream_t) {
  const std::vector<float> a = as_floats(args.a), b = as_floats(args.b);
  std::vector<float> out(static_cast<std::size_t>(args.m * args.n), 0.0f);
  for (std::int64_t i = 0; i < args.m * args.n; ++i) {
    if (args.accumulate) out[i] = element(args.out, i);
    if (args.bias) out[i] += element(args.bias, i % args.n);
  }
  cpu::sgemm(
      args.m, args.n, args.k, {a.data(), args.transpose_a ? args.m : args.k, args.transpose_a},
      {b.data(), args.transpose_b ? args.k : args.n, args.transpose_b}, 1.0f, out.data(), args.n);
  for (std::int64_t i = 0; i < args.m * args.n; ++i) set_element(args.out, i, out[i]);
}

}  // namespace vitrine::cuda
