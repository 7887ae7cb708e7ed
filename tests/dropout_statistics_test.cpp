// What dropout draws in a whole model, place by place: how often it keeps, what it scales by, and
// that nothing it draws tells of anything else it draws.
//
// The places are those of the graphs that build_vit makes, after their passes; the factors are read
// out of the CPU's kernels, which get what the executor gives them. Each kept element counts 1. Let
// q be the probability of that. For n pairs (a, b) that are drawn independently
//
//   z = Σ (a - q)(b - q') / √(n q (1 - q) q' (1 - q'))
//
// has mean 0 and variance 1 whatever q, also where the pairs overlap (a lag inside one tensor), as
// has the standardised count of kept elements. The bound is 5: one in 1.7 million.
//
// The GPU's kernels draw through the same function of vitrine/random.h; that they draw the same is
// what tests/kernels hold them to.
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "dropout_probe.h"
#include "vitrine/vit.h"

namespace vitrine::cpu {
namespace {

constexpr double kBound = 5.0;
constexpr std::int64_t kBatch = 48, kRows = 16;  // images of a step, of a chunk
constexpr std::uint64_t kSeeds[] = {1, 20261121, 0xFFFFFFFF12345678ull};

/// The masks of a batch that goes through the model in chunks of `rows`.
Masks draw(const VitConfig& config, const StepState& state, std::int64_t rows = kRows) {
  const Graph graph = build_vit(config, {.rows = rows});
  Masks masks;
  for (std::int64_t row = 0; row < kBatch; row += rows)
    Probe(state, kBatch, row, masks).read(graph);
  return masks;
}

/// 26 tokens and odd widths, so that rows of all kinds begin inside of a quad.
VitConfig model(NormOrder order, Pool pool) {
  VitConfig c{.image_height = 20,
              .image_width = 20,
              .patch_size = 4,
              .num_channels = 1,
              .hidden_size = 21,
              .num_hidden_layers = 3,
              .num_attention_heads = 3,
              .intermediate_size = 38,
              .num_classes = 5};
  c.norm_order = order;
  c.pool = pool;
  c.hidden_dropout_prob = 0.2;
  c.attention_probs_dropout_prob = 0.15;
  c.activation_dropout_prob = 0.3;
  c.embedding_dropout_prob = 0.1;
  c.drop_path_rate = 0.4;
  return c;
}

const std::vector<VitConfig>& models() {
  static const std::vector<VitConfig> list = {model(NormOrder::pre, Pool::token),
                                              model(NormOrder::post, Pool::mean)};
  return list;
}

/// Standardised sum of products; the number of pairs in `n`.
double correlation(const Mask& a, const Mask& b, std::int64_t lag, std::int64_t& n) {
  const std::int64_t size = std::min(std::ssize(a.kept), std::ssize(b.kept) - lag);
  double sum = 0;
  n = 0;
  for (std::int64_t i = 0; i < size; ++i) {
    const int x = a.kept[static_cast<std::size_t>(i)];
    const int y = b.kept[static_cast<std::size_t>(i + lag)];
    if (x < 0 || y < 0) continue;
    sum += (x - (1 - a.p)) * (y - (1 - b.p));
    ++n;
  }
  return sum / std::sqrt(static_cast<double>(std::max<std::int64_t>(n, 1)) * a.p * (1 - a.p) * b.p *
                         (1 - b.p));
}

void expect_independent(const Mask& a, const Mask& b, std::int64_t lag, const std::string& what) {
  std::int64_t n = 0;
  const double z = correlation(a, b, lag, n);
  EXPECT_GT(n, 0) << what;
  EXPECT_LT(std::abs(z), kBound) << what << ", " << n << " pairs";
}

std::string place_of(std::uint64_t seed, const std::string& name) {
  return "seed " + std::to_string(seed) + ", " + name;
}

// Pre-norm: the fused norm that follows the attention is norm2, the one that follows the MLP the
// next block's norm1 or the final one.
TEST(DropoutStatistics, EveryPlaceOfTheModelIsThere) {
  std::vector<std::string> names;
  for (const auto& [name, mask] : draw(models()[0], {.seed = 1})) names.push_back(name);
  const std::vector<std::string> expected = {"blocks.0.attn",
                                             "blocks.0.mlp.act",
                                             "blocks.0.norm2 dropout",
                                             "blocks.1.attn",
                                             "blocks.1.mlp.act",
                                             "blocks.1.norm1 dropout",
                                             "blocks.1.norm2 drop-path",
                                             "blocks.1.norm2 dropout",
                                             "blocks.2.attn",
                                             "blocks.2.mlp.act",
                                             "blocks.2.norm1 drop-path",
                                             "blocks.2.norm1 dropout",
                                             "blocks.2.norm2 drop-path",
                                             "blocks.2.norm2 dropout",
                                             "norm drop-path",
                                             "norm dropout",
                                             "tokens"};
  EXPECT_EQ(names, expected);
}

TEST(DropoutStatistics, EveryPlaceHasTheProbabilityOfItsKey) {
  for (const VitConfig& config : models()) {
    const bool pre = config.norm_order == NormOrder::pre;
    for (const auto& [name, mask] : draw(config, {.seed = 1})) {
      double expected = config.hidden_dropout_prob;
      if (name == "tokens") expected = config.embedding_dropout_prob;
      if (name.ends_with(".attn")) expected = config.attention_probs_dropout_prob;
      if (name.ends_with(".mlp.act")) expected = config.activation_dropout_prob;
      if (name.ends_with("drop-path")) {  // 0 in the first of three blocks, half way in the second
        if (!pre) continue;               // there the norms that follow have other numbers
        const bool half = name.starts_with("blocks.1.norm2") || name.starts_with("blocks.2.norm1");
        expected = config.drop_path_rate * (half ? 0.5 : 1.0);
      }
      EXPECT_EQ(static_cast<float>(mask.p), static_cast<float>(expected)) << name;
    }
  }
}

// The scale is held to 1 / (1 - p) where a factor is read.
TEST(DropoutStatistics, Rate) {
  for (const std::uint64_t seed : kSeeds) {
    for (const VitConfig& config : models()) {
      for (const std::uint32_t step : {0u, 1u, 70000u}) {
        for (const auto& [name, mask] : draw(config, {.seed = seed, .step = step})) {
          double kept = 0, n = 0;
          for (const int element : mask.kept) {
            if (element < 0) continue;
            kept += element;
            n += 1;
          }
          ASSERT_GT(n, 0) << name;
          EXPECT_LT(std::abs(kept - n * (1 - mask.p)),
                    kBound * std::sqrt(n * mask.p * (1 - mask.p)))
              << place_of(seed, name) << ", " << n << " elements";
        }
      }
    }
  }
}

TEST(DropoutStatistics, PositionsHeadsImagesAndChunks) {
  const std::set<std::string> kOneToken = {"blocks.2.attn", "blocks.2.mlp.act",
                                           "blocks.2.norm2 dropout", "norm dropout"};
  for (const std::uint64_t seed : kSeeds) {
    for (const VitConfig& config : models()) {
      for (const auto& [name, mask] : draw(config, {.seed = seed, .step = 5})) {
        if (mask.image == 1) continue;  // drop-path: below
        for (const std::int64_t lag :
             {std::int64_t{1}, std::int64_t{2}, std::int64_t{3}, std::int64_t{4}, std::int64_t{5},
              std::int64_t{8}, mask.row, mask.row + 1, mask.head, mask.image, mask.image + 1,
              kRows * mask.image, 2 * kRows * mask.image}) {
          // Of the pruned last block one token is drawn: there is no row below it.
          const bool below = lag == mask.row || lag == mask.row + 1;
          if (below && config.pool == Pool::token && kOneToken.contains(name)) continue;
          expect_independent(mask, mask, lag,
                             place_of(seed, name) + ", lag " + std::to_string(lag));
        }
      }
    }
  }
}

TEST(DropoutStatistics, StepsSeedsAndMicroBatches) {
  for (const std::uint64_t seed : kSeeds) {
    for (const VitConfig& config : models()) {
      const StepState state{.seed = seed, .step = 7};
      const Masks base = draw(config, state);
      std::map<std::string, StepState> others;
      others["the next step"] = {.seed = seed, .step = 8};
      others["a far step"] = {.seed = seed, .step = 7 + (1u << 20)};
      others["the next seed"] = {.seed = seed + 1, .step = 7};
      others["a seed of other high bits"] = {.seed = seed ^ (1ull << 40), .step = 7};
      others["the next micro-batch"] = {.seed = seed, .step = 7, .first_row = kBatch};
      for (const auto& [what, other] : others) {
        const Masks drawn = draw(config, other);
        for (const auto& [name, mask] : base) {
          if (mask.image == 1) continue;
          expect_independent(mask, drawn.at(name), 0, place_of(seed, name) + ", " + what);
        }
      }
    }
  }
}

// Layers are places too: the same place in two blocks, and all others with each other.
TEST(DropoutStatistics, PlacesAndLayers) {
  for (const std::uint64_t seed : kSeeds) {
    for (const VitConfig& config : models()) {
      const Masks masks = draw(config, {.seed = seed, .step = 11});
      for (auto a = masks.begin(); a != masks.end(); ++a) {
        for (auto b = std::next(a); b != masks.end(); ++b) {
          if (a->second.image == 1 || b->second.image == 1) continue;
          expect_independent(a->second, b->second, 0,
                             place_of(seed, a->first) + " and " + b->first);
        }
      }
    }
  }
}

// A drop-path draws one number an image, so many steps in a row make its sample.
TEST(DropoutStatistics, DropPath) {
  constexpr std::uint32_t kSteps = 40;
  VitConfig config = models()[0];
  config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0;
  config.activation_dropout_prob = config.embedding_dropout_prob = 0;
  for (const std::uint64_t seed : kSeeds) {
    Masks joined;
    for (std::uint32_t step = 0; step < kSteps; ++step) {
      for (const auto& [name, mask] : draw(config, {.seed = seed, .step = step})) {
        Mask& all = joined.try_emplace(name, static_cast<float>(mask.p), 0, 1, 1, 1).first->second;
        all.kept.insert(all.kept.end(), mask.kept.begin(), mask.kept.end());
      }
    }
    ASSERT_EQ(joined.size(), 4u);
    for (auto a = joined.begin(); a != joined.end(); ++a) {
      const Mask& mask = a->second;
      const auto n = static_cast<double>(mask.kept.size());
      double kept = 0;
      for (const int element : mask.kept) kept += element;
      EXPECT_LT(std::abs(kept - n * (1 - mask.p)), kBound * std::sqrt(n * mask.p * (1 - mask.p)))
          << place_of(seed, a->first);
      for (const std::int64_t lag : {std::int64_t{1}, std::int64_t{2}, std::int64_t{3},
                                     std::int64_t{4}, kRows, kBatch, 2 * kBatch}) {
        expect_independent(mask, mask, lag,
                           place_of(seed, a->first) + ", lag " + std::to_string(lag));
      }
      for (auto b = std::next(a); b != joined.end(); ++b) {
        expect_independent(mask, b->second, 0, place_of(seed, a->first) + " and " + b->first);
      }
    }
  }
}

// A drop-path and an element-wise place would share their first numbers, one an image.
TEST(DropoutStatistics, DropPathAndTheOtherPlaces) {
  constexpr std::uint32_t kSteps = 12;
  for (const std::uint64_t seed : kSeeds) {
    Masks joined;
    for (std::uint32_t step = 0; step < kSteps; ++step) {
      for (const auto& [name, mask] : draw(models()[0], {.seed = seed, .step = step})) {
        Mask& all =
            joined.try_emplace(name, static_cast<float>(mask.p), 0, 1, 1, mask.image).first->second;
        all.kept.insert(all.kept.end(), mask.kept.begin(), mask.kept.begin() + kBatch);
      }
    }
    for (const auto& [path, mask] : joined) {
      if (mask.image > 1) continue;
      for (const auto& [name, other] : joined) {
        if (name == path) continue;
        expect_independent(mask, other, 0, place_of(seed, path) + " and " + name);
      }
    }
  }
}

// What is drawn for an image does not depend on how the batch is cut.
TEST(DropoutStatistics, ChunksDrawWhatTheWholeBatchDraws) {
  for (const std::uint64_t seed : kSeeds) {
    for (const VitConfig& config : models()) {
      const StepState state{.seed = seed, .step = 3, .first_row = 5};
      const Masks whole = draw(config, state, kBatch), parts = draw(config, state, kRows);
      ASSERT_EQ(whole.size(), parts.size());
      for (const auto& [name, mask] : whole) {
        EXPECT_EQ(mask.kept, parts.at(name).kept) << place_of(seed, name);
      }
    }
  }
}

}  // namespace
}  // namespace vitrine::cpu
