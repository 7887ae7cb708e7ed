// Gradients of frozen parameters are not asked for; the others keep their bits.
#include "kernels/kernel_device.h"

namespace vitrine::cuda {
namespace {

class AbsentGradients : public KernelTest {};

/// What a call wrote; poison where it was not asked to.
using Results = std::vector<std::vector<float>>;

/// Expects outputs that were asked for to be as in `all`, and the others untouched.
void expect_asked(const Results& found, const Results& all, const Results& untouched,
                  const std::vector<bool>& asked) {
  for (std::size_t i = 0; i < asked.size(); ++i) {
    EXPECT_TRUE(same_bits(found[i], asked[i] ? all[i] : untouched[i])) << "output " << i;
  }
}

struct NormCase {
  DType dtype;
  std::int64_t rows, cols, partials;
  bool accumulate;
};

Results norm_backward(CudaKernels& kernels, const NormCase& c, bool weight, bool bias) {
  constexpr std::uint64_t kSeed = 71;
  const std::int64_t n = c.rows * c.cols;
  const auto input = [&](std::int64_t size, std::uint64_t stream) {
    return DeviceTensor(c.dtype, random_normal(size, kSeed, stream));
  };
  const DeviceTensor x = input(n, 1), dy = input(n, 2), scale = input(c.cols, 3), dx(c.dtype, n);
  const DeviceArray<float> mean(random_normal(c.rows, kSeed, 4)),
      rstd(random_normal(c.rows, kSeed, 5));
  const DeviceArray<float> dweight(random_normal(c.cols, kSeed, 6)),
      dbias(random_normal(c.cols, kSeed, 7)), workspace(c.partials * 2 * c.cols);
  kernels.layer_norm_backward({.dx = dx.view(),
                               .dweight = weight ? dweight.view() : View<float>(),
                               .dbias = bias ? dbias.view() : View<float>(),
                               .dy = dy.view(),
                               .x = x.view(),
                               .mean = mean.view(),
                               .rstd = rstd.view(),
                               .weight = scale.view(),
                               .workspace = workspace.view(),
                               .rows = c.rows,
                               .cols = c.cols,
                               .accumulate = c.accumulate});
  return {dweight.values(), dbias.values(), dx.values()};
}

// Teams of a warp, rows that take a block, one run and several.
TEST_F(AbsentGradients, LayerNorm) {
  for (const NormCase& c : {NormCase{DType::f32, 37, 48, 1, false},
                            {DType::bf16, 37, 45, 3, true},
                            {DType::f32, 19, 48, 40, true},
                            {DType::bf16, 5, 1411, 2, false},
                            {DType::f32, 5, 1411, 1, true}}) {
    SCOPED_TRACE("type " + std::string(to_string(c.dtype)) + " rows " + std::to_string(c.rows) +
                 " cols " + std::to_string(c.cols) + " partials " + std::to_string(c.partials));
    const Results all = norm_backward(kernels(), c, true, true);
    const Results untouched = {random_normal(c.cols, 71, 6), random_normal(c.cols, 71, 7)};
    for (const auto& [weight, bias] : {std::pair(false, false), {true, false}, {false, true}}) {
      expect_asked(norm_backward(kernels(), c, weight, bias), all, untouched, {weight, bias, true});
    }
  }
}

TEST_F(AbsentGradients, LayerNormNeedsARunWithoutThem) {
  const NormCase none{DType::f32, 4, 6, 0, false};
  expect_refused([&] { norm_backward(kernels(), none, false, true); }, "workspace");
  norm_backward(kernels(), none, true, true);
}

struct HeadsCase {
  DType dtype;
  std::int64_t rows, parts, heads, head_size, partials;
  bool accumulate;
};

Results heads_backward(CudaKernels& kernels, const HeadsCase& c, bool input, bool weight,
                       bool bias) {
  constexpr std::uint64_t kSeed = 72;
  const std::int64_t x_cols = c.heads * c.head_size, y_cols = c.parts * x_cols;
  const auto random = [&](std::int64_t size, std::uint64_t stream) {
    return DeviceTensor(c.dtype, random_normal(size, kSeed, stream));
  };
  const DeviceTensor x = random(c.rows * x_cols, 1), dy = random(c.rows * y_cols, 2),
                     maps = random(y_cols * c.head_size, 3);
  const DeviceTensor dx(c.dtype, c.rows * x_cols);
  const DeviceArray<float> dweight(random_normal(y_cols * c.head_size, kSeed, 4)),
      dbias(random_normal(y_cols, kSeed, 5)), workspace(c.partials * y_cols * (c.head_size + 1));
  kernels.per_head_linear_backward({.dx = input ? dx.view() : View<void>(),
                                    .dweight = weight ? dweight.view() : View<float>(),
                                    .dbias = bias ? dbias.view() : View<float>(),
                                    .dy = dy.view(),
                                    .x = x.view(),
                                    .weight = maps.view(),
                                    .workspace = workspace.view(),
                                    .rows = c.rows,
                                    .parts = c.parts,
                                    .heads = c.heads,
                                    .head_size = c.head_size,
                                    .accumulate = c.accumulate});
  return {dx.values(), dweight.values(), dbias.values()};
}

// One launch and two (the workspace is large), wide accesses and narrow ones.
TEST_F(AbsentGradients, PerHeadLinear) {
  for (const HeadsCase& c : {HeadsCase{DType::f32, 65, 3, 2, 4, 9, false},
                             {DType::bf16, 33, 3, 3, 5, 4, true},
                             {DType::f32, 50, 1, 2, 45, 20, true}}) {
    SCOPED_TRACE("type " + std::string(to_string(c.dtype)) + " head_size " +
                 std::to_string(c.head_size));
    const Results all = heads_backward(kernels(), c, true, true, true);
    const std::int64_t y_cols = c.parts * c.heads * c.head_size;
    const Results untouched = {poisoned(std::ssize(all[0])),
                               random_normal(y_cols * c.head_size, 72, 4),
                               random_normal(y_cols, 72, 5)};
    for (int asked = 1; asked < 7; ++asked) {
      const std::vector<bool> list = {(asked & 1) != 0, (asked & 2) != 0, (asked & 4) != 0};
      expect_asked(heads_backward(kernels(), c, list[0], list[1], list[2]), all, untouched, list);
    }
  }
}

}  // namespace
}  // namespace vitrine::cuda
