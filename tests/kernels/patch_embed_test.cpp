// Patches from stored images in CUDA against a reference that computes each pixel by itself.
#include "reference/patch_embed.h"

#include "kernels/kernel_device.h"

namespace vitrine::cuda {
namespace {

using namespace reference::patch_embed;

/// Besides the common cases: patches of 8 and 16 for 16-byte accesses, 14 as in ViT-H/14, single
/// pixels, one patch an image, more elements in a strip than threads.
std::vector<Case> cases() {
  std::vector<Case> all = kCases;
  all.push_back({3, 16, 32, 8, 16, 32, {{0, 0, 0, 32, 16, 0, 0}, {2, 0, 0, 32, 16, 1, 0}}});
  all.push_back({3, 16, 32, 8, 21, 37, {{0, 0, 0, 37, 21, 0, 0}, {2, 5, 3.5f, 20.25f, 13, 1, 0}}});
  all.push_back({3, 28, 42, 14, 28, 42, {{1, 0, 0, 42, 28, 0, 0}, {0, 3, 4, 30, 20, 1, 0}}});
  all.push_back({2, 3, 5, 1, 3, 5, {{1, 0, 0, 5, 3, 1, 0}, {0, 0, 0, 5, 3, 0, 0}}});
  all.push_back({5, 8, 8, 8, 9, 1, {{1, 0, 0, 1, 9, 0, 0}, {-1, 0, 0, 0, 0, 0, 0}}});
  if (!kReduced) {
    all.push_back({3, 224, 224, 16, 224, 224, {{0, 0, 0, 224, 224, 1, 0}}});
    all.push_back({3, 224, 224, 32, 256, 341, {{2, 11, 3, 200.5f, 180, 0, 0}}});
  }
  return all;
}

/// A problem on the device; the images start `shift` bytes or floats after an aligned address.
struct DeviceProblem {
  Problem host;
  DeviceArray<std::uint8_t> bytes;
  DeviceArray<float> floats, mean, std;
  DeviceArray<BatchRow> rows;
  std::int64_t shift;

  explicit DeviceProblem(const Problem& p, std::int64_t shift_ = 0)
      : host(p),
        bytes(shifted(p.bytes, shift_)),
        floats(shifted(p.floats, shift_)),
        mean(p.mean),
        std(p.std),
        rows(p.c.rows),
        shift(shift_) {}

  std::int64_t elements() const { return std::ssize(host.c.rows) * host.image_elements(); }

  PatchEmbedForward forward(bool of_bytes, View<void> patches) const {
    const Case& c = host.c;
    PatchEmbedForward args;
    args.patches = patches;
    if (of_bytes) {
      args.images = ConstView<std::uint8_t>(bytes.data() + shift, std::ssize(host.bytes));
    } else {
      args.images = ConstView<float>(floats.data() + shift, std::ssize(host.floats));
    }
    args.rows = {rows.data(), std::ssize(c.rows)};
    args.mean = {mean.data(), c.channels};
    args.std = {std.data(), c.channels};
    args.channels = c.channels, args.height = c.height, args.width = c.width;
    args.patch_size = c.patch_size;
    args.source_height = c.source_height, args.source_width = c.source_width;
    return args;
  }
  PatchEmbedBackward backward(View<void> dimages, View<void> dpatches) const {
    const Case& c = host.c;
    return {dimages, dpatches,    {std.data(), c.channels}, c.channels, c.height,
            c.width, c.patch_size};
  }

  template <typename T>
  static std::vector<T> shifted(const std::vector<T>& values, std::int64_t shift) {
    std::vector<T> all(shift, T(1));
    all.insert(all.end(), values.begin(), values.end());
    return all;
  }
};

class PatchEmbed : public KernelTest {
 protected:
  std::vector<float> run(const DeviceProblem& p, bool of_bytes, DType dtype) {
    const DeviceTensor patches(dtype, p.elements());
    kernels().patch_embed_forward(p.forward(of_bytes, patches.view()));
    const std::vector<float> values = patches.values();
    const DeviceTensor again(dtype, p.elements());
    in_another_order([&] { kernels().patch_embed_forward(p.forward(of_bytes, again.view())); });
    EXPECT_TRUE(same_bits(values, again.values()));
    return values;
  }
};

TEST_F(PatchEmbed, MatchesReference) {
  std::uint64_t seed = 2800;
  for (const Case& c : cases()) {
    const Problem problem(c, ++seed);
    const auto bytes = patches_of<float>(problem, problem.bytes);
    const auto floats = patches_of<float>(problem, problem.floats);
    const auto exact_bytes = patches_of<double>(problem, problem.bytes);
    const auto exact_floats = patches_of<double>(problem, problem.floats);
    const DeviceProblem p(problem);
    for (const DType dtype : kFloatTypes) {
      SCOPED_TRACE("type " + std::string(to_string(dtype)) + " seed " + std::to_string(seed));
      expect_close(run(p, true, dtype), rounded_to(dtype, bytes), exact_bytes, "patches of bytes");
      expect_close(run(p, false, dtype), rounded_to(dtype, floats), exact_floats,
                   "patches of floats");
    }
  }
}

TEST_F(PatchEmbed, WholeImageIsNotInterpolated) {
  Problem problem(kCases[1], 2900);
  problem.mean = {0.0f}, problem.std = {1.0f};
  EXPECT_EQ(run(DeviceProblem(problem), false, DType::f32),
            patches_of<float>(problem, problem.floats));
}

// Images that start off a 16-byte boundary are read pixel by pixel.
TEST_F(PatchEmbed, ReadsUnalignedImages) {
  const Problem problem(cases()[kCases.size()], 2950);
  const DeviceProblem aligned(problem), unaligned(problem, 1);
  for (const DType dtype : kFloatTypes) {
    EXPECT_TRUE(same_bits(run(aligned, true, dtype), run(unaligned, true, dtype)));
    EXPECT_TRUE(same_bits(run(aligned, false, dtype), run(unaligned, false, dtype)));
  }
}

// No launcher can look at the rows: what is wrong there reads no foreign memory.
TEST_F(PatchEmbed, SurvivesRowsThatNobodyChecked) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  Problem problem({3, 8, 16, 8, 9, 11, {}}, 2960);
  problem.c.rows = {{3, 0, 0, 11, 9, 0, 0},      {1LL << 40, 0, 0, 11, 9, 0, 0},
                    {-7, 0, 0, 11, 9, 0, 0},     {2, -50, -1e30f, 11, 9, 0, 0},
                    {2, 8, 7, 100, 1e30f, 1, 0}, {2, kNan, kNan, kNan, kNan, 0, 0}};
  constexpr int kEmptyRows = 3;
  const std::vector<float> patches = run(DeviceProblem(problem), true, DType::f32);
  for (std::int64_t i = 0; i < std::ssize(patches); ++i) {
    if (i < kEmptyRows * problem.image_elements()) {
      EXPECT_EQ(patches[i], 0.0f);
    } else {
      EXPECT_LE(std::abs(patches[i]), 1.0f / 0.2f);
    }
  }
}

TEST_F(PatchEmbed, BackwardFoldsWhatForwardUnfolds) {
  std::uint64_t seed = 3000;
  for (const Case& c : cases()) {
    const DeviceProblem p(Problem(c, ++seed));
    const std::int64_t n = 2 * p.host.image_elements();
    const std::vector<float> gradient = random_normal(n, seed, 1);
    for (const DType dtype : kFloatTypes) {
      SCOPED_TRACE("type " + std::string(to_string(dtype)) + " seed " + std::to_string(seed));
      const std::vector<float> rounded = rounded_to(dtype, gradient);
      const DeviceTensor dpatches(dtype, rounded), dimages(dtype, n), again(dtype, n);
      kernels().patch_embed_backward(p.backward(dimages.view(), dpatches.view()));
      expect_close(dimages.values(), rounded_to(dtype, folded<float>(p.host, rounded)),
                   folded<double>(p.host, rounded), "dimages");
      in_another_order(
          [&] { kernels().patch_embed_backward(p.backward(again.view(), dpatches.view())); });
      EXPECT_TRUE(same_bits(dimages.values(), again.values()));
    }
  }
}

TEST_F(PatchEmbed, RefusesContradictions) {
  const DeviceProblem p(Problem(kCases[0], 3300));
  const DeviceTensor patches(DType::bf16, p.elements()), other(DType::f32, p.elements());
  const auto refused = [&](const char* field, auto change) {
    PatchEmbedForward args = p.forward(true, patches.view());
    change(args);
    expect_refused([&] { kernels().patch_embed_forward(args); }, field);
  };
  refused("patches", [](PatchEmbedForward& args) { args.patches.size -= 1; });
  refused("images", [](PatchEmbedForward& args) { args.images.dtype = DType::bf16; });
  refused("rows", [](PatchEmbedForward& args) { args.rows = {}; });
  refused("mean", [](PatchEmbedForward& args) { args.mean.size = 2; });
  refused("patch_size", [](PatchEmbedForward& args) { args.patch_size = 5; });
  refused("width", [](PatchEmbedForward& args) {  // what the kernel counts in 32 bits
    args.height = 1, args.width = std::int64_t{1} << 30, args.patch_size = 1;
    args.patches.size = args.rows.size * args.channels * args.width;
  });
  CudaLimits small;
  small.shared_memory_per_block = 64;
  expect_refused([&] { kernels_with(small).patch_embed_forward(p.forward(true, patches.view())); },
                 "width");

  const auto backward_refused = [&](const char* field, auto change) {
    PatchEmbedBackward args = p.backward(patches.view(), patches.view());
    change(args);
    expect_refused([&] { kernels().patch_embed_backward(args); }, field);
  };
  backward_refused("dimages", [](PatchEmbedBackward& args) { args.dimages.size = 7; });
  backward_refused("dpatches", [&](PatchEmbedBackward& args) { args.dpatches = other.view(); });
  backward_refused("std", [](PatchEmbedBackward& args) { args.std = {}; });
}

}  // namespace
}  // namespace vitrine::cuda
