// Layer normalisation in CUDA against its definition in double.
#include "reference/layer_norm.h"

#include "kernels/kernel_device.h"
#include "reference/residual.h"
#include "shapes.h"

namespace vitrine::cuda {
namespace {

constexpr float kEps = 1e-6f;
constexpr TokenWindow kWindow{5, 1, 9};
/// Widths of models, widths that fit no team, that fit no 16-byte access, and that take a block.
const std::vector<std::int64_t> kCols =
    shapes::with(shapes::kHiddenSizes, {1, 3, 45, 771, 1280, 1408, 1411});

class LayerNorm : public KernelTest {
 protected:
  struct Case {
    DType dtype;
    std::int64_t rows, cols;
    std::uint64_t seed;
    float dropout = 0.0f, drop_path = 0.0f;
    std::int64_t partials = 0;  ///< of backward's workspace
    bool residual = false;      ///< backward adds dresidual
    std::int64_t first = 0;     ///< element of its memory at which x starts

    std::string text() const {
      return "type " + std::string(to_string(dtype)) + " [" + std::to_string(rows) + ", " +
             std::to_string(cols) + "] seed " + std::to_string(seed) + " dropout " +
             std::to_string(dropout) + " drop_path " + std::to_string(drop_path) + " partials " +
             std::to_string(partials) + " residual " + std::to_string(residual) + " first " +
             std::to_string(first);
    }
  };

  /// A case's tensors, rounded to its type. x has a mean and a scale that differ from row to row.
  struct Inputs {
    explicit Inputs(const Case& c)
        : n(c.rows * c.cols),
          x(scaled(random_normal(n, c.seed, 1), c)),
          branch(rounded_to(c.dtype, random_normal(n, c.seed, 2))),
          weight(rounded_to(c.dtype, random_normal(c.cols, c.seed, 3))),
          bias(rounded_to(c.dtype, random_normal(c.cols, c.seed, 4))),
          dy(rounded_to(c.dtype, random_normal(n, c.seed, 5))),
          dresidual(rounded_to(c.dtype, random_normal(n, c.seed, 6))) {}

    static std::vector<float> scaled(std::vector<float> x, const Case& c) {
      for (std::int64_t i = 0; i < c.rows * c.cols; ++i) {
        const auto row = static_cast<float>(i / c.cols % 7);
        x[i] = x[i] * (0.5f + row) + row - 3.0f;
      }
      return rounded_to(c.dtype, x);
    }

    std::int64_t n;
    std::vector<float> x, branch, weight, bias, dy, dresidual;
  };

  static DeviceTensor after(const std::vector<float>& values, const Case& c) {
    std::vector<float> padded(c.first, 0.0f);
    padded.insert(padded.end(), values.begin(), values.end());
    return {c.dtype, padded};
  }

  static void expect_values(const Case& c, const Inputs& in, const std::vector<float>& x,
                            const DeviceTensor& y, const DeviceArray<float>& mean,
                            const DeviceArray<float>& rstd);
  void run_forward(const Case& c);
  void run_forward_with_branch(const Case& c);
  void run_backward(const Case& c);
};

void LayerNorm::expect_values(const Case& c, const Inputs& in, const std::vector<float>& x,
                              const DeviceTensor& y, const DeviceArray<float>& mean,
                              const DeviceArray<float>& rstd) {
  const auto naive = reference::layer_norm(x, in.weight, in.bias, c.cols, kEps);
  const auto exact = reference::layer_norm(converted<double>(x), converted<double>(in.weight),
                                           converted<double>(in.bias), c.cols, kEps);
  expect_close(y.values(), rounded_to(c.dtype, naive.y), exact.y, "y");
  expect_close(mean.values(), naive.mean, exact.mean, "mean");
  expect_close(rstd.values(), naive.rstd, exact.rstd, "rstd");
}

void LayerNorm::run_forward(const Case& c) {
  SCOPED_TRACE(c.text());
  const Inputs in(c);
  const DeviceTensor x = after(in.x, c), weight(c.dtype, in.weight), bias(c.dtype, in.bias);
  DeviceTensor y(c.dtype, in.n), y_again(c.dtype, in.n);
  DeviceArray<float> mean(c.rows), rstd(c.rows);
  LayerNormForward args{.y = y.view(),
                        .mean = mean.view(),
                        .rstd = rstd.view(),
                        .x = x.view(c.first, in.n),
                        .weight = weight.view(),
                        .bias = bias.view(),
                        .rows = c.rows,
                        .cols = c.cols,
                        .eps = kEps};
  kernels().layer_norm_forward(args);

  expect_values(c, in, in.x, y, mean, rstd);

  args.mean = args.rstd = {};  // as in evaluation
  args.y = y_again.view();
  in_another_order([&] { kernels().layer_norm_forward(args); });
  EXPECT_TRUE(same_bits(y_again.values(), y.values()));
}

void LayerNorm::run_forward_with_branch(const Case& c) {
  SCOPED_TRACE(c.text());
  const Inputs in(c);
  DeviceTensor x(c.dtype, in.x), branch(c.dtype, in.branch);
  const DeviceTensor weight(c.dtype, in.weight), bias(c.dtype, in.bias);
  DeviceTensor y(c.dtype, in.n), x_out(c.dtype, in.n);
  DeviceArray<float> mean(c.rows), rstd(c.rows);
  const StepState state{.seed = c.seed, .step = 6, .first_row = 40};
  const DeviceArray<StepState> state_device(state);
  LayerNormForward args{.y = y.view(),
                        .x_out = x_out.view(),
                        .mean = mean.view(),
                        .rstd = rstd.view(),
                        .x = x.view(),
                        .branch = branch.view(),
                        .weight = weight.view(),
                        .bias = bias.view(),
                        .rows = c.rows,
                        .cols = c.cols,
                        .eps = kEps,
                        .dropout = {c.dropout, 3},
                        .drop_path = {c.drop_path, 4},
                        .window = kWindow,
                        .state = state_device.data()};
  kernels().layer_norm_forward(args);
  std::vector<double> sum(in.n);
  std::vector<float> naive_sum(in.n);
  for (std::int64_t i = 0; i < in.n; ++i) {
    const double factor = reference::branch_factor(args, state, i);
    sum[i] = in.x[i] + factor * in.branch[i];
    const float dropped = rounded_to(c.dtype, static_cast<float>(factor) * in.branch[i]);
    naive_sum[i] = rounded_to(c.dtype, in.x[i] + dropped);
  }
  expect_close(x_out.values(), naive_sum, sum, "x_out");
  // y and the statistics are those of x_out as it is in memory.
  const auto kept = x_out.values();
  expect_values(c, in, kept, y, mean, rstd);

  for (const bool over_branch : {false, true}) {  // in place of either input
    const DeviceTensor x_copy(c.dtype, in.x), branch_copy(c.dtype, in.branch);
    DeviceTensor y_again(c.dtype, in.n);
    args.x = x_copy.view();
    args.branch = branch_copy.view();
    args.x_out = over_branch ? branch_copy.view() : x_copy.view();
    args.y = y_again.view();
    in_another_order([&] { kernels().layer_norm_forward(args); });
    EXPECT_TRUE(same_bits((over_branch ? branch_copy : x_copy).values(), kept));
    EXPECT_TRUE(same_bits(y_again.values(), y.values()));
  }
}

/// What a backward pass writes.
struct Gradients {
  Gradients(DType dtype, std::int64_t n, std::int64_t cols)
      : dx(dtype, n), dbranch(dtype, n), dweight(cols), dbias(cols) {}
  DeviceTensor dx, dbranch;
  DeviceArray<float> dweight, dbias;
};

void LayerNorm::run_backward(const Case& c) {
  SCOPED_TRACE(c.text());
  const Inputs in(c);
  const auto forward = reference::layer_norm(in.x, in.weight, in.bias, c.cols, kEps);
  const DeviceArray<float> mean(forward.mean), rstd(forward.rstd);
  const DeviceTensor x = after(in.x, c), weight(c.dtype, in.weight), dy(c.dtype, in.dy);
  const DeviceTensor dresidual(c.dtype, in.dresidual);
  const StepState state{.seed = c.seed, .step = 6, .first_row = 40};
  const DeviceArray<StepState> state_device(state);
  DeviceArray<float> workspace(c.partials * 2 * c.cols);
  const Gradients out(c.dtype, in.n, c.cols), again(c.dtype, in.n, c.cols);
  const bool random = c.dropout > 0.0f || c.drop_path > 0.0f;
  const LayerNormBackward args{.dx = out.dx.view(),
                               .dbranch = random ? out.dbranch.view() : View<void>{},
                               .dweight = out.dweight.view(),
                               .dbias = out.dbias.view(),
                               .dy = dy.view(),
                               .dresidual = c.residual ? dresidual.view() : View<void>{},
                               .x = x.view(c.first, in.n),
                               .mean = mean.view(),
                               .rstd = rstd.view(),
                               .weight = weight.view(),
                               .workspace = workspace.view(),
                               .rows = c.rows,
                               .cols = c.cols,
                               .dropout = {c.dropout, 3},
                               .drop_path = {c.drop_path, 4},
                               .window = kWindow,
                               .state = state_device.data()};
  kernels().layer_norm_backward(args);
  const auto skip = c.residual ? in.dresidual : std::vector<float>(in.n, 0.0f);
  const auto naive = reference::layer_norm_gradients(in.dy, in.x, in.weight, {}, c.cols, kEps);
  const auto exact = reference::layer_norm_gradients(
      converted<double>(in.dy), converted<double>(in.x), converted<double>(in.weight),
      converted<double>(skip), c.cols, kEps);
  auto naive_dx = rounded_to(c.dtype, naive.dx);
  for (std::int64_t i = 0; i < in.n; ++i) naive_dx[i] = rounded_to(c.dtype, naive_dx[i] + skip[i]);
  expect_close(out.dx.values(), naive_dx, exact.dx, "dx");
  expect_close(out.dweight.values(), naive.dweight, exact.dweight, "dweight");
  expect_close(out.dbias.values(), naive.dbias, exact.dbias, "dbias");
  if (random) {  // of dx as it is in memory
    const auto dx = out.dx.values();
    std::vector<float> dbranch(in.n);
    std::vector<double> dbranch_exact(in.n);
    for (std::int64_t i = 0; i < in.n; ++i) {
      dbranch_exact[i] = reference::branch_factor(args, state, i) * dx[i];
      dbranch[i] = rounded_to(c.dtype, static_cast<float>(dbranch_exact[i]));
    }
    expect_close(out.dbranch.values(), dbranch, dbranch_exact, "dbranch");
  }

  for (const bool over_dy : {false, true}) {  // in place of either input
    if (!over_dy && !c.residual) continue;
    const DeviceTensor place(c.dtype, over_dy ? in.dy : in.dresidual);
    LayerNormBackward inside = args;
    (over_dy ? inside.dy : inside.dresidual) = place.view();
    inside.dx = place.view();
    inside.dbranch = random ? again.dbranch.view() : View<void>{};
    inside.dweight = again.dweight.view();
    inside.dbias = again.dbias.view();
    in_another_order([&] { kernels().layer_norm_backward(inside); });
    EXPECT_TRUE(same_bits(place.values(), out.dx.values()));
    EXPECT_TRUE(!random || same_bits(again.dbranch.values(), out.dbranch.values()));
    EXPECT_TRUE(same_bits(again.dweight.values(), out.dweight.values()));
    EXPECT_TRUE(same_bits(again.dbias.values(), out.dbias.values()));
  }
}

/// Sanitizer builds keep the short rows and one length that takes a block.
bool too_large(std::int64_t cols) {
  return kReduced && cols > 200 && cols != 1408;
}

TEST_F(LayerNorm, ForwardMatchesReference) {
  for (const DType dtype : kFloatTypes) {
    for (const std::int64_t cols : kCols) {
      if (too_large(cols)) continue;
      run_forward({dtype, 1, cols, 5});
      run_forward({dtype, cols < 100 ? 197 : 17, cols, 87654321});
    }
  }
}

TEST_F(LayerNorm, ForwardWithBranch) {
  for (const DType dtype : kFloatTypes) {
    for (const std::int64_t cols : kCols) {
      if (too_large(cols)) continue;
      run_forward_with_branch({dtype, 10, cols, 2});
      run_forward_with_branch({dtype, 15, cols, 17, 0.3f, 0.0f});
      run_forward_with_branch({dtype, 35, cols, 18, 0.0f, 0.4f});
      run_forward_with_branch({dtype, 5, cols, 19, 0.3f, 0.4f});
    }
  }
}

TEST_F(LayerNorm, BackwardMatchesReference) {
  for (const DType dtype : kFloatTypes) {
    for (const std::int64_t cols : kCols) {
      if (too_large(cols)) continue;
      run_backward({dtype, 1, cols, 5});
      run_backward({.dtype = dtype, .rows = 65, .cols = cols, .seed = 6, .partials = 1});
      run_backward({dtype, 101, cols, 7, 0.0f, 0.0f, 3, true});
    }
  }
}

// More runs than slices of sum_partials, and more runs than rows.
TEST_F(LayerNorm, BackwardInManyRuns) {
  for (const std::int64_t cols : {3, 8, 48, 192}) {
    for (const std::int64_t rows : {257, 17}) {
      run_backward({.dtype = DType::bf16, .rows = rows, .cols = cols, .seed = 8, .partials = 45});
    }
  }
}

TEST_F(LayerNorm, BackwardOfBranch) {
  for (const DType dtype : kFloatTypes) {
    for (const std::int64_t cols : kCols) {
      if (too_large(cols)) continue;
      run_backward({dtype, 35, cols, 9, 0.3f, 0.0f, 2, false});
      run_backward({dtype, 15, cols, 10, 0.2f, 0.4f, 1, true});
    }
  }
}

// x off a 16-byte boundary: the narrow path, also for widths that fit.
TEST_F(LayerNorm, UnalignedViews) {
  for (const DType dtype : kFloatTypes) {
    for (const std::int64_t cols : {8, 768, 1032}) {
      if (too_large(cols)) continue;
      run_forward({.dtype = dtype, .rows = 9, .cols = cols, .seed = 11, .first = 1});
      run_backward({dtype, 9, cols, 12, 0.0f, 0.0f, 2, false, 1});
    }
  }
}

TEST_F(LayerNorm, BackwardAccumulates) {
  for (const std::int64_t cols : {8, 45, 1288}) {
    for (const std::int64_t partials : {0, 4}) {
      SCOPED_TRACE("cols " + std::to_string(cols) + " partials " + std::to_string(partials));
      constexpr std::int64_t kRows = 13;
      const auto values = random_normal(kRows * cols, 23, 1);
      const DeviceTensor x(DType::f32, values), dy(DType::f32, random_normal(kRows * cols, 23, 2));
      const DeviceTensor weight(DType::f32, random_normal(cols, 23, 3));
      const auto forward = reference::layer_norm(values, values, values, cols, kEps);
      const DeviceArray<float> mean(forward.mean), rstd(forward.rstd);
      const Gradients out(DType::f32, kRows * cols, cols);
      DeviceArray<float> workspace(partials * 2 * cols);
      LayerNormBackward args{.dx = out.dx.view(),
                             .dweight = out.dweight.view(),
                             .dbias = out.dbias.view(),
                             .dy = dy.view(),
                             .x = x.view(),
                             .mean = mean.view(),
                             .rstd = rstd.view(),
                             .weight = weight.view(),
                             .workspace = workspace.view(),
                             .rows = kRows,
                             .cols = cols};
      kernels().layer_norm_backward(args);
      const auto dweight = random_normal(cols, 29, 1), dbias = random_normal(cols, 29, 2);
      const DeviceArray<float> dweight_sum(dweight), dbias_sum(dbias);
      args.dweight = dweight_sum.view();
      args.dbias = dbias_sum.view();
      args.accumulate = true;
      kernels().layer_norm_backward(args);
      auto dweight_expected = out.dweight.values(), dbias_expected = out.dbias.values();
      for (std::int64_t i = 0; i < cols; ++i) {
        dweight_expected[i] = dweight[i] + dweight_expected[i];
        dbias_expected[i] = dbias[i] + dbias_expected[i];
      }
      EXPECT_TRUE(same_bits(dweight_sum.values(), dweight_expected));
      EXPECT_TRUE(same_bits(dbias_sum.values(), dbias_expected));
    }
  }
}

TEST_F(LayerNorm, RefusesContradictions) {
  const DeviceTensor x(DType::f32, 24), other(DType::bf16, 24), row(DType::f32, 6);
  const DeviceArray<float> rows(std::int64_t{4}), cols(std::int64_t{6}), odd(std::int64_t{7});
  const auto forward = [&](auto change, const char* field) {
    LayerNormForward args{.y = x.view(),
                          .x = x.view(),
                          .weight = row.view(),
                          .bias = row.view(),
                          .rows = 4,
                          .cols = 6};
    change(args);
    expect_refused([&] { kernels().layer_norm_forward(args); }, field);
  };
  forward([&](auto& a) { a.rows = 0; }, "rows");
  forward([&](auto& a) { a.x = other.view(); }, "x");
  forward([&](auto& a) { a.branch = x.view(); }, "x_out");
  forward([&](auto& a) { a.dropout.probability = 0.5f; }, "state");
  const auto backward = [&](auto change, const char* field) {
    LayerNormBackward args{.dx = x.view(),
                           .dweight = cols.view(),
                           .dbias = cols.view(),
                           .dy = x.view(),
                           .x = x.view(),
                           .mean = rows.view(),
                           .rstd = rows.view(),
                           .weight = row.view(),
                           .rows = 4,
                           .cols = 6};
    change(args);
    expect_refused([&] { kernels().layer_norm_backward(args); }, field);
  };
  backward([&](auto& a) { a.dy = other.view(); }, "dy");
  backward([&](auto& a) { a.workspace = odd.view(); }, "workspace");
  backward([&](auto& a) { a.drop_path.probability = 0.5f; }, "state");
}

TEST_F(LayerNorm, BackwardRefusesRowsBeyondSharedMemory) {
  constexpr std::int64_t kLong = 2056;
  const DeviceTensor x(DType::f32, random_normal(kLong, 1, 1));
  const DeviceArray<float> one(std::vector<float>{1.0f});
  const DeviceArray<float> sums(kLong);
  const LayerNormBackward args{.dx = x.view(),
                               .dweight = sums.view(),
                               .dbias = sums.view(),
                               .dy = x.view(),
                               .x = x.view(),
                               .mean = one.view(),
                               .rstd = one.view(),
                               .weight = x.view(),
                               .rows = 1,
                               .cols = kLong};
  CudaKernels small = kernels_with({.shared_memory_per_block = 16 * 1024});
  expect_refused([&] { small.layer_norm_backward(args); }, "cols");
}

}  // namespace
}  // namespace vitrine::cuda
