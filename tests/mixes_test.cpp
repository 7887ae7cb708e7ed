// Mixup and cutmix: Beta, λ as timm draws it, boxes, partners, and what a draw depends on.

#include <algorithm>
#include <array>
#include <set>

#include "augmentation_check.h"
#include "data/draws.h"

namespace vitrine {
namespace {

constexpr int kDraws = 100000;

/// Share of Beta(a, a) below x <= 1/2, by Simpson's rule in t = x^a, where the density is smooth.
double beta_distribution(double a, double x) {
  constexpr int kPieces = 2000;
  auto integral = [a](double to) {
    const double end = std::pow(to, a), step = end / kPieces;
    double sum = 0;
    for (int i = 0; i <= kPieces; ++i) {
      const double density = std::pow(1 - std::pow(i * step, 1 / a), a - 1);
      sum += density * (i == 0 || i == kPieces ? 1 : i % 2 ? 4 : 2);
    }
    return sum * step / 3;
  };
  return integral(x) / integral(0.5) / 2;
}

TEST(Beta, HasItsDistribution) {
  const std::uint64_t seed = fresh_seed();
  const std::vector<double> edges = {1e-4, 1e-3, 0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5};
  for (const double alpha : {0.2, 0.8, 1.0, 3.0}) {
    RandomStream random(seed, static_cast<std::uint64_t>(alpha * 10));
    Counts counts(2 * edges.size()), expected(2 * edges.size());
    double mean = 0, square = 0;
    for (int i = 0; i < kDraws; ++i) {
      const double x = symmetric_beta(alpha, random);
      ASSERT_TRUE(x >= 0 && x <= 1) << x;
      mean += x / kDraws;
      square += (x - 0.5) * (x - 0.5) / kDraws;
      const double folded = std::min(x, 1 - x);
      const auto bin = std::upper_bound(edges.begin(), edges.end(), folded) - edges.begin();
      const auto at = std::min(static_cast<std::size_t>(bin), edges.size() - 1);
      ++counts[x < 0.5 ? at : counts.size() - 1 - at];
    }
    double before = 0;
    for (std::size_t i = 0; i < edges.size(); ++i) {
      const double below = beta_distribution(alpha, edges[i]);
      expected[i] = expected[expected.size() - 1 - i] = 1e8 * (below - before);
      before = below;
    }
    expect_same_distribution(counts, expected, "Beta of " + std::to_string(alpha));
    const double variance = 1 / (4 * (2 * alpha + 1));
    const double fourth = 3 / (16 * (2 * alpha + 1) * (2 * alpha + 3));  // central moment
    constexpr double kDeviations = 5.5;
    EXPECT_NEAR(mean, 0.5, kDeviations * std::sqrt(variance / kDraws)) << alpha;
    EXPECT_NEAR(square, variance, kDeviations * std::sqrt((fourth - variance * variance) / kDraws))
        << alpha;
  }
}

TEST(Beta, SurvivesSmallAlpha) {
  RandomStream random(fresh_seed(), 1);
  int ones = 0;
  for (int i = 0; i < 2000; ++i) {
    const double x = symmetric_beta(1e-4, random);
    ASSERT_TRUE(x >= 0 && x <= 1) << x;
    ones += x > 0.5;
  }
  EXPECT_NEAR(ones, 1000, 5.5 * std::sqrt(500));
}

AugmentationConfig mixing(double mixup, double cutmix, MixMode mode) {
  AugmentationConfig config = plain_augmentation(32, 48);
  config.mixup = mixup;
  config.cutmix = cutmix;
  config.mixup_mode = mode;
  return config;
}

std::vector<ImageMix> draw(const AugmentationConfig& config, std::size_t images,
                           std::int64_t micro_batch, std::uint64_t seed, std::int64_t step) {
  std::vector<ImageMix> mixes(images, {.partner = 77, .weight = -3, .y = 5});
  draw_mixes(config, micro_batch, seed, step, mixes);
  return mixes;
}

bool is_box(const ImageMix& mix) {
  return mix.height > 0 && mix.width > 0;
}

TEST(Mixes, WeightsAreTimms) {
  const std::uint64_t seed = fresh_seed();
  for (const nlohmann::json& stored : timm_values().at("mixes")) {
    const std::string name = stored.at("mode");
    const MixMode mode = name == "elem"   ? MixMode::elem
                         : name == "pair" ? MixMode::pair
                                          : MixMode::batch;
    AugmentationConfig config = mixing(stored.at("mixup"), stored.at("cutmix"), mode);
    config.mixup_prob = stored.at("prob");
    config.mixup_switch_prob = stored.at("switch_prob");
    Histogram weights(stored.at("weight"));
    const std::size_t images = mode == MixMode::batch ? 2 : 100;
    const std::size_t drawn = mode == MixMode::batch ? 1 : mode == MixMode::pair ? 50 : 100;
    Counts kinds(3);
    for (std::size_t step = 0; step < kDraws / drawn; ++step) {
      const std::vector<ImageMix> mixes =
          draw(config, images, 100, seed, static_cast<std::int64_t>(step));
      for (std::size_t i = 0; i < drawn; ++i) {
        weights.add(static_cast<double>(mixes[i].weight));
        ++kinds[mixes[i].partner < 0 ? 0 : is_box(mixes[i]) ? 1 : 2];
      }
    }
    const std::string what =
        name + " " + stored.at("mixup").dump() + " " + stored.at("cutmix").dump();
    weights.expect_same(what);
    EXPECT_EQ(kinds[2] > 0, config.mixup > 0) << what;
    EXPECT_EQ(kinds[1] > 0, config.cutmix > 0) << what;
    if (config.cutmix == 0) {
      // A weight within half a unit of the last place of 1 is 1: nothing is mixed.
      const double mixed = config.mixup_prob * (1 - beta_distribution(config.mixup, 0x1p-25));
      expect_same_distribution({kinds[0], kinds[2]}, {1e7 * (1 - mixed), 1e7 * mixed}, what);
    }
  }
}

TEST(Mixes, WeightIsWhatTheBoxLeaves) {
  const std::uint64_t seed = fresh_seed();
  const AugmentationConfig config = mixing(0, 1, MixMode::elem);
  int clipped = 0;
  for (std::int64_t step = 0; step < 100; ++step) {
    const std::vector<ImageMix> mixes = draw(config, 100, 100, seed, step);
    for (const ImageMix& mix : mixes) {
      if (mix.partner < 0) {
        EXPECT_EQ(mix.weight, 1.0f);
        EXPECT_FALSE(is_box(mix));
        continue;
      }
      ASSERT_TRUE(is_box(mix));
      ASSERT_GE(mix.y, 0);
      ASSERT_GE(mix.x, 0);
      ASSERT_LE(mix.y + mix.height, 32);
      ASSERT_LE(mix.x + mix.width, 48);
      EXPECT_EQ(mix.weight, static_cast<float>(1 - mix.height * mix.width / (32.0 * 48.0)));
      clipped += mix.y == 0 || mix.x == 0 || mix.y + mix.height == 32 || mix.x + mix.width == 48;
    }
  }
  EXPECT_GT(clipped, 1000);
}

TEST(Mixes, PartnersAreMirroredInTheMicroBatch) {
  const std::uint64_t seed = fresh_seed();
  for (const MixMode mode : {MixMode::batch, MixMode::pair, MixMode::elem}) {
    // Two whole micro-batches of five and what is left of a third.
    const std::vector<ImageMix> mixes = draw(mixing(0.8, 0, mode), 13, 5, seed, 9);
    const std::array<std::int32_t, 13> partners = {4, 3, -1, 1, 0, 9, 8, -1, 6, 5, 12, -1, 10};
    std::set<float> weights;
    for (std::size_t i = 0; i < 13; ++i) {
      EXPECT_EQ(mixes[i].partner, partners[i]) << i;
      if (partners[i] < 0) {
        EXPECT_EQ(mixes[i].weight, 1.0f);
        continue;
      }
      weights.insert(mixes[i].weight);
      const ImageMix& other = mixes[static_cast<std::size_t>(partners[i])];
      EXPECT_EQ(mixes[i].weight == other.weight, mode != MixMode::elem) << i;
    }
    const std::size_t draws = mode == MixMode::batch ? 3 : mode == MixMode::pair ? 5 : 10;
    EXPECT_EQ(weights.size(), draws);
  }
}

TEST(Mixes, PairsShareTheirBox) {
  const std::uint64_t seed = fresh_seed();
  const std::vector<ImageMix> mixes = draw(mixing(0, 1, MixMode::pair), 40, 40, seed, 1);
  std::set<std::pair<int, int>> places;
  for (std::size_t i = 0; i < 20; ++i) {
    const ImageMix &a = mixes[i], &b = mixes[39 - i];
    EXPECT_EQ(std::tie(a.weight, a.y, a.x, a.height, a.width),
              std::tie(b.weight, b.y, b.x, b.height, b.width));
    places.emplace(a.y * 100 + a.height, a.x * 100 + a.width);
  }
  EXPECT_GT(places.size(), 10u);
}

TEST(Mixes, DependOnSeedStepAndMicroBatchAlone) {
  const std::uint64_t seed = fresh_seed();
  const AugmentationConfig config = mixing(0.8, 0, MixMode::batch);
  auto weight = [&](std::uint64_t s, std::int64_t step, std::size_t image) {
    return draw(config, 12, 4, s, step)[image].weight;
  };
  EXPECT_EQ(weight(seed, 5, 0), weight(seed, 5, 3));
  const std::set<float> different = {weight(seed, 5, 0), weight(seed, 5, 4), weight(seed, 5, 8),
                                     weight(seed, 6, 0), weight(seed + 1, 5, 0)};
  EXPECT_EQ(different.size(), 5u);
  // What follows a micro-batch does not change it.
  EXPECT_EQ(draw(config, 4, 4, seed, 5)[0].weight, weight(seed, 5, 0));
}

TEST(Mixes, OffLeavesImagesAlone) {
  for (const ImageMix& mix : draw(mixing(0, 0, MixMode::elem), 6, 4, 1, 1)) {
    EXPECT_EQ(mix.partner, -1);
    EXPECT_EQ(mix.weight, 1.0f);
    EXPECT_EQ(mix.y, 0);
  }
}

}  // namespace
}  // namespace vitrine
