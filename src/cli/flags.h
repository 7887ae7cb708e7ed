// Flags of the command line: every key of config.json is one, spelled with dashes.
#pragma once

#include <CLI/CLI.hpp>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "vitrine/checkpoint.h"
#include "vitrine/device.h"
#include "vitrine/recipe.h"

namespace vitrine {

/// What the flags that set keys of config.json were given; filled while CLI11 parses.
class ConfigFlags {
 public:
  /// Adds --preset, --config and a flag for each key to `command`.
  void add_to(CLI::App& command);
  /// Adds flags for a few keys of a checkpoint's recipe, with what the help says of each.
  void add_to(CLI::App& command, const std::map<std::string, std::string>& keys);

  /// Preset, then --config, then flags. `base` is what they start from.
  RunConfig resolve(const RunConfig& base = {}) const;
  /// The flags only, on top of what a checkpoint says.
  void override(RunConfig& config) const;
  /// A checkpoint holds fp32 weights whatever it was trained in: where the device has no bf16, fp32
  /// takes its place, with a line on standard error, unless a flag asked for bf16.
  void fit_precision(RunConfig& config, const DeviceTraits& traits) const;
  /// Whether a flag sets that key, and the text it sets it to.
  bool has(const std::string& key) const { return overrides_.contains(key); }
  std::string text(const std::string& key) const { return overrides_.value(key, std::string()); }
  bool has_model() const { return !preset_.empty() || !config_file_.empty(); }

 private:
  std::string preset_, config_file_;
  nlohmann::json overrides_ = nlohmann::json::object();
};

/// --use-ema.
void add_weights_flag(CLI::App& command, Weights& weights);

}  // namespace vitrine
