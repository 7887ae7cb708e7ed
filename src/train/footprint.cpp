#include "train/footprint.h"

#include <algorithm>

namespace vitrine {
namespace {

VitOptions options_for(const RunConfig& config, const Dataset& data, std::int64_t stored) {
  const Transform t = transform(config.recipe, config.model.num_channels);
  return {.precision = config.recipe.precision,
          .patch_projection = config.recipe.patch_projection,
          .source_height = data.height,
          .source_width = data.width,
          .stored_images = stored,
          .mean = t.mean,
          .std = t.std};
}

std::int64_t evaluation_bytes(const Plan& plan, int workers) {
  const MemoryReport memory = plan.memory(workers);
  return memory.activations + memory.outputs;
}

}  // namespace

VitOptions training_options(const RunConfig& config, const Dataset& data, std::int64_t stored) {
  VitOptions options = options_for(config, data, stored);
  set_loss(config.recipe, options);
  options.freeze = config.recipe.freeze;
  return options;
}

VitOptions evaluation_options(const RunConfig& config, const Dataset& data, std::int64_t stored) {
  VitOptions options = options_for(config, data, stored);
  options.training = false;
  options.probabilities = true;
  return options;
}

std::int64_t evaluation_batch(const RunConfig& config, const Dataset& data) {
  return std::clamp<std::int64_t>(data.size(), 1, config.recipe.batch_size);
}

MemoryReport training_memory(const Plan& training, const Recipe& recipe, int workers) {
  const auto bytes = training.parameter_elements() * std::int64_t{sizeof(float)};
  MemoryReport memory = training.memory(workers);
  memory.average = recipe.model_ema ? bytes : 0;
  return memory;
}

std::int64_t run_bytes(const Plan& training, const Plan& evaluation, const Recipe& recipe,
                       int workers) {
  return training_memory(training, recipe, workers).total() + evaluation_bytes(evaluation, workers);
}

Footprint footprint(const RunConfig& config, const Dataset& train, const Dataset& test,
                    const DeviceTraits& traits, int workers) {
  const std::int64_t batch = config.recipe.batch_size, test_batch = evaluation_batch(config, test);
  const Plan training =
      plan_vit(config.model, training_options(config, train, train.size()), batch, traits);
  const Plan evaluation =
      plan_vit(config.model, evaluation_options(config, test, test.size()), test_batch, traits);
  const std::int64_t alone = run_bytes(training, evaluation, config.recipe, workers);
  if (traits.reads_host_memory) {
    const auto images = static_cast<std::int64_t>(train.images.size() + test.images.size());
    return {.bytes = alone, .planned = alone + images};
  }
  auto bytes = [&](bool train_resident, bool test_resident) {
    return alone + DeviceImages::bytes(train, batch, train_resident) +
           DeviceImages::bytes(test, test_batch, test_resident);
  };
  Footprint footprint;
  footprint.train_resident = bytes(true, false) <= traits.memory;
  footprint.test_resident = bytes(footprint.train_resident, true) <= traits.memory;
  footprint.bytes = bytes(footprint.train_resident, footprint.test_resident);
  footprint.planned = footprint.bytes;
  return footprint;
}

bool evaluation_resident(const RunConfig& config, const Dataset& data, const DeviceTraits& traits) {
  if (traits.reads_host_memory) return true;
  const Plan plan = plan_vit(config.model, evaluation_options(config, data, data.size()),
                             evaluation_batch(config, data), traits);
  const std::int64_t weights = plan.memory(1).weights + traits.runtime;
  return weights + evaluation_bytes(plan, 1) + static_cast<std::int64_t>(data.images.size()) <=
         traits.memory;
}

}  // namespace vitrine
