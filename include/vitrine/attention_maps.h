// Where a Vision Transformer looks: attention probabilities of single images, and what is drawn
// from them and from the position embeddings.
#pragma once

#include <cstdint>
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

/// Attention rollout: Π over layers of rows of (mean over heads + I) / 2. [T, T], rows sum to one.
/// Abnar and Zuidema 2020, "Quantifying Attention Flow in Transformers", arXiv:2005.00928.
std::vector<float> attention_rollout(const AttentionMaps& maps);

/// What the pooled token reads of each patch, out of a [T, T] map: the class token's row, or the
/// mean of all rows for mean pooling; the class token's own column is left out. [rows, columns] of
/// the patch grid, divided by its largest.
std::vector<float> patch_attention(const VitConfig& config, const float* map);

/// `map` [rows, columns] of the patch grid over the image: bilinear, in colours.
Image attention_overlay(const Image& image, const std::vector<float>& map, const VitConfig& config);

/// A row a layer, a column a head; then the mean over heads; then the rollout up to that layer.
Image attention_sheet(const Image& image, const AttentionMaps& maps, const VitConfig& config);

/// The position embeddings that the model adds to the patches' tokens, [P, D]; empty where it has
/// none.
std::vector<float> patch_positions(const VitConfig& config, const Plan& plan,
                                   const std::vector<float>& weights);
/// Cosine similarity of each patch's position with all others: a grid of grids, as figure 7 of
/// Dosovitskiy et al. 2021 (arXiv:2010.11929).
Image position_similarity(const VitConfig& config, const std::vector<float>& positions);
/// The table itself, a row a patch, a column a dimension, as a heat map.
Image position_table(const std::vector<float>& positions, std::int64_t hidden);

}  // namespace vitrine
