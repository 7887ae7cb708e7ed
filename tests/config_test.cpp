// config.json: every key there and back, unknown keys, wrong types, contradictions, HuggingFace's
// files, presets.

#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <type_traits>

#include "io/files.h"
#include "model/fields.h"
#include "temporary_directory.h"
#include "vitrine/recipe.h"

namespace vitrine {
namespace {

using nlohmann::json;

std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const BadInput& error) {
    const std::string message = error.what();
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    return message;
  }
  return "nothing was thrown";
}

std::string read_error(const json& document) {
  RunConfig config;
  return error_of([&] { read_json(document, "file.json", config); });
}

/// Reads the keys over the defaults and validates; the message of what is thrown.
std::string contradiction(const json& document) {
  return error_of([&] {
    RunConfig config;
    read_json(document, "file.json", config);
    validate(config.model, "file.json");
    validate(config.recipe, "file.json");
  });
}

/// Visitor that changes every member to something else, another value each.
struct Changer {
  int count = 0;
  template <typename T>
  void operator()(const char*, T& member) {
    ++count;
    if constexpr (std::is_same_v<T, bool>) {
      member = !member;
    } else if constexpr (std::is_enum_v<T>) {
      member = static_cast<T>((static_cast<std::size_t>(member) + 1) % EnumNames<T>::names.size());
    } else if constexpr (std::is_integral_v<T>) {
      member += 1000 + static_cast<T>(count);
    } else if constexpr (std::is_floating_point_v<T>) {
      member = 0.1 * count + 1.0 / 3.0;
    } else if constexpr (std::is_same_v<T, std::string>) {
      member = "text \"" + std::to_string(count) + "\"";
    } else if constexpr (std::is_same_v<T, std::vector<std::string>>) {
      member = {"blocks." + std::to_string(count), "text \"" + std::to_string(count) + "\""};
    } else {
      member = {static_cast<typename T::value_type>(0.1 * count),
                static_cast<typename T::value_type>(1.0 / 7.0)};
    }
  }
};

TEST(Config, EveryKeySurvives) {
  RunConfig config;
  Changer change;
  model_fields(change, config.model);
  const int model_keys = change.count;
  recipe_fields(change, config.recipe);
  EXPECT_GE(model_keys, 34);
  config.recipe.seed = ~std::uint64_t{0};
  config.model.image_height = 31;
  config.model.image_width = 57;
  config.model.hidden_act = ActivationKind::relu;
  config.model.num_classes = 3;
  config.class_names = {"cat", "dög", "a \"third\" one"};
  config.preset = "mine";

  const std::string text = to_json(config).dump(2);
  RunConfig back;
  read_json(json::parse(text), "text", back);
  EXPECT_EQ(back.model, config.model);
  EXPECT_EQ(back.recipe, config.recipe);
  EXPECT_EQ(back.class_names, config.class_names);
  EXPECT_EQ(back.preset, config.preset);
  EXPECT_EQ(to_json(back).dump(2), text);
}

TEST(Config, EveryKeyIsWrittenUnderItsName) {
  RunConfig config;
  const nlohmann::ordered_json document = to_json(config);
  for (const char* key : {"image_size",
                          "patch_size",
                          "num_channels",
                          "hidden_size",
                          "num_hidden_layers",
                          "num_attention_heads",
                          "intermediate_size",
                          "hidden_act",
                          "hidden_dropout_prob",
                          "attention_probs_dropout_prob",
                          "layer_norm_eps",
                          "initializer_range",
                          "qkv_bias",
                          "num_classes",
                          "class_token",
                          "pool",
                          "pool_norm",
                          "norm_order",
                          "final_norm",
                          "qkv_layout",
                          "output_projection",
                          "proj_bias",
                          "patch_bias",
                          "position",
                          "position_rows",
                          "head_softmax",
                          "activation_dropout_prob",
                          "drop_path_rate",
                          "drop_path_subset",
                          "head_init",
                          "init_values",
                          "reg_tokens",
                          "no_embed_class",
                          "qk_norm",
                          "batch_size",
                          "epochs",
                          "lr",
                          "opt",
                          "weight_decay",
                          "sched",
                          "warmup_epochs",
                          "min_lr",
                          "clip_grad",
                          "smoothing",
                          "bce_loss",
                          "bce_sum",
                          "bce_target_thresh",
                          "model_ema",
                          "model_ema_decay",
                          "model_ema_warmup",
                          "hflip",
                          "aa",
                          "reprob",
                          "mixup",
                          "cutmix",
                          "crop_pct",
                          "workers",
                          "seed",
                          "log_interval",
                          "drop_last"}) {
    EXPECT_TRUE(document.contains(key)) << key;
  }
  EXPECT_EQ(document.at("image_size"), 224);
}

TEST(Config, AbsentKeysKeepTheirValue) {
  RunConfig config = preset("cifar10-small");
  const RunConfig before = config;
  read_json(json::object(), "empty", config);
  EXPECT_EQ(config.model, before.model);
  EXPECT_EQ(config.recipe, before.recipe);
  read_json({{"lr", 0.25}}, "one", config);
  EXPECT_EQ(config.recipe.lr, 0.25);
  EXPECT_EQ(config.recipe.batch_size, before.recipe.batch_size);
}

TEST(Config, SpellingsOfSizeActivationAndClasses) {
  RunConfig config;
  read_json({{"image_size", {12, 20}}}, "text", config);
  EXPECT_EQ(config.model.image_height, 12);
  EXPECT_EQ(config.model.image_width, 20);
  for (const char* name : {"gelu_tanh", "gelu_new", "gelu_pytorch_tanh"}) {
    config.model.hidden_act = ActivationKind::relu;
    read_json({{"hidden_act", name}}, "text", config);
    EXPECT_EQ(config.model.hidden_act, ActivationKind::gelu_tanh) << name;
  }
  for (const char* key : {"num_classes", "num_labels"}) {
    config.model.num_classes = 0;
    read_json({{key, 7}}, "text", config);
    EXPECT_EQ(config.model.num_classes, 7) << key;
  }
}

TEST(Config, UnknownKeyNamesTheNearest) {
  EXPECT_EQ(read_error({{"hiden_size", 64}}),
            "file.json: unknown key \"hiden_size\", the nearest known one is \"hidden_size\"");
  EXPECT_EQ(read_error({{"batchsize", 3}}),
            "file.json: unknown key \"batchsize\", the nearest known one is \"batch_size\"");
}

TEST(Config, WrongTypes) {
  const json text = "text", fraction = 1.5, number = 3, list = json::array({1, "x"});
  auto expect = [](const json& document, const std::string& rest) {
    EXPECT_EQ(read_error(document), "file.json: " + rest);
  };
  expect({{"patch_size", fraction}}, "patch_size: found 1.5, expected a whole number");
  expect({{"patch_size", nullptr}}, "patch_size: found null, expected a whole number");
  expect({{"seed", -1}}, "seed: found -1, expected a whole number");
  expect({{"lr", text}}, "lr: found \"text\", expected a number");
  expect({{"qkv_bias", number}}, "qkv_bias: found 3, expected true or false");
  expect({{"dataset", number}}, "dataset: found 3, expected a text");
  expect({{"mean", number}}, "mean: found 3, expected a list of numbers");
  expect({{"scale", list}}, "scale: found [1,\"x\"], expected a list of numbers");
  expect({{"position", number}}, "position: found 3, expected a name");
  expect({{"position", text}},
         "position: found \"text\", expected one of learned, sincos1d, sincos2d, none");
  expect({{"head_init", "one"}}, "head_init: found \"one\", expected one of default, zero");
  expect({{"hidden_act", "swish"}},
         "hidden_act: found \"swish\", expected one of gelu, gelu_tanh, relu");
  expect({{"image_size", text}},
         "image_size: found \"text\", expected a number or [height, width]");
  expect({{"image_size", {1, 2, 3}}},
         "image_size: found [1,2,3], expected a number or [height, width]");
  expect({{"id2label", {{"0", "a"}, {"2", "b"}}}},
         "id2label: found no name for 1, expected one for each of 0 to 1");
  EXPECT_EQ(read_error(json::array({1})), "file.json: expected a JSON object");
}

TEST(Config, Contradictions) {
  auto expect = [](const json& document, const std::string& rest) {
    EXPECT_EQ(contradiction(document), "file.json: " + rest);
  };
  expect({{"image_size", 225}}, "image_size: found 225x225, expected a multiple of patch_size 16");
  expect({{"image_size", {224, 30}}},
         "image_size: found 224x30, expected a multiple of patch_size 16");
  expect({{"hidden_size", 770}},
         "hidden_size: found 770, expected a multiple of num_attention_heads 12");
  expect({{"hidden_size", 6}, {"num_attention_heads", 3}, {"position", "sincos2d"}},
         "hidden_size: found 6, expected a multiple of 4 for position sincos2d");
  expect({{"class_token", "none"}}, "pool: found token, expected mean when class_token is none");
  expect({{"position_rows", 100}}, "position_rows: found 100, expected at least the 197 tokens");
  expect({{"position_rows", 196}, {"reg_tokens", 4}},
         "position_rows: found 196, expected at least the 201 tokens");
  expect({{"position_rows", 195}, {"reg_tokens", 4}, {"no_embed_class", true}},
         "position_rows: found 195, expected at least the 196 patches");
  expect({{"reg_tokens", -1}}, "reg_tokens: found -1, expected 0 to 1048576");
  for (const char* key :
       {"hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate",
        "activation_dropout_prob", "embedding_dropout_prob", "beta1", "beta2", "smoothing"}) {
    expect({{key, 1}}, std::string(key) + ": found 1, expected a number in [0, 1)");
  }
  expect({{"drop_path_subset", true}, {"hidden_dropout_prob", 0.1}},
         "hidden_dropout_prob: found 0.1 with drop_path_subset, expected 0");
  for (const char* key : {"patch_size", "num_channels", "hidden_size", "num_attention_heads",
                          "intermediate_size", "num_classes", "image_size"}) {
    expect({{key, 0}}, std::string(key) + ": found 0, expected 1 to 1048576");
    expect({{key, -4}}, std::string(key) + ": found -4, expected 1 to 1048576");
    expect({{key, 4000000000}}, std::string(key) + ": found 4000000000, expected 1 to 1048576");
  }
  for (const char* key : {"batch_size", "grad_accum_steps"}) {
    expect({{key, 0}}, std::string(key) + ": found 0, expected 1 to 16777216");
    expect({{key, 1000000000}}, std::string(key) + ": found 1000000000, expected 1 to 16777216");
  }
  expect({{"target_batch_size", -1}}, "target_batch_size: found -1, expected 0 to 16777216");
  expect({{"num_hidden_layers", -1}}, "num_hidden_layers: found -1, expected 0 to 10000");
  expect({{"log_interval", 0}}, "log_interval: found 0, expected at least 1");
  for (const char* key :
       {"epochs", "max_steps", "lr", "min_lr", "warmup_lr", "warmup_epochs", "weight_decay",
        "clip_grad", "opt_eps", "checkpoint_interval", "initializer_range", "init_values"}) {
    expect({{key, -1}}, std::string(key) + ": found -1, expected at least 0");
  }
  for (const double threshold : {-0.5, 1.0}) {
    EXPECT_NE(contradiction({{"bce_target_thresh", threshold}}).find("-1 or a number in [0, 1)"),
              std::string::npos);
  }
  expect({{"model_ema_decay", 0}}, "model_ema_decay: found 0, expected a number in (0, 1)");
  expect({{"model_ema_decay", 1}}, "model_ema_decay: found 1, expected a number in (0, 1)");
  expect({{"layer_decay", 0}}, "layer_decay: found 0, expected a number in (0, 1]");
  expect({{"layer_decay", 1.5}}, "layer_decay: found 1.5, expected a number in (0, 1]");
  expect({{"hflip", 1.25}}, "hflip: found 1.25, expected a number in [0, 1]");
  expect({{"layer_norm_eps", 0}}, "layer_norm_eps: found 0, expected a small positive number");
  expect({{"scale", {0.9, 0.8}}},
         "scale: found [0.9,0.8], expected two positive numbers, the smaller first");
  expect({{"ratio", {1.0}}},
         "ratio: found [1.0], expected two positive numbers, the smaller first");
  expect({{"scale", {0.5, 1.5}}}, "scale: found 1.5, expected at most 1");
  expect({{"mean", {0.5}}}, "std: found [], expected as many numbers as mean has");
  expect({{"mean", {0.5}}, {"std", {0.0}}}, "std: found [0.0], expected positive numbers");
}

TEST(Config, LossAndAverageOfTraining) {
  Recipe recipe;
  recipe.smoothing = 0.1;
  recipe.bce_sum = true;
  recipe.bce_target_thresh = 0.25;
  VitOptions options;
  set_loss(recipe, options);
  EXPECT_EQ(options.loss, LossKind::softmax);
  EXPECT_EQ(options.label_smoothing, 0.1f);
  EXPECT_EQ(options.target_threshold, -1.0f);
  EXPECT_FALSE(options.sum_classes);
  recipe.bce_loss = true;
  set_loss(recipe, options);
  EXPECT_EQ(options.loss, LossKind::bce);
  EXPECT_EQ(options.target_threshold, 0.25f);
  EXPECT_TRUE(options.sum_classes);
  EXPECT_EQ(optimizer_config(recipe).ema_decay, 0.0);
  recipe.model_ema = recipe.model_ema_warmup = true;
  EXPECT_EQ(optimizer_config(recipe).ema_decay, 0.9998);
  EXPECT_TRUE(optimizer_config(recipe).ema_warmup);

  VitConfig model{.head_softmax = true};
  EXPECT_EQ(error_of([&] { build_vit(model, options); }),
            "head_softmax: found true with bce_loss, expected false");
}

TEST(Config, TransformPerChannel) {
  Recipe recipe;
  EXPECT_EQ(transform(recipe, 3).mean, (std::vector<float>{0, 0, 0}));
  EXPECT_EQ(transform(recipe, 3).std, (std::vector<float>{1, 1, 1}));
  recipe.mean = {0.25f};
  recipe.std = {0.5f};
  EXPECT_EQ(transform(recipe, 3).mean, (std::vector<float>{0.25f, 0.25f, 0.25f}));
  recipe.mean = recipe.std = {0.25f, 0.5f};
  EXPECT_EQ(error_of([&] { transform(recipe, 3); }),
            "mean: found 2 numbers, expected one for each of 3 channels");
}

TEST(Config, Files) {
  const TemporaryDirectory directory;
  const std::string path = (directory / "config.json").string();
  RunConfig config;
  EXPECT_EQ(error_of([&] { read_json_file(path, config); }), path + ": no such file");
  write_file(path, "{\"lr\": 0.1,}");
  EXPECT_EQ(error_of([&] { read_json_file(path, config); }), path + ": not JSON: error at byte 12");
  write_file(path, "{\"lr\": 0.1}");
  read_json_file(path, config);
  EXPECT_EQ(config.recipe.lr, 0.1);
}

TEST(Config, HuggingFace) {
  const char* const document = R"({
    "_name_or_path": "google/vit-base-patch16-224-in21k",
    "architectures": ["ViTForImageClassification"],
    "attention_probs_dropout_prob": 0.0,
    "encoder_stride": 16,
    "finetuning_task": "image-classification",
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "hidden_size": 768,
    "id2label": {"0": "angular_leaf_spot", "1": "bean_rust", "2": "healthy"},
    "image_size": 224,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "label2id": {"angular_leaf_spot": 0, "bean_rust": 1, "healthy": 2},
    "layer_norm_eps": 1e-12,
    "model_type": "vit",
    "num_attention_heads": 12,
    "num_channels": 3,
    "num_hidden_layers": 12,
    "patch_size": 16,
    "pooler_act": "tanh",
    "pooler_output_size": 768,
    "problem_type": "single_label_classification",
    "qkv_bias": true,
    "torch_dtype": "float32",
    "transformers_version": "4.21.0.dev0"
  })";
  RunConfig config;
  read_json(json::parse(document), "config.json", config);
  validate(config.model, "config.json");
  EXPECT_EQ(config.model.num_classes, 3);
  EXPECT_EQ(config.class_names,
            (std::vector<std::string>{"angular_leaf_spot", "bean_rust", "healthy"}));
  EXPECT_EQ(config.model.layer_norm_eps, 1e-12);
  EXPECT_EQ(config.model.hidden_act, ActivationKind::gelu_erf);
  EXPECT_EQ(config.model.tokens(), 197);

  RunConfig silent;  // HuggingFace's default epsilon is not timm's
  read_json({{"model_type", "vit"}}, "config.json", silent);
  EXPECT_EQ(silent.model.layer_norm_eps, 1e-12);
}

TEST(Presets, AreValidAndSurvive) {
  ASSERT_GE(presets().size(), 20u);
  for (const PresetInfo& info : presets()) {
    SCOPED_TRACE(info.name);
    EXPECT_FALSE(info.summary.empty());
    const RunConfig config = preset(info.name);
    EXPECT_EQ(config.preset, info.name);
    validate(config.model, info.name);
    validate(config.recipe, info.name);
    transform(config.recipe, config.model.num_channels);
    RunConfig back;
    read_json(json::parse(to_json(config).dump()), info.name, back);
    EXPECT_EQ(back.model, config.model);
    EXPECT_EQ(back.recipe, config.recipe);
  }
}

// Steps of 1,024 images, whatever the device computes at once.
TEST(Presets, PublishedBatchesAreTargets) {
  for (const char* name : {"deit_small", "plain_vit_s16"}) {
    Recipe recipe = preset(name).recipe;
    EXPECT_EQ(recipe.batch_size * recipe.grad_accum_steps, 1024) << name;
    recipe.batch_size = 64;
    set_accumulation(recipe, name);
    EXPECT_EQ(recipe.grad_accum_steps, 16);
    recipe.batch_size = 2048;
    EXPECT_EQ(error_of([&] { set_accumulation(recipe, "recipe"); }),
              "recipe: target_batch_size: found 1024, expected a multiple of batch_size, 2048");
  }
}

TEST(RunConfig, StepsGivenAloneReplaceTheTarget) {
  RunConfig config = preset("deit_small");
  read_json({{"grad_accum_steps", 2}}, "file.json", config);
  EXPECT_EQ(config.recipe.target_batch_size, 0);
  set_accumulation(config.recipe, "file.json");
  EXPECT_EQ(config.recipe.grad_accum_steps, 2);
  read_json({{"grad_accum_steps", 2}, {"target_batch_size", 512}}, "file.json", config);
  set_accumulation(config.recipe, "file.json");
  EXPECT_EQ(config.recipe.grad_accum_steps, 2);
  EXPECT_EQ(config.recipe.target_batch_size, 512);
}

TEST(Presets, UnknownNameGivesTheNearest) {
  EXPECT_EQ(error_of([] { preset("mnist_tutorial"); }),
            "--preset: found \"mnist_tutorial\", the nearest known one is \"mnist-tutorial\"");
  EXPECT_EQ(error_of([] { preset("vit_base_patch16_244"); }),
            "--preset: found \"vit_base_patch16_244\", the nearest known one is "
            "\"vit_base_patch16_224\"");
}

}  // namespace
}  // namespace vitrine
