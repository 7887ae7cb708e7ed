// Our configuration as HuggingFace transformers and timm have it.
//
//   transformers/models/vit/configuration_vit.py, ViTForImageClassification
//   timm/models/_hub.py: create_model(architecture, **model_args) builds the model
#include <cmath>
#include <limits>

#include "model/fields.h"
#include "model/foreign_config.h"
#include "vitrine/exchange.h"

namespace vitrine {
namespace {

using nlohmann::ordered_json;

/// Says which key stands in the way of a format.
class Expectation {
 public:
  explicit Expectation(std::string format) : format_(std::move(format)) {}

  void same(const char* key, bool found, bool expected) const {
    check(found == expected, key, found ? "true" : "false", expected ? "true" : "false");
  }
  template <typename Enum>
  void same(const char* key, Enum found, Enum expected) const {
    check(found == expected, key, enum_name(found), enum_name(expected));
  }
  void check(bool holds, const char* key, const std::string& found,
             const std::string& expected) const {
    if (holds) return;
    throw BadInput("--format " + format_ + ": " + key + ": found " + found + ", expected " +
                   expected);
  }

 private:
  std::string format_;
};

// What neither library has.
void expect_plain(const VitConfig& c, const Expectation& expect) {
  expect.same("norm_order", c.norm_order, NormOrder::pre);
  expect.same("qkv_layout", c.qkv_layout, QkvLayout::dense);
  expect.same("output_projection", c.output_projection, true);
  expect.same("head_softmax", c.head_softmax, false);
  expect.same("proj_bias", c.proj_bias, true);
  expect.same("patch_bias", c.patch_bias, true);
  const std::int64_t positions = c.position_tokens();
  expect.check(c.position_rows == 0 || c.position_rows == positions, "position_rows",
               std::to_string(c.position_rows), "the " + std::to_string(positions) + " tokens");
}

ordered_json size_of_images(const VitConfig& c) {
  if (c.image_height == c.image_width) return c.image_height;
  return {c.image_height, c.image_width};
}

bool has_names(const RunConfig& run) {
  return static_cast<std::int64_t>(run.class_names.size()) == run.model.num_classes;
}

/// A name and a structure that timm's registry has.
struct Architecture {
  const char* name;
  std::int64_t image, patch, hidden, layers, heads;
};
constexpr std::array<Architecture, 18> kArchitectures = {
    {{"vit_base_patch16_224", 224, 16, 768, 12, 12},
     {"vit_base_patch16_384", 384, 16, 768, 12, 12},
     {"vit_base_patch32_224", 224, 32, 768, 12, 12},
     {"vit_base_patch32_384", 384, 32, 768, 12, 12},
     {"vit_base_patch8_224", 224, 8, 768, 12, 12},
     {"vit_tiny_patch16_224", 224, 16, 192, 12, 3},
     {"vit_tiny_patch16_384", 384, 16, 192, 12, 3},
     {"vit_small_patch16_224", 224, 16, 384, 12, 6},
     {"vit_small_patch16_384", 384, 16, 384, 12, 6},
     {"vit_small_patch32_224", 224, 32, 384, 12, 6},
     {"vit_small_patch32_384", 384, 32, 384, 12, 6},
     {"vit_small_patch8_224", 224, 8, 384, 12, 6},
     {"vit_large_patch16_224", 224, 16, 1024, 24, 16},
     {"vit_large_patch16_384", 384, 16, 1024, 24, 16},
     {"vit_large_patch32_224", 224, 32, 1024, 24, 16},
     {"vit_large_patch32_384", 384, 32, 1024, 24, 16},
     {"vit_large_patch14_224", 224, 14, 1024, 24, 16},
     {"vit_huge_patch14_224", 224, 14, 1280, 32, 16}}};
constexpr std::int64_t kTimmMlpRatio = 4;

const Architecture& architecture_of(const VitConfig& c) {
  for (const Architecture& a : kArchitectures) {
    if (c.image_height == a.image && c.image_width == a.image && c.patch_size == a.patch &&
        c.hidden_size == a.hidden && c.num_hidden_layers == a.layers &&
        c.num_attention_heads == a.heads && c.intermediate_size == kTimmMlpRatio * a.hidden) {
      return a;
    }
  }
  return kArchitectures[0];
}

// timm truncates hidden · ratio.
double mlp_ratio(const VitConfig& c) {
  const auto hidden = static_cast<double>(c.hidden_size);
  double ratio = static_cast<double>(c.intermediate_size) / hidden;
  while (static_cast<std::int64_t>(hidden * ratio) < c.intermediate_size) {
    ratio = std::nextafter(ratio, std::numeric_limits<double>::infinity());
  }
  return ratio;
}

ordered_json model_args(const VitConfig& c, const Architecture& a) {
  ordered_json args = ordered_json::object();
  auto differing = [&](const char* key, const auto& value, const auto& standard) {
    if (value != standard) args[key] = value;
  };
  differing("img_size", size_of_images(c), ordered_json(a.image));
  differing("patch_size", c.patch_size, a.patch);
  differing("in_chans", c.num_channels, std::int64_t{3});
  differing("num_classes", c.num_classes, std::int64_t{1000});
  differing("embed_dim", c.hidden_size, a.hidden);
  differing("depth", c.num_hidden_layers, a.layers);
  differing("num_heads", c.num_attention_heads, a.heads);
  differing("mlp_ratio", mlp_ratio(c), static_cast<double>(kTimmMlpRatio));
  differing("qkv_bias", c.qkv_bias, true);
  differing("class_token", c.class_token == ClassToken::first, true);
  differing("pos_embed", std::string(c.position == Position::learned ? "learn" : "none"),
            std::string("learn"));
  differing("final_norm", c.final_norm, true);
  differing("init_values", c.init_values, 0.0);
  differing("reg_tokens", c.reg_tokens, std::int64_t{0});
  differing("no_embed_class", c.no_embed_class, false);
  differing("qk_norm", c.qk_norm, false);
  differing("act_layer", enum_name(c.hidden_act), std::string("gelu"));
  if (c.pool == Pool::mean) {
    args["global_pool"] = "avg";
    args["fc_norm"] = c.pool_norm == PoolNorm::after;
  }
  return args;
}

}  // namespace

ordered_json huggingface_json(const RunConfig& run) {
  const VitConfig& c = run.model;
  const Expectation expect("hf");
  expect_plain(c, expect);
  expect.same("final_norm", c.final_norm, true);
  expect.same("class_token", c.class_token, ClassToken::first);
  expect.same("pool", c.pool, Pool::token);
  expect.same("position", c.position, Position::learned);
  expect.check(c.init_values == 0, "init_values", ordered_json(c.init_values).dump(), "0");
  expect.check(c.reg_tokens == 0, "reg_tokens", std::to_string(c.reg_tokens), "0");
  expect.same("no_embed_class", c.no_embed_class, false);
  expect.same("qk_norm", c.qk_norm, false);
  const std::string act = enum_name(c.hidden_act);
  ordered_json document = {
      {"architectures", ordered_json::array({"ViTForImageClassification"})},
      {"attention_probs_dropout_prob", c.attention_probs_dropout_prob},
      {"encoder_stride", c.patch_size},
      {"hidden_act", c.hidden_act == ActivationKind::gelu_tanh ? "gelu_pytorch_tanh" : act},
      {"hidden_dropout_prob", c.hidden_dropout_prob},
      {"hidden_size", c.hidden_size}};
  if (has_names(run)) {
    for (std::size_t k = 0; k < run.class_names.size(); ++k) {
      document["id2label"][std::to_string(k)] = run.class_names[k];
    }
  }
  document["image_size"] = size_of_images(c);
  document["initializer_range"] = c.initializer_range;
  document["intermediate_size"] = c.intermediate_size;
  if (has_names(run)) {
    for (std::size_t k = 0; k < run.class_names.size(); ++k) {
      document["label2id"][run.class_names[k]] = k;
    }
  }
  document["layer_norm_eps"] = c.layer_norm_eps;
  document["model_type"] = "vit";
  document["num_attention_heads"] = c.num_attention_heads;
  document["num_channels"] = c.num_channels;
  document["num_hidden_layers"] = c.num_hidden_layers;
  if (!has_names(run)) document["num_labels"] = c.num_classes;
  document["patch_size"] = c.patch_size;
  document["qkv_bias"] = c.qkv_bias;
  document["torch_dtype"] = "float32";
  return document;
}

ordered_json timm_json(const RunConfig& run) {
  const VitConfig& c = run.model;
  const Expectation expect("timm");
  expect_plain(c, expect);
  constexpr double kTimmEps = 1e-6;
  expect.check(c.layer_norm_eps == kTimmEps, "layer_norm_eps",
               ordered_json(c.layer_norm_eps).dump(), ordered_json(kTimmEps).dump());
  expect.check(c.class_token != ClassToken::last, "class_token", "last", "first or none");
  expect.check(c.position == Position::learned || c.position == Position::none, "position",
               enum_name(c.position), "learned or none");
  const Architecture& a = architecture_of(c);
  const Transform normalization = transform(run.recipe, c.num_channels);
  ordered_json document = {{"architecture", a.name},
                           {"num_classes", c.num_classes},
                           {"num_features", c.hidden_size},
                           {"global_pool", c.pool == Pool::mean ? "avg" : "token"}};
  if (has_names(run)) document["label_names"] = run.class_names;
  document["model_args"] = model_args(c, a);
  // As our evaluation does it: stored images are scaled whole, of photographs the centre is taken.
  const bool photographs = run.recipe.dataset == "folder";
  document["pretrained_cfg"] = {{"custom_load", false},
                                {"input_size", {c.num_channels, c.image_height, c.image_width}},
                                {"fixed_input_size", true},
                                {"interpolation", evaluation_filter(run)},
                                {"crop_pct", photographs ? run.recipe.crop_pct : 1.0},
                                {"crop_mode", photographs ? run.recipe.crop_mode : "squash"},
                                {"mean", normalization.mean},
                                {"std", normalization.std},
                                {"num_classes", c.num_classes},
                                {"pool_size", nullptr},
                                {"first_conv", "patch_embed.proj"},
                                {"classifier", "head"}};
  return document;
}

std::string evaluation_filter(const RunConfig& run) {
  if (run.recipe.dataset != "folder") return "bilinear";
  const std::string filter = augmentation(run).interpolation;
  return filter == "random" ? "bicubic" : filter;
}

}  // namespace vitrine
