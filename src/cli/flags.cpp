// Flags of the command line.
#include "cli/flags.h"

#include <map>

#include "model/fields.h"

namespace vitrine {
namespace {

using nlohmann::json;

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
    {"weight_decay", "--weight-decay,--wd"}};

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

/// Visitor that lists keys and tells which are switches and which are lists.
struct KeyLister {
  struct Key {
    std::string name;
    bool is_switch, is_list, is_text;
  };
  std::vector<Key>& keys;

  template <typename T>
  void operator()(const char* key, T&) {
    constexpr bool is_list =
        std::is_same_v<T, std::vector<float>> || std::is_same_v<T, std::vector<double>>;
    constexpr bool is_text = std::is_same_v<T, std::string> || std::is_enum_v<T>;
    keys.push_back({key, std::is_same_v<T, bool>, is_list, is_text});
  }
};

}  // namespace

void ConfigFlags::add_to(CLI::App& command) {
  command.add_option("--preset,--model", preset_,
                     "model, data transforms and recipe together; `vitrine inspect` lists them");
  command.add_option("--config", config_file_, "JSON file with the same keys; flags override it");
  RunConfig defaults;
  const nlohmann::ordered_json standard = to_json(defaults);
  // Help shows what holds without preset and config file.
  auto add_group = [&](const std::string& group, const std::vector<KeyLister::Key>& keys) {
    for (const KeyLister::Key& key : keys) {
      const std::string name = key.name;
      if (key.is_switch) {
        const std::string on = flag_names(name);
        const std::string both = on + ",!--no-" + on.substr(2);
        command
            .add_flag_function(both,
                               [this, name](std::int64_t count) { overrides_[name] = count > 0; })
            ->group(group);
        continue;
      }
      const bool is_list = key.is_list, is_text = key.is_text;
      auto* option = command.add_option_function<std::vector<std::string>>(
          flag_names(name), [this, name, is_list, is_text](const std::vector<std::string>& words) {
            overrides_[name] = is_text ? json(words.at(0)) : value_of(words, is_list);
          });
      option->group(group)->type_name("")->description("[" + standard[name].dump() + "]");
      if (is_list || name == "image_size") {
        option->expected(1, 3)->delimiter(',');
      } else {
        option->expected(1);
      }
    }
  };
  std::vector<KeyLister::Key> model = {{"image_size", false, false, false},
                                       {"num_classes", false, false, false},
                                       {"hidden_act", false, false, true}};
  std::vector<KeyLister::Key> recipe;
  KeyLister list_model{model}, list_recipe{recipe};
  model_fields(list_model, defaults.model);
  recipe_fields(list_recipe, defaults.recipe);
  add_group("Training", recipe);
  add_group("Model", model);
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
  read_json(overrides_, source, config);
  validate(config.model, source);
  validate(config.recipe, source);
}

}  // namespace vitrine
