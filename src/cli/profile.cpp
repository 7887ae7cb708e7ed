// vitrine profile: where the time of a training step goes, and how far that is from the hardware.
#include <unistd.h>

#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/commands.h"
#include "cli/flags.h"
#include "cli/progress.h"
#include "io/files.h"
#include "vitrine/batch_images.h"
#include "vitrine/error.h"
#include "vitrine/step_profile.h"

namespace vitrine {
namespace {

struct Options {
  ConfigFlags flags;
  DeviceOptions device;
  StepProfileOptions steps;
  std::string by = "operation";
  bool json = false;
  std::string html;  // file
};

const std::map<std::string, ProfileBy> kTables = {
    {"operation", ProfileBy::operation}, {"layer", ProfileBy::layer}, {"place", ProfileBy::place}};
constexpr std::int64_t kMostBytes = std::int64_t{64} << 20;  // of images, where none are given
constexpr std::int64_t kMostSteps = 1'000'000;
constexpr RoofSizes kQuickRoof = {.product = 128, .copy = std::int64_t{1} << 20};

bool has_data(const ConfigFlags& flags) {
  return flags.has("dataset") || flags.has("data_dir");
}

// Images of the data set that flags name, else stripes in the model's own size.
Dataset images_for(const ConfigFlags& flags, const RunConfig& config) {
  const Recipe& recipe = config.recipe;
  if (has_data(flags)) {
    return load_data(config, Split::train);
  }
  const VitConfig& model = config.model;
  const std::int64_t image = model.num_channels * model.image_height * model.image_width;
  const std::int64_t step = recipe.batch_size * recipe.grad_accum_steps;
  const std::int64_t count = std::min(step, std::max<std::int64_t>(kMostBytes / image, 1));
  return make_stripes(count, model.num_classes, model.num_channels, model.image_height,
                      model.image_width);
}

StepProfile measure(Device& device, const Options& options, const RunConfig& config,
                    const Dataset& data) {
  Progress progress(stderr, !options.json && isatty(STDERR_FILENO) != 0);
  std::string shown;
  StepProfile result =
      profile_step(device, config, data, options.steps,
                   [&](const std::string& what, std::int64_t images, std::int64_t of) {
                     if (what != shown) progress.begin(what, of);
                     shown = what;
                     progress.update(images, "");
                     return !interrupted;
                   });
  progress.end("");
  return result;
}

int profile(const Options& options) {
  if (!options.flags.has_model()) {
    throw BadInput("profile: found no model, expected --preset or --config");
  }
  RunConfig config = options.flags.resolve();
  // Stripes have the model's size, and need no crops unless somebody asks for them.
  if (!has_data(options.flags) && !options.flags.has("scale")) config.recipe.scale = {1.0, 1.0};
  std::optional<AtomicFile> page;  // fails before anything is measured
  if (!options.html.empty()) page.emplace(options.html);
  return run_on_device(options.device, [&](Device& device) {
    const Dataset data = images_for(options.flags, config);
    const StepProfile result = measure(device, options, config, data);
    if (page) {
      page->write(to_html(result));
      page->commit();
    }
    if (options.json) {
      std::printf("%s\n", to_json(result).dump(2).c_str());
    } else {
      std::printf("%s", to_text(result, kTables.at(options.by)).c_str());
    }
    if (page) std::fprintf(options.json ? stderr : stdout, "\npage: %s\n", options.html.c_str());
    return 0;
  });
}

}  // namespace

Command add_profile(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "profile", "Where the time of a training step goes, and how far from the hardware's limit");
  options->flags.add_to(*command);
  add_device_flags(*command, options->device);
  command->add_option("--steps", options->steps.steps, "timed steps [20]")
      ->check(CLI::Range(std::int64_t{1}, kMostSteps));
  command->add_option("--warm-up", options->steps.warm_up, "steps before them [5]")
      ->check(CLI::Range(std::int64_t{3}, kMostSteps));
  command->add_flag_callback(
      "--quick-roof", [options] { options->steps.roof = kQuickRoof; },
      "measure the roof with small copies and products: sooner, and too low");
  std::vector<std::string> tables;
  for (const auto& [name, table] : kTables) tables.push_back(name);
  command->add_option("--by", options->by, "rows of the table: operation, layer, place [operation]")
      ->check(CLI::IsMember(tables));
  CLI::Option* capture =
      command->add_flag("--capture", options->steps.capture,
                        "run the steps between cudaProfilerStart and Stop, and time no operation");
  command->add_flag("--json", options->json, "as JSON");
  command
      ->add_option("--html", options->html,
                   "write a page: tables, the last step as a timeline, roofline plot")
      ->excludes(capture);
  return [options] { return profile(*options); };
}

}  // namespace vitrine
