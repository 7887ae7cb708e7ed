// The catalogue's argument checks from images to tokens and from tokens to the pooled row, as in
// arguments_test.cpp.
#include "arguments_check.h"

namespace vitrine {
namespace {

TEST(Arguments, PatchEmbedForward) {
  using Args = PatchEmbedForward;
  Args args{.patches = working(2 * 3 * 64),
            .images = working(5 * 3 * 80),
            .rows = {nowhere<BatchRow>(), 2},
            .mean = floats(3),
            .std = floats(3),
            .channels = 3,
            .height = 8,
            .width = 8,
            .patch_size = 4,
            .source_height = 8,
            .source_width = 10};
  for (const DType images : {DType::f32, DType::u8}) {
    args.images.dtype = images;
    expect_one_type(args, Field{"patches", &Args::patches});
  }
  const Field images{"images", &Args::images};
  expect_dtype_refused(args, images, DType::bf16, "images has elements of type BF16");
  expect_dtype_refused(args, images, DType::i32, "images has elements of type I32");
}

TEST(Arguments, PatchEmbedBackward) {
  using Args = PatchEmbedBackward;
  const Args args{.dimages = working(2 * 3 * 64),
                  .dpatches = working(2 * 3 * 64),
                  .std = floats(3),
                  .channels = 3,
                  .height = 8,
                  .width = 8,
                  .patch_size = 4};
  expect_one_type(args, Field{"dimages", &Args::dimages}, Field{"dpatches", &Args::dpatches});
}

// 2 images of 3 channels, 8×12, in 6 patches of 4×4.
TEST(Arguments, PatchConvolutionForward) {
  using Args = PatchConvolutionForward;
  const Args args{.y = working(2 * 6 * 5),
                  .images = working(2 * 3 * 96),
                  .weight = working(5 * 3 * 16),
                  .bias = working(5),
                  .workspace = floats(2 * 6 * 5),
                  .batch = 2,
                  .channels = 3,
                  .height = 8,
                  .width = 12,
                  .patch_size = 4,
                  .hidden = 5};
  expect_one_type(args, Field{"y", &Args::y}, Field{"images", &Args::images},
                  Field{"weight", &Args::weight}, Field{"bias", &Args::bias});
}

TEST(Arguments, PatchConvolutionBackward) {
  using Args = PatchConvolutionBackward;
  const Args args{.dweight = floats(5 * 3 * 16),
                  .dy = working(2 * 6 * 5),
                  .images = working(2 * 3 * 96),
                  .workspace = floats(2 * 6 * 5 + 5 * 3 * 16),
                  .batch = 2,
                  .channels = 3,
                  .height = 8,
                  .width = 12,
                  .patch_size = 4,
                  .hidden = 5};
  expect_one_type(args, Field{"dy", &Args::dy}, Field{"images", &Args::images});
}

TEST(Arguments, TokensForward) {
  using Args = TokensForward;
  const Args args{.x = working(2 * 7 * 3),
                  .patches = working(2 * 4 * 3),
                  .class_token = working(3),
                  .registers = working(2 * 3),
                  .position = working(8 * 3),
                  .batch = 2,
                  .num_patches = 4,
                  .num_registers = 2,
                  .hidden = 3,
                  .dropout = {0.5f, 1},
                  .state = nowhere<StepState>()};
  expect_one_type(args, Field{"x", &Args::x}, Field{"patches", &Args::patches},
                  Field{"class_token", &Args::class_token}, Field{"registers", &Args::registers},
                  Field{"position", &Args::position});
}

TEST(Arguments, TokensBackward) {
  using Args = TokensBackward;
  const Args args{.dpatches = working(2 * 4 * 3),
                  .dclass = floats(3),
                  .dposition = floats(5 * 3),
                  .dx = working(2 * 5 * 3),
                  .batch = 2,
                  .num_patches = 4,
                  .hidden = 3,
                  .dropout = {0.5f, 1},
                  .state = nowhere<StepState>()};
  expect_one_type(args, Field{"dpatches", &Args::dpatches}, Field{"dx", &Args::dx});
}

TEST(Arguments, Pool) {
  const PoolForward forward{
      .y = working(2 * 3), .x = working(2 * 5 * 3), .batch = 2, .hidden = 3, .window = {4, 1, 5}};
  expect_one_type(forward, Field{"y", &PoolForward::y}, Field{"x", &PoolForward::x});
  const PoolBackward backward{
      .dx = working(2 * 5 * 3), .dy = working(2 * 3), .batch = 2, .hidden = 3, .window = {4, 1, 5}};
  expect_one_type(backward, Field{"dx", &PoolBackward::dx}, Field{"dy", &PoolBackward::dy});
}

}  // namespace
}  // namespace vitrine
