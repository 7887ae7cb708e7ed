// One optimiser step: its bits do not depend on what it measures, and what it measures covers it.
#include "vitrine/training_step.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <numeric>

#include "train/footprint.h"
#include "vitrine/vit.h"

namespace vitrine {
namespace {

constexpr std::uint64_t kDataSeed = 31;
constexpr std::int64_t kBatch = 22, kRows = 5, kChunks = 5;

RunConfig small_config(std::int64_t micro_batches, bool ema) {
  RunConfig config;
  config.model = {.image_height = 28,
                  .image_width = 28,
                  .patch_size = 7,
                  .num_channels = 1,
                  .hidden_size = 12,
                  .num_hidden_layers = 2,
                  .num_attention_heads = 3,
                  .intermediate_size = 20,
                  .num_classes = 10};
  config.model.hidden_dropout_prob = 0.1;
  config.recipe.batch_size = kBatch;
  config.recipe.grad_accum_steps = micro_batches;
  config.recipe.clip_grad = 1.0;
  config.recipe.model_ema = config.recipe.model_ema_warmup = ema;
  config.recipe.model_ema_decay = 0.5;
  return config;
}

/// A step with all it stands on: chunks of at most five images in three lanes.
class StepOf {
 public:
  StepOf(Device& device, std::int64_t micro_batches, bool ema = false)
      : config_(small_config(micro_batches, ema)),
        data_(make_digits(120, kDataSeed)),
        plan_(graph(), device.traits(),
              {.batch = kBatch, .rows = kRows, .count = kChunks, .lanes = 3}),
        step_(device, plan_, config_, data_, true) {
    step_.optimizer().upload_weights(initial_weights(config_.model, plan_, 3));
  }

  TrainingStep& step() { return step_; }
  const Plan& plan() const { return plan_; }
  void run(std::int64_t images) {
    std::vector<std::int64_t> chosen(static_cast<std::size_t>(images));
    std::iota(chosen.begin(), chosen.end(), done_ * 3);
    step_.run(chosen, {.step = done_++, .learning_rate = 1e-3});
  }
  std::vector<float> weights() const {
    const Buffer buffer = step_.optimizer().host_weights();
    return {buffer.as<float>(), buffer.as<float>() + plan_.parameter_elements()};
  }
  std::vector<float> average() const {
    const Buffer buffer = step_.optimizer().host_ema();
    return {buffer.as<float>(), buffer.as<float>() + plan_.parameter_elements()};
  }

 private:
  Graph graph() const {
    VitOptions options = training_options(config_, data_, /*resident=*/true);
    options.rows = kRows;
    return build_vit(config_.model, options);
  }

  RunConfig config_;
  Dataset data_;
  Plan plan_;
  TrainingStep step_;
  std::int64_t done_ = 0;
};

// The images are drawn from kDataSeed, the weights from another fixed seed.
TEST(TrainingStep, BitsDoNotDependOnTiming) {
  const auto device = make_cpu_device(2);
  for (const std::int64_t micro_batches : {1, 3}) {
    const auto weights_with = [&](const std::vector<Timing>& timings) {
      StepOf steps(*device, micro_batches);
      const std::vector<float> before = steps.weights();
      for (const Timing timing : timings) {
        steps.step().set_timing(timing);
        steps.run(kBatch * micro_batches);
      }
      EXPECT_NE(steps.weights(), before) << "it trains";
      return steps.weights();
    };
    constexpr Timing kNone = Timing::none, kStep = Timing::step, kAll = Timing::operations;
    const std::vector<float> expected = weights_with({kNone, kNone, kNone, kNone});
    EXPECT_EQ(weights_with({kStep, kStep, kStep, kStep}), expected);
    EXPECT_EQ(weights_with({kAll, kAll, kAll, kAll}), expected);
    EXPECT_EQ(weights_with({kAll, kNone, kStep, kAll}), expected);
  }
}

// The decays of the first steps are 0, 1 − 2^(−2/3), 1/2.
TEST(TrainingStep, AveragesTheWeightsWithTheDecayOfTheStep) {
  const auto device = make_cpu_device(2);
  for (const std::int64_t micro_batches : {1, 2}) {
    StepOf steps(*device, micro_batches, /*ema=*/true), plain(*device, micro_batches);
    std::vector<float> expected;
    for (const double decay : {0.0, 0.3700394750525634, 0.5}) {
      steps.run(kBatch * micro_batches);
      plain.run(kBatch * micro_batches);
      const std::vector<float> weights = steps.weights(), found = steps.average();
      EXPECT_EQ(weights, plain.weights());
      expected.resize(weights.size());
      for (std::size_t i = 0; i < weights.size(); ++i) {
        expected[i] = static_cast<float>(decay * expected[i] + (1 - decay) * weights[i]);
        ASSERT_NEAR(found[i], expected[i], 1e-6f) << i;
      }
    }
  }
}

TEST(TrainingStep, TheAverageIsPlannedAndItsBytesAreCounted) {
  const auto device = make_cpu_device(1);
  StepOf plain(*device, 1), averaging(*device, 1, /*ema=*/true);
  const std::int64_t bytes = 4 * plain.plan().parameter_elements();
  const auto planned = [&](bool ema) {
    return run_memory(plain.plan(), plain.plan(), small_config(1, ema).recipe, 1).total();
  };
  EXPECT_EQ(planned(true), planned(false) + bytes);
  const auto adamw_bytes = [](StepOf& steps) {
    return steps.step().times().operations.back().bytes;
  };
  EXPECT_EQ(adamw_bytes(averaging), adamw_bytes(plain) + 2 * 4 * plain.plan().parameter_elements());
}

/// Spans of one step: every operation of every chunk that has images, in order, inside the step.
void check_spans(const StepOf& steps, const TrainingStep& step, std::int64_t chunks,
                 std::int64_t updates) {
  const std::vector<Span>& spans = step.times().last_step;
  const auto operations = static_cast<std::int64_t>(steps.plan().steps().size());
  ASSERT_EQ(static_cast<std::int64_t>(spans.size()), chunks * operations + updates);
  std::map<int, int> calls;
  double update_begin = 0;
  for (std::size_t i = 0; i < spans.size(); ++i) {
    const Span& span = spans[i];
    ++calls[span.operation];
    EXPECT_LE(0, span.begin);
    EXPECT_LE(span.begin, span.end);
    EXPECT_LE(span.end, step.step_seconds());
    const auto at = static_cast<std::int64_t>(i);
    if (at < chunks * operations) {
      EXPECT_EQ(span.operation, at % operations);
      EXPECT_TRUE(span.operation == 0 || span.begin == spans[i - 1].end);
      EXPECT_TRUE(span.worker == 0 || span.worker == 1);
      update_begin = std::max(update_begin, span.end);
    } else {
      EXPECT_LE(update_begin, span.begin) << "the update comes last";
    }
  }
  for (std::int64_t i = 0; i < operations; ++i) EXPECT_EQ(calls[static_cast<int>(i)], chunks);
}

TEST(TrainingStep, SpansCoverTheStep) {
  const auto device = make_cpu_device(2);
  StepOf steps(*device, 1);
  TrainingStep& step = steps.step();
  step.set_timing(Timing::operations);
  for (const std::int64_t images : {kBatch, std::int64_t{11}}) {  // 5 chunks, 3 chunks
    steps.run(images);
    check_spans(steps, step, (images + kRows - 1) / kRows, 3);
  }
  const StepTimes& times = step.times();
  EXPECT_EQ(times.steps, 2);
  ASSERT_EQ(times.sums.size(), times.operations.size());
  const std::size_t planned = steps.plan().steps().size();
  ASSERT_EQ(times.operations.size(), planned + 3);
  for (std::size_t i = 0; i < planned; ++i) {
    EXPECT_EQ(times.sums[i].calls, 8);
    EXPECT_GE(times.sums[i].seconds, 0);
    EXPECT_EQ(times.operations[i].side_by_side, 2);
  }
  EXPECT_EQ(times.operations[planned].operation, "sum_parts");
  EXPECT_EQ(times.sums[planned].calls, 2);
}

// What is timed of a step fits into it: pieces that run side by side share the device.
TEST(TrainingStep, OperationsFitIntoTheStep) {
  const auto device = make_cpu_device(2);
  for (const std::int64_t micro_batches : {1, 3}) {
    StepOf steps(*device, micro_batches);
    TrainingStep& step = steps.step();
    step.set_timing(Timing::operations);
    double whole = 0;
    for (int i = 0; i < 10; ++i) {
      steps.run(kBatch * micro_batches);
      whole += step.step_seconds();
    }
    double operations = 0;
    for (const ProfileRow& row : make_table(step.times(), ProfileBy::operation, nullptr)) {
      operations += row.seconds;
    }
    EXPECT_GT(operations, 0);
    EXPECT_LE(operations, whole);
  }
}

TEST(TrainingStep, LaterMicroBatchesLieBehind) {
  const auto device = make_cpu_device(1);
  StepOf steps(*device, 3);
  TrainingStep& step = steps.step();
  step.set_timing(Timing::operations);
  steps.run(2 * kBatch + 8);  // of the third micro-batch two chunks have images
  check_spans(steps, step, kChunks + kChunks + 2, 3);
  const std::vector<Span>& spans = step.times().last_step;
  for (std::size_t i = 1; i < spans.size(); ++i) {
    EXPECT_LE(spans[i - 1].end, spans[i].begin) << "one worker, one thing after another";
  }
}

TEST(TrainingStep, SumsAreResetAndOnlyTimedStepsCount) {
  const auto device = make_cpu_device(2);
  StepOf steps(*device, 1);
  TrainingStep& step = steps.step();
  step.set_timing(Timing::operations);
  steps.run(kBatch);
  EXPECT_GT(step.step_seconds(), 0);
  EXPECT_GT(step.data_seconds(), 0);
  step.reset_times();
  EXPECT_EQ(step.times().steps, 0);
  EXPECT_TRUE(step.times().last_step.empty());
  EXPECT_EQ(step.data_seconds(), 0);
  for (const StepTimes::Sum& sum : step.times().sums) {
    EXPECT_EQ(sum.calls, 0);
    EXPECT_EQ(sum.seconds, 0);
  }
  step.set_timing(Timing::step);
  steps.run(kBatch);
  EXPECT_GT(step.step_seconds(), 0);
  EXPECT_EQ(step.times().steps, 0);
  EXPECT_TRUE(step.times().last_step.empty());
  step.set_timing(Timing::none);
  steps.run(kBatch);
  EXPECT_EQ(step.step_seconds(), 0);
  EXPECT_GT(step.data_seconds(), 0) << "of all steps";
  step.set_timing(Timing::operations);
  steps.run(kBatch);
  EXPECT_EQ(step.times().steps, 1);
  EXPECT_EQ(step.times().sums[0].calls, 5);
}

}  // namespace
}  // namespace vitrine
