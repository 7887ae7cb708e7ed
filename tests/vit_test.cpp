// The network: gradients for every option of the configuration, and what passes and modes must
// keep. Initial weights and positions: initialization_test.cpp.
#include "vitrine/vit.h"

#include <gtest/gtest.h>

#include "vit_cases.h"
#include "vit_differences.h"
#include "vit_run.h"
#include "vitrine/recipe.h"

namespace vitrine {
namespace {

class VitGradients : public testing::TestWithParam<int> {};

TEST_P(VitGradients, AreThoseOfTheLoss) {
  const auto device = make_cpu_device(1);
  const VitCase& c = vit_cases()[static_cast<std::size_t>(GetParam())];
  for (std::uint64_t seed : {1, 2}) {
    SCOPED_TRACE(c.name + ", seed " + std::to_string(seed));
    VitConfig config = small_vit();
    c.change(config);
    validate(config, c.name);
    Differences(*device, c, config, seed).check();
  }
}

INSTANTIATE_TEST_SUITE_P(Configs, VitGradients,
                         testing::Range(0, static_cast<int>(vit_cases().size())));

// A training graph without dropout computes what an evaluation graph does.
TEST(Vit, TrainingAndEvaluationAgree) {
  const auto device = make_cpu_device(1);
  for (const VitCase& c : vit_cases()) {
    SCOPED_TRACE(c.name);
    VitConfig config = small_vit();
    c.change(config);
    const VitOptions evaluation{.training = false, .probabilities = true};
    VitRun dropping(*device, config, evaluation, c.chunking, kBatch);
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0;
    config.activation_dropout_prob = config.embedding_dropout_prob = config.drop_path_rate = 0;
    VitRun training(*device, config, {}, c.chunking, kBatch);
    const Batch batch(config, kBatch, c.chunking.rows * c.chunking.count, 4);
    const std::vector<float> weights = random_weights(training.plan(), 4);
    for (VitRun* vit : {&dropping, &training}) vit->run(weights, batch, {.seed = 4}, kBatch);
    EXPECT_TRUE(same_bits(dropping.output("logits"), training.output("logits")));
  }
}

// Random numbers belong to the row of the whole batch, the step and the seed.
TEST(Vit, DropoutFollowsSeedStepAndRow) {
  const auto device = make_cpu_device(1);
  VitConfig config = small_vit();
  drop_everywhere(config);
  VitRun vit(*device, config, {}, {.batch = kBatch, .rows = kBatch}, kBatch);
  const Batch batch(config, kBatch, kBatch, 6);
  const std::vector<float> weights = random_weights(vit.plan(), 6);
  auto logits = [&](const StepState& state) {
    vit.run(weights, batch, state, kBatch);
    return vit.output("logits");
  };
  const std::vector<float> one = logits({.seed = 1, .step = 1, .first_row = 7});
  EXPECT_TRUE(same_bits(logits({.seed = 1, .step = 1, .first_row = 7}), one));
  EXPECT_FALSE(same_bits(logits({.seed = 2, .step = 1, .first_row = 7}), one));
  EXPECT_FALSE(same_bits(logits({.seed = 1, .step = 2, .first_row = 7}), one));
  EXPECT_FALSE(same_bits(logits({.seed = 1, .step = 1, .first_row = 8}), one));
}

}  // namespace
}  // namespace vitrine
