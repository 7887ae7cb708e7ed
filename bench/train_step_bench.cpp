// Whole training steps of the presets: forward, backward, update.
//
//   build/train_step_bench --benchmark_filter=mnist-tutorial
//   VITRINE_DEVICE=cuda build/train_step_bench --benchmark_filter=cuda/bf16
//
// Images lie in memory as u8; a step draws its rows, runs the plan and updates the weights, as
// `vitrine train` does. Before the clock starts the loss must fall. A device that works beside the
// host is waited for after every tenth step only, as steps of training overlap too.
//
//   VITRINE_DEVICE     cpu, cuda or cuda:N [cpu]; CUDA has the larger presets and every precision
//   VITRINE_THREADS    threads of the CPU device
//   VITRINE_TUNE       file of matmul algorithms, as `vitrine train --tune`
//   VITRINE_PROFILE    1: prints where the time went by operation, where the host's clock sees it
#include <benchmark/benchmark.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "vitrine/trainer.h"

namespace vitrine {
namespace {

constexpr std::int64_t kBatches = 4;  // of different images

std::string environment(const char* name, const std::string& otherwise) {
  const char* text = std::getenv(name);
  return text != nullptr ? text : otherwise;
}

bool on_cuda() {
  return environment("VITRINE_DEVICE", "cpu").starts_with("cuda");
}

DeviceOptions device_options() {
  DeviceOptions options;
  options.name = environment("VITRINE_DEVICE", "cpu");
  options.threads = std::atoi(environment("VITRINE_THREADS", "0").c_str());
  options.tune = environment("VITRINE_TUNE", "");
  return options;
}

// Images of low-frequency patterns by class and noise, so that a few steps learn something.
Dataset make_images(const VitConfig& model, std::int64_t count) {
  Dataset data{.name = "synthetic",
               .channels = model.num_channels,
               .height = model.image_height,
               .width = model.image_width,
               .images = {},
               .labels = {},
               .class_names = {"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"}};
  data.images.resize(static_cast<std::size_t>(count * data.image_bytes()));
  std::uint8_t* pixel = data.images.data();
  RandomStream random(1, 0);
  for (std::int64_t i = 0; i < count; ++i) {
    const auto label = static_cast<std::int32_t>(random.below(10));
    data.labels.push_back(label);
    std::vector<std::uint8_t> row;
    for (std::int64_t x = 0; x < data.width; ++x) {
      row.push_back(static_cast<std::uint8_t>(x * (label + 1) * 16 / data.width % 16 * 12));
    }
    std::uint32_t noise = 0;  // four pixels of it
    for (std::int64_t y = 0; y < data.channels * data.height; ++y) {
      for (std::int64_t x = 0; x < data.width; ++x, noise >>= 8) {
        if (x % 4 == 0) noise = random.next_u32();
        *pixel++ = static_cast<std::uint8_t>(row[static_cast<std::size_t>(x)] + noise % 64);
      }
    }
  }
  return data;
}

class StepRunner {
 public:
  StepRunner(const std::string& preset_name, Precision precision, std::int64_t batch)
      : device_(make_device(device_options())),
        config_(preset(preset_name)),
        data_(make_images(config_.model, kBatches * batch)),
        transform_(transform(config_.recipe, config_.model.num_channels)),
        plan_(plan_vit(config_.model,
                       {.precision = precision,
                        .source_height = data_.height,
                        .source_width = data_.width,
                        .stored_images = data_.size(),
                        .mean = transform_.mean,
                        .std = transform_.std},
                       batch, device_->traits())),
        executor_(*device_, plan_),
        optimizer_(*device_, plan_, optimizer_config(config_.recipe)),
        images_(*device_, data_, batch, /*resident=*/true),
        program_(device_->program("step", [this] {
          executor_.run({.weights = optimizer_.weights(),
                         .inputs = {images_.data()},
                         .valid_rows = plan_.chunking().batch});
          executor_.sum_gradients();
          optimizer_.update(executor_.gradients(), executor_.state());
        })) {
    optimizer_.upload_weights(initial_weights(config_.model, plan_, 1));
  }

  void step() {
    const std::int64_t batch = plan_.chunking().batch;
    std::vector<BatchRow> rows;
    std::vector<std::int32_t> labels;
    for (std::int64_t i = 0; i < batch; ++i) {
      const std::int64_t image = (step_ * batch + i) % data_.size();
      rows.push_back(random_view(data_, image, transform_, 1, step_, i));
      labels.push_back(data_.labels[static_cast<std::size_t>(image)]);
    }
    set_rows(executor_, rows, labels);
    executor_.set_state({.seed = 1,
                         .step = static_cast<std::uint32_t>(step_),
                         .learning_rate = 1e-3f,
                         .loss_scale = 1.0f / static_cast<float>(batch)});
    program_->run();
    ++step_;
  }

  double loss_of_step() {
    executor_.reset_metrics();
    step();
    return executor_.metrics().batch_loss;
  }

  Device& device() { return *device_; }
  double flops() const { return plan_.cost().flops; }
  double planned_bytes() const {
    return static_cast<double>(plan_.memory(device_->workers()).total());
  }

  void print_profile() const {
    if (std::getenv("VITRINE_PROFILE")) {
      std::fprintf(stderr, "%s", to_text(executor_.profile()).c_str());
    }
  }
  void reset_profile() { executor_.reset_profile(); }

 private:
  std::unique_ptr<Device> device_;
  RunConfig config_;
  Dataset data_;
  Transform transform_;
  Plan plan_;
  Executor executor_;
  Optimizer optimizer_;
  DeviceImages images_;
  std::unique_ptr<Program> program_;
  std::int64_t step_ = 0;
};

void time_steps(benchmark::State& state, StepRunner& runner) {
  const double first = runner.loss_of_step();
  double last = first;
  for (int i = 0; i < 3 * kBatches; ++i) last = runner.loss_of_step();  // ends at the same images
  if (!(last < first)) {
    state.SkipWithError("the loss did not fall");
    return;
  }
  Device& device = runner.device();
  const std::int64_t steps = device.traits().asynchronous ? 10 : 1;
  runner.reset_profile();
  device.synchronize();
  while (state.KeepRunningBatch(steps)) {
    for (std::int64_t i = 0; i < steps; ++i) runner.step();
    device.synchronize();
  }
  const std::int64_t batch = state.range(0);
  state.SetItemsProcessed(static_cast<std::int64_t>(state.iterations()) * batch);
  state.SetLabel(device.traits().description);
  state.counters["FLOP/s"] =
      benchmark::Counter(runner.flops(), benchmark::Counter::kIsIterationInvariantRate);
  state.counters["planned_bytes"] = runner.planned_bytes();
  runner.print_profile();
}

// One benchmark that cannot run, out of memory for example, leaves the others their turn.
void train_step(benchmark::State& state, const std::string& preset_name, Precision precision) {
  try {
    StepRunner runner(preset_name, precision, state.range(0));
    time_steps(state, runner);
  } catch (const std::exception& error) {
    state.SkipWithError(error.what());
  }
}

void preset_bench(const std::string& preset_name, const std::string& variant, Precision precision,
                  std::int64_t batch) {
  const std::string name = "train_step/" + preset_name + variant;
  benchmark::RegisterBenchmark(name.c_str(), train_step, preset_name, precision)
      ->ArgName("B")
      ->Arg(batch)
      ->UseRealTime()
      ->Unit(benchmark::kMillisecond);
}

void cpu_benches() {
  preset_bench("mnist-tutorial", "", Precision::fp32, 128);
  preset_bench("mnist-small", "", Precision::fp32, 128);
  preset_bench("cifar10-small", "", Precision::fp32, 256);
  preset_bench("vit_tiny_patch16_224", "", Precision::fp32, 8);
}

void cuda_benches() {
  for (const auto& [name, batch] :
       {std::pair{"mnist-tutorial", 128}, {"mnist-small", 128}, {"cifar10-small", 256}}) {
    preset_bench(name, "/cuda/fp32", Precision::fp32, batch);
    preset_bench(name, "/cuda/tf32", Precision::tf32, batch);
    preset_bench(name, "/cuda/bf16", Precision::bf16, batch);
  }
  for (const auto& [name, batch] : {std::pair{"notes-encoder", 256},
                                    {"d2l-224", 128},
                                    {"vit_tiny_patch16_224", 256},
                                    {"vit_small_patch16_224", 256},
                                    {"vit_base_patch16_224", 256},
                                    {"vit_large_patch16_224", 128}}) {
    preset_bench(name, "/cuda/bf16", Precision::bf16, batch);
  }
}

const bool registered = [] {
  on_cuda() ? cuda_benches() : cpu_benches();
  return true;
}();

}  // namespace
}  // namespace vitrine
