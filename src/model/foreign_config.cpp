// config.json of HuggingFace transformers (v4 and v5) and of timm's hub.
//
//   transformers/models/vit/configuration_vit.py
//   timm/models/_hub.py, save_config_for_hf;  VisionTransformer.__init__ names the model_args
#include "model/foreign_config.h"

#include <cmath>
#include <optional>

#include "io/files.h"
#include "model/fields.h"

namespace vitrine {
namespace {

using nlohmann::json;

// Keys that HuggingFace's ViT writes and that change nothing here.
constexpr std::array kIgnoredKeys = {"architectures",        "model_type",
                                     "torch_dtype",          "dtype",
                                     "transformers_version", "label2id",
                                     "problem_type",         "encoder_stride",
                                     "pooler_act",           "pooler_output_size",
                                     "return_dict",          "output_attentions",
                                     "output_hidden_states", "use_cache",
                                     "_name_or_path",        "_commit_hash",
                                     "_attn_implementation", "_attn_implementation_autoset",
                                     "attn_implementation",  "is_decoder",
                                     "is_encoder_decoder",   "tie_word_embeddings",
                                     "use_bfloat16",         "chunk_size_feed_forward",
                                     "finetuning_task",      "gradient_checkpointing",
                                     "torchscript",          "pruned_heads"};

/// Arguments of timm's VisionTransformer that mean something together.
struct TimmArguments {
  std::string global_pool = "token", pos_embed = "learn", act_layer = "gelu";
  std::optional<bool> fc_norm;
  bool class_token = true, proj_bias = true;
  double mlp_ratio = 0;  ///< 0: the architecture's
};

/// The structure that timm's name, with or without a tag, stands for.
VitConfig architecture(const std::string& name, const std::string& source) {
  std::string known = name.substr(0, name.find('.'));
  if (known.starts_with("deit_")) known.replace(0, 4, "vit");  // without distillation the same
  std::vector<std::string> names;
  for (const PresetInfo& info : presets()) {
    if (info.name.starts_with("vit_")) names.push_back(info.name);
  }
  if (std::find(names.begin(), names.end(), known) == names.end()) {
    throw BadInput(source + ": architecture: found \"" + name + "\", the nearest known one is \"" +
                   nearest(known, names) + "\"");
  }
  return preset(known).model;
}

// img_size: one number or [height, width].
void read_timm_size(JsonReader& reader, const char* key, const json& found, VitConfig& model) {
  const bool pair = found.is_array() && found.size() == 2;
  model.image_height = reader.read<std::int64_t>(key, pair ? found[0] : found);
  model.image_width = reader.read<std::int64_t>(key, pair ? found[1] : found);
}

// How timm sees a photograph where a file does not say.
Recipe photographs() {
  Recipe view;
  view.dataset = "folder";
  view.train_interpolation = "bicubic";
  return view;
}

// Takes over how an evaluation sees a photograph.
void see_as(const Recipe& view, const std::string& source, Recipe& recipe) {
  validate(view, source);
  recipe.dataset = view.dataset;
  recipe.train_interpolation = view.train_interpolation;
  recipe.crop_pct = view.crop_pct;
  recipe.crop_mode = view.crop_mode;
}

void read_pretrained_cfg(const json& document, const std::string& source, RunConfig& config) {
  JsonReader reader(document, source);
  reader("mean", config.recipe.mean);
  reader("std", config.recipe.std);
  reader("num_classes", config.model.num_classes);
  reader("label_names", config.class_names);
  Recipe view = photographs();
  reader("interpolation", view.train_interpolation);
  reader("crop_pct", view.crop_pct);
  reader("crop_mode", view.crop_mode);
  if (view.train_interpolation != "bilinear" && view.train_interpolation != "bicubic") {
    reader.fail("interpolation", view.train_interpolation, "bilinear or bicubic");
  }
  see_as(view, source, config.recipe);
  if (!reader.has("input_size")) return;
  const json& size = document["input_size"];
  if (!size.is_array() || size.size() != 3) {
    reader.fail("input_size", size, "[channels, height, width]");
  }
  config.model.num_channels = reader.read<std::int64_t>("input_size", size[0]);
  read_timm_size(reader, "input_size", {size[1], size[2]}, config.model);
}

void read_model_args(const json& document, const std::string& source, VitConfig& model,
                     TimmArguments& arguments) {
  if (!document.is_object()) throw BadInput(source + ": expected a JSON object");
  json given = json::object();  // what is null is as if unsaid
  for (const auto& [key, value] : document.items()) {
    if (!value.is_null()) given[key] = value;
  }
  JsonReader reader(given, source);
  reader.also_known("img_size");
  if (reader.has("img_size")) read_timm_size(reader, "img_size", given["img_size"], model);
  reader("patch_size", model.patch_size);
  reader("in_chans", model.num_channels);
  reader("num_classes", model.num_classes);
  reader("embed_dim", model.hidden_size);
  reader("depth", model.num_hidden_layers);
  reader("num_heads", model.num_attention_heads);
  reader("mlp_ratio", arguments.mlp_ratio);
  reader("qkv_bias", model.qkv_bias);
  reader("proj_bias", arguments.proj_bias);
  reader("class_token", arguments.class_token);
  reader("pos_embed", arguments.pos_embed);
  reader("final_norm", model.final_norm);
  reader("global_pool", arguments.global_pool);
  reader("act_layer", arguments.act_layer);
  bool fc_norm = false;
  reader("fc_norm", fc_norm);
  if (reader.has("fc_norm")) arguments.fc_norm = fc_norm;
  reader("init_values", model.init_values);
  reader("reg_tokens", model.reg_tokens);
  reader("no_embed_class", model.no_embed_class);
  reader("qk_norm", model.qk_norm);
  reader("attn_drop_rate", model.attention_probs_dropout_prob);
  reader("pos_drop_rate", model.embedding_dropout_prob);
  reader("proj_drop_rate", model.hidden_dropout_prob);
  reader("drop_path_rate", model.drop_path_rate);
  reader.also_known("drop_rate");  // before the head, in training
  reader.finish();
}

void apply(const TimmArguments& arguments, const std::string& source, VitConfig& model) {
  auto expect = [&](bool holds, const char* key, const std::string& found, const char* expected) {
    if (!holds) throw BadInput(source + ": " + key + ": found " + found + ", expected " + expected);
  };
  const bool mean = arguments.global_pool == "avg";
  expect(mean || arguments.global_pool == "token", "global_pool",
         "\"" + arguments.global_pool + "\"", "token or avg");
  expect(mean || !arguments.fc_norm.value_or(false), "fc_norm", "true",
         "false with global_pool token");
  expect(arguments.proj_bias, "proj_bias", "false", "true");
  expect(arguments.pos_embed == "learn" || arguments.pos_embed == "none", "pos_embed",
         "\"" + arguments.pos_embed + "\"", "learn or none");
  model.pool = mean ? Pool::mean : Pool::token;
  model.pool_norm = mean && arguments.fc_norm.value_or(true) ? PoolNorm::after : PoolNorm::before;
  model.class_token = arguments.class_token ? ClassToken::first : ClassToken::none;
  model.position = arguments.pos_embed == "learn" ? Position::learned : Position::none;
  model.hidden_act = enum_from<ActivationKind>(arguments.act_layer, "act_layer", source);
}

}  // namespace

void read_hidden_act(JsonReader& reader, VitConfig& config) {
  reader.also_known("hidden_act");
  if (!reader.has("hidden_act")) return;
  const json& found = reader.json()["hidden_act"];
  if (!found.is_string()) reader.fail("hidden_act", found, "a name");
  auto name = found.get<std::string>();
  if (name == "gelu_python") name = "gelu";
  if (name == "gelu_new" || name == "gelu_pytorch_tanh") name = "gelu_tanh";
  config.hidden_act = enum_from<ActivationKind>(name, "hidden_act", reader.source());
}

void read_huggingface(JsonReader& reader, RunConfig& config) {
  for (const char* key : kIgnoredKeys) reader.also_known(key);
  if (!reader.has("model_type")) return;
  const json& found = reader.json()["model_type"];
  if (found != "vit") reader.fail("model_type", found, "\"vit\"");
  // Defaults of HuggingFace's own, which its files may leave unsaid.
  config.model.layer_norm_eps = 1e-12;
  if (!reader.has("id2label") && !reader.has("num_labels") && !reader.has("num_classes")) {
    config.model.num_classes = 2;
    config.class_names.clear();
  }
}

void read_preprocessor_file(const std::filesystem::path& path, RunConfig& config) {
  const json document = parse_json(read_file(path), path.string());
  JsonReader reader(document, path.string());
  bool normalizes = true, rescales = true;
  constexpr double kRescale = 1.0 / 255.0;
  double factor = kRescale;
  std::vector<float> mean = {0.5f}, std = {0.5f};  // HuggingFace's ViTImageProcessor
  reader("do_normalize", normalizes);
  reader("do_rescale", rescales);
  reader("rescale_factor", factor);
  reader("image_mean", mean);
  reader("image_std", std);
  if (!rescales) reader.fail("do_rescale", document["do_rescale"], "true");
  if (std::abs(factor - kRescale) > 1e-6) {
    reader.fail("rescale_factor", document["rescale_factor"], "1/255");
  }
  const std::int64_t channels = config.model.num_channels;
  if (mean.size() != 1 && static_cast<std::int64_t>(mean.size()) != channels) {
    reader.fail("image_mean", json(mean),
                "one number or one for each of " + std::to_string(channels) + " channels");
  }
  const auto finite = [](float number) { return std::isfinite(number); };
  if (!std::all_of(mean.begin(), mean.end(), finite)) {
    reader.fail("image_mean", document["image_mean"], "finite numbers");
  }
  if (std.size() != mean.size()) {
    reader.fail("image_std", json(std), "as many numbers as image_mean has");
  }
  if (!std::all_of(std.begin(), std.end(), [&](float x) { return finite(x) && x > 0; })) {
    reader.fail("image_std", document["image_std"], "positive numbers");
  }
  config.recipe.mean = normalizes ? mean : std::vector<float>{};
  config.recipe.std = normalizes ? std : std::vector<float>{};
  // Pillow's numbers of the filters. The image is scaled whole, whatever its shape.
  std::int64_t resample = kPillowBilinear;
  reader("resample", resample);
  if (resample != kPillowBilinear && resample != kPillowBicubic) {
    reader.fail("resample", document["resample"], "2 (bilinear) or 3 (bicubic)");
  }
  Recipe view = photographs();
  view.train_interpolation = resample == kPillowBilinear ? "bilinear" : "bicubic";
  view.crop_mode = "squash";
  view.crop_pct = 1;
  see_as(view, path.string(), config.recipe);
}

bool is_timm(const json& document) {
  return document.is_object() && document.contains("architecture");
}

void read_timm(const json& document, const std::string& source, RunConfig& config) {
  JsonReader reader(document, source);
  for (const char* key : {"pretrained_cfg", "model_args", "num_features", "label_descriptions"}) {
    reader.also_known(key);
  }
  std::string name;
  reader("architecture", name);
  config.model = architecture(name, source);
  config.class_names.clear();
  if (reader.has("pretrained_cfg")) {
    read_pretrained_cfg(document["pretrained_cfg"], source + ": pretrained_cfg", config);
  }
  TimmArguments arguments;
  reader("num_classes", config.model.num_classes);
  reader("label_names", config.class_names);
  reader("global_pool", arguments.global_pool);
  reader.finish();
  VitConfig& model = config.model;
  if (reader.has("model_args")) {
    const std::int64_t hidden_before = model.hidden_size;
    read_model_args(document["model_args"], source + ": model_args", model, arguments);
    if (arguments.mlp_ratio == 0) {
      arguments.mlp_ratio =
          static_cast<double>(model.intermediate_size) / static_cast<double>(hidden_before);
    }
    model.intermediate_size =
        static_cast<std::int64_t>(static_cast<double>(model.hidden_size) * arguments.mlp_ratio);
  }
  apply(arguments, source, model);
}

}  // namespace vitrine
