// What a training step on the CUDA device asks of the GPU, and that recording it changes no bit:
// whole runs on an emulated GPU (simt).
#include <gtest/gtest.h>

#include <iostream>

#include "nvtx_recorder.h"
#include "simt/streams.h"
#include "step_runs.h"
#include "temporary_directory.h"
#include "vit_cases.h"
#include "vitrine/conversion.h"

namespace vitrine {
namespace {

TEST_F(CudaStep, RecordingChangesNoBit) {
  for (const std::int64_t accumulate : {1, 3}) {
    for (const Precision precision : {Precision::fp32, Precision::bf16}) {
      SCOPED_TRACE("accumulate " + std::to_string(accumulate) + ", precision " +
                   std::to_string(static_cast<int>(precision)));
      RunConfig config = small_run();
      config.recipe.grad_accum_steps = accumulate;
      config.recipe.precision = precision;
      const Dataset data = random_images(config.model, 14, 5);
      const Trained expected = train_on({.name = "cuda", .cuda_graph = false}, config, data);
      EXPECT_EQ(simt::counters().graph_launches, 0);
      expect_same(train_on({.name = "cuda"}, config, data), expected);
      EXPECT_GT(simt::counters().graph_launches, 0);
      expect_same(train_on({.name = "cuda"}, config, data), expected);
      simt::set_streams(simt::Streams::eager);
      expect_same(train_on({.name = "cuda"}, config, data), expected);
      simt::reset_device();
    }
  }
}

// A replay chooses the samples of its own step.
TEST_F(CudaStep, RecordingChangesNoSubset) {
  RunConfig config = small_run();
  config.model.hidden_dropout_prob = 0;
  config.model.drop_path_subset = true;
  const Dataset data = random_images(config.model, 14, 5);
  for (const Precision precision : {Precision::fp32, Precision::bf16}) {
    SCOPED_TRACE(to_string(working_type(precision)));
    config.recipe.precision = precision;
    const Trained expected = train_on({.name = "cuda", .cuda_graph = false}, config, data);
    expect_same(train_on({.name = "cuda"}, config, data), expected);
    simt::set_streams(simt::Streams::eager);
    expect_same(train_on({.name = "cuda"}, config, data), expected);
    simt::reset_device();
  }
}

TEST_F(CudaStep, StopAndResumeChangesNoBit) {
  RunConfig config = small_run();
  const Dataset data = random_images(config.model, 14, 5);
  const Trained expected = train_on({.name = "cuda"}, config, data);
  for (const std::int64_t stop : {1, 3}) {
    const TemporaryDirectory run;
    RunConfig first = config;
    first.recipe.max_steps = stop;
    {
      const auto device = make_simt_device();
      train(*device, first, data, nullptr, run.path());
    }
    Checkpoint checkpoint = open_checkpoint(run.path());
    EXPECT_EQ(checkpoint.state.step, stop);
    const auto device = make_simt_device();
    expect_same(train(*device, config, data, &checkpoint), expected);
  }
}

TEST_F(CudaStep, FrozenParametersKeepTheirBits) {
  RunConfig config = small_run();
  config.recipe.freeze = {"patch_embed", "cls_token", "blocks.0.attn", "blocks.1.norm2"};
  config.recipe.precision = Precision::bf16;
  config.recipe.weight_decay_all = true;
  const Dataset data = random_images(config.model, 14, 5);
  const Plan plan =
      plan_vit(config.model, {.precision = config.recipe.precision, .freeze = config.recipe.freeze},
               config.recipe.batch_size, make_simt_device()->traits());
  const std::vector<float> before = initial_weights(config.model, plan, config.recipe.seed);
  for (const std::int64_t accumulate : {1, 3}) {
    config.recipe.grad_accum_steps = accumulate;
    const Trained trained = train_on({.name = "cuda"}, config, data);
    for (std::size_t p = 0; p < plan.graph().parameters().size(); ++p) {
      const Parameter& parameter = plan.graph().parameters()[p];
      const auto begin = plan.parameter_offset(static_cast<int>(p));
      EXPECT_EQ(
          std::equal(before.begin() + begin, before.begin() + begin + parameter.shape.elements(),
                     trained.weights.begin() + begin),
          !parameter.trained)
          << parameter.name << ", accumulate " << accumulate;
    }
  }
}

// Whatever lies in the gradients of what is frozen; the seeds are 61 and 62.
TEST_F(CudaStep, TheWorkingCopyOfFrozenWeightsStays) {
  const auto device = make_simt_device();
  const Plan plan =
      plan_vit(small_vit(), {.precision = Precision::bf16, .freeze = {"blocks.0", "norm.bias"}}, 2,
               device->traits());
  Optimizer optimizer(*device, plan, {.weight_decay = 0.5, .decay_all = true});
  const std::vector<float> weights = random_weights(plan, 61), gradients = random_weights(plan, 62);
  optimizer.upload_weights(weights);
  Buffer on_device = device->allocate(gradients.size() * sizeof(float), "gradients");
  device->upload(on_device.data(), gradients.data(), on_device.bytes());
  Buffer state = device->allocate(sizeof(StepState), "state");
  const StepState step{.learning_rate = 0.1f};
  device->upload(state.data(), &step, sizeof step);
  optimizer.update(on_device.as<float>(), state.as<StepState>());
  std::vector<char> working(weights.size() * 2);
  device->download(working.data(), optimizer.weights(), working.size());
  const Buffer host = optimizer.host_weights();
  const std::vector<float> after(host.as<float>(), host.as<float>() + weights.size());
  EXPECT_EQ(working, converted(after, DType::bf16));
  for (std::size_t p = 0; p < plan.graph().parameters().size(); ++p) {
    const Parameter& parameter = plan.graph().parameters()[p];
    const auto begin = plan.parameter_offset(static_cast<int>(p));
    EXPECT_EQ(std::equal(after.begin() + begin, after.begin() + begin + parameter.shape.elements(),
                         weights.begin() + begin),
              !parameter.trained)
        << parameter.name;
  }
}

TEST_F(CudaStep, ImagesThatDoNotFitPassThroughTheRing) {
  RunConfig config = small_run();
  config.model.image_height = config.model.image_width = 16;
  const Dataset data = random_images(config.model, 4000, 5);  // 3 MB
  const Trained expected = train_on({.name = "cuda"}, config, data);
  const std::int64_t before = simt::counters().bytes_to_device;
  ASSERT_GT(before, data.image_bytes() * data.size());
  for (const simt::Streams streams : {simt::Streams::late, simt::Streams::eager}) {
    simt::Gpu gpu;
    gpu.memory = std::size_t{70} << 20;  // 68 MiB are reserve and workspace
    simt::set_gpu(gpu);
    simt::set_streams(streams);
    simt::reset_counters();
    expect_same(train_on({.name = "cuda"}, config, data), expected);
    EXPECT_LT(simt::counters().bytes_to_device, data.image_bytes() * data.size() / 2);
    EXPECT_GE(simt::counters().bytes_to_device,
              kSteps * config.recipe.batch_size * data.image_bytes());
    simt::reset_device();
  }
}

// A step in the middle of an epoch: one replay, one copy to the device, and nobody waits.
TEST_F(CudaStep, OneReplayOneCopyNoWait) {
  simt::set_streams(simt::Streams::eager);
  for (const PresetInfo& info : presets()) {
    const std::string& name = info.name;
    SCOPED_TRACE(name);
    RunConfig config = steps_of(name, 2, 8);
    config.recipe.log_interval = 3;
    if (config.model.image_width > 32) {  // what a step asks for does not depend on the size
      config.model.image_height = config.model.image_width = 2 * config.model.patch_size;
      config.model.num_hidden_layers = std::min<std::int64_t>(config.model.num_hidden_layers, 2);
    }
    // Wider ViTs have the same operations, and would take minutes here.
    if (config.model.hidden_size > (kReduced ? 64 : 192) && name != "d2l-224") continue;
    const Dataset data = random_images(config.model, 64, 3),
                  test = random_images(config.model, 2, 4);
    const auto device = make_simt_device();
    Trainer trainer(*device, config, data, test, {});
    trainer.initialize();
    struct Counting final : TrainObserver {
      std::vector<simt::Counters> steps;
      void on_step(std::int64_t) override {
        steps.push_back(simt::counters());
        simt::reset_counters();
      }
    } counting;
    const std::atomic<bool> never{false};
    trainer.run(counting, never);
    ASSERT_EQ(counting.steps.size(), 8u);
    // Augmentation goes before the replay: a kernel and a table for crops, operations and mixes.
    const AugmentationConfig varied = augmentation(config);
    const int before =
        augments(config.recipe) ? 1 + (varied.operations_per_image() > 0) + varied.mixes() : 0;
    for (std::size_t i = 2; i < counting.steps.size(); ++i) {  // after warm-up and recording
      const simt::Counters& step = counting.steps[i];
      EXPECT_EQ(step.graph_launches, 1) << i;
      EXPECT_EQ(step.launches, before) << i;
      EXPECT_EQ(step.memsets, 0) << i;
      EXPECT_EQ(step.host_waits, 0) << i;
      EXPECT_EQ(step.allocations, 0) << i;
      EXPECT_EQ(step.copies_to_device, 1 + before) << i;
      if (before == 0) {
        EXPECT_EQ(step.bytes_to_device, trainer.plan().step_bytes()) << i;
      }
      const bool logged = i % 3 == 0;  // the sums of the step before are on their way
      EXPECT_EQ(step.copies_to_host, logged ? 2 : 0) << i;
    }
    std::cout << name << ": a step is one replay of " << counting.steps[2].nodes_replayed
              << " operations and one copy of " << counting.steps[2].bytes_to_device << " bytes\n";
  }
}

// How labels are mixed travels with rows and labels.
TEST_F(CudaStep, MixesComeInTheSameCopy) {
  const auto device = make_simt_device();
  const Chunking chunking{.batch = 3, .rows = 3};
  VitRun vit(*device, small_vit(), {.label_mixes = true}, chunking, 3);
  const std::vector<LabelMix> mixes = {{1, 0.25f}, {2, 0.5f}, {3, 0.75f}};
  simt::reset_counters();
  set_rows(vit.executor(), std::vector<BatchRow>(3), std::vector<std::int32_t>{4, 5, 6}, mixes);
  vit.executor().set_state({});
  device->synchronize();
  EXPECT_EQ(simt::counters().copies_to_device, 1);
  EXPECT_EQ(simt::counters().bytes_to_device, vit.plan().step_bytes());
  std::vector<LabelMix> there(3);
  const ValueId id = vit.plan().graph().find("mixes");
  const auto* step = reinterpret_cast<const char*>(vit.executor().state());
  device->download(there.data(), step + vit.plan().location(id).offset, sizeof(LabelMix) * 3);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(there[i].other, mixes[i].other);
    EXPECT_EQ(there[i].weight, mixes[i].weight);
  }
}

TEST_F(CudaStep, RangesReadLikeTheModel) {
  RunConfig config = small_run();
  config.recipe.max_steps = 3;
  const Dataset data = random_images(config.model, 14, 5);
  simt::take_ranges();
  train_on({.name = "cuda", .cuda_graph = false}, config, data);
  const std::vector<std::string> ranges = simt::take_ranges();
  auto count = [&](const std::string& name) {
    return std::count(ranges.begin(), ranges.end(), name);
  };
  EXPECT_EQ(count("epoch 1"), 1);
  EXPECT_EQ(count("epoch 1/step"), 3);
  EXPECT_EQ(count("epoch 1/step/forward"), 3);
  EXPECT_EQ(count("epoch 1/step/forward/patch_embed"), 3);
  EXPECT_EQ(count("epoch 1/step/forward/blocks.1"), 3);
  EXPECT_EQ(count("epoch 1/step/forward/blocks.1/attention_forward"), 3);
  EXPECT_EQ(count("epoch 1/step/backward/blocks.0/layer_norm_backward"), 6);
  EXPECT_EQ(count("epoch 1/step/update"), 3);
}

TEST_F(CudaStep, AReplayIsOneRangeAStep) {
  RunConfig config = small_run();
  const Dataset data = random_images(config.model, 64, 5);
  simt::take_ranges();
  train_on({.name = "cuda"}, config, data);
  const std::vector<std::string> ranges = simt::take_ranges();
  EXPECT_EQ(std::count(ranges.begin(), ranges.end(), "epoch 1/step"), kSteps);
  // The first run and the recording name their operations; replays have none to name.
  EXPECT_EQ(std::count(ranges.begin(), ranges.end(), "epoch 1/step/forward"), 2);
}

/// Networks whose attention runs on tensor cores in bf16: short sequences with heads of 64, and
/// streaming with heads of 40.
std::vector<VitCase> wide_cases() {
  auto wide = [](std::int64_t hidden, std::int64_t heads) {
    return [=](VitConfig& c) {
      c.image_height = c.image_width = 16;
      c.hidden_size = hidden;
      c.num_attention_heads = heads;
      c.intermediate_size = 2 * hidden;
    };
  };
  return {{"heads of 64", wide(128, 2)}, {"heads of 40", wide(80, 2)}};
}

/// Gradients of a network in fp32, and in another precision from the same weights.
double gradient_error(const VitCase& c, Precision precision, std::uint64_t seed) {
  const auto device = make_simt_device();
  VitConfig config = small_vit();
  c.change(config);
  const Chunking whole{.batch = kBatch, .rows = kBatch};
  std::vector<float> gradients[2];
  for (int i = 0; i < 2; ++i) {
    VitOptions options{.precision = i == 0 ? Precision::fp32 : precision};
    VitRun run(*device, config, options, whole, kBatch);
    std::vector<float> weights = random_weights(run.plan(), seed);
    // Drawn for small_vit; wider networks sum more products.
    const double wider = static_cast<double>(config.hidden_size) / small_vit().hidden_size;
    for (float& weight : weights) weight /= static_cast<float>(std::sqrt(std::max(wider, 1.0)));
    run.run(weights, Batch(config, kBatch, kBatch, seed),
            {.seed = seed, .step = 1, .loss_scale = 1.0f / kBatch}, kBatch);
    gradients[i] = run.gradients();
  }
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < gradients[0].size(); ++i) {
    difference += std::pow(static_cast<double>(gradients[1][i]) - gradients[0][i], 2);
    norm += std::pow(static_cast<double>(gradients[0][i]), 2);
  }
  return std::sqrt(difference / norm);
}

// Each of the values on the way from the images to a gradient is rounded once, by half a unit; to
// first order their relative errors add up.
TEST_F(CudaStep, LowPrecisionRoundsAsOftenAsThereAreOperations) {
  constexpr double kHalfUnit[] = {0x1p-12, 0x1p-9};  // tf32 rounds factors, bf16 what is stored
  std::vector<VitCase> cases = wide_cases();
  cases.insert(cases.end(), vit_cases().begin(), vit_cases().end());
  for (const VitCase& c : cases) {
    SCOPED_TRACE(c.name);
    VitConfig config = small_vit();
    c.change(config);
    VitOptions options;
    options.rows = kBatch;
    const auto operations = static_cast<double>(build_vit(config, options).nodes().size());
    const Precision precisions[] = {Precision::tf32, Precision::bf16};
    for (int i = 0; i < 2; ++i) {
      const double error = gradient_error(c, precisions[i], 21);
      EXPECT_LT(error, operations * kHalfUnit[i]);
      EXPECT_GT(error, kHalfUnit[i] / 64);  // the precision is used at all
      std::cout << c.name << (i == 0 ? ", tf32: " : ", bf16: ") << error << "\n";
    }
    if (kReduced) break;
  }
}

}  // namespace
}  // namespace vitrine
