// Patches from stored images against a reference that computes each pixel by itself in double.
#include <gtest/gtest.h>

#include "cpu/cpu_kernels.h"
#include "reference_check.h"

namespace vitrine::cpu {
namespace {

struct Case {
  std::int64_t channels, height, width, patch_size, source_height, source_width;
  std::vector<BatchRow> rows;
};

const std::vector<Case> kCases = {
    // The whole image at the model's size, an empty row, and crops at each border.
    {3,
     8,
     12,
     4,
     8,
     12,
     {{2, 0, 0, 12, 8, 0, 0},
      {1, 0, 0, 12, 8, 1, 0},
      {-1, 0, 0, 0, 0, 0, 0},
      {0, 0, 0, 5, 8, 0, 0},
      {2, 7, 0, 5, 3, 1, 0},
      {1, 11, 7, 1, 1, 0, 0},
      {0, 1, 1, 11, 7, 1, 0}}},
    {1, 28, 28, 4, 28, 28, {{0, 0, 0, 28, 28, 0, 0}, {1, 0, 0, 28, 28, 1, 0}}},
    // Larger, smaller and odd sources.
    {3, 14, 21, 7, 33, 17, {{0, 0, 0, 17, 33, 0, 0}, {1, 2.5f, 3.25f, 9.5f, 20.75f, 1, 0}}},
    {1, 6, 9, 3, 3, 5, {{0, 0, 0, 5, 3, 1, 0}, {0, 4.5f, 2.5f, 0.5f, 0.5f, 0, 0}}},
    {3, 16, 16, 16, 16, 40, {{0, 12, 0, 16, 16, 0, 0}, {1, 24, 0, 16, 16, 1, 0}}}};

struct Problem {
  Case c;
  std::int64_t num_images = 3;
  std::vector<std::uint8_t> bytes;
  std::vector<float> floats, mean, std;

  Problem(const Case& c_, std::uint64_t seed) : c(c_) {
    RandomStream random(seed, 0);
    const std::int64_t n = num_images * c.channels * c.source_height * c.source_width;
    for (std::int64_t i = 0; i < n; ++i) {
      bytes.push_back(static_cast<std::uint8_t>(random.below(256)));
      floats.push_back(static_cast<float>(random.uniform()));
    }
    for (std::int64_t i = 0; i < c.channels; ++i) {
      mean.push_back(static_cast<float>(random.uniform(0.3, 0.6)));
      std.push_back(static_cast<float>(random.uniform(0.2, 0.5)));
    }
  }
  std::int64_t image_elements() const { return c.channels * c.height * c.width; }
};

// Sample position along one axis, clamped to the crop.
double position(std::int64_t i, float crop, float crop_size, std::int64_t size) {
  const auto first = static_cast<double>(crop), extent = static_cast<double>(crop_size);
  const double at = first + (static_cast<double>(i) + 0.5) * extent / static_cast<double>(size);
  return std::min(std::max(at - 0.5, first), std::max(first, first + extent - 1.0));
}

template <typename T, typename Pixel>
T pixel(const Problem& p, const std::vector<Pixel>& images, const BatchRow& row, std::int64_t c,
        std::int64_t y, std::int64_t x) {
  if (row.image < 0) return 0;
  if (row.flip != 0) x = p.c.width - 1 - x;
  const double sx = position(x, row.crop_x, row.crop_width, p.c.width);
  const double sy = position(y, row.crop_y, row.crop_height, p.c.height);
  const auto x0 = static_cast<std::int64_t>(sx), y0 = static_cast<std::int64_t>(sy);
  const T wx = T(sx - static_cast<double>(x0)), wy = T(sy - static_cast<double>(y0));
  const auto at = [&](std::int64_t yy, std::int64_t xx) {
    yy = std::min(yy, p.c.source_height - 1), xx = std::min(xx, p.c.source_width - 1);
    const std::int64_t plane = (row.image * p.c.channels + c) * p.c.source_height;
    return T(images[(plane + yy) * p.c.source_width + xx]);
  };
  const T top = at(y0, x0) * (1 - wx) + at(y0, x0 + 1) * wx;
  const T bottom = at(y0 + 1, x0) * (1 - wx) + at(y0 + 1, x0 + 1) * wx;
  const T scale = sizeof(Pixel) == 1 ? T(1) / T(255) : T(1);
  return ((top * (1 - wy) + bottom * wy) * scale - T(p.mean[c])) / T(p.std[c]);
}

template <typename T, typename Pixel>
std::vector<T> reference(const Problem& p, const std::vector<Pixel>& images) {
  const std::int64_t s = p.c.patch_size;
  std::vector<T> patches;
  for (const BatchRow& row : p.c.rows) {
    for (std::int64_t py = 0; py < p.c.height / s; ++py) {
      for (std::int64_t px = 0; px < p.c.width / s; ++px) {
        for (std::int64_t i = 0; i < p.c.channels * s * s; ++i) {
          const std::int64_t y = py * s + i / s % s, x = px * s + i % s;
          patches.push_back(pixel<T>(p, images, row, i / (s * s), y, x));
        }
      }
    }
  }
  return patches;
}

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
    expect_close(run(p, true, 2), reference<float>(p, p.bytes), reference<double>(p, p.bytes),
                 "patches of bytes");
    expect_close(run(p, false, 2), reference<float>(p, p.floats), reference<double>(p, p.floats),
                 "patches of floats");
  }
}

TEST(PatchEmbed, WholeImageIsNotInterpolated) {
  Problem p(kCases[1], 2900);
  p.mean = {0.0f}, p.std = {1.0f};
  const std::vector<float> patches = run(p, false, 1);
  EXPECT_EQ(patches, reference<float>(p, p.floats));
}

TEST(PatchEmbed, BackwardFoldsWhatForwardUnfolds) {
  std::uint64_t seed = 3000;
  for (const Case& c : kCases) {
    SCOPED_TRACE("seed " + std::to_string(++seed));
    Problem p(c, seed);
    const std::int64_t batch = 3, n = batch * p.image_elements(), s = c.patch_size;
    const std::vector<float> dpatches = random_normal(n, seed, 1);
    std::vector<float> naive(n);
    std::vector<double> exact(n);
    for (std::int64_t i = 0; i < n; ++i) {
      const std::int64_t x = i % c.width, y = i / c.width % c.height;
      const std::int64_t channel = i / (c.width * c.height) % c.channels;
      const std::int64_t patch = y / s * (c.width / s) + x / s;
      const std::int64_t inside = (channel * s + y % s) * s + x % s;
      const std::int64_t image = i / p.image_elements() * p.image_elements();
      const float d = dpatches[image + patch * c.channels * s * s + inside];
      naive[i] = d / p.std[channel];
      exact[i] = static_cast<double>(d) / static_cast<double>(p.std[channel]);
    }
    for (const int threads : {1, 2, 3}) {
      ThreadPool pool(threads);
      std::vector<float> dimages = poisoned(n);
      CpuKernels(pool).patch_embed_backward({View<float>(dimages.data(), n),
                                             ConstView<float>(dpatches.data(), n),
                                             {p.std.data(), c.channels},
                                             c.channels,
                                             c.height,
                                             c.width,
                                             s});
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
    const std::vector<double> patches = reference<double>(p, p.floats);
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
