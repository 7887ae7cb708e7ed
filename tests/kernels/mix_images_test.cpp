// Mixup and cutmix in CUDA, bit for bit what a reference does pixel by pixel.
#include "reference/mix_images.h"

#include <limits>

#include "kernels/kernel_device.h"

namespace vitrine::cuda {
namespace {

using namespace reference::mix_images;
using Bytes = std::vector<std::uint8_t>;

class CudaMixImages : public KernelTest {
 protected:
  /// `shift` bytes lie before images and outputs.
  Bytes run(const Problem& p, std::int64_t shift = 0) {
    Bytes shifted(shift, 1);
    shifted.insert(shifted.end(), p.images.begin(), p.images.end());
    const DeviceArray<std::uint8_t> images(shifted), out(std::ssize(shifted));
    const DeviceArray<ImageMix> mixes(p.mixes);
    const MixImages args = arguments(p, {out.data() + shift, std::ssize(p.images)},
                                     {images.data() + shift, std::ssize(p.images)}, mixes.view());
    kernels().mix_images(args);
    Bytes values = out.values();
    in_another_order([&] { kernels().mix_images(args); });
    EXPECT_EQ(values, out.values());
    values.erase(values.begin(), values.begin() + shift);
    return values;
  }
};

TEST_F(CudaMixImages, EqualsReference) {
  for (std::uint64_t seed = 5600; seed < 5630; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const auto size = static_cast<std::int32_t>(seed);
    const Problem p =
        random_problem(seed, 1 + size % 5, 1 + size % 3, 1 + size % 13, 1 + size % 23);
    EXPECT_EQ(run(p), out_of(p));
  }
}

// Sizes that take 16 bytes at a time, across rows and channels, and the same off that boundary.
TEST_F(CudaMixImages, EqualsReferenceInWideAccesses) {
  struct Size {
    std::int64_t channels;
    std::int32_t height, width;
  };
  std::uint64_t seed = 5700;
  for (const auto& [channels, height, width] :
       {Size{3, 16, 16}, {3, 16, 3}, {3, 1, 16}, {4, 6, 10}, {4, 2, 2}, {3, 48, 1}, {16, 5, 3}}) {
    SCOPED_TRACE("seed " + std::to_string(++seed));
    const Problem p = random_problem(seed, 20, channels, height, width);
    EXPECT_EQ(run(p), out_of(p));
    EXPECT_EQ(run(p, 1), out_of(p));
  }
}

TEST_F(CudaMixImages, MixesAPairBothWays) {
  for (const ImageMix& mix : {ImageMix{0, 0.3f}, ImageMix{0, 0.5f, 3, 2, 4, 9}}) {
    Problem p = random_problem(5800, 2, 3, 16, 16);
    p.mixes = {mix, mix};
    p.mixes[0].partner = 1;
    EXPECT_EQ(run(p), out_of(p));
  }
}

// No launcher can look at the mixes: partners outside the batch are none, boxes are clipped.
TEST_F(CudaMixImages, SurvivesMixesThatNobodyChecked) {
  constexpr std::int32_t kMost = std::numeric_limits<std::int32_t>::max();
  constexpr std::int32_t kLeast = std::numeric_limits<std::int32_t>::min();
  Problem p = random_problem(5900, 6, 1, 8, 6);
  p.mixes = {{6, 0.5f},
             {kLeast, 0.5f},
             {0, 0.5f, -2, -3, 4, 5},
             {0, 0.5f, 7, 5, kMost, kMost},
             {0, 0.5f, kLeast, kLeast, 5, 5},
             {0, std::numeric_limits<float>::infinity()}};
  Problem expected = p;
  expected.mixes[0] = expected.mixes[1] = {};
  expected.mixes[2] = {0, 0.5f, 0, 0, 2, 2};
  expected.mixes[3] = {0, 0.5f, 7, 5, 1, 1};
  expected.mixes[4] = {};
  expected.mixes.pop_back();  // no number, but no foreign memory either
  expected.images.resize(5 * p.image_elements());
  const Bytes out = run(p);
  EXPECT_EQ(Bytes(out.begin(), out.begin() + 5 * p.image_elements()), out_of(expected));
}

TEST_F(CudaMixImages, RefusesContradictions) {
  const Problem p = random_problem(6000, 3, 2, 5, 7);
  const DeviceArray<std::uint8_t> images(p.images), out(std::ssize(p.images));
  const DeviceArray<ImageMix> mixes(p.mixes);
  const auto refused = [&](const char* field, auto change) {
    MixImages args = arguments(p, out.view(), images.view(), mixes.view());
    change(args);
    expect_refused([&] { kernels().mix_images(args); }, field);
  };
  refused("out has", [](MixImages& args) { args.out.size -= 1; });
  refused("mixes has", [](MixImages& args) { args.mixes = {}; });
  refused("width", [](MixImages& args) { args.width = 0; });
  refused("out overlaps", [](MixImages& args) { args.images.data = args.out.data; });
  refused("less than 2^31 elements", [](MixImages& args) {
    args.height = std::int64_t{1} << 31, args.out.size = args.images.size = 42 * args.height;
    args.images.data = reinterpret_cast<const std::uint8_t*>(std::uintptr_t{1} << 46);
  });
}

}  // namespace
}  // namespace vitrine::cuda
