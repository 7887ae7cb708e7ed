// Whole runs of a small network on an emulated GPU (simt), and what they leave.
#pragma once

#include <gtest/gtest.h>

#include "reference_check.h"
#include "simt/device.h"
#include "simt/gpu.h"
#include "simt/streams.h"
#include "training_runs.h"
#include "vit_run.h"
#include "vitrine/trainer.h"

namespace vitrine {

inline constexpr std::int64_t kSteps = kReduced ? 4 : 9;

/// A small network with every kind of dropout, batches of 4 of 14 images: the last one is smaller.
inline RunConfig small_run() {
  RunConfig config;
  config.model = small_vit();
  config.model.image_width = config.model.image_height;
  drop_everywhere(config.model);
  config.recipe.batch_size = 4;
  config.recipe.epochs = 3;
  config.recipe.max_steps = kSteps;
  config.recipe.log_interval = 2;
  config.recipe.lr = 1e-2;
  return config;
}

/// What a run leaves: weights, and the loss and learning rate of every log interval.
struct Trained {
  std::vector<float> weights;
  std::vector<double> losses;
  TrainerState state;
};

class SilentObserver final : public TrainObserver {};

inline Trained train(Device& device, const RunConfig& config, const Dataset& data,
                     const Checkpoint* from = nullptr, const std::filesystem::path& output = {}) {
  const Dataset test = random_images(config.model, 6, 99);
  Trainer trainer(device, config, data, test, output);
  if (from != nullptr) {
    trainer.resume(*from);
  } else {
    trainer.initialize();
  }
  SilentObserver observer;
  const std::atomic<bool> never{false};
  trainer.run(observer, never);
  const Buffer weights = trainer.weights();
  Trained trained{
      .weights = {weights.as<float>(), weights.as<float>() + trainer.plan().parameter_elements()},
      .state = trainer.state()};
  for (const StepRecord& step : trainer.state().steps) trained.losses.push_back(step.loss);
  return trained;
}

inline void expect_same(const Trained& a, const Trained& b) {
  EXPECT_TRUE(same_bits(a.weights, b.weights));
  EXPECT_EQ(a.losses, b.losses);
}

inline Trained train_on(const DeviceOptions& options, const RunConfig& config,
                        const Dataset& data) {
  const auto device = make_simt_device(options);
  return train(*device, config, data);
}

class CudaStep : public ::testing::Test {
 protected:
  void SetUp() override { simt::reset_device(); }
  void TearDown() override { simt::reset_device(); }
};

}  // namespace vitrine
