// Activation functions in CUDA against their definitions in double.
#include "reference/activation.h"

#include "kernels/kernel_device.h"
#include "reference/residual.h"

namespace vitrine::cuda {
namespace {

constexpr ActivationKind kKinds[] = {ActivationKind::gelu_erf, ActivationKind::gelu_tanh,
                                     ActivationKind::relu};
constexpr ActivationSaved kSaved[] = {ActivationSaved::nothing, ActivationSaved::derivative,
                                      ActivationSaved::pre_activation};
constexpr std::int64_t kCols[] = {1, 3, 8, 32, 45, 192, 771, 1032};
constexpr TokenWindow kWindow{5, 1, 9};
constexpr std::uint64_t kSeeds[] = {3, 13579};

class Activation : public KernelTest {
 protected:
  struct Case {
    DType dtype;
    ActivationKind kind;
    ActivationSaved saved_kind;
    std::int64_t rows, cols;
    std::uint64_t seed;
    float dropout = 0.0f;
    bool bias = false;
    std::int64_t partials = 0;  ///< of backward's workspace
    std::int64_t first = 0;     ///< element of its memory at which x, or saved, starts

    std::string text() const {
      return "type " + std::string(to_string(dtype)) + " kind " + std::to_string(int(kind)) +
             " saved " + std::to_string(int(saved_kind)) + " [" + std::to_string(rows) + ", " +
             std::to_string(cols) + "] seed " + std::to_string(seed) + " dropout " +
             std::to_string(dropout) + " bias " + std::to_string(bias) + " partials " +
             std::to_string(partials) + " first " + std::to_string(first);
    }
    /// Values that span the whole range of the functions.
    std::vector<float> x() const {
      auto values = random_normal(rows * cols, seed, 1);
      for (float& value : values) value *= 2.5f;
      return rounded_to(dtype, values);
    }
    StepState state() const { return {.seed = seed, .step = 2, .first_row = 5}; }
    /// Dropout's factors, in float.
    std::vector<float> factors() const {
      struct {
        Dropout dropout, drop_path;
        std::int64_t cols;
        TokenWindow window;
      } const args{{dropout, 6}, {}, cols, kWindow};
      std::vector<float> out(rows * cols);
      for (std::int64_t i = 0; i < rows * cols; ++i) {
        out[i] = static_cast<float>(reference::branch_factor(args, state(), i));
      }
      return out;
    }
  };

  static DeviceTensor after(const std::vector<float>& values, const Case& c) {
    std::vector<float> padded(c.first, 0.0f);
    padded.insert(padded.end(), values.begin(), values.end());
    return {c.dtype, padded};
  }

  void run_forward(const Case& c);
  void run_backward(const Case& c);
};

/// factors · values, as an implementation with a kernel for each of the two steps has it in memory.
std::vector<float> dropped(DType dtype, std::vector<float> values,
                           const std::vector<float>& factors) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = rounded_to(dtype, rounded_to(dtype, values[i]) * factors[i]);
  }
  return values;
}

void Activation::run_forward(const Case& c) {
  SCOPED_TRACE(c.text());
  const std::int64_t n = c.rows * c.cols;
  const auto x = c.x();
  const auto bias =
      c.bias ? rounded_to(c.dtype, random_normal(c.cols, c.seed, 2)) : std::vector<float>();
  const DeviceTensor x_device = after(x, c), bias_device(c.dtype, bias);
  DeviceTensor y(c.dtype, n), saved(c.dtype, n), y_again(c.dtype, n);
  const DeviceArray<StepState> state(c.state());
  const bool saves = c.saved_kind != ActivationSaved::nothing;
  ActivationForward args{.y = y.view(),
                         .saved = saves ? saved.view() : View<void>{},
                         .x = x_device.view(c.first, n),
                         .bias = c.bias ? bias_device.view() : View<void>{},
                         .rows = c.rows,
                         .cols = c.cols,
                         .kind = c.kind,
                         .saved_kind = c.saved_kind,
                         .dropout = {c.dropout, 6},
                         .window = kWindow,
                         .state = state.data()};
  kernels().activation_forward(args);

  const auto factors = c.factors();
  const std::vector<float> ones(n, 1.0f);
  // Unfused: x + bias goes through memory, then f(x), then dropout.
  const auto pre_activation = reference::activation_forward(c.kind, x, bias, ones).pre_activation;
  const auto naive =
      reference::activation_forward(c.kind, rounded_to(c.dtype, pre_activation), {}, ones);
  const auto exact =
      reference::activation_forward(c.kind, converted<double>(x), converted<double>(bias), factors);
  expect_close(y.values(), dropped(c.dtype, naive.y, factors), exact.y, "y");
  if (c.saved_kind == ActivationSaved::derivative) {
    expect_close(saved.values(), dropped(c.dtype, naive.derivative, factors), exact.derivative,
                 "derivative");
  } else if (saves) {
    EXPECT_TRUE(same_bits(saved.values(), rounded_to(c.dtype, pre_activation)));
  }

  // In place: saved over x, or y where nothing is saved.
  (saves ? args.saved : args.y) = x_device.view(c.first, n);
  if (saves) args.y = y_again.view();
  in_another_order([&] { kernels().activation_forward(args); });
  auto over_x = x_device.values();
  over_x.erase(over_x.begin(), over_x.begin() + c.first);
  EXPECT_TRUE(same_bits(over_x, (saves ? saved : y).values()));
  EXPECT_TRUE(!saves || same_bits(y_again.values(), y.values()));
}

void Activation::run_backward(const Case& c) {
  SCOPED_TRACE(c.text());
  const std::int64_t n = c.rows * c.cols;
  const bool keeps_derivative = c.saved_kind == ActivationSaved::derivative;
  const auto dy = rounded_to(c.dtype, random_normal(n, c.seed, 3));
  const auto factors = c.factors();
  const auto pre_activation = c.x();
  const std::vector<float> ones(n, 1.0f);
  const auto naive = reference::activation_forward(c.kind, pre_activation, {}, ones);
  const auto exact =
      reference::activation_forward(c.kind, converted<double>(pre_activation), {}, factors);
  const auto derivative = dropped(c.dtype, naive.derivative, factors);
  const auto& saved = keeps_derivative ? derivative : pre_activation;

  const DeviceTensor dy_device(c.dtype, dy), saved_device = after(saved, c);
  const DeviceTensor dx(c.dtype, n);
  const DeviceArray<float> dbias(c.cols), dbias_again(c.cols), workspace(c.partials * c.cols);
  const DeviceArray<StepState> state(c.state());
  ActivationBackward args{.dx = dx.view(),
                          .dbias = dbias.view(),
                          .dy = dy_device.view(),
                          .saved = saved_device.view(c.first, n),
                          .workspace = workspace.view(),
                          .rows = c.rows,
                          .cols = c.cols,
                          .kind = c.kind,
                          .saved_kind = c.saved_kind,
                          .dropout = {c.dropout, 6},
                          .window = kWindow,
                          .state = state.data()};
  if (keeps_derivative) args.state = nullptr;  // no random numbers then
  kernels().activation_backward(args);

  std::vector<float> naive_dx(n), naive_dbias(c.cols);
  std::vector<double> exact_dx(n), exact_dbias(c.cols);
  for (std::int64_t i = 0; i < n; ++i) {
    naive_dx[i] = rounded_to(c.dtype, dy[i] * derivative[i]);
    exact_dx[i] = dy[i] * (keeps_derivative ? double{saved[i]} : exact.derivative[i]);
    naive_dbias[i % c.cols] += naive_dx[i];
    exact_dbias[i % c.cols] += exact_dx[i];
  }
  expect_close(dx.values(), naive_dx, exact_dx, "dx");
  expect_close(dbias.values(), naive_dbias, exact_dbias, "dbias");

  const auto before = random_normal(c.cols, c.seed, 9);
  const DeviceArray<float> sum(before);
  args.dbias = sum.view();
  args.accumulate = true;
  in_another_order([&] { kernels().activation_backward(args); });
  auto expected = dbias.values();
  for (std::int64_t i = 0; i < c.cols; ++i) expected[i] = before[i] + expected[i];
  EXPECT_TRUE(same_bits(sum.values(), expected));

  args.dbias = {};
  for (const bool over_dy : {false, true}) {  // in place of either input
    const DeviceTensor place(c.dtype, over_dy ? dy : saved);
    ActivationBackward inside = args;
    (over_dy ? inside.dy : inside.saved) = place.view();
    inside.dx = place.view();
    kernels().activation_backward(inside);
    EXPECT_TRUE(same_bits(place.values(), dx.values()));
  }
}

TEST_F(Activation, ForwardMatchesReference) {
  for (const DType dtype : kFloatTypes) {
    for (const ActivationKind kind : kKinds) {
      for (const ActivationSaved saved_kind : kSaved) {
        for (const std::int64_t cols : kCols) {
          if (kReduced && cols > 100) continue;
          run_forward({dtype, kind, saved_kind, 1, cols, kSeeds[0]});
          run_forward({dtype, kind, saved_kind, 35, cols, kSeeds[1], 0.25f, true});
        }
      }
    }
  }
}

TEST_F(Activation, BackwardMatchesReference) {
  for (const DType dtype : kFloatTypes) {
    for (const ActivationKind kind : kKinds) {
      for (const auto saved_kind : {ActivationSaved::derivative, ActivationSaved::pre_activation}) {
        for (const std::int64_t cols : kCols) {
          if (kReduced && cols > 100) continue;
          run_backward({dtype, kind, saved_kind, 65, cols, kSeeds[0], 0.0f, false, 0});
          run_backward({dtype, kind, saved_kind, 35, cols, kSeeds[1], 0.4f, false, 3});
        }
      }
    }
  }
}

// Many rows a block, more runs than slices of sum_partials, and more runs than rows.
TEST_F(Activation, OddNumbersOfRows) {
  constexpr auto kKind = ActivationKind::gelu_erf;
  for (const std::int64_t rows : {5, 17, 49, 197, 577}) {
    for (const std::int64_t cols : {3, 48}) {
      run_forward({DType::bf16, kKind, ActivationSaved::derivative, rows, cols, 4, 0.0f, true});
      run_backward({DType::bf16, kKind, ActivationSaved::derivative, rows, cols, 4, 0.0f, false,
                    /*partials=*/45});
      run_backward({DType::f16, kKind, ActivationSaved::pre_activation, rows, cols, 4, 0.0f, false,
                    /*partials=*/1});
    }
  }
}

// x or saved off a 16-byte boundary: the narrow path, also for widths that fit.
TEST_F(Activation, UnalignedViews) {
  constexpr auto kKind = ActivationKind::gelu_tanh;
  for (const DType dtype : kFloatTypes) {
    for (const std::int64_t cols : {8, 192}) {
      run_forward(
          {dtype, kKind, ActivationSaved::derivative, 10, cols, 7, 0.1f, true, 0, /*first=*/1});
      run_backward({dtype, kKind, ActivationSaved::pre_activation, 10, cols, 7, 0.1f, false, 2,
                    /*first=*/1});
    }
  }
}

// Far from 0 the functions are 0 or x, their derivatives 0 or 1, and nothing overflows.
TEST_F(Activation, Tails) {
  const std::vector<float> x{-1e12f, -300.0f, -20.0f, 20.0f, 300.0f, 1e12f, 0.0f, -0.0f};
  for (const ActivationKind kind : kKinds) {
    const DeviceTensor x_device(DType::f32, x), y(DType::f32, 8), derivative(DType::f32, 8);
    kernels().activation_forward({.y = y.view(),
                                  .saved = derivative.view(),
                                  .x = x_device.view(),
                                  .rows = 1,
                                  .cols = 8,
                                  .kind = kind});
    for (int i = 0; i < 8; ++i) {
      EXPECT_NEAR(y.values()[i], std::max(x[i], 0.0f), 1e-30) << x[i];
      const float middle = kind == ActivationKind::relu ? 0.0f : 0.5f;
      const float slope = x[i] > 0.0f ? 1.0f : x[i] < 0.0f ? 0.0f : middle;
      EXPECT_NEAR(derivative.values()[i], slope, 1e-6) << x[i];
    }
  }
}

TEST_F(Activation, RefusesContradictions) {
  const DeviceTensor x(DType::f32, 24), y(DType::f32, 24), saved(DType::f32, 24);
  const DeviceTensor other(DType::bf16, 24), odd(DType::f32, 7);
  const DeviceArray<float> dbias(std::int64_t{6}), odd_sums(std::int64_t{7});
  const auto forward = [&](auto change, const char* field) {
    ActivationForward args{
        .y = y.view(), .saved = saved.view(), .x = x.view(), .rows = 4, .cols = 6};
    change(args);
    expect_refused([&] { kernels().activation_forward(args); }, field);
  };
  forward([&](auto& a) { a.rows = 0; }, "rows");
  forward([&](auto& a) { a.y = odd.view(); }, "y has");
  forward([&](auto& a) { a.saved = {}; }, "saved");
  forward([&](auto& a) { a.saved = y.view(); }, "saved");
  forward([&](auto& a) { a.x = other.view(); }, "x");
  forward([&](auto& a) { a.bias = odd.view(); }, "bias");
  forward([&](auto& a) { a.dropout.probability = 0.5f; }, "state");
  const auto backward = [&](auto change, const char* field) {
    ActivationBackward args{.dx = y.view(),
                            .dbias = dbias.view(),
                            .dy = x.view(),
                            .saved = saved.view(),
                            .rows = 4,
                            .cols = 6,
                            .saved_kind = ActivationSaved::pre_activation};
    change(args);
    expect_refused([&] { kernels().activation_backward(args); }, field);
  };
  backward([&](auto& a) { a.cols = 0; }, "cols");
  backward([&](auto& a) { a.dx = odd.view(); }, "dx");
  backward([&](auto& a) { a.dbias = odd_sums.view(); }, "dbias");
  backward([&](auto& a) { a.saved = other.view(); }, "saved");
  backward([&](auto& a) { a.saved_kind = ActivationSaved::nothing; }, "saved_kind");
  backward([&](auto& a) { a.workspace = odd_sums.view(); }, "workspace");
  backward([&](auto& a) { a.dropout.probability = 1.5f; }, "dropout");
}

}  // namespace
}  // namespace vitrine::cuda
