// Per-head maps through the stand-in of cuBLASLt, and which of them are left to the kernels.
#include <cuda_runtime_api.h>

#include "cublaslt_problem.h"
#include "reference/per_head_linear.h"
#include "reference_check.h"

namespace vitrine::cuda {
namespace {

/// Per-head maps by the library and by the kernels, both against double precision.
class PerHead : public CublasLt {
 protected:
  using Case = reference::PerHeadLinearCase;
  using Problem = reference::PerHeadLinearProblem;

  struct Outputs {
    std::vector<float> y, dx, dweight, dbias;
  };

  Outputs run(DType dtype, const Problem& p, bool by_library) {
    const Case& c = p.c;
    const DeviceArray<ScratchMemory> scratch(1);
    require_cuda(cudaMemset(scratch.data(), 0, sizeof(ScratchMemory)));
    CudaKernels kernels(nullptr, CudaLimits{}, scratch.data(), by_library ? &library() : nullptr);
    const DeviceTensor x(dtype, p.x), weight(dtype, p.weight), bias(dtype, p.bias), dy(dtype, p.dy);
    const DeviceTensor y(dtype, poisoned(std::ssize(p.dy)));
    const DeviceTensor dx(dtype, c.accumulate_dx ? p.dx : poisoned(std::ssize(p.dx)));
    const DeviceArray<float> dweight(c.accumulate ? p.dweight : poisoned(std::ssize(p.dweight)));
    const DeviceArray<float> dbias(c.accumulate ? p.dbias : poisoned(std::ssize(p.dbias)));
    const DeviceArray<float> workspace(c.partials * c.parameters());
    PerHeadLinearForward forward{.y = y.view(), .x = x.view(), .weight = weight.view()};
    PerHeadLinearBackward backward{.dx = dx.view(),
                                   .dweight = dweight.view(),
                                   .dy = dy.view(),
                                   .x = x.view(),
                                   .weight = weight.view(),
                                   .workspace = workspace.view()};
    if (c.bias) forward.bias = bias.view(), backward.dbias = dbias.view();
    forward.rows = backward.rows = c.rows, forward.parts = backward.parts = c.parts;
    forward.heads = backward.heads = c.heads;
    forward.head_size = backward.head_size = c.head_size;
    backward.accumulate_dx = c.accumulate_dx, backward.accumulate = c.accumulate;
    kernels.per_head_linear_forward(forward);
    kernels.per_head_linear_backward(backward);
    return {y.values(), dx.values(), dweight.values(), dbias.values()};
  }

  /// dx with a rounding to the type after each part, in float.
  static std::vector<float> rounded_parts(DType dtype, const Problem& p) {
    const std::int64_t heads = p.c.heads, d = p.c.head_size;
    std::vector<float> dx = p.c.accumulate_dx ? p.dx : std::vector<float>(p.dx.size());
    for (std::int64_t part = 0; part < p.c.parts; ++part) {
      for (std::int64_t i = 0; i < std::ssize(dx); ++i) {
        const std::int64_t row = i / (heads * d), head = part * heads + i / d % heads, in = i % d;
        for (std::int64_t o = 0; o < d; ++o) {
          dx[i] += p.weight[(head * d + o) * d + in] * p.dy[(row * p.maps + head) * d + o];
        }
      }
      dx = rounded_to(dtype, dx);
    }
    return dx;
  }
};

TEST_F(PerHead, AgreesWithDoublePrecision) {
  const std::vector<Case> cases = {{49, 3, 3, 64, true, false, false, 2},
                                   {101, 3, 2, 32, true, true, true, 5},
                                   {50, 1, 2, 45, false, true, true, 20},
                                   {7, 2, 5, 33, true, false, true, 1},
                                   {33, 3, 1, 40, true, false, false, 3}};
  std::uint64_t seed = 2800;
  for (const DType dtype : kFloatTypes) {
    for (const Case& c : cases) {
      Problem p(c, ++seed);
      SCOPED_TRACE(std::string(to_string(dtype)) + " head_size " + std::to_string(c.head_size) +
                   " seed " + std::to_string(seed));
      for (auto* values : {&p.x, &p.weight, &p.bias, &p.dy, &p.dx}) {
        *values = rounded_to(dtype, *values);
      }
      const reference::PerHeadLinearResult<float> naive(p);
      const reference::PerHeadLinearResult<double> exact(p);
      simt::reset_lt_calls();
      const Outputs found = run(dtype, p, true);
      EXPECT_EQ(simt::lt_calls().matmuls, 3 * c.parts);
      expect_close(found.y, rounded_to(dtype, naive.y), exact.y, "y");
      expect_close(found.dx, rounded_parts(dtype, p), exact.dx, "dx");
      expect_close(found.dweight, naive.dweight, exact.dweight, "dweight");
      expect_close(found.dbias, naive.dbias, exact.dbias, "dbias");
    }
  }
}

TEST_F(PerHead, LeavesSmallHeadsToTheKernels) {
  const Problem p({65, 3, 2, 31, true, true, true, 4}, 2900);
  const Outputs with = run(DType::f32, p, true), without = run(DType::f32, p, false);
  EXPECT_EQ(simt::lt_calls().matmuls, 0);
  EXPECT_TRUE(same_bits(with.y, without.y));
  EXPECT_TRUE(same_bits(with.dx, without.dx));
}

}  // namespace
}  // namespace vitrine::cuda
