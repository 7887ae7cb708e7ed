// vitrine predict: image files in, probabilities out.
#include <memory>

#include "cli/commands.h"
#include "cli/flags.h"
#include "cli/predictions.h"
#include "train/image_pass.h"
#include "vitrine/batch_images.h"
#include "vitrine/checkpoint.h"
#include "vitrine/exchange.h"

namespace vitrine {
namespace {

struct Options {
  ConfigFlags flags;
  std::string checkpoint;
  std::vector<std::string> images;
  int top_k = 5;
  DeviceOptions device;
  Weights weights = Weights::trained;
  bool json = false;
};

int predict(Device& device, const Options& options, Checkpoint& checkpoint) {
  const RunConfig& config = checkpoint.config;
  options.flags.fit_precision(checkpoint.config, device.traits());
  const Plan plan = weights_plan(config, device.traits());
  const std::vector<float> weights =
      load_weights(weights_file(checkpoint, options.weights), config.model, plan);
  const Buffer on_device = share_weights(device, plan, weights);
  ImagePass pass(device, config, /*attention=*/false);
  nlohmann::ordered_json all = nlohmann::ordered_json::array();
  for (const std::string& file : options.images) {
    const AttentionMaps maps =
        pass.run(on_device.data(), evaluation_image(config, std::filesystem::path(file)));
    const std::vector<Prediction> predictions =
        top_predictions(config, maps.class_probabilities, options.top_k);
    all.push_back({{"file", file}, {"predictions", to_json(predictions)}});
    if (options.json) continue;
    std::printf("%s\n", file.c_str());
    print_predictions(predictions);
  }
  if (options.json) print_json(all);
  return 0;
}

int predict(const Options& options) {
  Checkpoint checkpoint = open_checkpoint(options.checkpoint);
  options.flags.override(checkpoint.config);
  return run_on_device(options.device,
                       [&](Device& device) { return predict(device, options, checkpoint); });
}

}  // namespace

Command add_predict(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("predict", "Classify PNG, JPEG, PGM or PPM images");
  command->add_option("--checkpoint", options->checkpoint, "a run or a checkpoint")->required();
  command->add_option("images", options->images, "image files")->required();
  command->add_option("-k,--top-k", options->top_k, "classes to print [5]")
      ->check(CLI::PositiveNumber);
  options->flags.add_to(*command, {{"precision", "fp32, tf32 or bf16"}});
  add_weights_flag(*command, options->weights);
  add_device_flags(*command, options->device);
  command->add_flag("--json", options->json, "the result as JSON");
  return [options] { return predict(*options); };
}

}  // namespace vitrine
