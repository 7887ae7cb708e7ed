// Argument checks of the matrix product.
#include "catalogue/check.h"
#include "vitrine/arguments.h"

namespace vitrine {
namespace {

constexpr const char* kOperation = "matmul";

void check_bias_gradient(const Matmul& args) {
  check_size(kOperation, "bias_gradient", args.bias_gradient, args.m);
  VITRINE_CHECK(args.transpose_a, kOperation,
                "bias_gradient with a as it is, expected transpose_a");
  VITRINE_CHECK(
      args.out.dtype == DType::f32, kOperation,
      "out is " + std::string(to_string(args.out.dtype)) + " beside a bias_gradient, expected F32");
  VITRINE_CHECK(!args.accumulate, kOperation,
                "bias_gradient with accumulate, expected one of them");
  VITRINE_CHECK(!args.bias, kOperation, "bias_gradient with a bias, expected one of them");
  VITRINE_CHECK(args.workspace && args.workspace.size > 0 && args.workspace.size % args.m == 0,
                kOperation,
                "workspace has " + std::to_string(args.workspace.size) +
                    " elements, expected a multiple of " + std::to_string(args.m));
}

}  // namespace

void check_arguments(const Matmul& args) {
  VITRINE_CHECK(args.m > 0 && args.n > 0 && args.k > 0, kOperation,
                "m, n, k are " + std::to_string(args.m) + ", " + std::to_string(args.n) + ", " +
                    std::to_string(args.k) + ", expected at least 1");
  VITRINE_CHECK(args.row_blocks > 0, kOperation,
                "row_blocks is " + std::to_string(args.row_blocks) + ", expected at least 1");
  check_size(kOperation, "out", args.out, args.m * args.n);
  check_size(kOperation, "a", args.a, args.m * args.k);
  check_size(kOperation, "b", args.b, args.k * args.n);
  check_size(kOperation, "bias", args.bias, args.n, true);
  check_dtypes(kOperation, {{"a", args.a}, {"b", args.b}, {"bias", args.bias}});
  VITRINE_CHECK(args.out.dtype == DType::f32 || args.out.dtype == args.a.dtype, kOperation,
                "out is " + std::string(to_string(args.out.dtype)) + ", expected F32 or " +
                    std::string(to_string(args.a.dtype)) + " as a");
  if (args.bias_gradient) check_bias_gradient(args);
}

}  // namespace vitrine
