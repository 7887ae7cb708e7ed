// Computing results again on the CUDA device: the same bits, as little as makes a run fit.
#include "step_runs.h"

namespace vitrine {
namespace {

TEST_F(CudaStep, RecomputingChangesNoBit) {
  for (const Precision precision : {Precision::fp32, Precision::bf16}) {
    RunConfig config = small_run();
    config.recipe.precision = precision;
    const Dataset data = random_images(config.model, 14, 5);
    const Trained expected = train_on({.name = "cuda"}, config, data);
    for (const RecomputeMode mode : {RecomputeMode::selective, RecomputeMode::full}) {
      SCOPED_TRACE(static_cast<int>(mode));
      config.recipe.recompute = mode;
      const auto device = make_simt_device();
      EXPECT_NE(Trainer(*device, config, data, data, {}).plan().graph().recomputed(), Recompute{});
      expect_same(train_on({.name = "cuda"}, config, data), expected);
    }
  }
}

// Where all that forward saves does not fit, as much as must be is computed again.
TEST_F(CudaStep, WhatDoesNotFitIsRecomputed) {
  RunConfig config = small_run();
  config.model.num_hidden_layers = 4;
  config.model.image_height = config.model.image_width = 32;
  config.recipe.batch_size = 24;
  config.recipe.max_steps = 2;
  const Dataset data = random_images(config.model, 24, 5), test = random_images(config.model, 6, 9);
  const Trained expected = train_on({.name = "cuda"}, config, data);
  const auto chosen = [&](std::int64_t memory) {
    simt::Gpu gpu;
    gpu.memory = static_cast<std::size_t>(memory);
    simt::set_gpu(gpu);
    const auto device = make_simt_device();
    return Trainer(*device, config, data, test, {}).plan().graph().recomputed();
  };
  bool kept = false, selective = false, full = false;
  for (std::int64_t memory = std::int64_t{80} << 20; !full; memory -= 192 << 10) {
    const Recompute how = chosen(memory);
    const bool first = !selective && how.selective > 0;
    full = how.full > 0;
    kept |= how == Recompute{};
    selective |= how.selective > 0 && !full;
    if (first || full) {
      SCOPED_TRACE(to_text(how));
      expect_same(train_on({.name = "cuda"}, config, data), expected);
    }
  }
  EXPECT_TRUE(kept && selective);
  config.recipe.recompute = RecomputeMode::none;
  EXPECT_THROW(train_on({.name = "cuda"}, config, data), OutOfMemory);
}

}  // namespace
}  // namespace vitrine
