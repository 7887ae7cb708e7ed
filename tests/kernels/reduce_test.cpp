// Column sums, sums of parts and the gradient norm in CUDA against references of higher precision.
#include "reference/reduce.h"

#include "kernels/kernel_device.h"

namespace vitrine::cuda {
namespace {

class Reduce : public KernelTest {
 protected:
  struct Columns {
    DType dtype;
    std::int64_t rows, cols, partials;
    bool accumulate;
    std::int64_t first = 0;  ///< element at which x starts: off a 16-byte boundary
  };

  void run(const Columns& c, std::uint64_t seed) {
    SCOPED_TRACE("type " + std::string(to_string(c.dtype)) + " rows " + std::to_string(c.rows) +
                 " cols " + std::to_string(c.cols) + " partials " + std::to_string(c.partials) +
                 " first " + std::to_string(c.first) + " seed " + std::to_string(seed));
    const std::int64_t n = c.rows * c.cols;
    const auto all = rounded_to(c.dtype, random_normal(c.first + n, seed, 1));
    const std::vector<float> x(all.begin() + c.first, all.end());
    const auto before = c.accumulate ? random_normal(c.cols, seed, 2) : poisoned(c.cols);
    const auto zeros = std::vector<float>(c.cols);
    const auto& start = c.accumulate ? before : zeros;

    const DeviceTensor x_device(c.dtype, all);
    const auto sum = [&] {
      const DeviceArray<float> out(before), workspace(c.partials * c.cols);
      kernels().column_sum({.out = out.view(),
                            .x = x_device.view(c.first, n),
                            .workspace = workspace.view(),
                            .rows = c.rows,
                            .cols = c.cols,
                            .accumulate = c.accumulate});
      return out.values();
    };
    const std::vector<float> out = sum();
    expect_close(out, reference::column_sum(x, start),
                 reference::column_sum(x, converted<double>(start)), "out");
    in_another_order([&] { EXPECT_TRUE(same_bits(out, sum())); });
  }

  /// The norm of gradients[first …], and what becomes of the state.
  OptimizerState norm(const std::vector<float>& gradients, std::int64_t first = 0) {
    const DeviceArray<float> device(gradients);
    const DeviceArray<OptimizerState> state(OptimizerState{4, 1, 2.0});
    kernels().gradient_norm(
        {.optimizer = state.data(),
         .gradients = View<float>{device.data() + first, std::ssize(gradients) - first}});
    return state.values()[0];
  }
};

TEST_F(Reduce, ColumnSumMatchesReference) {
  std::uint64_t seed = 1400;
  for (const DType dtype : kFloatTypes) {
    for (const std::int64_t cols : {1, 3, 8, 10, 48, 77, 192, 264, 771}) {
      for (const std::int64_t rows : {1, 5, 196, 701}) {
        if (kReduced && (cols > 77 || rows > 196)) continue;
        run({dtype, rows, cols, 1 + (rows + cols) % 9, rows % 2 == 0}, ++seed);
      }
      run({dtype, 65, cols, 40, true}, ++seed);
      run({dtype, 3, cols, 5, false}, ++seed);
    }
  }
}

TEST_F(Reduce, ColumnSumOfUnalignedViews) {
  for (const DType dtype : kFloatTypes) {
    run({dtype, 50, 64, 3, false, 1}, 1500);
    run({dtype, 50, 64, 1, true, 4}, 1501);
  }
}

TEST_F(Reduce, ColumnSumRefusesContradictions) {
  const DeviceTensor x(DType::f32, 15);
  const DeviceArray<float> out(poisoned(3)), workspace(poisoned(6));
  const auto refused = [&](const char* field, auto change) {
    ColumnSum args{
        .out = out.view(), .x = x.view(), .workspace = workspace.view(), .rows = 5, .cols = 3};
    change(args);
    expect_refused([&] { kernels().column_sum(args); }, field);
  };
  refused("out", [](ColumnSum& args) { args.out.size = 2; });
  refused("x has", [](ColumnSum& args) { args.x.size = 16; });
  refused("x", [](ColumnSum& args) { args.x.dtype = DType::i32; });
  refused("workspace", [](ColumnSum& args) { args.workspace.size = 5; });
  refused("rows", [](ColumnSum& args) { args.rows = 0; });
}

TEST_F(Reduce, SumPartsAddsInTheOrderOfTheParts) {
  std::uint64_t seed = 1600;
  for (const std::int64_t n : {1, 7, 64, 1029, 20480}) {
    for (const std::int64_t num_parts : {1, 2, 7}) {
      SCOPED_TRACE("n " + std::to_string(n) + " seed " + std::to_string(++seed));
      const std::vector<float> parts = random_normal(num_parts * n, seed, 0);
      const std::vector<float> expected = reference::sum_parts(parts, n);
      const DeviceArray<float> device(parts), out(n);
      kernels().sum_parts({out.view(), device.view(), num_parts, n});
      EXPECT_TRUE(same_bits(out.values(), expected));
      in_another_order([&] {
        kernels().sum_parts({{device.data(), n}, device.view(), num_parts, n});
      });
      std::vector<float> in_place = device.values();
      EXPECT_TRUE(std::equal(parts.begin() + n, parts.end(), in_place.begin() + n));
      in_place.resize(n);
      EXPECT_TRUE(same_bits(in_place, expected));
    }
  }
}

TEST_F(Reduce, SumPartsRefusesContradictions) {
  const DeviceArray<float> parts(poisoned(6)), out(poisoned(3));
  expect_refused([&] { kernels().sum_parts({out.view(), parts.view(), 3, 3}); }, "parts");
  expect_refused([&] { kernels().sum_parts({out.view(), parts.view(), 3, 2}); }, "out");
  expect_refused([&] { kernels().sum_parts({out.view(), parts.view(), 0, 3}); }, "num_parts");
}

// The largest one has more elements than the grid takes at once.
TEST_F(Reduce, GradientNormIsTheEuclideanNorm) {
  std::uint64_t seed = 1700;
  for (const std::int64_t n : {1, 3, 4096, 4097, 70001, 4300003}) {
    if (kReduced && n > 70001) continue;
    SCOPED_TRACE("n " + std::to_string(n) + " seed " + std::to_string(++seed));
    const std::vector<float> gradients = random_normal(n, seed, 0);
    const OptimizerState state = norm(gradients);
    EXPECT_NEAR(state.gradient_norm / reference::norm(gradients), 1.0, 1e-12);
    EXPECT_EQ(state.adam_step, 5);
    EXPECT_EQ(state.skipped_steps, 1);
    in_another_order([&] { EXPECT_EQ(norm(gradients).gradient_norm, state.gradient_norm); });
  }
}

TEST_F(Reduce, GradientNormOfUnalignedViews) {
  std::vector<float> gradients = random_normal(5003, 1750, 0);
  const double found = norm(gradients, 3).gradient_norm;
  gradients.erase(gradients.begin(), gradients.begin() + 3);
  EXPECT_NEAR(found / reference::norm(gradients), 1.0, 1e-12);
}

TEST_F(Reduce, LargeAndSmallGradientsKeepTheirNorm) {
  EXPECT_NEAR(norm(std::vector<float>(5, 3e38f)).gradient_norm / 3e38, std::sqrt(5.0), 1e-6);
  EXPECT_NEAR(norm(std::vector<float>(5, 3e-38f)).gradient_norm / 3e-38, std::sqrt(5.0), 1e-6);
}

TEST_F(Reduce, GradientNormCountsStepsThatAreNotFinite) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), kInfinity, -kInfinity}) {
    for (const std::int64_t at : {0, 65539, 70000}) {
      std::vector<float> gradients = random_normal(70001, 1800, 0);
      gradients[at] = bad;
      const OptimizerState state = norm(gradients);
      EXPECT_FALSE(std::isfinite(state.gradient_norm));
      EXPECT_EQ(state.adam_step, 4);
      EXPECT_EQ(state.skipped_steps, 2);
    }
  }
}

TEST_F(Reduce, GradientNormRefusesContradictions) {
  const DeviceArray<float> gradients(poisoned(3));
  const DeviceArray<OptimizerState> state(1);
  expect_refused([&] { kernels().gradient_norm({nullptr, gradients.view()}); }, "optimizer");
  expect_refused([&] { kernels().gradient_norm({state.data(), {}}); }, "gradients");
}

}  // namespace
}  // namespace vitrine::cuda
