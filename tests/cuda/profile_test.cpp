// Times of a step's operations on the CUDA device over an emulated GPU: what its clock says
// (simt::set_duration) comes out again, recorded or not, replay after replay.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>

#include "nvtx_recorder.h"
#include "simt/device.h"
#include "simt/streams.h"
#include "train/footprint.h"
#include "training_runs.h"
#include "vitrine/step_profile.h"
#include "vitrine/training_step.h"

namespace vitrine {
namespace {

constexpr std::int64_t kBatch = 3;
constexpr std::uint64_t kDataSeed = 5;
constexpr double kDefaultSeconds = 1e-6;  // of work without a duration
constexpr double kClock = 1e-7;           // what is lost in a float of milliseconds

RunConfig small_config(std::int64_t micro_batches = 1) {
  RunConfig config;
  config.model = {.image_height = 14,
                  .image_width = 14,
                  .patch_size = 7,
                  .num_channels = 1,
                  .hidden_size = 8,
                  .num_hidden_layers = 2,
                  .num_attention_heads = 2,
                  .intermediate_size = 12,
                  .num_classes = 10};
  config.recipe.batch_size = kBatch;
  config.recipe.grad_accum_steps = micro_batches;
  return config;
}

class CudaProfileTest : public testing::Test {
 protected:
  void SetUp() override {
    simt::reset_device();
    simt::take_ranges();
  }
  void TearDown() override { simt::reset_device(); }

  static void set_durations(float attention, float norm, float adamw) {
    simt::set_duration("attention", attention);
    simt::set_duration("layer_norm", norm);
    simt::set_duration("adamw", adamw);
  }
};

class StepOf {
 public:
  StepOf(Device& device, std::int64_t micro_batches)
      : config_(small_config(micro_batches)),
        data_(random_images(config_.model, 40, kDataSeed)),
        plan_(plan_vit(config_.model, training_options(config_, data_, true), kBatch,
                       device.traits())),
        step_(device, plan_, config_, data_, true) {
    step_.optimizer().upload_weights(initial_weights(config_.model, plan_, 3));
  }

  TrainingStep& step() { return step_; }
  void run(Timing timing) {
    std::vector<std::int64_t> images(
        static_cast<std::size_t>(kBatch * config_.recipe.grad_accum_steps));
    std::iota(images.begin(), images.end(), done_);
    step_.set_timing(timing);
    step_.run(images, {.step = done_++, .learning_rate = 1e-3});
  }
  /// Seconds by operation of the last step.
  std::map<std::string, double> last() const {
    std::map<std::string, double> seconds;
    for (const Span& span : step_.times().last_step) {
      const StepTimes& times = step_.times();
      seconds[times.operations[static_cast<std::size_t>(span.operation)].operation] +=
          span.end - span.begin;
    }
    return seconds;
  }

 private:
  RunConfig config_;
  Dataset data_;
  Plan plan_;
  TrainingStep step_;
  std::int64_t done_ = 0;
};

// Two blocks: attention twice forward and backward. One stream: operations follow each other.
TEST_F(CudaProfileTest, EachReplayTimesEachOperationAnew) {
  for (const bool records : {true, false}) {
    SCOPED_TRACE(records ? "recorded" : "launch by launch");
    simt::reset_device();
    const auto device = make_cuda_device({.name = "cuda", .cuda_graph = records});
    StepOf steps(*device, 1);
    for (int i = 0; i < 5; ++i) {
      const float attention = 0.25f * static_cast<float>(i + 1), norm = 0.5f, adamw = 2.0f;
      set_durations(attention, norm, adamw);
      simt::reset_counters();
      steps.run(Timing::operations);
      EXPECT_EQ(simt::counters().graph_launches, records && i > 0 ? 1 : 0);
      const std::map<std::string, double> seconds = steps.last();
      const auto at = [&](const char* name) { return seconds.at(name) * 1e3; };
      EXPECT_NEAR(at("attention_forward"), 2 * attention, 0.01) << i;
      EXPECT_NEAR(at("layer_norm_forward"), 5 * norm, 0.01) << i;
      EXPECT_NEAR(at("adamw"), adamw, 0.01) << i;
      double sum = 0;
      for (const auto& [name, value] : seconds) sum += value;
      EXPECT_LE(sum, steps.step().step_seconds() + kClock);
      EXPECT_GE(sum, 0.98 * steps.step().step_seconds()) << "the step is its operations";
      const std::vector<Span>& spans = steps.step().times().last_step;
      for (std::size_t k = 1; k < spans.size(); ++k) {
        EXPECT_LE(spans[k - 1].end, spans[k].begin + kClock);
        EXPECT_EQ(spans[k].worker, 0);
      }
    }
    EXPECT_EQ(steps.step().times().steps, 5);
  }
}

TEST_F(CudaProfileTest, LaterMicroBatchesLieBehind) {
  const auto device = make_simt_device();
  StepOf steps(*device, 3);
  set_durations(1, 0.5f, 2);
  for (int i = 0; i < 3; ++i) steps.run(Timing::operations);
  const std::vector<Span>& spans = steps.step().times().last_step;
  int adamw = 0;
  for (std::size_t i = 1; i < spans.size(); ++i) {
    EXPECT_LE(spans[i - 1].end, spans[i].begin + kClock) << i;
  }
  for (const StepOperation& operation : steps.step().times().operations) {
    adamw += operation.operation == "adamw";
  }
  EXPECT_EQ(adamw, 1);
  EXPECT_NEAR(steps.last().at("attention_forward"), 3 * 2 * 1e-3, 1e-5);
  EXPECT_NEAR(steps.last().at("adamw"), 2e-3, 1e-5);
}

// A training that is not looked at pays nothing: its graph has no points in it.
TEST_F(CudaProfileTest, ThePlainStepHasNoPoints) {
  const auto device = make_simt_device();
  StepOf steps(*device, 1);
  const auto nodes_of = [&](Timing timing) {
    for (int i = 0; i < 2; ++i) steps.run(timing);  // recorded by the second
    device->synchronize();
    simt::reset_counters();
    steps.run(timing);
    device->synchronize();
    EXPECT_EQ(simt::counters().graph_launches, 1);
    return simt::counters().nodes_replayed;
  };
  const std::int64_t plain = nodes_of(Timing::none);
  EXPECT_EQ(nodes_of(Timing::step), plain) << "its two points are outside";
  const std::int64_t timed = nodes_of(Timing::operations);
  const auto operations = static_cast<std::int64_t>(steps.step().times().operations.size()) - 3;
  EXPECT_EQ(timed, plain + (operations + 1) + 4) << "the ends and a begin; four of the update";
  EXPECT_EQ(nodes_of(Timing::none), plain);
}

TEST_F(CudaProfileTest, BitsDoNotDependOnTiming) {
  const auto weights_after = [](Timing timing) {
    simt::reset_device();
    const auto device = make_simt_device();
    StepOf steps(*device, 2);
    for (int i = 0; i < 4; ++i) steps.run(timing);
    const Buffer weights = steps.step().optimizer().host_weights();
    return std::vector<char>(weights.as<char>(), weights.as<char>() + weights.bytes());
  };
  const std::vector<char> expected = weights_after(Timing::none);
  EXPECT_EQ(weights_after(Timing::step), expected);
  EXPECT_EQ(weights_after(Timing::operations), expected);
}

ProfileObserver silent() {
  return [](const char*, std::int64_t, std::int64_t) { return true; };
}

TEST_F(CudaProfileTest, ACaptureHoldsPlainStepsOnly) {
  const auto device = make_simt_device();
  const RunConfig config = small_config();
  const Dataset data = random_images(config.model, 12, kDataSeed);
  constexpr std::int64_t kSteps = 4, kWarmUp = 3;
  const StepProfile p = profile_step(
      *device, config, data, {.warm_up = kWarmUp, .steps = kSteps, .capture = true}, silent());
  EXPECT_EQ(simt::counters().profiler_starts, 1);
  EXPECT_EQ(simt::counters().profiler_stops, 1);
  EXPECT_EQ(simt::counters().graph_launches, kWarmUp - 1 + kSteps)
      << "as many steps as were asked for";
  StepOf steps(*device, 1);
  for (int i = 0; i < 2; ++i) steps.run(Timing::none);
  device->synchronize();
  simt::reset_counters();
  steps.run(Timing::none);
  const std::int64_t plain = simt::counters().nodes_replayed;
  simt::reset_counters();
  profile_step(*device, config, data, {.warm_up = kWarmUp, .steps = kSteps, .capture = true},
               silent());
  EXPECT_EQ(simt::counters().nodes_replayed, (kWarmUp - 1 + kSteps) * plain);
  EXPECT_EQ(p.times.steps, 0);
}

// A push and pop range an operation, innermost, which ncu's filters select by its name.
TEST_F(CudaProfileTest, OperationsAreTheInnermostRanges) {
  const auto device = make_cuda_device({.name = "cuda", .cuda_graph = false});
  const RunConfig config = small_config();
  const Dataset data = random_images(config.model, 12, kDataSeed);
  profile_step(*device, config, data, {.warm_up = 3, .steps = 1, .capture = true}, silent());
  int found = 0, updates = 0;
  for (const std::string& range : simt::take_ranges()) {
    found += range == "step/backward/blocks.0/attention_backward";
    updates += range == "step/update/adamw" || range == "step/update/gradient_norm";
    EXPECT_EQ(range.find("attention_backward/"), std::string::npos) << range;
  }
  EXPECT_EQ(found, 4) << "once a step, warm-up included";
  EXPECT_EQ(updates, 2 * 4);
}

TEST_F(CudaProfileTest, AProfileOfTheEmulatedGpuAddsUp) {
  const auto device = make_simt_device();
  const RunConfig config = small_config();
  const Dataset data = random_images(config.model, 12, kDataSeed);
  StepOf steps(*device, 1);
  set_durations(3, 0.5f, 2);
  for (int i = 0; i < 4; ++i) {
    if (i == 2) steps.step().reset_times();  // as after a warm-up
    steps.run(Timing::operations);
  }
  StepProfile p;
  p.times = steps.step().times();
  p.timed_seconds = {steps.step().step_seconds(), steps.step().step_seconds()};
  EXPECT_GE(p.rest_seconds(), -kClock);
  EXPECT_LT(p.rest_seconds(), 20 * kDefaultSeconds);
  const Profile table = make_table(p.times, ProfileBy::operation, nullptr);
  EXPECT_TRUE(table[0].name.starts_with("attention")) << table[0].name;
}

// All of it on the CUDA device: steps in turn, their sums, the roof.
TEST_F(CudaProfileTest, AWholeProfileAddsUp) {
  set_durations(0.02f, 0.01f, 0.03f);
  const std::unique_ptr<Device> device = make_device({.name = "cuda"});
  const RunConfig config = small_config();
  const Dataset data = random_images(config.model, 12, kDataSeed);
  const StepProfile profile = profile_step(
      *device, config, data, {.warm_up = 3, .steps = 4, .roof = {.product = 32, .copy = 1 << 20}},
      [](const char*, std::int64_t, std::int64_t) { return true; });
  EXPECT_EQ(profile.times.steps, 4);
  ASSERT_EQ(profile.timed_seconds.size(), 4u);
  EXPECT_GT(profile.operation_seconds(), 0);
  EXPECT_GE(profile.rest_seconds(), -kClock * 100);
  EXPECT_LT(profile.rest_seconds(), 0.1 * profile.timed_step_seconds());
  EXPECT_GT(profile.roof.flops_per_second, 0);
  ASSERT_EQ(profile.roof.copies.size(), 2u);
  for (const Roof::Copy& copy : profile.roof.copies) EXPECT_GT(copy.bytes_per_second, 0);
  EXPECT_GT(profile.floor_seconds(), 0);
  const Profile rows = make_table(profile.times, ProfileBy::operation, &profile.roof);
  const auto adamw = std::find_if(rows.begin(), rows.end(),
                                  [](const ProfileRow& row) { return row.name == "adamw"; });
  ASSERT_NE(adamw, rows.end());
  EXPECT_NEAR(adamw->seconds, 4 * 30e-6, 4e-6);
}

}  // namespace
}  // namespace vitrine
