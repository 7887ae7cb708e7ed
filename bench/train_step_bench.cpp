// Whole training steps of every preset that trains on this machine: forward, backward, update.
//
//   build/train_step_bench --benchmark_filter=mnist-tutorial
//
// Images lie in memory as u8; a step draws its rows, runs the plan and updates the weights, as
// `vitrine train` does. VITRINE_THREADS sets the threads, VITRINE_PROFILE=1 prints where the time
// went by operation. Before the clock starts the loss of ten steps must fall.
#include <benchmark/benchmark.h>

#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <string>

#include "vitrine/trainer.h"

namespace vitrine {
namespace {

// Images of low-frequency patterns by class and noise, so that a few steps learn something.
Dataset make_images(const VitConfig& model, std::int64_t count) {
  Dataset data{.name = "synthetic",
               .channels = model.num_channels,
               .height = model.image_height,
               .width = model.image_width,
               .images = {},
               .labels = {},
               .class_names = {"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"}};
  RandomStream random(1, 0);
  for (std::int64_t i = 0; i < count; ++i) {
    const auto label = static_cast<std::int32_t>(random.below(10));
    data.labels.push_back(label);
    for (std::int64_t pixel = 0; pixel < data.image_bytes(); ++pixel) {
      const auto wave = (pixel % data.width) * (label + 1) * 16 / data.width % 16;
      data.images.push_back(static_cast<std::uint8_t>(wave * 12 + random.next_u32() % 64));
    }
  }
  return data;
}

class StepRunner {
 public:
  StepRunner(const std::string& preset_name, std::int64_t batch)
      : device_(make_cpu_device(threads())),
        config_(preset(preset_name)),
        data_(make_images(config_.model, 4 * batch)),
        transform_(transform(config_.recipe, config_.model.num_channels)),
        plan_(plan_vit(config_.model,
                       {.source_height = data_.height,
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

  void print_profile() const {
    if (std::getenv("VITRINE_PROFILE")) {
      std::fprintf(stderr, "%s", to_text(executor_.profile()).c_str());
    }
  }
  void reset_profile() { executor_.reset_profile(); }

 private:
  static int threads() {
    const char* text = std::getenv("VITRINE_THREADS");
    return text ? std::atoi(text) : 0;
  }

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

void train_step(benchmark::State& state, const std::string& preset_name) {
  const std::int64_t batch = state.range(0);
  StepRunner runner(preset_name, batch);
  const double first = runner.loss_of_step();
  double last = first;
  for (int i = 0; i < 10; ++i) last = runner.loss_of_step();
  if (!(last < first)) {
    state.SkipWithError("the loss did not fall");
    return;
  }
  runner.reset_profile();
  for (auto _ : state) runner.step();
  state.SetItemsProcessed(state.iterations() * batch);
  runner.print_profile();
}

void preset_bench(const std::string& name, std::int64_t batch) {
  benchmark::RegisterBenchmark(("train_step/" + name).c_str(), train_step, name)
      ->ArgName("B")
      ->Arg(batch)
      ->UseRealTime()
      ->Unit(benchmark::kMillisecond);
}

const bool registered = [] {
  preset_bench("mnist-tutorial", 128);
  preset_bench("mnist-small", 128);
  preset_bench("cifar10-small", 256);
  preset_bench("vit_tiny_patch16_224", 8);
  return true;
}();

}  // namespace
}  // namespace vitrine
