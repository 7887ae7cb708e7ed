// Mixup and cutmix on the CPU, pixel by pixel.
#include "reference/mix_images.h"

#include <gtest/gtest.h>

#include <limits>

#include "cpu/cpu_kernels.h"
#include "for_targets.h"
#include "reference_check.h"

namespace vitrine::cpu {
namespace {

using namespace reference::mix_images;
using Bytes = std::vector<std::uint8_t>;

Bytes run(const Problem& p, int threads = 2) {
  ThreadPool pool(threads);
  Bytes out(p.images.size(), 0xA5);
  CpuKernels(pool).mix_images(arguments(p, {out.data(), std::ssize(out)},
                                        {p.images.data(), std::ssize(p.images)},
                                        {p.mixes.data(), std::ssize(p.mixes)}));
  return out;
}

TEST(MixImages, EqualsReference) {
  for_targets([] {
    for (std::uint64_t seed = 4200; seed < 4230; ++seed) {
      SCOPED_TRACE("seed " + std::to_string(seed));
      const auto size = static_cast<std::int32_t>(seed);
      const Problem p =
          random_problem(seed, 1 + size % 5, 1 + size % 3, 1 + size % 13, 1 + size % 23);
      EXPECT_EQ(run(p, 1 + size % 3), out_of(p));
    }
  });
}

// What numpy computes: np.rint(np.float32(a) * lam + np.float32(b) * (1 - lam)) for float32 lam.
TEST(MixImages, RoundsAsNumpyDoes) {
  struct Case {
    std::uint8_t a, b;
    float weight;
    std::uint8_t expected;
  };
  const Case cases[] = {{1, 2, 0.5f, 2},
                        {2, 3, 0.5f, 2},
                        {255, 0, 0.5f, 128},
                        {0, 255, 0.5f, 128},
                        {254, 255, 0.5f, 254},
                        {3, 0, 0.5f, 2},
                        {255, 255, 0.10000000149011612f, 255},
                        {0, 0, 0.699999988079071f, 0},
                        {7, 250, 0.0f, 250},
                        {7, 250, 1.0f, 7},
                        {242, 198, 0.6477275490760803f, 226},
                        {98, 237, 0.5503596663475037f, 160},
                        {166, 154, 0.4583326578140259f, 160},
                        {79, 165, 0.12209302186965942f, 154},
                        {160, 242, 0.9817074537277222f, 162},
                        {75, 175, 0.455000102519989f, 130},
                        {50, 204, 0.5681818127632141f, 116},
                        {146, 142, 0.12500308454036713f, 142},
                        {98, 184, 0.13372085988521576f, 172},
                        {234, 94, 0.7821428179740906f, 204},
                        {215, 191, 0.22916677594184875f, 197},
                        {45, 166, 0.43388432264328003f, 114}};
  for_targets([&] {
    for (const Case& c : cases) {
      Problem p{1, 4, 5, Bytes(40, c.a), {{1, c.weight}, {}}};
      std::fill(p.images.begin() + 20, p.images.end(), c.b);
      EXPECT_EQ(run(p)[7], c.expected) << int{c.a} << " " << int{c.b} << " " << c.weight;
    }
  });
}

// Both images of a pair see the other one as it was.
TEST(MixImages, MixesAPairBothWays) {
  Problem p = random_problem(4300, 2, 3, 6, 9);
  p.mixes = {{1, 0.3f}, {0, 0.3f}};
  const Bytes out = run(p);
  for (std::int64_t i = 0; i < p.image_elements(); ++i) {
    const std::uint8_t a = p.images[i], b = p.images[p.image_elements() + i];
    ASSERT_EQ(out[i], mixed(a, b, 0.3f));
    ASSERT_EQ(out[p.image_elements() + i], mixed(b, a, 0.3f));
  }
}

TEST(MixImages, CutmixTakesTheBox) {
  Problem p{1, 3, 4, {}, {{1, 0.25f, 1, 2, 2, 2}, {}}};
  for (int i = 0; i < 24; ++i) p.images.push_back(static_cast<std::uint8_t>(i));
  const Bytes expected = {0, 1, 2, 3, 4, 5, 18, 19, 8, 9, 22, 23};
  const Bytes out = run(p);
  EXPECT_EQ(Bytes(out.begin(), out.begin() + 12), expected);
  EXPECT_EQ(Bytes(out.begin() + 12, out.end()), Bytes(p.images.begin() + 12, p.images.end()));
}

TEST(MixImages, RefusesContradictions) {
  ThreadPool pool(1);
  CpuKernels kernels(pool);
  const Problem good = random_problem(4400, 3, 2, 5, 7);
  Bytes out(good.images.size());
  const auto refused = [&](const std::string& message, auto change, ImageMix mix) {
    Problem p = good;
    p.mixes[1] = mix;
    MixImages args =
        arguments(p, {out.data(), std::ssize(out)}, {p.images.data(), std::ssize(p.images)},
                  {p.mixes.data(), std::ssize(p.mixes)});
    change(args);
    expect_refused([&] { kernels.mix_images(args); }, message);
  };
  const auto args_refused = [&](const std::string& message, auto change) {
    refused(message, change, ImageMix{});
  };
  args_refused("out has", [](MixImages& args) { args.out.size -= 1; });
  args_refused("images has", [](MixImages& args) { args.images = {}; });
  args_refused("mixes has", [](MixImages& args) { args.mixes.size = 2; });
  args_refused("height", [](MixImages& args) { args.height = 0; });
  args_refused("out overlaps images", [](MixImages& args) { args.images.data = args.out.data; });
  args_refused("out overlaps images",
               [](MixImages& args) { args.images.data = args.out.data + args.out.size - 1; });
  args_refused("out overlaps images",
               [](MixImages& args) { args.images.data = args.out.data - args.out.size + 1; });
  const auto mix_refused = [&](const std::string& message, ImageMix mix) {
    refused(
        "mixes[1]" + message, [](MixImages&) {}, mix);
  };
  mix_refused(".partner is 3", {3});
  mix_refused(".partner is -2", {-2});
  mix_refused(".weight is 1.5", {0, 1.5f});
  mix_refused(".weight", {0, std::numeric_limits<float>::quiet_NaN()});
  mix_refused(" has a box", {0, 0.5f, 0, 0, 6, 7});
  mix_refused(" has a box", {0, 0.5f, 0, 1, 5, 7});
  mix_refused(" has a box", {0, 0.5f, -1, 0, 5, 7});
  mix_refused(" has a box", {0, 0.5f, 1, 1, std::numeric_limits<std::int32_t>::max(), 1});
}

}  // namespace
}  // namespace vitrine::cpu
