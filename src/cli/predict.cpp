// vitrine predict: image files in, probabilities out.
#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>

#include "cli/commands.h"
#include "cli/flags.h"
#include "vitrine/exchange.h"
#include "vitrine/image.h"
#include "vitrine/trainer.h"

namespace vitrine {
namespace {

struct Options {
  ConfigFlags flags;
  std::string checkpoint;
  std::vector<std::string> images;
  int top_k = 5;
  DeviceOptions device;
  bool json = false;
};

// One image is a data set of one; the whole of it is resized to the model's size.
std::vector<float> probabilities_of(Device& device, const RunConfig& config, const Image& image,
                                    const std::filesystem::path& file) {
  Dataset data{.name = "image",
               .channels = image.channels,
               .height = image.height,
               .width = image.width,
               .images = image.pixels,
               .labels = {0},
               .class_names = {}};
  Evaluator evaluator(device, config, data);
  const std::vector<float> weights = load_weights(file, config.model, evaluator.plan());
  const Buffer on_device = share_weights(device, evaluator.plan(), weights);
  std::vector<float> logits =
      evaluator.run(on_device.data(), /*details=*/false, /*logits=*/true).logits;
  const float largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float& z : logits) sum += z = std::exp(z - largest);
  for (float& p : logits) p = static_cast<float>(p / sum);
  return logits;
}

std::string class_name(const RunConfig& config, std::size_t k) {
  return k < config.class_names.size() ? config.class_names[k] : "class " + std::to_string(k);
}

int predict(Device& device, const Options& options, Checkpoint& checkpoint) {
  options.flags.fit_precision(checkpoint.config, device.traits());
  nlohmann::ordered_json all = nlohmann::ordered_json::array();
  for (const std::string& file : options.images) {
    const Image image = convert_channels(read_image(file), checkpoint.config.model.num_channels);
    const std::vector<float> p =
        probabilities_of(device, checkpoint.config, image, weights_file(checkpoint.directory));
    std::vector<std::size_t> order(p.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return p[a] > p[b]; });
    order.resize(std::min(order.size(), static_cast<std::size_t>(std::max(options.top_k, 1))));
    nlohmann::ordered_json entry = {{"file", file}, {"predictions", nlohmann::json::array()}};
    if (!options.json) std::printf("%s\n", file.c_str());
    for (std::size_t k : order) {
      const std::string name = class_name(checkpoint.config, k);
      entry["predictions"].push_back({{"class", k}, {"name", name}, {"probability", p[k]}});
      if (!options.json) {
        const std::string bar(static_cast<std::size_t>(p[k] * 30 + 0.5f), '#');
        std::printf("  %6.2f %%  %-16s %s\n", 100.0 * static_cast<double>(p[k]), name.c_str(),
                    bar.c_str());
      }
    }
    all.push_back(entry);
  }
  if (options.json) std::printf("%s\n", all.dump(1).c_str());
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
  command->add_option("-k,--top-k", options->top_k, "classes to print [5]");
  options->flags.add_to(*command, {{"precision", "fp32, tf32 or bf16"}});
  add_device_flags(*command, options->device);
  command->add_flag("--json", options->json, "the result as JSON");
  return [options] { return predict(*options); };
}

}  // namespace vitrine
