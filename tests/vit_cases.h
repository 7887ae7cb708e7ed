// Small networks that between them use every option of the configuration.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "vit_run.h"

namespace vitrine {

inline constexpr std::int64_t kBatch = 5;

/// A network that exercises some of the options of the configuration.
struct VitCase {
  std::string name;
  std::function<void(VitConfig&)> change;
  float label_smoothing = 0.0f;
  Chunking chunking = {.batch = kBatch, .rows = kBatch};
  LossKind loss = LossKind::softmax;
  bool label_mixes = false;
};

inline void per_head(VitConfig& c) {
  c.qkv_layout = QkvLayout::per_head;
}

/// Of five rows the second block runs on four, the third on three.
inline void drop_by_subset(VitConfig& c) {
  c.num_hidden_layers = 3;
  c.drop_path_rate = 0.4;
  c.drop_path_subset = true;
}

inline const std::vector<VitCase>& vit_cases() {
  static const std::vector<VitCase> list = {
      {"pre, token first, gelu", [](VitConfig&) {}},
      {"in chunks", drop_everywhere, 0.2f, {kBatch, 2, 3, 2}},
      {"mixed labels in chunks",
       [](VitConfig&) {},
       0.1f,
       {kBatch, 2, 3, 2},
       LossKind::softmax,
       true},
      {"binary loss, mixed labels in chunks",
       drop_everywhere,
       0.1f,
       {kBatch, 2, 3, 2},
       LossKind::bce,
       true},
      {"token last, tanh, position rows",
       [](VitConfig& c) {
         c.class_token = ClassToken::last;
         c.hidden_act = ActivationKind::gelu_tanh;
         c.position_rows = 11;
       },
       0.1f},
      {"post, relu, dropout everywhere",
       [](VitConfig& c) {
         c.norm_order = NormOrder::post;
         c.hidden_act = ActivationKind::relu;
         c.final_norm = false;
         drop_everywhere(c);
       }},
      {"d2l, no biases, token last, no final norm",
       [](VitConfig& c) {
         c.norm_order = NormOrder::d2l;
         c.qkv_bias = c.proj_bias = c.patch_bias = c.final_norm = false;
         c.class_token = ClassToken::last;
         c.attention_probs_dropout_prob = 0.3;
       }},
      {"per head, no projection, head softmax, sincos1d",
       [](VitConfig& c) {
         per_head(c);
         c.output_projection = false;
         c.head_softmax = true;
         c.final_norm = false;
         c.position = Position::sincos1d;
         c.num_channels = 1;
       }},
      {"per head without bias, post, sincos2d, dropout",
       [](VitConfig& c) {
         per_head(c);
         c.qkv_bias = false;
         c.norm_order = NormOrder::post;
         c.position = Position::sincos2d;
         drop_everywhere(c);
       },
       0.1f},
      {"mean pool, norm before, token first",
       [](VitConfig& c) {
         c.pool = Pool::mean;
         drop_everywhere(c);
       }},
      {"mean pool, norm after, token last, dropout",
       [](VitConfig& c) {
         c.pool = Pool::mean;
         c.pool_norm = PoolNorm::after;
         c.class_token = ClassToken::last;
         drop_everywhere(c);
       }},
      {"mean pool, no token, no positions, d2l, tall grey images",
       [](VitConfig& c) {
         c.pool = Pool::mean;
         c.class_token = ClassToken::none;
         c.position = Position::none;
         c.norm_order = NormOrder::d2l;
         c.num_channels = 1;
         c.image_height = 20;
         c.image_width = 4;
       }},
      {"heads of one, three blocks, head softmax",
       [](VitConfig& c) {
         c.num_attention_heads = 12;
         c.num_hidden_layers = 3;
         c.head_softmax = true;
         c.drop_path_rate = 0.3;
       },
       0.1f},
      {"layer scale, dropout everywhere",
       [](VitConfig& c) {
         c.init_values = 0.1;
         drop_everywhere(c);
       }},
      {"layer scale, post, token last, mean pool",
       [](VitConfig& c) {
         c.init_values = 1e-5;
         c.norm_order = NormOrder::post;
         c.class_token = ClassToken::last;
         c.pool = Pool::mean;
       }},
      {"registers with positions, dropout everywhere",
       [](VitConfig& c) {
         c.reg_tokens = 3;
         drop_everywhere(c);
       }},
      {"registers without positions, layer scale, mean pool, dropout",
       [](VitConfig& c) {
         c.reg_tokens = 2;
         c.no_embed_class = true;
         c.init_values = 0.1;
         c.pool = Pool::mean;
         c.pool_norm = PoolNorm::after;
         drop_everywhere(c);
       }},
      {"registers, token last, sincos2d",
       [](VitConfig& c) {
         c.reg_tokens = 1;
         c.class_token = ClassToken::last;
         c.position = Position::sincos2d;
       }},
      {"registers, no token, mean pool, norm before, positions of patches",
       [](VitConfig& c) {
         c.reg_tokens = 4;
         c.no_embed_class = true;
         c.position_rows = 8;
         c.class_token = ClassToken::none;
         c.pool = Pool::mean;
       }},
      {"no registers, positions of patches, sincos1d",
       [](VitConfig& c) {
         c.no_embed_class = true;
         c.position = Position::sincos1d;
       }},
      {"qk norm, dropout everywhere",
       [](VitConfig& c) {
         c.qk_norm = true;
         drop_everywhere(c);
       }},
      {"qk norm, per head without bias, mean pool",
       [](VitConfig& c) {
         per_head(c);
         c.qk_norm = true;
         c.qkv_bias = false;
         c.pool = Pool::mean;
       }},
      {"subset of drop-path, dropout inside",
       [](VitConfig& c) {
         drop_by_subset(c);
         c.attention_probs_dropout_prob = 0.15;
         c.activation_dropout_prob = 0.25;
       }},
      {"subset of drop-path, post, in chunks",
       [](VitConfig& c) {
         drop_by_subset(c);
         c.norm_order = NormOrder::post;
       },
       0.1f,
       {kBatch, 2, 3, 2}},
      {"subset of drop-path, d2l, token last, layer scale",
       [](VitConfig& c) {
         drop_by_subset(c);
         c.norm_order = NormOrder::d2l;
         c.class_token = ClassToken::last;
         c.init_values = 0.1;
       }},
      {"subset of drop-path, per head, registers, mean pool",
       [](VitConfig& c) {
         drop_by_subset(c);
         per_head(c);
         c.reg_tokens = 2;
         c.pool = Pool::mean;
       }},
      {"no blocks, mean pool, no token", [](VitConfig& c) {
         c.num_hidden_layers = 0;
         c.pool = Pool::mean;
         c.class_token = ClassToken::none;
         c.embedding_dropout_prob = 0.3;
       }}};
  return list;
}

}  // namespace vitrine
