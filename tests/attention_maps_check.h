// Attention maps of a device against the network by its definition in double.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "reference/vit.h"
#include "train/image_pass.h"
#include "vit_cases.h"
#include "vitrine/attention_maps.h"

namespace vitrine {

inline Image random_picture(std::int64_t channels, std::int64_t height, std::int64_t width,
                            std::uint64_t seed) {
  Image image{channels, height, width, {}};
  RandomStream random(seed, 300);
  for (std::int64_t i = 0; i < channels * height * width; ++i) {
    image.pixels.push_back(static_cast<std::uint8_t>(random.below(256)));
  }
  return image;
}

/// A small network with its weights, and an image of its size.
struct Looking {
  RunConfig config;
  Plan plan;
  std::vector<float> weights;
  Image image;

  Looking(const VitConfig& model, Precision precision, const DeviceTraits& traits,
          std::uint64_t seed)
      : config(run_of(model, precision)),
        plan(weights_plan(config, traits)),
        weights(random_weights(plan, seed)),
        image(random_picture(model.num_channels, model.image_height, model.image_width, seed)) {}

  AttentionMaps maps(Device& device) const {
    return attention_maps(device, config, weights, image);
  }

  reference::Vit expected() const {
    reference::Vit vit(config.model, plan, weights);
    const Transform t = transform(config.recipe, config.model.num_channels);
    const std::size_t plane = image.pixels.size() / t.mean.size();
    std::vector<double> pixels;
    for (std::size_t i = 0; i < image.pixels.size(); ++i) {
      pixels.push_back((image.pixels[i] / 255.0 - static_cast<double>(t.mean[i / plane])) /
                       static_cast<double>(t.std[i / plane]));
    }
    vit.run(pixels);
    return vit;
  }

 private:
  static RunConfig run_of(const VitConfig& model, Precision precision) {
    RunConfig config{.model = model};
    config.recipe.precision = precision;
    config.recipe.mean = std::vector<float>(static_cast<std::size_t>(model.num_channels), 0.4f);
    config.recipe.std = std::vector<float>(static_cast<std::size_t>(model.num_channels), 0.3f);
    return config;
  }
};

inline void expect_rows_sum_to_one(const std::vector<float>& rows, std::int64_t length) {
  for (std::size_t row = 0; row < rows.size(); row += static_cast<std::size_t>(length)) {
    double sum = 0;
    for (std::int64_t i = 0; i < length; ++i) {
      EXPECT_GE(rows[row + i], 0.0f);
      sum += static_cast<double>(rows[row + i]);
    }
    EXPECT_NEAR(sum, 1.0, 1e-5) << "row " << row / static_cast<std::size_t>(length);
  }
}

/// All maps and the answer, to `tolerance`; the maps are returned.
inline AttentionMaps expect_true_maps(Device& device, const Looking& looking, double tolerance) {
  const AttentionMaps maps = looking.maps(device);
  const reference::Vit expected = looking.expected();
  const VitConfig& model = looking.config.model;
  EXPECT_EQ(maps.layers, model.num_hidden_layers);
  EXPECT_EQ(maps.heads, model.num_attention_heads);
  EXPECT_EQ(maps.tokens, model.tokens());
  EXPECT_EQ(static_cast<std::int64_t>(maps.probabilities.size()),
            maps.layers * maps.heads * maps.tokens * maps.tokens);
  expect_rows_sum_to_one(maps.probabilities, maps.tokens);
  for (std::int64_t layer = 0; layer < maps.layers; ++layer) {
    const std::vector<double>& layer_maps = expected.attention.at(static_cast<std::size_t>(layer));
    const float* first = maps.map(layer, 0);
    EXPECT_LE(largest_error(std::vector<float>(first, first + layer_maps.size()), layer_maps),
              tolerance)
        << "layer " << layer;
  }
  EXPECT_LE(largest_error(maps.class_probabilities, reference::Vit::softmax(expected.logits)),
            tolerance);
  return maps;
}

}  // namespace vitrine
