// Patches from stored images against a reference that computes each pixel by itself in double.
#include "reference/patch_embed.h"

#include <gtest/gtest.h>

#include "cpu/cpu_kernels.h"
#include "reference_check.h"

namespace vitrine::cpu {
namespace {

using namespace reference::patch_embed;

PatchEmbedForward arguments(Problem& p, bool bytes, std::vector<float>& patches) {
  patches = poisoned(std::ssize(p.c.rows) * p.image_elements());
  PatchEmbedForward args;
  args.patches = View<float>(patches.data(), std::ssize(patches));
  if (bytes) {
    args.images = ConstView<std::uint8_t>(p.bytes.data(), std::ssize(p.bytes));
  } else {
    args.images = ConstView<float>(p.floats.data(), std::ssize(p.floats));
  }
  args.rows = {p.c.rows.data(), std::ssize(p.c.rows)};
  args.mean = {p.mean.data(), std::ssize(p.mean)};
  args.std = {p.std.data(), std::ssize(p.std)};
  args.channels = p.c.channels, args.height = p.c.height, args.width = p.c.width;
  args.patch_size = p.c.patch_size;
  args.source_height = p.c.source_height, args.source_width = p.c.source_width;
  return args;
}

std::vector<float> run(Problem& p, bool bytes, int threads) {
  ThreadPool pool(threads);
  std::vector<float> patches;
  CpuKernels(pool).patch_embed_forward(arguments(p, bytes, patches));
  return patches;
}

TEST(PatchEmbed, AgreesWithDoublePrecision) {
  std::uint64_t seed = 2800;
  for (const Case& c : kCases) {
    SCOPED_TRACE("seed " + std::to_string(++seed));
    Problem p(c, seed);
    expect_close(run(p, true, 2), patches_of<float>(p, p.bytes), patches_of<double>(p, p.bytes),
                 "patches of bytes");
    expect_close(run(p, false, 2), patches_of<float>(p, p.floats), patches_of<double>(p, p.floats),
                 "patches of floats");
  }
}

TEST(PatchEmbed, WholeImageIsNotInterpolated) {
  Problem p(kCases[1], 2900);
  p.mean = {0.0f}, p.std = {1.0f};
  const std::vector<float> patches = run(p, false, 1);
  EXPECT_EQ(patches, patches_of<float>(p, p.floats));
}

TEST(PatchEmbed, BackwardFoldsWhatForwardUnfolds) {
  std::uint64_t seed = 3000;
  for (const Case& c : kCases) {
    SCOPED_TRACE("seed " + std::to_string(++seed));
    Problem p(c, seed);
    const std::int64_t batch = 3, n = batch * p.image_elements();
    const std::vector<float> dpatches = random_normal(n, seed, 1);
    const std::vector<float> naive = folded<float>(p, dpatches);
    const std::vector<double> exact = folded<double>(p, dpatches);
    for (const int threads : {1, 2, 3}) {
      ThreadPool pool(threads);
      std::vector<float> dimages = poisoned(n);
      CpuKernels(pool).patch_embed_backward({View<float>(dimages.data(), n),
                                             ConstView<float>(dpatches.data(), n),
                                             {p.std.data(), c.channels},
                                             c.channels,
                                             c.height,
                                             c.width,
                                             c.patch_size});
      expect_close(dimages, naive, exact, "dimages");
    }
  }
}

// <dpatches, forward(x)> is linear in x up to a constant; its slope is what backward returns.
TEST(PatchEmbed, BackwardIsTheSlopeOfForward) {
  Problem p({3, 4, 6, 2, 4, 6, {{1, 0, 0, 6, 4, 0, 0}}}, 3100);
  const std::int64_t n = p.image_elements();
  const std::vector<float> dpatches = random_normal(n, 3100, 1);
  std::vector<float> dimages = poisoned(n);
  ThreadPool pool(1);
  CpuKernels(pool).patch_embed_backward({View<float>(dimages.data(), n),
                                         ConstView<float>(dpatches.data(), n),
                                         {p.std.data(), 3},
                                         3,
                                         4,
                                         6,
                                         2});
  const auto value = [&] {
    const std::vector<double> patches = patches_of<double>(p, p.floats);
    double sum = 0.0;
    for (std::int64_t i = 0; i < n; ++i) sum += patches[i] * static_cast<double>(dpatches[i]);
    return sum;
  };
  for (std::int64_t i = 0; i < n; ++i) {
    float& input = p.floats[n + i];
    const double down = value(), down_at = static_cast<double>(input);
    input += 1.0f;
    EXPECT_NEAR(dimages[i], (value() - down) / (static_cast<double>(input) - down_at), 1e-5);
    input = static_cast<float>(down_at);
  }
}

TEST(PatchEmbed, BitsDoNotDependOnThreads) {
  for (const Case& c : kCases) {
    Problem p(c, 3200);
    const std::vector<float> one = run(p, true, 1);
    EXPECT_TRUE(same_bits(one, run(p, true, 2)));
    EXPECT_TRUE(same_bits(one, run(p, true, 3)));
  }
}

TEST(PatchEmbed, RefusesContradictions) {
  ThreadPool pool(1);
  CpuKernels kernels(pool);
  Problem p(kCases[0], 3300);
  std::vector<float> patches;
  const auto refused = [&](const char* field, auto change) {
    PatchEmbedForward args = arguments(p, true, patches);
    change(args);
    expect_refused([&] { kernels.patch_embed_forward(args); }, field);
  };
  refused("patches", [](PatchEmbedForward& args) { args.patches.size -= 1; });
  refused("images", [](PatchEmbedForward& args) { args.images.size -= 1; });
  refused("images", [](PatchEmbedForward& args) { args.images.dtype = DType::bf16; });
  refused("rows", [](PatchEmbedForward& args) { args.rows = {}; });
  refused("mean", [](PatchEmbedForward& args) { args.mean.size = 2; });
  refused("std", [](PatchEmbedForward& args) { args.std.size = 2; });
  refused("patch_size", [](PatchEmbedForward& args) { args.patch_size = 5; });
  refused("channels", [](PatchEmbedForward& args) { args.channels = 0; });
  refused("source_height", [](PatchEmbedForward& args) { args.source_height = 0; });
  p.c.rows[1].image = 3;
  refused("rows[1].image", [](PatchEmbedForward&) {});
  p.c.rows[1] = {0, 1, 0, 12, 8, 0, 0};
  refused("rows[1].crop", [](PatchEmbedForward&) {});
  p.c.rows[1].crop_x = std::numeric_limits<float>::quiet_NaN();
  refused("rows[1].crop", [](PatchEmbedForward&) {});

  std::vector<float> values(3 * 8 * 12);
  const auto backward_refused = [&](const char* field, auto change) {
    PatchEmbedBackward args{View<float>(values.data(), std::ssize(values)),
                            View<float>(values.data(), std::ssize(values)),
                            {p.std.data(), 3},
                            3,
                            8,
                            12,
                            4};
    change(args);
    expect_refused([&] { kernels.patch_embed_backward(args); }, field);
  };
  backward_refused("dimages", [](PatchEmbedBackward& args) { args.dimages.size = 7; });
  backward_refused("dpatches", [](PatchEmbedBackward& args) { args.dpatches = {}; });
  backward_refused("std", [](PatchEmbedBackward& args) { args.std = {}; });
  backward_refused("patch_size", [](PatchEmbedBackward& args) { args.patch_size = 5; });
}

}  // namespace
}  // namespace vitrine::cpu
