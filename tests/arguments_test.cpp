// The catalogue's argument checks: good arguments pass in every working type, a view of another
// type is refused by name. Sizes and scalars are covered by the tests of the families; what
// belongs to patches and tokens: patch_arguments_test.cpp.
#include "vitrine/arguments.h"

#include "arguments_check.h"

namespace vitrine {
namespace {

TEST(Arguments, Matmul) {
  const Matmul args{.out = working(6),
                    .a = working(8),
                    .b = working(12),
                    .bias = working(3),
                    .m = 2,
                    .n = 3,
                    .k = 4};
  expect_one_type(args, Field{"a", &Matmul::a}, Field{"b", &Matmul::b},
                  Field{"bias", &Matmul::bias});
}

// Gradients of parameters are f32 whatever the operands are.
TEST(Arguments, MatmulIntoFloat) {
  Matmul args{.out = working(6), .a = working(8), .b = working(12), .m = 2, .n = 3, .k = 4};
  args.a.dtype = args.b.dtype = DType::bf16;
  EXPECT_NO_THROW(check_arguments(args));
  args.out.dtype = DType::bf16;
  EXPECT_NO_THROW(check_arguments(args));
  args.out.dtype = DType::f16;
  expect_refused([&] { check_arguments(args); }, "out is F16, expected F32 or BF16");
}

TEST(Arguments, MatmulWithBiasGradient) {
  const Matmul good{.out = working(6),
                    .bias_gradient = floats(2),
                    .a = working(8),
                    .b = working(12),
                    .workspace = floats(6),
                    .m = 2,
                    .n = 3,
                    .k = 4,
                    .transpose_a = true};
  expect_one_type(good, Field{"a", &Matmul::a}, Field{"b", &Matmul::b});
  const auto refused = [&](const std::string& message, auto change) {
    Matmul args = good;
    change(args);
    expect_refused([&] { check_arguments(args); }, message);
  };
  refused(": bias_gradient has 3 elements, expected 2",
          [](Matmul& args) { args.bias_gradient.size = 3; });
  refused("transpose_a", [](Matmul& args) { args.transpose_a = false; });
  refused("bias_gradient with accumulate", [](Matmul& args) { args.accumulate = true; });
  refused("bias_gradient with a bias", [](Matmul& args) { args.bias = working(3); });
  refused("out is BF16 beside a bias_gradient, expected F32",
          [](Matmul& args) { args.out.dtype = args.a.dtype = args.b.dtype = DType::bf16; });
  refused("workspace has 5 elements", [](Matmul& args) { args.workspace.size = 5; });
  refused("workspace has 0 elements", [](Matmul& args) { args.workspace = {}; });
}

TEST(Arguments, AbsentViewsHaveNoType) {
  Matmul args{.out = working(6), .a = working(8), .b = working(12), .m = 2, .n = 3, .k = 4};
  args.bias.dtype = DType::u8;
  expect_one_type(args, Field{"a", &Matmul::a}, Field{"b", &Matmul::b});
}

TEST(Arguments, Residual) {
  const ResidualForward forward{.y = working(24),
                                .x = working(24),
                                .branch = working(24),
                                .rows = 8,
                                .cols = 3,
                                .dropout = {0.5f, 1},
                                .drop_path = {0.25f, 2},
                                .window = {4, 0, 5},
                                .state = nowhere<StepState>()};
  expect_one_type(forward, Field{"y", &ResidualForward::y}, Field{"x", &ResidualForward::x},
                  Field{"branch", &ResidualForward::branch});
  const ResidualBackward backward{.dbranch = working(24), .dy = working(24), .rows = 8, .cols = 3};
  expect_one_type(backward, Field{"dbranch", &ResidualBackward::dbranch},
                  Field{"dy", &ResidualBackward::dy});
}

TEST(Arguments, Add) {
  const Add args{.out = working(7), .a = working(7), .b = working(7)};
  expect_one_type(args, Field{"out", &Add::out}, Field{"a", &Add::a}, Field{"b", &Add::b});
}

TEST(Arguments, ScaleColumns) {
  using Forward = ScaleColumnsForward;
  const Forward forward{working(24), working(24), working(3), 8, 3};
  expect_one_type(forward, Field{"y", &Forward::y}, Field{"x", &Forward::x},
                  Field{"scale", &Forward::scale});
  using Backward = ScaleColumnsBackward;
  const Backward backward{.dx = working(24),
                          .dscale = floats(3),
                          .dy = working(24),
                          .x = working(24),
                          .scale = working(3),
                          .workspace = floats(6),
                          .rows = 8,
                          .cols = 3};
  expect_one_type(backward, Field{"dx", &Backward::dx}, Field{"dy", &Backward::dy},
                  Field{"x", &Backward::x}, Field{"scale", &Backward::scale});
}

TEST(Arguments, Samples) {
  const View<std::int32_t> samples{nowhere<std::int32_t>(), 2}, slots{nowhere<std::int32_t>(), 5};
  EXPECT_NO_THROW(check_arguments(ChooseSamples{samples, slots, 5, 2, 1, nowhere<StepState>()}));
  const TakeSamples take{working(6), working(15), samples, 5, 2, 3};
  expect_one_type(take, Field{"out", &TakeSamples::out}, Field{"x", &TakeSamples::x});
  const AddSamples add{working(15), working(15), working(6), slots, 5, 2, 3};
  expect_one_type(add, Field{"out", &AddSamples::out}, Field{"x", &AddSamples::x},
                  Field{"part", &AddSamples::part});
}

TEST(Arguments, LayerNormForward) {
  using Args = LayerNormForward;
  const Args args{.y = working(24),
                  .x_out = working(24),
                  .mean = floats(8),
                  .rstd = floats(8),
                  .x = working(24),
                  .branch = working(24),
                  .weight = working(3),
                  .bias = working(3),
                  .rows = 8,
                  .cols = 3,
                  .dropout = {0.5f, 1},
                  .drop_path = {0.25f, 2},
                  .window = {4, 0, 5},
                  .state = nowhere<StepState>()};
  expect_one_type(args, Field{"y", &Args::y}, Field{"x_out", &Args::x_out}, Field{"x", &Args::x},
                  Field{"branch", &Args::branch}, Field{"weight", &Args::weight},
                  Field{"bias", &Args::bias});
}

TEST(Arguments, LayerNormBackward) {
  using Args = LayerNormBackward;
  const Args args{.dx = working(24),
                  .dbranch = working(24),
                  .dweight = floats(3),
                  .dbias = floats(3),
                  .dy = working(24),
                  .dresidual = working(24),
                  .x = working(24),
                  .mean = floats(8),
                  .rstd = floats(8),
                  .weight = working(3),
                  .workspace = floats(12),
                  .rows = 8,
                  .cols = 3};
  expect_one_type(args, Field{"dx", &Args::dx}, Field{"dbranch", &Args::dbranch},
                  Field{"dy", &Args::dy}, Field{"dresidual", &Args::dresidual},
                  Field{"x", &Args::x}, Field{"weight", &Args::weight});
}

TEST(Arguments, ActivationForward) {
  using Args = ActivationForward;
  const Args args{.y = working(24),
                  .saved = working(24),
                  .x = working(24),
                  .bias = working(3),
                  .rows = 8,
                  .cols = 3,
                  .dropout = {0.5f, 1},
                  .window = {4, 0, 5},
                  .state = nowhere<StepState>()};
  expect_one_type(args, Field{"y", &Args::y}, Field{"saved", &Args::saved}, Field{"x", &Args::x},
                  Field{"bias", &Args::bias});
}

TEST(Arguments, ActivationBackward) {
  using Args = ActivationBackward;
  const Args args{.dx = working(24),
                  .dbias = floats(3),
                  .dy = working(24),
                  .saved = working(24),
                  .workspace = floats(6),
                  .rows = 8,
                  .cols = 3};
  expect_one_type(args, Field{"dx", &Args::dx}, Field{"dy", &Args::dy},
                  Field{"saved", &Args::saved});
}

// Views into packed qkv [2, 5, 3, 2, 4] as the graph makes them: v ends where the buffer ends.
constexpr std::int64_t kHidden = 8, kPacked = 2 * 5 * 3 * kHidden;

TEST(Arguments, AttentionForward) {
  using Args = AttentionForward;
  const std::int64_t span = kPacked - 2 * kHidden;
  const Args args{.out = working(2 * 5 * kHidden),
                  .log_sum_exp = floats(20),
                  .probabilities = floats(100),
                  .q = working(span),
                  .k = working(span),
                  .v = working(span),
                  .q_stride = 3 * kHidden,
                  .kv_stride = 3 * kHidden,
                  .batch = 2,
                  .heads = 2,
                  .head_size = 4,
                  .window = {5, 0, 5},
                  .dropout = {0.5f, 1},
                  .state = nowhere<StepState>()};
  expect_one_type(args, Field{"out", &Args::out}, Field{"q", &Args::q}, Field{"k", &Args::k},
                  Field{"v", &Args::v});
}

// One query for each image: q [2, 1, 2, 4] beside packed kv [2, 5, 2, 2, 4].
TEST(Arguments, AttentionBackward) {
  using Args = AttentionBackward;
  const std::int64_t queries = 2 * kHidden, span = 2 * 5 * 2 * kHidden - kHidden;
  const Args args{.dq = working(queries),
                  .dk = working(span),
                  .dv = working(span),
                  .dout = working(queries),
                  .out = working(queries),
                  .log_sum_exp = floats(4),
                  .q = working(queries),
                  .k = working(span),
                  .v = working(span),
                  .q_stride = kHidden,
                  .kv_stride = 2 * kHidden,
                  .batch = 2,
                  .heads = 2,
                  .head_size = 4,
                  .window = {1, 0, 5}};
  expect_one_type(args, Field{"dq", &Args::dq}, Field{"dk", &Args::dk}, Field{"dv", &Args::dv},
                  Field{"dout", &Args::dout}, Field{"out", &Args::out}, Field{"q", &Args::q},
                  Field{"k", &Args::k}, Field{"v", &Args::v});
}

TEST(Arguments, PerHeadLinearForward) {
  using Args = PerHeadLinearForward;
  const Args args{.y = working(7 * 3 * 8),
                  .x = working(7 * 8),
                  .weight = working(3 * 8 * 4),
                  .bias = working(3 * 8),
                  .rows = 7,
                  .parts = 3,
                  .heads = 2,
                  .head_size = 4};
  expect_one_type(args, Field{"y", &Args::y}, Field{"x", &Args::x}, Field{"weight", &Args::weight},
                  Field{"bias", &Args::bias});
}

TEST(Arguments, PerHeadLinearBackward) {
  using Args = PerHeadLinearBackward;
  const Args args{.dx = working(7 * 8),
                  .dweight = floats(3 * 8 * 4),
                  .dbias = floats(3 * 8),
                  .dy = working(7 * 3 * 8),
                  .x = working(7 * 8),
                  .weight = working(3 * 8 * 4),
                  .workspace = floats(2 * 3 * 8 * 5),
                  .rows = 7,
                  .parts = 3,
                  .heads = 2,
                  .head_size = 4};
  expect_one_type(args, Field{"dx", &Args::dx}, Field{"dy", &Args::dy}, Field{"x", &Args::x},
                  Field{"weight", &Args::weight});
}

TEST(Arguments, CrossEntropy) {
  using Args = CrossEntropy;
  const Args args{.loss = floats(4),
                  .probabilities = floats(20),
                  .dlogits = working(20),
                  .metrics = nowhere<Metrics>(),
                  .logits = working(20),
                  .labels = {nowhere<std::int32_t>(), 4},
                  .targets = floats(20),
                  .batch = 4,
                  .classes = 5,
                  .state = nowhere<StepState>()};
  expect_one_type(args, Field{"dlogits", &Args::dlogits}, Field{"logits", &Args::logits});
}

TEST(Arguments, ColumnSum) {
  const ColumnSum args{
      .out = floats(3), .x = working(24), .workspace = floats(6), .rows = 8, .cols = 3};
  expect_one_type(args, Field{"x", &ColumnSum::x});
}

TEST(Arguments, SumParts) {
  SumParts args{.out = floats(6), .parts = floats(18), .num_parts = 3, .n = 6};
  EXPECT_NO_THROW(check_arguments(args));
  args.parts = {};
  expect_refused([&] { check_arguments(args); }, ": parts has 0 elements");
}

TEST(Arguments, GradientNorm) {
  GradientNorm args{.optimizer = nowhere<OptimizerState>(), .gradients = floats(6)};
  EXPECT_NO_THROW(check_arguments(args));
  args.optimizer = nullptr;
  expect_refused([&] { check_arguments(args); }, ": optimizer is missing");
}

TEST(Arguments, AdamW) {
  const AdamW args{.weights = floats(6),
                   .first_moment = floats(6),
                   .second_moment = floats(6),
                   .ema = floats(6),
                   .working_copy = working(6),
                   .gradients = floats(6),
                   .regions = {nowhere<ParameterRegion>(), 2},
                   .optimizer = nowhere<OptimizerState>(),
                   .state = nowhere<StepState>()};
  expect_one_type(args, Field{"working_copy", &AdamW::working_copy});
}

}  // namespace
}  // namespace vitrine
