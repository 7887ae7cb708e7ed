// Short training runs on random images, for tests of whole steps.
#pragma once

#include <atomic>
#include <string>
#include <vector>

#include "vitrine/recipe.h"
#include "vitrine/trainer.h"

namespace vitrine {

#ifdef VITRINE_REDUCED
inline constexpr bool kReduced = true;  ///< sanitizer builds: fewer steps
#else
inline constexpr bool kReduced = false;
#endif

inline Dataset random_images(const VitConfig& model, std::int64_t count, std::uint64_t seed) {
  Dataset data{.name = "random",
               .channels = model.num_channels,
               .height = model.image_height,
               .width = model.image_width};
  RandomStream random(seed, 1);
  data.images.resize(static_cast<std::size_t>(count * data.image_bytes()));
  for (std::uint8_t& pixel : data.images) pixel = static_cast<std::uint8_t>(random.below(256));
  for (std::int64_t i = 0; i < count; ++i) {
    data.labels.push_back(static_cast<std::int32_t>(random.below(model.num_classes)));
  }
  for (std::int64_t k = 0; k < model.num_classes; ++k) {
    data.class_names.push_back(std::to_string(k));
  }
  return data;
}

/// The loss of every step.
inline std::vector<double> loss_curve(Device& device, const RunConfig& config,
                                      const Dataset& data) {
  const Dataset test = random_images(config.model, 2, 99);
  Trainer trainer(device, config, data, test, {});
  trainer.initialize();
  TrainObserver silent;
  const std::atomic<bool> never{false};
  trainer.run(silent, never);
  std::vector<double> losses;
  double sum = 0;
  for (const StepRecord& step : trainer.state().steps) {  // these are means since the start
    const double total = step.loss * static_cast<double>(losses.size() + 1);
    losses.push_back(total - sum);
    sum = total;
  }
  return losses;
}

inline RunConfig steps_of(const std::string& name, std::int64_t batch, std::int64_t steps) {
  RunConfig config = preset(name);
  config.recipe.batch_size = batch;
  config.recipe.epochs = 1;
  config.recipe.max_steps = steps;
  config.recipe.log_interval = 1;
  return config;
}

}  // namespace vitrine
