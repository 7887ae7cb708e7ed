// Flags of the command line.
#include "cli/flags.h"

#include <cstdio>
#include <map>

#include "model/fields.h"

namespace vitrine {
namespace {

using nlohmann::json;

constexpr int kMostTexts = 1000, kMostNumbers = 4;  // in a list that one flag is given

// Names from timm, torchvision and DeiT that mean one of our keys.
const std::map<std::string, std::string> kAliases = {
    {"batch_size", "-b,--batch-size"},
    {"image_size", "--image-size,--img-size"},
    {"num_classes", "--num-classes"},
    {"hidden_dropout_prob", "--drop,--hidden-dropout-prob"},
    {"attention_probs_dropout_prob", "--attn-drop,--attention-probs-dropout-prob"},
    {"drop_path_rate", "--drop-path,--drop-path-rate"},
    {"dataset", "-d,--dataset"},
    {"data_dir", "--data-dir,--data-path"},
    {"grad_accum_steps", "--grad-accum-steps,--accum-iter"},
    {"clip_grad", "--clip-grad,--clip-grad-norm"},
    {"sched", "--sched,--lr-scheduler"},
    {"warmup_epochs", "--warmup-epochs,--lr-warmup-epochs"},
    {"min_lr", "--min-lr,--lr-min"},
    {"smoothing", "--smoothing,--label-smoothing"},
    {"weight_decay", "--weight-decay,--wd"},
    {"workers", "-j,--workers"},
    {"aa", "--aa,--auto-augment"},
    {"reprob", "--reprob,--random-erase"},
    {"mixup", "--mixup,--mixup-alpha"},
    {"cutmix", "--cutmix,--cutmix-alpha"},
    {"crop_pct", "--crop-pct,--eval-crop-ratio"}};

// DeiT's switches that mean one of our keys at a certain value.
struct Shorthand {
  const char* names;
  const char* key;
  json value;
  const char* description;
};
const std::vector<Shorthand> kShorthands = {
    {"--three-augment,--ThreeAugment", "aa", "3a", "--aa 3a"},
    {"--src", "train_crop_mode", "src", "--train-crop-mode src"},
    {"--repeated-aug", "aug_repeats", 3, "--aug-repeats 3"},
    {"--grad-checkpointing", "recompute", "full", "--recompute full"}};

std::string flag_names(const std::string& key) {
  const auto alias = kAliases.find(key);
  if (alias != kAliases.end()) return alias->second;
  std::string name = "--" + key;
  std::replace(name.begin() + 2, name.end(), '_', '-');
  return name;
}

// Text as the JSON it looks like: numbers, true, false, lists; anything else is a text.
json value_of(const std::vector<std::string>& words, bool is_list) {
  auto one = [](const std::string& word) {
    const json parsed = json::parse(word, nullptr, false);
    return parsed.is_discarded() || parsed.is_object() ? json(word) : parsed;
  };
  if (!is_list && words.size() == 1) return one(words[0]);
  json list = json::array();
  for (const std::string& word : words) list.push_back(one(word));
  return list;
}

// --freeze "" is the empty list.
json texts_of(const std::vector<std::string>& words) {
  json list = json::array();
  for (const std::string& word : words) {
    if (!word.empty()) list.push_back(word);
  }
  return list;
}

/// Visitor that lists keys and tells which are switches and which are lists.
struct KeyLister {
  struct Key {
    std::string name;
    bool is_switch, is_list, is_text;
  };
  std::vector<Key>& keys;

  template <typename T>
  void operator()(const char* key, T&) {
    constexpr bool is_texts = std::is_same_v<T, std::vector<std::string>>;
    constexpr bool is_list =
        is_texts || std::is_same_v<T, std::vector<float>> || std::is_same_v<T, std::vector<double>>;
    constexpr bool is_text = is_texts || std::is_same_v<T, std::string> || std::is_enum_v<T>;
    keys.push_back({key, std::is_same_v<T, bool>, is_list, is_text});
  }
};

/// The keys that become flags, in the two groups of the help.
struct Keys {
  std::vector<KeyLister::Key> recipe, model;
};

Keys list_keys() {
  Keys keys{.model = {{"image_size", false, false, false},
                      {"num_classes", false, false, false},
                      {"hidden_act", false, false, true}}};
  RunConfig defaults;
  KeyLister list_model{keys.model}, list_recipe{keys.recipe};
  model_fields(list_model, defaults.model);
  recipe_fields(list_recipe, defaults.recipe);
  return keys;
}

// Adds the flag of a key, which writes what it is given to `overrides`.
CLI::Option* add_flag(CLI::App& command, const KeyLister::Key& key, json& overrides) {
  const std::string name = key.name;
  if (key.is_switch) {
    const std::string on = flag_names(name);
    return command.add_flag_function(
        on + ",!--no-" + on.substr(2),
        [&overrides, name](std::int64_t count) { overrides[name] = count > 0; });
  }
  const bool is_list = key.is_list, is_text = key.is_text;
  auto* option = command.add_option_function<std::vector<std::string>>(
      flag_names(name),
      [&overrides, name, is_list, is_text](const std::vector<std::string>& words) {
        overrides[name] = is_text && is_list ? texts_of(words)
                          : is_text          ? json(words.at(0))
                                             : value_of(words, is_list);
      });
  if (is_list || name == "image_size") {
    option->expected(1, is_text ? kMostTexts : kMostNumbers)->delimiter(',');
  } else {
    option->expected(1);
  }
  return option->type_name("");
}

// Adds the shorthands of a key, which may not stand beside its flag.
void add_shorthands(CLI::App& command, const std::string& key, CLI::Option* flag, json& overrides) {
  for (const Shorthand& shorthand : kShorthands) {
    if (shorthand.key != key) continue;
    command
        .add_flag_function(
            shorthand.names,
            [&overrides, &shorthand](std::int64_t) { overrides[shorthand.key] = shorthand.value; },
            shorthand.description)
        ->group(flag->get_group())
        ->disable_flag_override()
        ->excludes(flag);
  }
}

}  // namespace

void ConfigFlags::add_to(CLI::App& command) {
  command.add_option("--preset,--model", preset_,
                     "model, data transforms and recipe together; `vitrine inspect` lists them");
  command.add_option("--config", config_file_, "JSON file with the same keys; flags override it");
  const nlohmann::ordered_json standard = to_json(RunConfig{});
  // Help shows what holds without preset and config file.
  auto add_group = [&](const std::string& group, const std::vector<KeyLister::Key>& keys) {
    for (const KeyLister::Key& key : keys) {
      CLI::Option* option = add_flag(command, key, overrides_)->group(group);
      if (!key.is_switch) option->description("[" + standard[key.name].dump() + "]");
      add_shorthands(command, key.name, option, overrides_);
    }
  };
  const Keys keys = list_keys();
  add_group("Training", keys.recipe);
  add_group("Model", keys.model);
}

void ConfigFlags::add_to(CLI::App& command, const std::map<std::string, std::string>& keys) {
  const Keys all = list_keys();
  for (const KeyLister::Key& key : all.recipe) {
    const auto wanted = keys.find(key.name);
    if (wanted == keys.end()) continue;
    add_flag(command, key, overrides_)->description(wanted->second + " [the checkpoint's]");
  }
}

RunConfig ConfigFlags::resolve(const RunConfig& base) const {
  RunConfig config = preset_.empty() ? base : vitrine::preset(preset_);
  if (!config_file_.empty()) {
    read_json_file(config_file_, config);
    validate(config.model, config_file_);
    validate(config.recipe, config_file_);
  }
  override(config);
  return config;
}

void ConfigFlags::override(RunConfig& config) const {
  const std::string source = "command line";
  const std::string dataset = config.recipe.dataset;
  read_json(overrides_, source, config);
  // The drawn digits have no directory: who names one has photographs in it.
  if (has("data_dir") && !has("dataset") && dataset == "digits") config.recipe.dataset = "folder";
  if (has("grad_accum_steps") && has("target_batch_size")) {
    throw BadInput(
        "--target-batch-size: found --grad-accum-steps beside it, expected one of the two");
  }
  validate(config.model, source);
  validate(config.recipe, source);
  set_accumulation(config.recipe, source);
}

void ConfigFlags::fit_precision(RunConfig& config, const DeviceTraits& traits) const {
  Precision& precision = config.recipe.precision;
  if (precision != Precision::bf16 || traits.bf16 || overrides_.contains("precision")) return;
  precision = Precision::fp32;
  std::fprintf(stderr, "vitrine: evaluating in fp32: the device %s has no bf16\n",
               traits.name.c_str());
}

void add_weights_flag(CLI::App& command, Weights& weights) {
  command.add_flag_function(
      "--use-ema", [&weights](std::int64_t) { weights = Weights::average; },
      "the averaged weights of a run with --model-ema");
}

}  // namespace vitrine
