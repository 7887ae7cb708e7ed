// Configurations of HuggingFace transformers and timm: read, written, and what neither has.
#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>

#include "io/files.h"
#include "model/foreign_config.h"
#include "temporary_directory.h"
#include "vitrine/exchange.h"

namespace vitrine {
namespace {

using nlohmann::json;

std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const BadInput& error) {
    return error.what();
  }
  return "nothing was thrown";
}

RunConfig read(const json& document) {
  RunConfig config;
  read_json(document, "config.json", config);
  validate(config.model, "config.json");
  return config;
}

std::string read_error(const json& document) {
  return error_of([&] { read(document); });
}

// As transformers 5.23 writes it for two classes.
const json kHuggingFace = json::parse(R"({
  "architectures": ["ViTForImageClassification"], "attention_probs_dropout_prob": 0.0,
  "dtype": "float32", "encoder_stride": 16, "hidden_act": "gelu", "hidden_dropout_prob": 0.0,
  "hidden_size": 24, "image_size": 32, "initializer_range": 0.02, "intermediate_size": 40,
  "layer_norm_eps": 1e-12, "model_type": "vit", "num_attention_heads": 3, "num_channels": 3,
  "num_hidden_layers": 1, "patch_size": 8, "pooler_act": "tanh", "pooler_output_size": 24,
  "qkv_bias": true, "transformers_version": "5.23.0"})");

TEST(HuggingFaceConfig, WhatFilesLeaveUnsaid) {
  const RunConfig config = read(kHuggingFace);
  EXPECT_EQ(config.model.num_classes, 2);
  EXPECT_EQ(config.model.image_height, 32);
  EXPECT_EQ(config.model.intermediate_size, 40);
  json silent = kHuggingFace;
  silent.erase("layer_norm_eps");
  EXPECT_EQ(read(silent).model.layer_norm_eps, 1e-12);
  silent["num_labels"] = 7;
  EXPECT_EQ(read(silent).model.num_classes, 7);
}

TEST(HuggingFaceConfig, Activations) {
  const std::vector<std::pair<const char*, ActivationKind>> names = {
      {"gelu", ActivationKind::gelu_erf},
      {"gelu_python", ActivationKind::gelu_erf},
      {"gelu_new", ActivationKind::gelu_tanh},
      {"gelu_pytorch_tanh", ActivationKind::gelu_tanh},
      {"relu", ActivationKind::relu}};
  json document = kHuggingFace;
  for (const auto& [name, kind] : names) {
    document["hidden_act"] = name;
    EXPECT_EQ(read(document).model.hidden_act, kind) << name;
  }
  document["hidden_act"] = "quick_gelu";
  EXPECT_EQ(read_error(document),
            "config.json: hidden_act: found \"quick_gelu\", expected one of gelu, gelu_tanh, relu");
}

TEST(HuggingFaceConfig, OtherModels) {
  json document = kHuggingFace;
  document["model_type"] = "deit";
  EXPECT_EQ(read_error(document), "config.json: model_type: found \"deit\", expected \"vit\"");
}

TEST(HuggingFaceConfig, Preprocessor) {
  const TemporaryDirectory directory;
  const auto read_text = [&](const char* text) {
    write_file(directory / kPreprocessorFile, text);
    RunConfig config;
    config.recipe.mean = config.recipe.std = {9.0f};
    read_preprocessor_file(directory / kPreprocessorFile, config);
    return std::make_pair(config.recipe.mean, config.recipe.std);
  };
  using Floats = std::vector<float>;
  EXPECT_EQ(read_text(R"({"do_normalize": true, "image_mean": [0.25, 0.5, 0.75], "size": 224,
                          "image_std": [1.5, 2, 3], "rescale_factor": 0.00392156862745098})"),
            std::make_pair(Floats{0.25f, 0.5f, 0.75f}, Floats{1.5f, 2, 3}));
  EXPECT_EQ(read_text(R"({"do_normalize": false, "image_mean": [1], "image_std": [1]})"),
            std::make_pair(Floats{}, Floats{}));
  EXPECT_EQ(read_text("{}"), std::make_pair(Floats{0.5f}, Floats{0.5f}));
  EXPECT_NE(
      error_of([&] { read_text(R"({"image_mean": [0.5, 0.5], "image_std": [0.5, 0.5]})"); })
          .find("preprocessor_config.json: image_mean: found [0.5,0.5], expected one number or "
                "one for each of 3 channels"),
      std::string::npos);
  EXPECT_NE(error_of([&] {
              read_text(R"({"rescale_factor": 0.0078})");
            }).find("preprocessor_config.json: rescale_factor: found 0.0078, expected 1/255"),
            std::string::npos);
  EXPECT_NE(error_of([&] { read_text(R"({"do_rescale": false})"); }).find("do_rescale"),
            std::string::npos);
}

// Scaled whole, whatever its shape, by one of Pillow's filters.
TEST(HuggingFaceConfig, PreprocessorSeesPhotographs) {
  const TemporaryDirectory directory;
  const auto read_text = [&](const char* text) {
    write_file(directory / kPreprocessorFile, text);
    RunConfig config;
    read_preprocessor_file(directory / kPreprocessorFile, config);
    return config;
  };
  const RunConfig standard = read_text("{}");
  EXPECT_EQ(standard.recipe.dataset, "folder");
  EXPECT_EQ(standard.recipe.crop_mode, "squash");
  EXPECT_EQ(standard.recipe.crop_pct, 1);
  EXPECT_EQ(evaluation_filter(standard), "bilinear");
  EXPECT_EQ(evaluation_filter(read_text(R"({"resample": 3})")), "bicubic");
  EXPECT_NE(error_of([&] {
              read_text(R"({"resample": 1})");
            }).find("resample: found 1, expected 2 (bilinear) or 3 (bicubic)"),
            std::string::npos);
}

// As timm 1.0.31's save_for_hf writes it, shortened.
const json kTimm = json::parse(R"({
  "architecture": "vit_tiny_patch16_224", "num_classes": 3, "num_features": 192,
  "global_pool": "token", "label_names": ["a", "b", "c"],
  "model_args": {"num_classes": 3, "img_size": [32, 40], "patch_size": 8, "depth": 2, "in_chans": 3,
                 "global_pool": "token", "fc_norm": null, "drop_rate": 0.0},
  "pretrained_cfg": {"tag": "augreg_in21k_ft_in1k", "custom_load": false, "input_size": [3, 32, 32],
                     "interpolation": "bicubic", "crop_pct": 0.9, "mean": [0.485, 0.456, 0.406],
                     "std": [0.25, 0.5, 0.75], "num_classes": 1000,
                     "first_conv": "patch_embed.proj", "classifier": "head"}})");

TEST(TimmConfig, Hub) {
  const RunConfig config = read(kTimm);
  VitConfig expected = preset("vit_tiny_patch16_224").model;
  expected.image_height = 32;
  expected.image_width = 40;
  expected.patch_size = 8;
  expected.num_hidden_layers = 2;
  expected.num_classes = 3;
  EXPECT_EQ(config.model, expected);
  EXPECT_EQ(config.class_names, (std::vector<std::string>{"a", "b", "c"}));
  EXPECT_EQ(config.recipe.mean, (std::vector<float>{0.485f, 0.456f, 0.406f}));
  EXPECT_EQ(config.recipe.std, (std::vector<float>{0.25f, 0.5f, 0.75f}));
}

TEST(TimmConfig, SeesPhotographs) {
  json document = {{"architecture", "vit_tiny_patch16_224"},
                   {"pretrained_cfg",
                    {{"interpolation", "bilinear"}, {"crop_pct", 0.95}, {"crop_mode", "squash"}}}};
  const RunConfig config = read(document);
  EXPECT_EQ(config.recipe.dataset, "folder");
  EXPECT_EQ(evaluation_filter(config), "bilinear");
  EXPECT_EQ(config.recipe.crop_pct, 0.95);
  EXPECT_EQ(config.recipe.crop_mode, "squash");
  document["pretrained_cfg"] = {{"crop_pct", 0.9}};
  EXPECT_EQ(evaluation_filter(read(document)), "bicubic");
  EXPECT_EQ(read(document).recipe.crop_mode, "center");
  document["pretrained_cfg"] = {{"interpolation", "lanczos"}};
  EXPECT_NE(read_error(document).find("interpolation: found \"lanczos\", expected bilinear or"),
            std::string::npos)
      << read_error(document);
  document["pretrained_cfg"] = {{"crop_mode", "border"}};
  EXPECT_NE(read_error(document).find("crop_mode: found \"border\""), std::string::npos)
      << read_error(document);
}

TEST(TimmConfig, Architectures) {
  const json plain = {{"architecture", "deit_small_patch16_224.fb_in1k"}};
  EXPECT_EQ(read(plain).model, preset("vit_small_patch16_224").model);
  EXPECT_EQ(read_error({{"architecture", "vit_base_patch16_clip_224"}}),
            "config.json: architecture: found \"vit_base_patch16_clip_224\", the nearest known one "
            "is \"vit_base_patch16_224\"");
}

TEST(TimmConfig, PoolAndNorm) {
  json document = {{"architecture", "vit_tiny_patch16_224"}, {"global_pool", "avg"}};
  EXPECT_EQ(read(document).model.pool, Pool::mean);
  EXPECT_EQ(read(document).model.pool_norm, PoolNorm::after);
  document["model_args"] = {{"fc_norm", false}, {"class_token", false}};
  EXPECT_EQ(read(document).model.pool_norm, PoolNorm::before);
  EXPECT_EQ(read(document).model.class_token, ClassToken::none);
  document["model_args"] = {{"global_pool", "token"}};  // the arguments are the last word
  EXPECT_EQ(read(document).model.pool, Pool::token);
}

TEST(TimmConfig, SizesOfTheMlp) {
  json document = {{"architecture", "vit_tiny_patch16_224"}, {"model_args", {{"embed_dim", 48}}}};
  EXPECT_EQ(read(document).model.intermediate_size, 192);
  document["model_args"]["mlp_ratio"] = 2.6;
  EXPECT_EQ(read(document).model.intermediate_size, 124);  // int(48 · 2.6)
}

TEST(TimmConfig, WhatIsNotOurs) {
  const auto with = [](const char* key, const json& value) {
    json document = kTimm;
    document["model_args"][key] = value;
    return read_error(document);
  };
  EXPECT_NE(with("pre_norm", true).find("config.json: model_args: unknown key \"pre_norm\""),
            std::string::npos);
  EXPECT_EQ(with("pre_norm", nullptr), "nothing was thrown");
  EXPECT_EQ(with("global_pool", "map"),
            "config.json: global_pool: found \"map\", expected token or avg");
  EXPECT_EQ(with("fc_norm", true),
            "config.json: fc_norm: found true, expected false with global_pool token");
  EXPECT_EQ(with("proj_bias", false), "config.json: proj_bias: found false, expected true");
  EXPECT_NE(with("act_layer", "silu").find("act_layer: found \"silu\""), std::string::npos);
  EXPECT_NE(with("pos_embed", "rope").find("pos_embed: found \"rope\""), std::string::npos);
  EXPECT_NE(with("depth", "deep").find("model_args: depth: found \"deep\""), std::string::npos);
  json document = kTimm;
  document["hidden_size"] = 3;
  EXPECT_NE(read_error(document).find("unknown key \"hidden_size\""), std::string::npos);
}

RunConfig small() {
  RunConfig config = preset("vit_tiny_patch16_224");
  config.model.image_height = 24;
  config.model.image_width = 32;
  config.model.patch_size = 8;
  config.model.hidden_size = 100;
  config.model.num_attention_heads = 4;
  config.model.intermediate_size = 29;  // 29 / 100 · 100 is less than 29
  config.model.num_classes = 2;
  config.model.num_channels = 1;
  config.recipe.mean = {0.1307f};
  config.recipe.std = {0.3081f};
  config.class_names = {"cat", "dog"};
  return config;
}

TEST(ExportConfig, HuggingFaceThereAndBack) {
  RunConfig config = small();
  config.model.layer_norm_eps = 3e-5;
  config.model.qkv_bias = false;
  config.model.hidden_dropout_prob = 0.25;
  for (const ActivationKind act :
       {ActivationKind::gelu_erf, ActivationKind::gelu_tanh, ActivationKind::relu}) {
    config.model.hidden_act = act;
    const json document = json::parse(huggingface_json(config).dump());
    EXPECT_EQ(document.at("model_type"), "vit");
    EXPECT_EQ(document.at("label2id"), (json{{"cat", 0}, {"dog", 1}}));
    const RunConfig back = read(document);
    EXPECT_EQ(back.model, config.model);
    EXPECT_EQ(back.class_names, config.class_names);
  }
  config.class_names.clear();
  config.model.num_classes = 11;
  EXPECT_EQ(read(json::parse(huggingface_json(config).dump())).model.num_classes, 11);
}

TEST(ExportConfig, TimmThereAndBack) {
  for (const char* name : {"vit_tiny_patch16_224", "vit_large_patch14_224"}) {
    const json document = json::parse(timm_json(preset(name)).dump());
    EXPECT_EQ(document.at("architecture"), name);
    EXPECT_EQ(document.at("model_args"), json::object());
    EXPECT_EQ(read(document).model, preset(name).model);
  }
  // timm knows no such name, so it is said in arguments.
  const json document = json::parse(timm_json(preset("vit_huge_patch16_384")).dump());
  EXPECT_EQ(document.at("architecture"), "vit_base_patch16_224");
  EXPECT_EQ(document.at("model_args"),
            (json{{"img_size", 384}, {"embed_dim", 1280}, {"depth", 32}, {"num_heads", 16}}));
  EXPECT_EQ(read(document).model, preset("vit_huge_patch16_384").model);

  RunConfig config = small();
  config.model.qkv_bias = false;
  config.model.final_norm = false;
  config.model.hidden_act = ActivationKind::gelu_tanh;
  config.model.pool = Pool::mean;
  for (const PoolNorm order : {PoolNorm::before, PoolNorm::after}) {
    for (const ClassToken token : {ClassToken::first, ClassToken::none}) {
      for (const Position position : {Position::learned, Position::none}) {
        config.model.pool_norm = order;
        config.model.class_token = token;
        config.model.position = position;
        const RunConfig back = read(json::parse(timm_json(config).dump()));
        EXPECT_EQ(back.model, config.model);
        EXPECT_EQ(back.recipe.mean, config.recipe.mean);
        EXPECT_EQ(back.recipe.std, config.recipe.std);
        EXPECT_EQ(back.class_names, config.class_names);
      }
    }
  }
}

TEST(ExportConfig, TimmArgumentsThereAndBack) {
  RunConfig config = small();
  config.model.init_values = 1e-5;
  config.model.reg_tokens = 4;
  config.model.no_embed_class = true;
  config.model.qk_norm = true;
  const json document = json::parse(timm_json(config).dump());
  EXPECT_EQ(document.at("model_args").at("init_values"), 1e-5);
  EXPECT_EQ(read(document).model, config.model);
  json plain = kTimm;
  plain["model_args"]["init_values"] = nullptr;
  EXPECT_EQ(read(plain).model.init_values, 0.0);
}

TEST(ExportConfig, WhatTheLibrariesLack) {
  struct Case {
    json keys;
    bool hf, timm;  ///< whether it can be said
  };
  const std::vector<Case> cases = {{{{"norm_order", "post"}}, false, false},
                                   {{{"qkv_layout", "per_head"}}, false, false},
                                   {{{"output_projection", false}}, false, false},
                                   {{{"head_softmax", true}}, false, false},
                                   {{{"proj_bias", false}}, false, false},
                                   {{{"patch_bias", false}}, false, false},
                                   {{{"position_rows", 200}}, false, false},
                                   {{{"position", "sincos2d"}}, false, false},
                                   {{{"position", "none"}}, false, true},
                                   {{{"class_token", "last"}}, false, false},
                                   {{{"class_token", "none"}, {"pool", "mean"}}, false, true},
                                   {{{"pool", "mean"}}, false, true},
                                   {{{"final_norm", false}}, false, true},
                                   {{{"init_values", 1e-5}}, false, true},
                                   {{{"reg_tokens", 4}}, false, true},
                                   {{{"no_embed_class", true}}, false, true},
                                   {{{"qk_norm", true}}, false, true},
                                   {{{"layer_norm_eps", 1e-5}}, true, false},
                                   {{{"drop_path_rate", 0.1}}, true, true},
                                   {{{"drop_path_subset", true}}, true, true},
                                   {{{"activation_dropout_prob", 0.1}}, true, true}};
  for (const Case& c : cases) {
    RunConfig config = small();
    read_json(c.keys, "keys", config);
    validate(config.model, "keys");
    const std::string key = c.keys.begin().key();
    SCOPED_TRACE(key);
    const std::string hf = error_of([&] { huggingface_json(config); });
    const std::string timm = error_of([&] { timm_json(config); });
    EXPECT_EQ(hf == "nothing was thrown", c.hf) << hf;
    EXPECT_EQ(timm == "nothing was thrown", c.timm) << timm;
    if (!c.hf) {
      EXPECT_NE(hf.find("--format hf: " + key + ": found "), std::string::npos) << hf;
    }
    if (!c.timm) {
      EXPECT_NE(timm.find("--format timm: " + key + ": found "), std::string::npos) << timm;
    }
  }
}

}  // namespace
}  // namespace vitrine
