// A factor for each column in CUDA against its definition in double.
#include "reference/scale_columns.h"

#include "kernels/kernel_device.h"

namespace vitrine::cuda {
namespace {

using namespace reference::scale_columns;

class ScaleColumns : public KernelTest {
 protected:
  /// A problem on the device; the host's numbers are rounded to the working type.
  struct OnDevice {
    Problem host;
    DeviceTensor x, scale, dy;

    OnDevice(const Case& c, std::uint64_t seed, DType dtype)
        : host(rounded(c, seed, dtype)),
          x(dtype, host.x),
          scale(dtype, host.scale),
          dy(dtype, host.dy) {}
    static Problem rounded(const Case& c, std::uint64_t seed, DType dtype) {
      Problem p(c, seed);
      for (auto* values : {&p.x, &p.scale, &p.dy}) *values = rounded_to(dtype, *values);
      return p;
    }
    ScaleColumnsForward forward(const View<void>& y) const {
      return {y, x.view(), scale.view(), host.c.rows, host.c.cols};
    }
  };

  struct Gradients {
    DeviceTensor dx;
    DeviceArray<float> dscale, workspace;

    explicit Gradients(const OnDevice& p)
        : dx(p.x.dtype(), p.host.c.rows * p.host.c.cols),
          dscale(p.host.c.accumulate ? p.host.dscale : poisoned(p.host.c.cols)),
          workspace(p.host.c.partials * p.host.c.cols) {}
    ScaleColumnsBackward arguments(const OnDevice& p) const {
      return {.dx = dx.view(),
              .dscale = dscale.view(),
              .dy = p.dy.view(),
              .x = p.x.view(),
              .scale = p.scale.view(),
              .workspace = workspace.view(),
              .rows = p.host.c.rows,
              .cols = p.host.c.cols,
              .accumulate = p.host.c.accumulate};
    }
  };

  void run(const Case& c, std::uint64_t seed, DType dtype) {
    SCOPED_TRACE("type " + std::string(to_string(dtype)) + " rows " + std::to_string(c.rows) +
                 " cols " + std::to_string(c.cols) + " partials " + std::to_string(c.partials) +
                 " seed " + std::to_string(seed));
    const OnDevice p(c, seed, dtype);
    const DeviceTensor y(dtype, c.rows * c.cols), y_again(dtype, c.rows * c.cols);
    kernels().scale_columns_forward(p.forward(y.view()));
    expect_close(y.values(), rounded_to(dtype, scaled<float>(p.host, p.host.x)),
                 scaled<double>(p.host, p.host.x), "y");
    const Gradients g(p), again(p);
    kernels().scale_columns_backward(g.arguments(p));
    expect_close(g.dx.values(), rounded_to(dtype, scaled<float>(p.host, p.host.dy)),
                 scaled<double>(p.host, p.host.dy), "dx");
    expect_close(g.dscale.values(), scale_gradient<float>(p.host), scale_gradient<double>(p.host),
                 "dscale");
    in_another_order([&] {
      kernels().scale_columns_forward(p.forward(y_again.view()));
      kernels().scale_columns_backward(again.arguments(p));
    });
    EXPECT_TRUE(same_bits(y_again.values(), y.values()));
    EXPECT_TRUE(same_bits(again.dx.values(), g.dx.values()));
    EXPECT_TRUE(same_bits(again.dscale.values(), g.dscale.values()));
  }
};

TEST_F(ScaleColumns, MatchesReference) {
  std::uint64_t seed = 2100;
  for (const Case& c : kCases) {
    for (const DType dtype : kFloatTypes) run(c, ++seed, dtype);
  }
  if (!kReduced) {  // more runs than one slice of the second stage; rows that end inside a step
    for (const DType dtype : kFloatTypes) run({1003, 40, 37, true}, ++seed, dtype);
  }
}

// dx in the place of dy, as the plan puts it, and what nobody asked for left out.
TEST_F(ScaleColumns, BackwardInPlaceAndInParts) {
  for (const DType dtype : kFloatTypes) {
    const OnDevice p({70, 40, 3, false}, 2200, dtype);
    const Gradients whole(p), inside(p), parts(p);
    kernels().scale_columns_backward(whole.arguments(p));
    ScaleColumnsBackward args = parts.arguments(p);
    args.dx = {};
    kernels().scale_columns_backward(args);
    EXPECT_TRUE(same_bits(parts.dscale.values(), whole.dscale.values()));
    args = parts.arguments(p);
    args.dscale = args.workspace = {};
    kernels().scale_columns_backward(args);
    EXPECT_TRUE(same_bits(parts.dx.values(), whole.dx.values()));
    args = inside.arguments(p);
    args.dx = p.dy.view();
    kernels().scale_columns_backward(args);
    EXPECT_TRUE(same_bits(p.dy.values(), whole.dx.values()));
    EXPECT_TRUE(same_bits(inside.dscale.values(), whole.dscale.values()));
  }
}

// Views that start off a 16-byte boundary take the narrow path.
TEST_F(ScaleColumns, ForwardOfUnalignedViews) {
  for (const DType dtype : kFloatTypes) {
    const OnDevice p({9, 24, 1, false}, 2210, dtype);
    const DeviceTensor y(dtype, 9 * 24), shifted(dtype, 9 * 24 + 1);
    kernels().scale_columns_forward(p.forward(y.view()));
    kernels().scale_columns_forward(p.forward(shifted.view(1, 9 * 24)));
    std::vector<float> values = shifted.values();
    values.erase(values.begin());
    EXPECT_TRUE(same_bits(values, y.values()));
  }
}

TEST_F(ScaleColumns, RefusesContradictions) {
  const DeviceTensor x(DType::f32, 12), scale(DType::f32, 4), other(DType::bf16, 4);
  expect_refused(
      [&] {
        kernels().scale_columns_forward({x.view(), x.view(), other.view(), 3, 4});
      },
      "scale");
  expect_refused(
      [&] {
        kernels().scale_columns_backward(
            {.dx = x.view(), .dy = x.view(), .x = x.view(), .scale = scale.view(), .rows = 4});
      },
      "rows");
}

}  // namespace
}  // namespace vitrine::cuda
