// Where a Vision Transformer looks: attention probabilities of single images, and what is drawn
// from them and from the position embeddings.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "vitrine/device.h"
#include "vitrine/image.h"
#include "vitrine/picture.h"
#include "vitrine/recipe.h"

namespace vitrine {

/// Attention of one image. Every row of `probabilities` sums to one.
struct AttentionMaps {
  std::int64_t layers = 0, heads = 0, tokens = 0;
  std::vector<float> probabilities;        ///< [layers, heads, T, T]: query × key
  std::vector<float> class_probabilities;  ///< [K], the model's answer

  const float* map(std::int64_t layer, std::int64_t head) const {
    return probabilities.data() + (layer * heads + head) * tokens * tokens;
  }
};

/// Runs the forward pass of one image (any size, resized as `predict` does) with the probabilities
/// kept. `weights` is the flat buffer laid out as `plan_vit` lays it out for any batch.
AttentionMaps attention_maps(Device& device, const RunConfig& config,
                             const std::vector<float>& weights, const Image& image);

/// A layer's maps, averaged. [T, T], rows sum to one.
std::vector<float> mean_over_heads(const AttentionMaps& maps, std::int64_t layer);

/// Attention rollout: Π over layers of (mean over heads + I) / 2. [T, T], rows sum to one.
/// Abnar and Zuidema 2020, "Quantifying Attention Flow in Transformers", arXiv:2005.00928.
std::vector<float> attention_rollout(const AttentionMaps& maps);
/// The rollout up to each layer; the last is attention_rollout.
std::vector<std::vector<float>> attention_rollouts(const AttentionMaps& maps);

/// What the pooled token reads of each patch, out of a [T, T] map: the class token's row, or the
/// mean of the pooled tokens' rows for mean pooling; the class token's own column is left out.
/// [rows, columns] of the patch grid, divided by its largest.
std::vector<float> patch_attention(const VitConfig& config, const float* map);

/// The image in colour at a size to look at: a small one enlarged by a whole factor, so that its
/// longer side has at least 160 pixels, a large one shrunk to `longest`.
Image display_image(const Image& image, std::int64_t longest = 448);

/// `map` [rows, columns] of the patch grid over display_image(image): bilinear, in colours.
Image attention_overlay(const Image& image, const std::vector<float>& map, const VitConfig& config);

/// A row a layer, a column a head; then the mean over heads; then the rollout up to that layer. The
/// more tiles there are, the smaller they get. Throws BadInput where there is no layer.
Image attention_sheet(const Image& image, const AttentionMaps& maps, const VitConfig& config);

/// The position embeddings that the model adds to the patches' tokens, [P, D]; empty where it has
/// none.
std::vector<float> patch_positions(const VitConfig& config, const Plan& plan,
                                   std::span<const float> weights);
/// Cosine similarity of each row with each other, [P, P]; NaN for a row of zeros.
std::vector<float> cosine_similarities(const std::vector<float>& positions, std::int64_t hidden);
/// Cosine similarity of each patch's position with all others: a grid of grids, as figure 7 of
/// Dosovitskiy et al. 2021 (arXiv:2010.11929). From the smallest there is to 1.
Image position_similarity(const VitConfig& config, const std::vector<float>& positions);
/// The table itself, a row a patch, a column a dimension, as a heat map from its smallest number to
/// its largest.
Image position_table(const std::vector<float>& positions, std::int64_t hidden);

}  // namespace vitrine
