// Whole training steps of the presets: forward, backward, update.
//
//   build/train_step_bench --benchmark_filter=mnist-tutorial
//   VITRINE_DEVICE=cuda build/train_step_bench --benchmark_filter=cuda/bf16
//
// Images lie in memory as u8; a step draws its rows, runs the plan and updates the weights, as
// `vitrine train` does. Before the clock starts the loss must fall. A device that works beside the
// host is waited for after every tenth step only, as steps of training overlap too.
//
// The environment is that of harness.h, and
//
//   VITRINE_BENCH_BATCH   images of every preset's batch [by preset]
#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

#include "harness.h"
#include "vitrine/training_step.h"
#include "vitrine/vit.h"

namespace vitrine::bench {
namespace {

RunConfig config_of(const std::string& preset_name, Precision precision, std::int64_t batch) {
  RunConfig config = preset(preset_name);
  config.recipe.precision = precision;
  config.recipe.batch_size = batch;
  config.recipe.grad_accum_steps = 1;
  // Stripes have the model's size. The crops of small data sets belong to their presets' step.
  if (config.recipe.dataset == "folder") config.recipe.scale = {1.0, 1.0};
  return config;
}

Plan plan_of(const RunConfig& config, const Dataset& data, const DeviceTraits& traits) {
  const Transform images = transform(config.recipe, config.model.num_channels);
  return plan_vit(config.model,
                  {.precision = config.recipe.precision,
                   .patch_projection = config.recipe.patch_projection,
                   .source_height = data.height,
                   .source_width = data.width,
                   .stored_images = data.size(),
                   .mean = images.mean,
                   .std = images.std},
                  config.recipe.batch_size, traits);
}

/// Steps over batches of different images, again and again.
class Steps {
 public:
  Steps(const std::string& preset_name, Precision precision, std::int64_t batch,
        std::int64_t batches)
      : config_(config_of(preset_name, precision, batch)),
        batches_(batches),
        data_(make_stripes(batches * batch, std::min<std::int64_t>(config_.model.num_classes, 10),
                           config_.model.num_channels, config_.model.image_height,
                           config_.model.image_width)),
        plan_(plan_of(config_, data_, device().traits())),
        step_(device(), plan_, config_, data_, /*resident=*/true) {
    step_.optimizer().upload_weights(initial_weights(config_.model, plan_, 1));
    step_.set_timing(Timing::none);
  }

  void run() {
    const std::int64_t batch = config_.recipe.batch_size;
    std::vector<std::int64_t> images;
    for (std::int64_t i = 0; i < batch; ++i) images.push_back((done_ * batch + i) % data_.size());
    step_.run(images, {.step = done_, .learning_rate = 1e-3});
    ++done_;
  }

  /// Whether the loss of the first images falls until they come for the fourth time.
  bool learns() {
    const double first = loss_of_step();
    double last = first;
    for (std::int64_t i = 0; i < 3 * batches_; ++i) last = loss_of_step();
    return last < first;
  }

  const Plan& plan() const { return plan_; }

  static constexpr std::int64_t kBatches = 4;

 private:
  double loss_of_step() {
    step_.executor().reset_metrics();
    run();
    return step_.executor().metrics().batch_loss;
  }

  RunConfig config_;
  std::int64_t batches_;
  Dataset data_;
  Plan plan_;
  TrainingStep step_;
  std::int64_t done_ = 0;
};

void time_steps(benchmark::State& state, Steps& steps) {
  if (!steps.learns()) return fail(state, "the loss did not fall");
  const std::int64_t together = device().traits().asynchronous ? 10 : 1;
  device().synchronize();
  while (state.KeepRunningBatch(together)) {
    for (std::int64_t i = 0; i < together; ++i) steps.run();
    device().synchronize();
  }
  state.SetItemsProcessed(static_cast<std::int64_t>(state.iterations()) * state.range(0));
  state.SetLabel(device().traits().description);
  state.counters["FLOP/s"] =
      benchmark::Counter(steps.plan().cost().flops, benchmark::Counter::kIsIterationInvariantRate);
  state.counters["planned_bytes"] =
      static_cast<double>(steps.plan().memory(device().workers()).total());
}

// One benchmark that cannot run, out of memory for example, leaves the others their turn.
void train_step(benchmark::State& state, const std::string& preset_name, Precision precision,
                std::int64_t batches) {
  try {
    Steps steps(preset_name, precision, state.range(0), batches);
    time_steps(state, steps);
  } catch (const std::exception& error) {
    fail(state, error.what());
  }
}

std::int64_t batch_or(std::int64_t otherwise) {
  const char* text = std::getenv("VITRINE_BENCH_BATCH");
  if (text == nullptr) return otherwise;
  const std::string given = text;
  const char* end = given.data() + given.size();
  int batch = 0;
  const auto [stop, error] = std::from_chars(given.data(), end, batch);
  if (error != std::errc{} || stop != end || batch < 1) {
    throw std::invalid_argument("VITRINE_BENCH_BATCH: found \"" + given +
                                "\", expected a number of images");
  }
  return batch;
}

void add_step(const std::string& preset_name, const std::string& variant, Precision precision,
              std::int64_t batch, std::int64_t batches = Steps::kBatches) {
  const std::string name = "train_step/" + preset_name + variant;
  auto* const registered =
      benchmark::RegisterBenchmark(name.c_str(), train_step, preset_name, precision, batches)
          ->ArgName("B")
          ->Arg(batch_or(batch))
          ->UseRealTime()
          ->Unit(benchmark::kMillisecond);
  if (quick()) registered->Iterations(1);
}

void add_cpu() {
  add_step("mnist-tutorial", "", Precision::fp32, 128);
  add_step("mnist-small", "", Precision::fp32, 128);
  add_step("digits", "", Precision::fp32, 128);
  add_step("notes-encoder", "", Precision::fp32, 256);
  add_step("cifar10-small", "", Precision::fp32, 256);
  add_step("d2l-224", "", Precision::fp32, 8, 1);
  add_step("vit_tiny_patch16_224", "", Precision::fp32, 8);
  add_step("vit_small_patch16_224", "", Precision::fp32, 8, 1);
  add_step("vit_base_patch16_224", "", Precision::fp32, 4, 1);
  add_step("vit_large_patch16_224", "", Precision::fp32, 1, 1);
}

void add_cuda() {
  for (const auto& [name, batch] : {std::pair{"mnist-tutorial", 128},
                                    {"mnist-small", 128},
                                    {"digits", 128},
                                    {"cifar10-small", 256}}) {
    add_step(name, "/cuda/fp32", Precision::fp32, batch);
    add_step(name, "/cuda/tf32", Precision::tf32, batch);
    add_step(name, "/cuda/bf16", Precision::bf16, batch);
  }
  for (const auto& [name, batch] : {std::pair{"notes-encoder", 256},
                                    {"d2l-224", 128},
                                    {"vit_tiny_patch16_224", 256},
                                    {"vit_small_patch16_224", 256},
                                    {"vit_base_patch16_224", 256},
                                    {"vit_large_patch16_224", 128},
                                    {"vit_huge_patch14_224", 32}}) {
    add_step(name, "/cuda/bf16", Precision::bf16, batch);
  }
}

void add_all() {
  if (!quick()) return on_gpu() ? add_cuda() : add_cpu();
  add_step("mnist-tutorial", on_gpu() ? "/cuda/fp32" : "", Precision::fp32, 8);
  if (on_gpu()) add_step("mnist-tutorial", "/cuda/bf16", Precision::bf16, 8);
}

const Registration registration(add_all);

}  // namespace
}  // namespace vitrine::bench
