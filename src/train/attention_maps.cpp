// Attention maps: averaged, rolled out, and laid over the image.
#include "vitrine/attention_maps.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "vitrine/error.h"

namespace vitrine {
namespace {

constexpr float kOpacity = 0.6f;
constexpr std::int64_t kSmallestTile = 160, kLargestTile = 224, kSmallestOfMany = 64;
constexpr double kSheetPixels = 12e6;
constexpr std::int64_t kGap = 4;

std::int64_t patch_rows(const VitConfig& config) {
  return config.image_height / config.patch_size;
}
std::int64_t patch_columns(const VitConfig& config) {
  return config.image_width / config.patch_size;
}

Image overlay(const Image& tile, const std::vector<float>& map, const VitConfig& config) {
  const std::vector<float> fitted =
      resize_bilinear(map, patch_rows(config), patch_columns(config), tile.height, tile.width);
  return blend(tile, colorize(fitted, tile.height, tile.width, ColorMap::viridis, 0.0f, 1.0f),
               kOpacity);
}

/// before → (mean + I) / 2 · before
std::vector<float> roll(const std::vector<float>& mean, const std::vector<float>& before,
                        std::int64_t tokens) {
  const auto n = static_cast<std::size_t>(tokens);
  std::vector<float> after(before.size());
  std::vector<double> row(n);
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = 0; j < n; ++j) row[j] = static_cast<double>(before[i * n + j]);
    for (std::size_t k = 0; k < n; ++k) {
      const auto weight = static_cast<double>(mean[i * n + k]);
      const float* from = before.data() + k * n;
      for (std::size_t j = 0; j < n; ++j) row[j] += weight * static_cast<double>(from[j]);
    }
    for (std::size_t j = 0; j < n; ++j) after[i * n + j] = static_cast<float>(row[j] / 2);
  }
  return after;
}

std::vector<float> identity(std::int64_t tokens) {
  std::vector<float> matrix(static_cast<std::size_t>(tokens * tokens), 0.0f);
  for (std::int64_t i = 0; i < tokens; ++i) {
    matrix[static_cast<std::size_t>(i * tokens + i)] = 1.0f;
  }
  return matrix;
}

}  // namespace

std::vector<float> mean_over_heads(const AttentionMaps& maps, std::int64_t layer) {
  const auto size = static_cast<std::size_t>(maps.tokens * maps.tokens);
  std::vector<double> sum(size, 0.0);
  for (std::int64_t head = 0; head < maps.heads; ++head) {
    const float* map = maps.map(layer, head);
    for (std::size_t i = 0; i < size; ++i) sum[i] += static_cast<double>(map[i]);
  }
  std::vector<float> mean(size);
  for (std::size_t i = 0; i < size; ++i) {
    mean[i] = static_cast<float>(sum[i] / static_cast<double>(maps.heads));
  }
  return mean;
}

std::vector<std::vector<float>> attention_rollouts(const AttentionMaps& maps) {
  std::vector<std::vector<float>> rollouts;
  std::vector<float> rollout = identity(maps.tokens);
  for (std::int64_t layer = 0; layer < maps.layers; ++layer) {
    rollout = roll(mean_over_heads(maps, layer), rollout, maps.tokens);
    rollouts.push_back(rollout);
  }
  return rollouts;
}

std::vector<float> attention_rollout(const AttentionMaps& maps) {
  const std::vector<std::vector<float>> rollouts = attention_rollouts(maps);
  return rollouts.empty() ? identity(maps.tokens) : rollouts.back();
}

std::vector<float> patch_attention(const VitConfig& config, const float* map) {
  const std::int64_t tokens = config.tokens(), patches = config.patches();
  const std::int64_t first = config.first_patch();
  std::int64_t from = first, to = first + patches;  // the rows that are pooled
  if (config.pool == Pool::token) {
    from = config.class_token == ClassToken::last ? tokens - 1 : 0;
    to = from + 1;
  }
  std::vector<float> read(static_cast<std::size_t>(patches), 0.0f);
  for (std::int64_t row = from; row < to; ++row) {
    const float* weights = map + row * tokens + first;
    for (std::int64_t p = 0; p < patches; ++p) read[static_cast<std::size_t>(p)] += weights[p];
  }
  const float largest = *std::max_element(read.begin(), read.end());
  for (float& weight : read) weight = largest > 0 ? weight / largest : 0.0f;
  return read;
}

Image display_image(const Image& image, std::int64_t longest) {
  const Image colors = convert_channels(image, 3);
  const std::int64_t side = std::max(image.height, image.width);
  if (side > longest) return shrink(colors, longest);
  return enlarge(colors, std::min((kSmallestTile + side - 1) / side, longest / side));
}

Image attention_overlay(const Image& image, const std::vector<float>& map,
                        const VitConfig& config) {
  return overlay(display_image(image), map, config);
}

Image attention_sheet(const Image& image, const AttentionMaps& maps, const VitConfig& config) {
  if (maps.layers == 0) throw BadInput("attention_sheet: found no layer, expected at least one");
  const std::int64_t columns = maps.heads + 2;
  const double tile_pixels = kSheetPixels / static_cast<double>(maps.layers * columns);
  const Image tile = display_image(image, std::clamp(std::llround(std::sqrt(tile_pixels)),
                                                     static_cast<long long>(kSmallestOfMany),
                                                     static_cast<long long>(kLargestTile)));
  const std::vector<std::vector<float>> rollouts = attention_rollouts(maps);
  std::vector<Image> tiles;
  const auto add = [&](const float* map) {
    tiles.push_back(overlay(tile, patch_attention(config, map), config));
  };
  for (std::int64_t layer = 0; layer < maps.layers; ++layer) {
    for (std::int64_t head = 0; head < maps.heads; ++head) add(maps.map(layer, head));
    add(mean_over_heads(maps, layer).data());
    add(rollouts[static_cast<std::size_t>(layer)].data());
  }
  return contact_sheet(tiles, columns, kGap);
}

}  // namespace vitrine
