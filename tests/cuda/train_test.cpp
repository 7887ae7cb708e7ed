// Whole training steps on the device `simt` (the CUDA kernels executed on the CPU, matmul by
// oneDNN) against the device `cpu`: gradients of networks with every option, and loss curves.
#include <gtest/gtest.h>

#include <iostream>

#include "simt/device.h"
#include "simt/schedule.h"
#include "training_runs.h"
#include "vit_cases.h"
#include "vit_differences.h"
#include "vit_run.h"

namespace vitrine {
namespace {

struct Outcome {
  std::vector<float> logits, gradients;
  Metrics metrics;
};

Outcome run(Device& device, const VitCase& c, std::uint64_t seed, const Plan** plan = nullptr) {
  VitConfig config = small_vit();
  c.change(config);
  static std::unique_ptr<VitRun> vit;  // keeps the plan of the last run
  vit = std::make_unique<VitRun>(
      device, config,
      VitOptions{.mean = std::vector<float>(static_cast<std::size_t>(config.num_channels), 0.3f),
                 .std = std::vector<float>(static_cast<std::size_t>(config.num_channels), 0.7f),
                 .loss = c.loss,
                 .label_smoothing = c.label_smoothing,
                 .label_mixes = c.label_mixes},
      c.chunking, kBatch);
  const Batch batch(config, kBatch, c.chunking.rows * c.chunking.count, seed);
  vit->executor().reset_metrics();
  vit->run(random_weights(vit->plan(), seed), batch,
           {.seed = seed, .step = 1, .loss_scale = 1.0f / kBatch}, kBatch);
  if (plan != nullptr) *plan = &vit->plan();
  return {vit->output("logits"), vit->gradients(), vit->executor().metrics()};
}

// Dropout included: both devices draw the same numbers.
TEST(SimtStep, GradientsAreThoseOfTheCpu) {
  const auto cpu = make_cpu_device(1), simt = make_simt_device();
  constexpr std::uint64_t kSeed = 31;
  for (const VitCase& c : vit_cases()) {
    SCOPED_TRACE(c.name);
    const Outcome expected = run(*cpu, c, kSeed);
    const Plan* plan = nullptr;
    const Outcome found = run(*simt, c, kSeed, &plan);
    expect_near_norm(found.logits, expected.logits, 40, "logits");
    expect_gradients_near(*plan, found.gradients, expected.gradients, 400);
    EXPECT_EQ(found.metrics.samples, expected.metrics.samples);
    EXPECT_EQ(found.metrics.top1, expected.metrics.top1);
    EXPECT_EQ(found.metrics.top5, expected.metrics.top5);
    EXPECT_NEAR(found.metrics.loss, expected.metrics.loss, 1e-5 * expected.metrics.loss);
  }
}

TEST(SimtStep, GradientsAreThoseOfTheLoss) {
  const auto simt = make_simt_device();
  for (const VitCase& c : vit_cases()) {
    SCOPED_TRACE(c.name);
    VitConfig config = small_vit();
    c.change(config);
    Differences(*simt, c, config, 14).check();
    if (kReduced) break;
  }
}

TEST(SimtStep, BitsDoNotDependOnTheSchedule) {
  const auto simt = make_simt_device();
  const simt::Schedule first = simt::current_schedule();
  for (const VitCase& c : vit_cases()) {
    SCOPED_TRACE(c.name);
    const Outcome expected = run(*simt, c, 8);
    simt::set_schedule({simt::Order::lifo, 0, 1});
    const Outcome found = run(*simt, c, 8);
    simt::set_schedule(first);
    EXPECT_TRUE(same_bits(found.logits, expected.logits));
    EXPECT_TRUE(same_bits(found.gradients, expected.gradients));
    EXPECT_EQ(found.metrics.loss, expected.metrics.loss);
  }
}

double largest_difference(const std::vector<double>& a, const std::vector<double>& b) {
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::abs(a[i] - b[i]));
  return largest;
}

// Rounding grows from step to step. How much it may grow is what the CPU shows when all pixels are
// changed by one part in 2^23.
void expect_same_curve(const RunConfig& config, const Dataset& data) {
  const auto cpu = make_cpu_device(1), simt = make_simt_device();
  RunConfig rounded = config;
  rounded.recipe.std.resize(static_cast<std::size_t>(config.model.num_channels), 1.0f);
  for (float& std : rounded.recipe.std) std *= 1.0f + std::numeric_limits<float>::epsilon();
  const std::vector<double> expected = loss_curve(*cpu, config, data);
  const std::vector<double> spread = loss_curve(*cpu, rounded, data);
  const std::vector<double> found = loss_curve(*simt, config, data);
  ASSERT_EQ(found.size(), static_cast<std::size_t>(config.recipe.max_steps));
  ASSERT_EQ(found.size(), expected.size());
  const double difference = largest_difference(found, expected);
  const double allowed = largest_difference(spread, expected);
  std::cout << config.preset << ": " << found.size() << " steps, loss " << expected.front()
            << " to " << expected.back() << ", largest difference from the CPU " << difference
            << ", of the CPU from itself with rounded pixels " << allowed << "\n";
  EXPECT_LE(difference, 4 * allowed + 1e-5 * expected.front());
  EXPECT_LE(difference, 1e-2 * expected.front());
}

TEST(SimtTraining, TutorialCurveLiesOnTheCpuCurve) {
  const std::int64_t steps = kReduced ? 5 : 200;
  const RunConfig config = steps_of("mnist-tutorial", 16, steps);
  expect_same_curve(config, make_digits(16 * steps, 5));
}

double mean_difference(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += std::abs(a[i] - b[i]);
  return sum / static_cast<double>(a.size());
}

// Rounding to bf16 moves the curve less than another seed does.
TEST(SimtTraining, Bf16LiesWithinTheSpreadOfSeeds) {
  const std::int64_t steps = kReduced ? 5 : 200;
  RunConfig config = steps_of("mnist-tutorial", 16, steps);
  const Dataset data = make_digits(16 * steps, 5);
  const auto cpu = make_cpu_device(1), simt = make_simt_device();
  const std::vector<double> expected = loss_curve(*cpu, config, data);
  double spread = std::numeric_limits<double>::infinity();
  for (const std::uint64_t seed : {1, 2, 3}) {
    RunConfig other = config;
    other.recipe.seed = seed;
    spread = std::min(spread, mean_difference(loss_curve(*cpu, other, data), expected));
  }
  config.recipe.precision = Precision::bf16;
  const double difference = mean_difference(loss_curve(*simt, config, data), expected);
  std::cout << "mean difference of a step's loss: bf16 " << difference << ", seeds at least "
            << spread << "\n";
  EXPECT_LT(difference, spread);
  EXPECT_GT(difference, 0.0);
}

TEST(SimtTraining, ReferenceModelsTakeTheSameSteps) {
  for (const char* name : {"notes-encoder", "cifar10-small", "d2l-224"}) {
    SCOPED_TRACE(name);
    RunConfig config = steps_of(name, 2, kReduced ? 1 : 3);
    if (config.preset == "d2l-224") config.model.image_height = config.model.image_width = 32;
    expect_same_curve(config, random_images(config.model, 6, 3));
  }
}

}  // namespace
}  // namespace vitrine
