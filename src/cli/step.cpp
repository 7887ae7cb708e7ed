// vitrine step: weights and a batch in; logits, losses, gradients and the trained weights out.
// Anyone can hold the engine against another implementation with it.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>

#include "cli/commands.h"
#include "cli/flags.h"
#include "train/footprint.h"
#include "vitrine/safetensors.h"
#include "vitrine/trainer.h"

namespace vitrine {
namespace {

struct Options {
  ConfigFlags flags;
  std::string weights, batch, output;
  std::int64_t steps = 1;
  DeviceOptions device{.name = "cpu"};
};

struct Batch {
  std::int64_t size = 0;
  std::vector<float> images;  // [B, C, H, W], normalised
  std::vector<std::int32_t> labels;
};

Batch read_batch(const std::string& path, const VitConfig& model) {
  const SafetensorsFile file(path);
  const SafetensorsEntry* labels = file.find("labels");
  if (labels == nullptr) throw BadInput(path + ": labels: found nothing, expected I64 [B]");
  if (labels->dtype != DType::i64 || labels->shape.rank() != 1 || labels->shape[0] < 1) {
    throw BadInput(path + ": labels: found " + std::string(to_string(labels->dtype)) + " " +
                   labels->shape.str() + ", expected I64 [B]");
  }
  Batch batch{.size = labels->shape[0]};
  batch.images = file.read_f32(
      "images", Shape{batch.size, model.num_channels, model.image_height, model.image_width});
  for (float pixel : batch.images) {
    if (!std::isfinite(pixel)) {
      throw BadInput(path + ": images: found NaN or infinity, expected finite numbers");
    }
  }
  for (std::int64_t i = 0; i < batch.size; ++i) {
    std::int64_t label = 0;
    std::memcpy(&label, labels->data + i * 8, 8);
    if (label < -1 || label >= model.num_classes) {
      throw BadInput(path + ": labels: found " + std::to_string(label) + ", expected 0 to " +
                     std::to_string(model.num_classes - 1));
    }
    batch.labels.push_back(static_cast<std::int32_t>(label));
  }
  return batch;
}

/// What the steps produced, in the order of the output file.
struct Results {
  std::vector<float> logits, probabilities, loss, gradients, weights;
};

Results run_steps(Device& device, const Plan& plan, const RunConfig& config, const Batch& batch,
                  const std::vector<float>& weights, std::int64_t steps) {
  Executor executor(device, plan);
  OptimizerConfig optimizer_options = optimizer_config(config.recipe);
  optimizer_options.decay_all = true;
  Optimizer optimizer(device, plan, optimizer_options);
  optimizer.upload_weights(weights);
  const Buffer images =
      device.share(batch.images.data(), batch.images.size() * sizeof(float), "images");
  std::vector<BatchRow> rows;
  for (std::int64_t i = 0; i < batch.size; ++i) {
    rows.push_back({.image = i,
                    .crop_width = static_cast<float>(config.model.image_width),
                    .crop_height = static_cast<float>(config.model.image_height)});
  }
  set_rows(executor, rows, batch.labels);
  const auto valid = std::count_if(batch.labels.begin(), batch.labels.end(),
                                   [](std::int32_t label) { return label >= 0; });
  const ValueId logits = plan.graph().find("logits");
  const ValueId probabilities = plan.graph().find("probabilities");
  const auto forward_and_backward = device.program("gradients", [&] {
    executor.run(
        {.weights = optimizer.weights(), .inputs = {images.data()}, .valid_rows = batch.size});
    executor.sum_gradients();
  });
  const auto update =
      device.program("update", [&] { optimizer.update(executor.gradients(), executor.state()); });
  Results results;
  auto append = [&](std::vector<float>& to, ValueId value) {
    const std::vector<float> numbers = executor.output(value);
    const std::int64_t wanted = batch.size * config.model.num_classes;
    to.insert(to.end(), numbers.begin(), numbers.begin() + wanted);
  };
  for (std::int64_t step = 0; step < steps; ++step) {
    executor.reset_metrics();
    executor.set_state({.seed = config.recipe.seed,
                        .step = static_cast<std::uint32_t>(step),
                        .learning_rate = static_cast<float>(config.recipe.lr),
                        .loss_scale = 1.0f / static_cast<float>(std::max<std::ptrdiff_t>(valid, 1)),
                        .ema_decay = static_cast<float>(ema_decay_at(optimizer_options, step))});
    forward_and_backward->run();
    append(results.logits, logits);
    append(results.probabilities, probabilities);
    results.loss.push_back(static_cast<float>(executor.metrics().batch_loss));
    if (step == 0) {
      results.gradients.resize(static_cast<std::size_t>(plan.parameter_elements()));
      device.download(results.gradients.data(), executor.gradients(),
                      results.gradients.size() * sizeof(float));
    }
    update->run();
  }
  const Buffer trained = optimizer.host_weights();
  results.weights.assign(trained.as<float>(), trained.as<float>() + plan.parameter_elements());
  return results;
}

int step(Device& device, const Options& options, const RunConfig& config, const Batch& batch) {
  VitOptions vit{.training = true,
                 .precision = config.recipe.precision,
                 .patch_projection = config.recipe.patch_projection,
                 .images = DType::f32,
                 .stored_images = batch.size,
                 .probabilities = true,
                 .freeze = config.recipe.freeze};
  set_loss(config.recipe, vit);
  vit.recompute = choose_recompute(config, [](const Recompute&) { return true; });
  const Plan plan = plan_vit(config.model, vit, batch.size, device.traits());
  const Results results =
      run_steps(device, plan, config, batch, load_weights(options.weights, config.model, plan),
                options.steps);
  const Shape by_class{options.steps, batch.size, config.model.num_classes};
  std::vector<SafetensorsTensor> tensors = {
      {"logits", DType::f32, by_class, results.logits.data()},
      {"probabilities", DType::f32, by_class, results.probabilities.data()},
      {"loss", DType::f32, Shape{options.steps}, results.loss.data()}};
  for (const auto& list : {named_tensors(plan, results.gradients.data(), "grad."),
                           named_tensors(plan, results.weights.data(), "param.")}) {
    tensors.insert(tensors.end(), list.begin(), list.end());
  }
  write_safetensors(options.output, tensors);
  return 0;
}

int step(const Options& options) {
  RunConfig config;
  // A step is a step: what a config.json says of schedules does not apply, what flags say does.
  config.recipe.weight_decay = 0;
  config = options.flags.resolve(config);
  const Batch batch = read_batch(options.batch, config.model);
  return run_on_device(options.device,
                       [&](Device& device) { return step(device, options, config, batch); });
}

}  // namespace

Command add_step(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "step", "Run optimiser steps on one batch; write logits, losses, gradients and weights");
  options->flags.add_to(*command);
  command->add_option("--weights", options->weights, "model.safetensors")->required();
  command
      ->add_option("--batch", options->batch,
                   "safetensors with images F32 [B,C,H,W] (normalised) and labels I64 [B]")
      ->required();
  command->add_option("-o,--output", options->output, "safetensors to write")->required();
  command->add_option("--steps", options->steps, "optimiser steps [1]")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1000000}));
  add_device_flags(*command, options->device);
  return [options] { return step(*options); };
}

}  // namespace vitrine
