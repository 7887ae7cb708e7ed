#include "train/footprint.h"

#include <algorithm>

namespace vitrine {
namespace {

VitOptions options_for(const RunConfig& config, const StoredShape& stored) {
  const Transform t = transform(config.recipe, config.model.num_channels);
  return {.precision = config.recipe.precision,
          .patch_projection = config.recipe.patch_projection,
          .source_height = stored.height,
          .source_width = stored.width,
          .stored_images = stored.images,
          .mean = t.mean,
          .std = t.std};
}

std::int64_t evaluation_bytes(const Plan& plan, int workers) {
  const MemoryReport memory = plan.memory(workers);
  return memory.activations + memory.outputs;
}

}  // namespace

BatchImagesOptions training_images(const RunConfig& config, bool resident) {
  return {.batch = config.recipe.batch_size, .resident = resident, .training = true};
}

BatchImagesOptions evaluation_images(const RunConfig& config, const Dataset& data, bool resident) {
  return {.batch = evaluation_batch(config, data), .resident = resident};
}

Recompute choose_recompute(const RunConfig& config,
                           const std::function<bool(const Recompute&)>& fits) {
  const std::int64_t layers = config.model.num_hidden_layers;
  const Recompute selective{.selective = layers}, full{.selective = layers, .full = layers};
  switch (config.recipe.recompute) {
    case RecomputeMode::none:
      return {};
    case RecomputeMode::selective:
      return selective;
    case RecomputeMode::full:
      return full;
    case RecomputeMode::automatic:
      break;
  }
  if (fits({})) return {};
  const auto fewest = [&](const auto& with) {
    const auto spared = [&](std::int64_t n) { return fits(with(layers - n)); };
    return with(layers - largest_that_fits(layers, spared));
  };
  if (fits(selective)) {
    return fewest([](std::int64_t n) { return Recompute{.selective = n}; });
  }
  return fewest([&](std::int64_t n) { return Recompute{.selective = layers, .full = n}; });
}

VitOptions training_options(const RunConfig& config, const Dataset& data, bool resident,
                            const Recompute& recompute) {
  VitOptions options =
      options_for(config, stored_shape(config, data, training_images(config, resident)));
  set_loss(config.recipe, options);
  options.label_mixes = augmentation(config).mixes();
  options.freeze = config.recipe.freeze;
  options.recompute = recompute;
  return options;
}

VitOptions evaluation_options(const RunConfig& config, const Dataset& data, bool resident) {
  VitOptions options =
      options_for(config, stored_shape(config, data, evaluation_images(config, data, resident)));
  options.training = false;
  options.probabilities = true;
  return options;
}

std::int64_t evaluation_batch(const RunConfig& config, const Dataset& data) {
  return std::clamp<std::int64_t>(data.size(), 1, config.recipe.batch_size);
}

MemoryReport training_memory(const Plan& training, const Recipe& recipe, int workers) {
  MemoryReport memory = training.memory(workers);
  if (recipe.model_ema) {
    const DType working = training.graph().working_type();
    const std::size_t copy = working == DType::f32 ? 0 : size_of(working);  // to evaluate it
    memory.average =
        training.parameter_elements() * static_cast<std::int64_t>(sizeof(float) + copy);
  }
  return memory;
}

MemoryReport run_memory(const Plan& training, const Plan& evaluation, const Recipe& recipe,
                        int workers) {
  MemoryReport memory = training_memory(training, recipe, workers);
  memory.evaluation = evaluation_bytes(evaluation, workers);
  return memory;
}

Footprint footprint(const RunConfig& config, const Dataset& train, const Dataset& test,
                    const DeviceTraits& traits, int workers) {
  const Plan evaluation = plan_vit(config.model, evaluation_options(config, test, true),
                                   evaluation_batch(config, test), traits);
  auto alone = [&](const Recompute& how) {
    const Plan training = plan_vit(config.model, training_options(config, train, true, how),
                                   config.recipe.batch_size, traits);
    return run_memory(training, evaluation, config.recipe, workers).total();
  };
  auto images = [&](bool train_resident, bool test_resident) {
    return images_bytes(config, train, training_images(config, train_resident)) +
           images_bytes(config, test, evaluation_images(config, test, test_resident));
  };
  const std::int64_t least_images = traits.reads_host_memory ? 0 : images(false, false);
  Footprint footprint;
  footprint.recompute = choose_recompute(
      config, [&](const Recompute& how) { return alone(how) + least_images <= traits.memory; });
  const std::int64_t bytes = alone(footprint.recompute);
  if (traits.reads_host_memory) {
    footprint.bytes = bytes;
    footprint.planned = bytes + images(true, true);
    return footprint;
  }
  footprint.train_resident = bytes + images(true, false) <= traits.memory;
  footprint.test_resident = bytes + images(footprint.train_resident, true) <= traits.memory;
  footprint.bytes = bytes + images(footprint.train_resident, footprint.test_resident);
  footprint.planned = footprint.bytes;
  return footprint;
}

bool evaluation_resident(const RunConfig& config, const Dataset& data, const DeviceTraits& traits) {
  if (traits.reads_host_memory) return true;
  const Plan plan = plan_vit(config.model, evaluation_options(config, data, true),
                             evaluation_batch(config, data), traits);
  const std::int64_t weights = plan.memory(1).weights + traits.runtime;
  return weights + evaluation_bytes(plan, 1) +
             images_bytes(config, data, evaluation_images(config, data, true)) <=
         traits.memory;
}

}  // namespace vitrine
