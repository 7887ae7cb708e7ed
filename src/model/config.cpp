// config.json to structs and back, and the checks of both.
#include <cmath>
#include <nlohmann/json.hpp>

#include "io/files.h"
#include "model/checks.h"
#include "model/fields.h"
#include "model/foreign_config.h"

namespace vitrine {
namespace {

using nlohmann::json;

void read_image_size(JsonReader& reader, VitConfig& config) {
  reader.also_known("image_size");
  if (!reader.has("image_size")) return;
  const json& found = reader.json()["image_size"];
  if (found.is_array() && found.size() == 2) {
    config.image_height = reader.read<std::int64_t>("image_size", found[0]);
    config.image_width = reader.read<std::int64_t>("image_size", found[1]);
  } else {
    if (!found.is_number_integer()) reader.fail("image_size", found, "a number or [height, width]");
    config.image_height = config.image_width = reader.read<std::int64_t>("image_size", found);
  }
}

// id2label maps "0", "1", … to names; num_labels and num_classes say the number only.
void read_classes(JsonReader& reader, RunConfig& config) {
  for (const char* key : {"num_classes", "num_labels", "id2label"}) reader.also_known(key);
  if (reader.has("id2label")) {
    const json& labels = reader.json()["id2label"];
    if (!labels.is_object()) reader.fail("id2label", labels, "an object");
    config.class_names.clear();
    for (std::size_t k = 0; k < labels.size(); ++k) {
      const auto name = labels.find(std::to_string(k));
      if (name == labels.end() || !name->is_string()) {
        throw BadInput(reader.source() + ": id2label: found no name for " + std::to_string(k) +
                       ", expected one for each of 0 to " + std::to_string(labels.size() - 1));
      }
      config.class_names.push_back(name->get<std::string>());
    }
    config.model.num_classes = static_cast<std::int64_t>(labels.size());
  }
  for (const char* key : {"num_labels", "num_classes"}) {
    if (!reader.has(key)) continue;
    config.model.num_classes = reader.read<std::int64_t>(key, reader.json()[key]);
  }
}

// "color_jitter": 0.4 is [0.4].
json with_lists(json document) {
  const auto jitter = document.is_object() ? document.find("color_jitter") : document.end();
  if (jitter != document.end() && jitter->is_number()) *jitter = json::array({*jitter});
  return document;
}

}  // namespace

void read_json(const json& document, const std::string& source, RunConfig& config) {
  if (is_timm(document)) return read_timm(document, source, config);
  const json lists = with_lists(document);
  JsonReader reader(lists, source);
  read_huggingface(reader, config);
  read_image_size(reader, config.model);
  read_hidden_act(reader, config.model);
  read_classes(reader, config);
  model_fields(reader, config.model);
  recipe_fields(reader, config.recipe);
  reader("preset", config.preset);
  reader.finish();
  if (reader.has("grad_accum_steps") && !reader.has("target_batch_size")) {
    config.recipe.target_batch_size = 0;
  }
}

void read_json_file(const std::string& path, RunConfig& config) {
  read_json(parse_json(read_file(path), path), path, config);
}

nlohmann::ordered_json model_json(const RunConfig& run) {
  const VitConfig& config = run.model;
  JsonWriter writer;
  if (config.image_height == config.image_width) {
    writer.json()["image_size"] = config.image_height;
  } else {
    writer.json()["image_size"] = {config.image_height, config.image_width};
  }
  writer.json()["num_classes"] = config.num_classes;
  writer("hidden_act", config.hidden_act);
  model_fields(writer, config);
  if (static_cast<std::int64_t>(run.class_names.size()) == config.num_classes) {
    for (std::size_t k = 0; k < run.class_names.size(); ++k) {
      writer.json()["id2label"][std::to_string(k)] = run.class_names[k];
    }
  }
  return writer.json();
}

nlohmann::ordered_json recipe_json(const Recipe& recipe) {
  JsonWriter writer;
  recipe_fields(writer, recipe);
  return writer.json();
}

nlohmann::ordered_json to_json(const RunConfig& config) {
  nlohmann::ordered_json document = model_json(config);
  document.update(recipe_json(config.recipe));
  if (!config.preset.empty()) document["preset"] = config.preset;
  return document;
}

void validate(const VitConfig& c, const std::string& source) {
  // Upper bounds are far from any model and keep products of sizes within 64 bits.
  constexpr std::int64_t kLargestSize = 1 << 20, kMostLayers = 10000;
  auto positive = [&](const char* key, std::int64_t number) {
    expect_between(number, 1, kLargestSize, source, key);
  };
  positive("image_size", std::min(c.image_height, c.image_width));
  positive("patch_size", c.patch_size);
  positive("hidden_size", c.hidden_size);
  positive("num_attention_heads", c.num_attention_heads);
  positive("intermediate_size", c.intermediate_size);
  positive("num_classes", c.num_classes);
  positive("image_size", std::max(c.image_height, c.image_width));
  expect_between(c.num_hidden_layers, 0, kMostLayers, source, "num_hidden_layers");
  positive("num_channels", c.num_channels);
  const std::string size = std::to_string(c.image_height) + "x" + std::to_string(c.image_width);
  expect(c.image_height % c.patch_size == 0 && c.image_width % c.patch_size == 0, source,
         "image_size", size, "a multiple of patch_size " + std::to_string(c.patch_size));
  expect(c.hidden_size % c.num_attention_heads == 0, source, "hidden_size",
         std::to_string(c.hidden_size),
         "a multiple of num_attention_heads " + std::to_string(c.num_attention_heads));
  expect(c.position != Position::sincos2d || c.hidden_size % 4 == 0, source, "hidden_size",
         std::to_string(c.hidden_size), "a multiple of 4 for position sincos2d");
  expect(c.pool == Pool::mean || c.class_token != ClassToken::none, source, "pool", "token",
         "mean when class_token is none");
  expect_between(c.reg_tokens, 0, kLargestSize, source, "reg_tokens");
  expect(c.position_rows == 0 || c.position_rows >= c.position_tokens(), source, "position_rows",
         std::to_string(c.position_rows),
         "at least the " + std::to_string(c.position_tokens()) +
             (c.no_embed_class ? " patches" : " tokens"));
  expect_probability(c.hidden_dropout_prob, source, "hidden_dropout_prob");
  expect_probability(c.attention_probs_dropout_prob, source, "attention_probs_dropout_prob");
  expect_probability(c.activation_dropout_prob, source, "activation_dropout_prob");
  expect_probability(std::max(c.embedding_dropout_prob, 0.0), source, "embedding_dropout_prob");
  expect_probability(c.drop_path_rate, source, "drop_path_rate");
  expect(!c.drop_path_subset || c.hidden_dropout_prob == 0, source, "hidden_dropout_prob",
         text(c.hidden_dropout_prob) + " with drop_path_subset", "0");
  expect(c.layer_norm_eps > 0 && c.layer_norm_eps < 1, source, "layer_norm_eps",
         text(c.layer_norm_eps), "a small positive number");
  expect_at_least(c.initializer_range, 0, source, "initializer_range");
  expect_at_least(c.init_values, 0, source, "init_values");
}

void validate(const Recipe& r, const std::string& source) {
  auto at_least = [&](const char* key, double number, double least) {
    expect_at_least(number, least, source, key);
  };
  constexpr std::int64_t kLargestBatch = 1 << 24;
  expect_between(r.batch_size, 1, kLargestBatch, source, "batch_size");
  expect_between(r.grad_accum_steps, 1, kLargestBatch, source, "grad_accum_steps");
  expect_between(r.target_batch_size, 0, kLargestBatch, source, "target_batch_size");
  at_least("epochs", static_cast<double>(r.epochs), 0);
  at_least("max_steps", static_cast<double>(r.max_steps), 0);
  at_least("checkpoint_interval", static_cast<double>(r.checkpoint_interval), 0);
  at_least("log_interval", static_cast<double>(r.log_interval), 1);
  at_least("lr", r.lr, 0);
  at_least("min_lr", r.min_lr, 0);
  at_least("warmup_lr", r.warmup_lr, 0);
  at_least("warmup_epochs", r.warmup_epochs, 0);
  at_least("weight_decay", r.weight_decay, 0);
  at_least("clip_grad", r.clip_grad, 0);
  at_least("opt_eps", r.opt_eps, 0);
  expect_probability(r.beta1, source, "beta1");
  expect_probability(r.beta2, source, "beta2");
  expect_probability(r.smoothing, source, "smoothing");
  expect(r.early_stopping >= 0, source, "early_stopping", text(r.early_stopping), "at least 0");
  expect(r.bce_target_thresh == -1 || (r.bce_target_thresh >= 0 && r.bce_target_thresh < 1), source,
         "bce_target_thresh", text(r.bce_target_thresh), "-1 or a number in [0, 1)");
  expect(r.model_ema_decay > 0 && r.model_ema_decay < 1, source, "model_ema_decay",
         text(r.model_ema_decay), "a number in (0, 1)");
  expect(r.layer_decay > 0 && r.layer_decay <= 1, source, "layer_decay", text(r.layer_decay),
         "a number in (0, 1]");
  auto range = [&](const char* key, const std::vector<double>& pair) {
    expect(pair.size() == 2 && pair[0] > 0 && pair[0] <= pair[1], source, key, json(pair).dump(),
           "two positive numbers, the smaller first");
  };
  range("scale", r.scale);
  range("ratio", r.ratio);
  expect(r.scale[1] <= 1, source, "scale", text(r.scale[1]), "at most 1");
  expect(r.mean.size() == r.std.size(), source, "std", json(r.std).dump(),
         "as many numbers as mean has");
  for (float number : r.mean) {
    expect(std::isfinite(number), source, "mean", json(r.mean).dump(), "finite numbers");
  }
  for (float number : r.std) {
    expect(std::isfinite(number) && number > 0, source, "std", json(r.std).dump(),
           "positive numbers");
  }
  validate_augmentation(r, source);
}

void set_accumulation(Recipe& r, const std::string& source) {
  if (r.target_batch_size == 0) return;
  expect(r.target_batch_size % r.batch_size == 0, source, "target_batch_size",
         text(r.target_batch_size), "a multiple of batch_size, " + text(r.batch_size));
  r.grad_accum_steps = r.target_batch_size / r.batch_size;
}

OptimizerConfig optimizer_config(const Recipe& r) {
  return {.kind = r.opt,
          .weight_decay = r.weight_decay,
          .decay_all = r.weight_decay_all,
          .beta1 = r.beta1,
          .beta2 = r.beta2,
          .eps = r.opt_eps,
          .clip_norm = r.clip_grad,
          .layer_decay = r.layer_decay,
          .ema_decay = r.model_ema ? r.model_ema_decay : 0.0,
          .ema_warmup = r.model_ema_warmup};
}

void set_loss(const Recipe& r, VitOptions& options) {
  options.label_smoothing = static_cast<float>(r.smoothing);
  if (!r.bce_loss) return;
  options.loss = LossKind::bce;
  options.target_threshold = static_cast<float>(r.bce_target_thresh);
  options.sum_classes = r.bce_sum;
}

Transform transform(const Recipe& r, std::int64_t channels) {
  const auto count = static_cast<std::size_t>(channels);
  auto per_channel = [&](const std::vector<float>& given, float otherwise, const char* key) {
    if (given.empty()) return std::vector<float>(count, otherwise);
    if (given.size() == 1) return std::vector<float>(count, given[0]);
    if (given.size() != count) {
      throw BadInput(std::string(key) + ": found " + std::to_string(given.size()) +
                     " numbers, expected one for each of " + std::to_string(channels) +
                     " channels");
    }
    return given;
  };
  return {.mean = per_channel(r.mean, 0.0f, "mean"),
          .std = per_channel(r.std, 1.0f, "std"),
          .hflip = static_cast<float>(r.hflip),
          .scale = {static_cast<float>(r.scale[0]), static_cast<float>(r.scale[1])},
          .ratio = {static_cast<float>(r.ratio[0]), static_cast<float>(r.ratio[1])}};
}

}  // namespace vitrine
