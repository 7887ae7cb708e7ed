#include "train/image_pass.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "train/footprint.h"
#include "vitrine/error.h"

namespace vitrine {
namespace {

VitOptions options_for(const RunConfig& config, const Dataset& image, bool attention) {
  VitOptions options = evaluation_options(config, image, /*resident=*/true);
  options.attention_probabilities = attention;
  return options;
}

std::vector<float> softmax(std::vector<float> logits) {
  const float largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float& z : logits) sum += z = std::exp(z - largest);
  for (float& p : logits) p = static_cast<float>(p / sum);
  return logits;
}

}  // namespace

struct ImagePass::Planned {
  std::int64_t height, width;
  Plan plan;
  Executor executor;

  Planned(Device& device, const RunConfig& config, const Dataset& image, bool attention)
      : height(image.height),
        width(image.width),
        plan(plan_vit(config.model, options_for(config, image, attention), /*batch=*/1,
                      device.traits())),
        executor(device, plan) {}
};

ImagePass::ImagePass(Device& device, const RunConfig& config, bool attention)
    : device_(device), config_(config), attention_(attention) {}
ImagePass::~ImagePass() = default;

AttentionMaps ImagePass::run(const void* weights, const Image& image) {
  const VitConfig& model = config_.model;
  Image pixels = convert_channels(image, model.num_channels);
  const Dataset data{.name = "image",
                     .channels = pixels.channels,
                     .height = pixels.height,
                     .width = pixels.width,
                     .images = std::move(pixels.pixels),
                     .labels = {0},
                     .class_names = {}};
  if (!planned_ || planned_->height != data.height || planned_->width != data.width) {
    planned_.reset();  // its memory first
    planned_ = std::make_unique<Planned>(device_, config_, data, attention_);
  }
  Executor& executor = planned_->executor;
  const Graph& graph = planned_->plan.graph();
  const Buffer on_device = device_.share(data.images.data(), data.images.size(), "image");
  set_rows(executor, {{whole_image(data, 0)}}, data.labels);
  executor.set_state({.loss_scale = 1.0f});
  executor.run({.weights = weights, .inputs = {on_device.data()}, .valid_rows = 1});
  AttentionMaps maps{.heads = model.num_attention_heads,
                     .tokens = model.tokens(),
                     .class_probabilities = softmax(executor.output(graph.find("logits")))};
  if (!std::isfinite(maps.class_probabilities[0])) {  // one that is not makes all of them so
    throw BadInput(
        "weights: found logits that are not finite, expected numbers: the model diverged");
  }
  if (!attention_) return maps;
  maps.layers = model.num_hidden_layers;
  maps.probabilities.reserve(
      static_cast<std::size_t>(maps.layers * maps.heads * maps.tokens * maps.tokens));
  for (std::int64_t layer = 0; layer < maps.layers; ++layer) {
    const std::string name = "blocks." + std::to_string(layer) + ".attn.probabilities";
    const std::vector<float> kept = executor.output(graph.find(name));
    maps.probabilities.insert(maps.probabilities.end(), kept.begin(), kept.end());
  }
  return maps;
}

Plan weights_plan(const RunConfig& config, const DeviceTraits& traits) {
  VitOptions options{.training = false, .precision = config.recipe.precision};
  return plan_vit(config.model, options, /*batch=*/1, traits);
}

AttentionMaps attention_maps(Device& device, const RunConfig& config,
                             const std::vector<float>& weights, const Image& image) {
  const Buffer on_device = share_weights(device, weights_plan(config, device.traits()), weights);
  return ImagePass(device, config, /*attention=*/true).run(on_device.data(), image);
}

}  // namespace vitrine
