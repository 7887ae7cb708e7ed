// The residual stream in CUDA against its definition in double.
#include "reference/residual.h"

#include "kernels/kernel_device.h"

namespace vitrine::cuda {
namespace {

constexpr std::int64_t kRows = 35;
constexpr TokenWindow kWindow{5, 1, 9};

class Residual : public KernelTest {
 protected:
  struct Case {
    DType dtype;
    std::int64_t cols;
    float dropout, drop_path;
    std::uint64_t seed;
  };

  void run(const Case& c) {
    SCOPED_TRACE("type " + std::string(to_string(c.dtype)) + " cols " + std::to_string(c.cols) +
                 " dropout " + std::to_string(c.dropout) + " drop_path " +
                 std::to_string(c.drop_path) + " seed " + std::to_string(c.seed));
    const std::int64_t n = kRows * c.cols;
    const auto x = rounded_to(c.dtype, random_normal(n, c.seed, 1));
    const auto branch = rounded_to(c.dtype, random_normal(n, c.seed, 2));
    const DeviceTensor x_device(c.dtype, x), branch_device(c.dtype, branch);
    const StepState state{.seed = c.seed, .step = 6, .first_row = 40};
    const DeviceArray<StepState> state_device(state);

    DeviceTensor y(c.dtype, n), dbranch(c.dtype, n), y_again(c.dtype, n);
    ResidualForward forward{.y = y.view(),
                            .x = x_device.view(),
                            .branch = branch_device.view(),
                            .rows = kRows,
                            .cols = c.cols,
                            .dropout = {c.dropout, 3},
                            .drop_path = {c.drop_path, 4},
                            .window = kWindow,
                            .state = state_device.data()};
    const ResidualBackward backward{.dbranch = dbranch.view(),
                                    .dy = x_device.view(),
                                    .rows = kRows,
                                    .cols = c.cols,
                                    .dropout = forward.dropout,
                                    .drop_path = forward.drop_path,
                                    .window = kWindow,
                                    .state = state_device.data()};
    kernels().residual_forward(forward);
    kernels().residual_backward(backward);

    std::vector<double> y_reference(n), dbranch_reference(n);
    std::vector<float> y_naive(n), dbranch_naive(n);
    for (std::int64_t i = 0; i < n; ++i) {
      const double factor = reference::branch_factor(forward, state, i);
      y_reference[i] = x[i] + factor * branch[i];
      dbranch_reference[i] = factor * x[i];
      const float dropped = rounded_to(c.dtype, static_cast<float>(factor) * branch[i]);
      y_naive[i] = rounded_to(c.dtype, x[i] + dropped);
      dbranch_naive[i] = rounded_to(c.dtype, static_cast<float>(factor) * x[i]);
    }
    expect_close(y.values(), y_naive, y_reference, "y");
    expect_close(dbranch.values(), dbranch_naive, dbranch_reference, "dbranch");

    forward.y = x_device.view();  // in place
    in_another_order([&] { kernels().residual_forward(forward); });
    EXPECT_TRUE(same_bits(x_device.values(), y.values()));
  }
};

TEST_F(Residual, MatchesReference) {
  for (const DType dtype : kFloatTypes) {
    for (const std::int64_t cols : {1, 3, 8, 48, 50, 771}) {
      if (kReduced && cols > 50) continue;
      run({dtype, cols, 0.0f, 0.0f, 2});
      run({dtype, cols, 0.2f, 0.0f, 424242});
      run({dtype, cols, 0.0f, 0.5f, 3});
      run({dtype, cols, 0.2f, 0.5f, 4});
    }
  }
}

// Views that start off a 16-byte boundary take the narrow path.
TEST_F(Residual, AddsUnalignedViews) {
  for (const DType dtype : kFloatTypes) {
    for (const std::int64_t n : {1, 5, 64, 1000, 1024}) {
      for (const std::int64_t first : {0, 1}) {
        SCOPED_TRACE("n " + std::to_string(n) + " first " + std::to_string(first));
        const auto a = rounded_to(dtype, random_normal(n + first, 7, 1));
        const auto b = rounded_to(dtype, random_normal(n + first, 7, 2));
        const DeviceTensor a_device(dtype, a), b_device(dtype, b);
        kernels().add({a_device.view(first, n), a_device.view(first, n), b_device.view(first, n)});
        auto expected = a;
        for (std::int64_t i = first; i < n + first; ++i) {
          expected[i] = rounded_to(dtype, a[i] + b[i]);
        }
        EXPECT_TRUE(same_bits(a_device.values(), expected));
      }
    }
  }
}

TEST_F(Residual, RefusesContradictions) {
  const DeviceTensor x(DType::f32, 12), other(DType::bf16, 12);
  expect_refused([&] { kernels().add({x.view(), x.view(), x.view(0, 11)}); }, "b");
  expect_refused([&] { kernels().add({x.view(), x.view(), other.view()}); }, "b");
  expect_refused(
      [&] {
        kernels().residual_forward(
            {.y = x.view(), .x = x.view(), .branch = x.view(0, 8), .rows = 4, .cols = 3});
      },
      "branch");
  expect_refused(
      [&] {
        kernels().residual_backward({.dbranch = x.view(),
                                     .dy = x.view(),
                                     .rows = 4,
                                     .cols = 3,
                                     .dropout = {0.1f, 1},
                                     .window = kWindow});
      },
      "state");
}

}  // namespace
}  // namespace vitrine::cuda
