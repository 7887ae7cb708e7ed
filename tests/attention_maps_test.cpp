// Attention maps against the network by its definition in double; rollout, what the pooled token
// reads, the pictures' sizes, and position embeddings.
#include <gtest/gtest.h>

#include <iostream>
#include <random>

#include "attention_maps_check.h"

namespace vitrine {
namespace {

// Single precision through a few layers of O(1) numbers.
constexpr double kTolerance = 2e-5;

std::uint64_t fresh_seed() {
  const std::uint64_t seed = std::random_device{}();
  std::cout << "seed " << seed << '\n';
  return seed;
}

/// Maps whose rows are random probabilities.
AttentionMaps random_maps(std::int64_t layers, std::int64_t heads, std::int64_t tokens,
                          std::uint64_t seed) {
  AttentionMaps maps{.layers = layers, .heads = heads, .tokens = tokens};
  RandomStream random(seed, 301);
  for (std::int64_t row = 0; row < layers * heads * tokens; ++row) {
    std::vector<double> numbers;
    for (std::int64_t i = 0; i < tokens; ++i) numbers.push_back(2 * random.normal());
    for (const double p : reference::Vit::softmax(numbers)) {
      maps.probabilities.push_back(static_cast<float>(p));
    }
  }
  return maps;
}

TEST(AttentionMaps, MatchTheDefinition) {
  const auto device = make_cpu_device(2);
  const std::uint64_t seed = fresh_seed();
  for (const VitCase& test : vit_cases()) {
    SCOPED_TRACE(test.name);
    VitConfig config = small_vit();
    test.change(config);
    const Looking looking(config, Precision::fp32, device->traits(), seed);
    expect_true_maps(*device, looking, kTolerance);
  }
}

TEST(AttentionMaps, NothingIsPruned) {
  VitOptions options{.training = false, .attention_probabilities = true};
  const VitConfig config = small_vit();
  const Graph graph = build_vit(config, options);
  for (const char* block : {"blocks.0", "blocks.1"}) {
    const ValueId id = graph.find(std::string(block) + ".attn.probabilities");
    ASSERT_NE(id, kNone);
    EXPECT_TRUE(graph.value(id).keep);
    EXPECT_EQ(graph.shape(id), (Shape{1, 2, config.tokens(), config.tokens()}));
    EXPECT_EQ(graph.shape(graph.find(std::string(block) + ".mlp.fc2")),
              (Shape{1, config.tokens(), config.hidden_size}));
  }
  options.attention_probabilities = false;
  EXPECT_EQ(build_vit(config, options).find("blocks.0.attn.probabilities"), kNone);
  options = {.training = true, .attention_probabilities = true};
  EXPECT_THROW(build_vit(config, options), BadInput);
}

TEST(AttentionMaps, AnImageOfAnySizeAndColourIsBroughtToTheModels) {
  const auto device = make_cpu_device(2);
  const Looking looking(small_vit(), Precision::fp32, device->traits(), fresh_seed());
  const AttentionMaps whole = looking.maps(*device);
  const auto maps_of = [&](const Image& image) {
    return attention_maps(*device, looking.config, looking.weights, image);
  };
  // Twice the size: bilinear sampling falls between two equal pixels.
  expect_near_norm(maps_of(enlarge(looking.image, 2)).probabilities, whole.probabilities, 64, "2x");
  const Image grey = convert_channels(looking.image, 1);
  EXPECT_EQ(maps_of(grey).probabilities, maps_of(convert_channels(grey, 3)).probabilities);
  EXPECT_FALSE(same_bits(maps_of(grey).probabilities, whole.probabilities));
}

TEST(AttentionMaps, ImagesOfChangingSizeOneAfterAnother) {
  const auto device = make_cpu_device(2);
  const Looking looking(small_vit(), Precision::fp32, device->traits(), fresh_seed());
  const Buffer weights = share_weights(*device, looking.plan, looking.weights);
  ImagePass pass(*device, looking.config, /*attention=*/true);
  const Image other = random_picture(3, 8, 20, 1), tall = random_picture(3, 30, 20, 2);
  for (const Image* image : {&looking.image, &other, &tall, &looking.image, &tall}) {
    const AttentionMaps alone = attention_maps(*device, looking.config, looking.weights, *image);
    const AttentionMaps maps = pass.run(weights.data(), *image);
    EXPECT_TRUE(same_bits(maps.probabilities, alone.probabilities));
    EXPECT_TRUE(same_bits(maps.class_probabilities, alone.class_probabilities));
  }
  const AttentionMaps answer =
      ImagePass(*device, looking.config, /*attention=*/false).run(weights.data(), tall);
  EXPECT_EQ(answer.layers, 0);
  EXPECT_TRUE(answer.probabilities.empty());
  EXPECT_LE(largest_error(answer.class_probabilities,
                          converted<double>(pass.run(weights.data(), tall).class_probabilities)),
            kTolerance);  // the last block pruned or not
}

TEST(AttentionMaps, MeanOverHeads) {
  AttentionMaps maps{.layers = 2, .heads = 2, .tokens = 2};
  maps.probabilities = {9, 9, 9, 9, 9, 9, 9, 9, 0.25f, 0.75f, 0, 1, 0.75f, 0.25f, 1, 0};
  EXPECT_EQ(mean_over_heads(maps, 1), (std::vector<float>{0.5f, 0.5f, 0.5f, 0.5f}));
}

// R_l = (mean_l + I) / 2 · R_{l−1}, R_0 = I
TEST(AttentionMaps, RolloutIsTheProductOfTheLayers) {
  const std::int64_t layers = 3, tokens = 6;
  const AttentionMaps maps = random_maps(layers, 4, tokens, fresh_seed());
  std::vector<double> expected(36);
  for (int i = 0; i < 6; ++i) expected[i * 7] = 1;
  const std::vector<std::vector<float>> rollouts = attention_rollouts(maps);
  ASSERT_EQ(rollouts.size(), 3u);
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    std::vector<double> next(36);
    for (int i = 0; i < 6; ++i) {
      for (int k = 0; k < 6; ++k) {
        double factor = i == k ? 0.5 : 0.0;
        for (int head = 0; head < 4; ++head) {
          factor += static_cast<double>(maps.map(layer, head)[i * 6 + k]) / 8;
        }
        for (int j = 0; j < 6; ++j) next[i * 6 + j] += factor * expected[k * 6 + j];
      }
    }
    expected = next;
    EXPECT_LE(largest_error(rollouts[layer], expected), 1e-6) << "up to layer " << layer;
    expect_rows_sum_to_one(rollouts[layer], tokens);
  }
  EXPECT_EQ(attention_rollout(maps), rollouts.back());
  EXPECT_EQ(attention_rollout({.layers = 0, .heads = 1, .tokens = 2}),
            (std::vector<float>{1, 0, 0, 1}));
}

// Two patches of a 4 x 8 image, and a class token where there is one.
VitConfig two_patches(ClassToken token, Pool pool) {
  VitConfig config = small_vit();
  config.image_height = 4;
  config.image_width = 8;
  config.class_token = token;
  config.pool = pool;
  return config;
}

TEST(AttentionMaps, WhatThePooledTokenReads) {
  const std::vector<float> map = {0.5f, 0.1f, 0.4f,   //
                                  0.2f, 0.2f, 0.6f,   //
                                  0.1f, 0.7f, 0.2f};  // [query, key]
  const auto read = [&](ClassToken token, Pool pool) {
    return patch_attention(two_patches(token, pool), map.data());
  };
  const auto expect = [](const std::vector<float>& found, const std::vector<float>& expected) {
    ASSERT_EQ(found.size(), expected.size());
    for (std::size_t i = 0; i < found.size(); ++i) EXPECT_FLOAT_EQ(found[i], expected[i]) << i;
  };
  expect(read(ClassToken::first, Pool::token), {0.25f, 1});
  expect(read(ClassToken::last, Pool::token), {0.1f / 0.7f, 1});
  expect(read(ClassToken::first, Pool::mean), {1, 0.8f / 0.9f});
  expect(read(ClassToken::last, Pool::mean), {1, 0.3f / 0.7f});
  const std::vector<float> square = {0.75f, 0.25f, 0.5f, 0.5f};
  expect(patch_attention(two_patches(ClassToken::none, Pool::mean), square.data()), {1, 0.6f});
  VitConfig registers = two_patches(ClassToken::first, Pool::token);
  registers.reg_tokens = 1;
  const std::vector<float> four = {0.1f, 0.3f, 0.2f, 0.4f, 0,    0,    0,    0,  //
                                   0.2f, 0.2f, 0.5f, 0.1f, 0.3f, 0.2f, 0.1f, 0.4f};
  expect(patch_attention(registers, four.data()), {0.5f, 1});
  registers.pool = Pool::mean;
  expect(patch_attention(registers, four.data()), {1, 0.5f / 0.6f});
  registers.class_token = ClassToken::last;  // the register first, then patches, then the token
  expect(patch_attention(registers, four.data()), {0.4f, 1});
  registers.pool = Pool::token;
  expect(patch_attention(registers, four.data()), {1, 0.5f});
  const std::vector<float> nothing(9, 0.0f);
  expect(patch_attention(two_patches(ClassToken::first, Pool::token), nothing.data()), {0, 0});
}

TEST(AttentionPictures, SizesToLookAt) {
  const auto size_of = [](std::int64_t height, std::int64_t width, std::int64_t longest) {
    const Image image = display_image(random_picture(1, height, width, 3), longest);
    EXPECT_EQ(image.channels, 3);
    return std::pair(image.height, image.width);
  };
  EXPECT_EQ(size_of(28, 28, 448), std::pair(168l, 168l));
  EXPECT_EQ(size_of(32, 32, 448), std::pair(160l, 160l));
  EXPECT_EQ(size_of(20, 4, 448), std::pair(160l, 32l));
  EXPECT_EQ(size_of(224, 224, 448), std::pair(224l, 224l));
  EXPECT_EQ(size_of(1000, 500, 448), std::pair(448l, 224l));
  EXPECT_EQ(size_of(28, 28, 100), std::pair(84l, 84l));
  EXPECT_EQ(size_of(100, 100, 120), std::pair(100l, 100l));
}

// On black an overlay is 0.6 of the map's colour: of its first and last where the map is 0 and 1.
TEST(AttentionPictures, OverlayIsAMixtureOfImageAndMap) {
  const VitConfig config = two_patches(ClassToken::first, Pool::token);
  const Image black{1, 4, 8, std::vector<std::uint8_t>(32, 0)};
  const Image image = attention_overlay(black, {0, 1}, config);
  EXPECT_EQ(image.height, 80);
  EXPECT_EQ(image.width, 160);
  const std::int64_t plane = 80 * 160, middle = 40 * 160;
  const std::vector<int> first = {41, 1, 50}, last = {152, 139, 22};  // (68, 1, 84), (253, 231, 37)
  for (std::int64_t c = 0; c < 3; ++c) {
    EXPECT_EQ(image.pixels[c * plane + middle], first[c]);
    EXPECT_EQ(image.pixels[c * plane + middle + 159], last[c]);
    EXPECT_EQ(image.pixels[c * plane + middle + 160 / 4 - 1], first[c]);
    EXPECT_EQ(image.pixels[c * plane + middle + 3 * 160 / 4], last[c]);
  }
}

TEST(AttentionPictures, ASheetHasARowALayer) {
  const VitConfig config = two_patches(ClassToken::first, Pool::token);
  const AttentionMaps maps = random_maps(3, 2, 3, fresh_seed());
  const Image image = random_picture(3, 4, 8, 4);
  const Image sheet = attention_sheet(image, maps, config);
  EXPECT_EQ(sheet.width, 4 * 160 + 3 * 4);
  EXPECT_EQ(sheet.height, 3 * 80 + 2 * 4);
  const auto expect_tile = [&](std::int64_t row, std::int64_t column, const float* map) {
    const Image tile = attention_overlay(image, patch_attention(config, map), config);
    std::int64_t differences = 0;
    for (std::int64_t i = 0; i < 3 * 80 * 160; ++i) {
      const std::int64_t c = i / (80 * 160), y = row * 84 + i / 160 % 80,
                         x = column * 164 + i % 160;
      differences += sheet.pixels[(c * sheet.height + y) * sheet.width + x] != tile.pixels[i];
    }
    EXPECT_EQ(differences, 0) << row << " " << column;
  };
  for (std::int64_t layer = 0; layer < 3; ++layer) {
    for (std::int64_t head = 0; head < 2; ++head) expect_tile(layer, head, maps.map(layer, head));
    expect_tile(layer, 2, mean_over_heads(maps, layer).data());
    expect_tile(layer, 3, attention_rollouts(maps)[layer].data());
  }
  EXPECT_THROW(attention_sheet(image, {.layers = 0, .heads = 2, .tokens = 3}, config), BadInput);
}

TEST(AttentionPictures, SheetsOfManyTilesHaveSmallOnes) {
  VitConfig config = small_vit();
  config.image_height = config.image_width = 8;
  const AttentionMaps maps = random_maps(24, 16, 5, fresh_seed());
  const Image sheet = attention_sheet(random_picture(3, 300, 300, 5), maps, config);
  EXPECT_EQ(sheet.width, 18 * (167 + 4) - 4);  // 167² · 24 · 18 ≈ 12 million
  EXPECT_EQ(sheet.height, 24 * (167 + 4) - 4);
}

TEST(Positions, AreThoseAddedToThePatches) {
  const std::uint64_t seed = fresh_seed();
  for (const ClassToken token : {ClassToken::first, ClassToken::last, ClassToken::none}) {
    for (const Position position :
         {Position::learned, Position::sincos1d, Position::sincos2d, Position::none}) {
      VitConfig config = small_vit();
      config.class_token = token;
      if (token == ClassToken::none) config.pool = Pool::mean;
      config.position = position;
      config.position_rows = position == Position::learned ? 11 : 0;
      const Plan plan = weights_plan({.model = config}, make_cpu_device(1)->traits());
      const std::vector<float> weights = random_weights(plan, seed);
      const std::vector<float> positions = patch_positions(config, plan, weights);
      if (position == Position::none) {
        EXPECT_TRUE(positions.empty());
        continue;
      }
      std::vector<float> table;
      if (position == Position::learned) {
        const float* first = nullptr;
        for (std::size_t i = 0; i < plan.graph().parameters().size(); ++i) {
          if (plan.graph().parameters()[i].name != "pos_embed") continue;
          first = weights.data() + plan.parameter_offset(static_cast<int>(i));
        }
        table.assign(first, first + 11 * 12);
      } else {
        table = sincos_positions(config);
      }
      const std::int64_t from = token == ClassToken::first ? 12 : 0;
      EXPECT_EQ(positions, std::vector<float>(table.begin() + from, table.begin() + from + 6 * 12));
    }
  }
}

TEST(Positions, SimilarityIsSymmetricWithOnesOnTheDiagonal) {
  const std::int64_t rows = 7, hidden = 5;
  const std::vector<float> positions = random_normal(rows * hidden, fresh_seed(), 302);
  const std::vector<float> similarities = cosine_similarities(positions, hidden);
  ASSERT_EQ(similarities.size(), 49u);
  for (std::int64_t a = 0; a < rows; ++a) {
    EXPECT_NEAR(similarities[a * rows + a], 1.0f, 1e-6);
    for (std::int64_t b = 0; b < rows; ++b) {
      EXPECT_EQ(similarities[a * rows + b], similarities[b * rows + a]);
      double product = 0, first = 0, second = 0;
      for (std::int64_t i = 0; i < hidden; ++i) {
        const double x = positions[a * hidden + i], y = positions[b * hidden + i];
        product += x * y;
        first += x * x;
        second += y * y;
      }
      EXPECT_NEAR(similarities[a * rows + b], product / std::sqrt(first * second), 1e-6);
    }
  }
  const std::vector<float> with_zeros = cosine_similarities({1, 0, 0, 0, 0, 2}, 2);
  EXPECT_EQ(with_zeros[2], 0.0f);
  EXPECT_TRUE(std::isnan(with_zeros[1]) && std::isnan(with_zeros[4]));
  EXPECT_THROW(cosine_similarities({1, 2, 3}, 2), BadInput);
  EXPECT_THROW(cosine_similarities({}, 2), BadInput);
}

TEST(Positions, Pictures) {
  VitConfig config = small_vit();  // 2 x 3 patches
  config.position = Position::sincos2d;
  const Plan plan = weights_plan({.model = config}, make_cpu_device(1)->traits());
  const std::vector<float> positions = patch_positions(config, plan, {});
  const Image grids = position_similarity(config, positions);
  const std::int64_t cell = 640 / 9, gap = cell / 2;
  ASSERT_EQ(grids.width, 3 * (3 * cell + gap) - gap);
  ASSERT_EQ(grids.height, 2 * (2 * cell + gap) - gap);
  // The grid of a patch is brightest (253, 231, 37) where the patch itself lies.
  for (std::int64_t patch = 0; patch < 6; ++patch) {
    const std::int64_t top = patch / 3 * (2 * cell + gap), left = patch % 3 * (3 * cell + gap);
    for (std::int64_t other = 0; other < 6; ++other) {
      const std::int64_t y = top + other / 3 * cell, x = left + other % 3 * cell;
      EXPECT_EQ(grids.pixels[y * grids.width + x] == 253, patch == other) << patch << " " << other;
    }
  }
  const Image table = position_table(positions, config.hidden_size);
  EXPECT_EQ(table.height, 6 * (640 / 6));
  EXPECT_EQ(table.width, 12 * (640 / 12));
  const Image numbers = position_table({-1, 0, 0, 3}, 2);
  const std::int64_t half = 320, plane = 640 * 640;
  EXPECT_EQ(numbers.pixels[2 * plane], 0);                        // black
  EXPECT_EQ(numbers.pixels[2 * plane + half * 640 + half], 255);  // white
  EXPECT_EQ(numbers.pixels[half], numbers.pixels[half * 640]);    // 0
  EXPECT_EQ(numbers.pixels[half], 178);  // 255 (0.0416 + 0.9584 · 0.25 / 0.365079)
}

}  // namespace
}  // namespace vitrine
