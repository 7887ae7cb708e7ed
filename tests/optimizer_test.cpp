// Learning-rate schedules, which parameters decay, and the optimiser's step on the CPU device.
//
// The reference of the update is Adam in double precision as PyTorch defines it.

#include "vitrine/optimizer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numbers>
#include <set>

#include "vitrine/random.h"
#include "vitrine/recipe.h"

namespace vitrine {
namespace {

std::vector<float> numbers_of(const Buffer& host) {
  return {host.as<float>(), host.as<float>() + host.bytes() / sizeof(float)};
}

TEST(Schedule, ConstantWithWarmUp) {
  const Schedule s{.kind = ScheduleKind::constant,
                   .lr = 0.5,
                   .warmup_lr = 0.1,
                   .warmup_steps = 4,
                   .total_steps = 10};
  EXPECT_DOUBLE_EQ(s.at(0), 0.1);
  EXPECT_DOUBLE_EQ(s.at(1), 0.2);
  EXPECT_DOUBLE_EQ(s.at(3), 0.4);
  for (std::int64_t step : {4, 5, 9, 10, 1000}) EXPECT_DOUBLE_EQ(s.at(step), 0.5) << step;
}

TEST(Schedule, CosineFallsFromLrToMinLr) {
  const Schedule s{.lr = 0.8, .min_lr = 0.2, .warmup_lr = 0, .warmup_steps = 3, .total_steps = 11};
  EXPECT_DOUBLE_EQ(s.at(0), 0.0);
  EXPECT_DOUBLE_EQ(s.at(3), 0.8);
  EXPECT_DOUBLE_EQ(s.at(5), 0.2 + 0.6 * 0.5 * (1 + std::cos(std::numbers::pi / 4)));
  EXPECT_NEAR(s.at(7), 0.5, 1e-15);
  EXPECT_DOUBLE_EQ(s.at(11), 0.2);
  EXPECT_DOUBLE_EQ(s.at(500), 0.2);
  for (std::int64_t step = 4; step <= 11; ++step) EXPECT_LT(s.at(step), s.at(step - 1)) << step;
}

TEST(Schedule, WithoutStepsOrWithWarmUpOnly) {
  const Schedule empty{.lr = 0.8, .min_lr = 0.1, .warmup_steps = 0, .total_steps = 0};
  EXPECT_DOUBLE_EQ(empty.at(0), 0.8);
  EXPECT_DOUBLE_EQ(empty.at(1), 0.1);
  const Schedule all{.lr = 0.8, .warmup_lr = 0.0, .warmup_steps = 8, .total_steps = 8};
  EXPECT_DOUBLE_EQ(all.at(7), 0.7);
}

VitConfig small_model() {
  VitConfig model{.image_height = 8,
                  .image_width = 12,
                  .patch_size = 4,
                  .num_channels = 1,
                  .hidden_size = 12,
                  .num_hidden_layers = 2,
                  .num_attention_heads = 3,
                  .intermediate_size = 20,
                  .num_classes = 5};
  return model;
}

class OptimizerTest : public testing::Test {
 protected:
  OptimizerTest() : device_(make_cpu_device(2)) {}

  Plan plan_of(const VitConfig& model) const { return plan_vit(model, {}, 3, device_->traits()); }
  std::size_t elements(const Plan& plan) const {
    return static_cast<std::size_t>(plan.parameter_elements());
  }
  /// Numbers in the tensors, zeros in the padding between them.
  std::vector<float> random_flat(const Plan& plan, std::uint64_t seed) const {
    std::vector<float> flat(elements(plan), 0.0f);
    RandomStream random(seed, 0);
    const auto& parameters = plan.graph().parameters();
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      const std::int64_t offset = plan.parameter_offset(static_cast<int>(i));
      for (std::int64_t k = 0; k < parameters[i].shape.elements(); ++k) {
        flat[static_cast<std::size_t>(offset + k)] = static_cast<float>(random.uniform(-2.0, 2.0));
      }
    }
    return flat;
  }
  void update(Optimizer& optimizer, const std::vector<float>& gradients, float learning_rate,
              double ema_decay = 0) {
    Buffer on_device = device_->allocate(gradients.size() * sizeof(float), "gradients");
    device_->upload(on_device.data(), gradients.data(), gradients.size() * sizeof(float));
    Buffer state = device_->allocate(sizeof(StepState), "state");
    const StepState host{.learning_rate = learning_rate,
                         .ema_decay = static_cast<float>(ema_decay)};
    device_->upload(state.data(), &host, sizeof host);
    optimizer.update(on_device.as<float>(), state.as<StepState>());
    device_->synchronize();
  }

  std::unique_ptr<Device> device_;
};

TEST_F(OptimizerTest, DecayByDefault) {
  const Plan plan = plan_of(small_model());
  std::set<std::string> decayed, kept;
  for (const Parameter& parameter : plan.graph().parameters()) {
    (decays_by_default(parameter) ? decayed : kept).insert(parameter.name);
  }
  for (const char* name : {"cls_token", "pos_embed", "patch_embed.proj.bias", "norm.weight",
                           "norm.bias", "blocks.0.norm1.weight", "blocks.1.norm2.bias",
                           "blocks.0.attn.qkv.bias", "blocks.1.mlp.fc1.bias", "head.bias"}) {
    EXPECT_TRUE(kept.contains(name)) << name;
  }
  const std::set<std::string> expected = {"patch_embed.proj.weight",  "head.weight",
                                          "blocks.0.attn.qkv.weight", "blocks.0.attn.proj.weight",
                                          "blocks.0.mlp.fc1.weight",  "blocks.0.mlp.fc2.weight",
                                          "blocks.1.attn.qkv.weight", "blocks.1.attn.proj.weight",
                                          "blocks.1.mlp.fc1.weight",  "blocks.1.mlp.fc2.weight"};
  EXPECT_EQ(decayed, expected);
}

TEST_F(OptimizerTest, PerHeadBiasesDoNotDecayAlthoughTheyAreMatrices) {
  VitConfig model = small_model();
  model.qkv_layout = QkvLayout::per_head;
  const Plan plan = plan_of(model);
  for (const Parameter& parameter : plan.graph().parameters()) {
    if (parameter.name.ends_with("qkv.bias")) {
      EXPECT_GT(parameter.shape.rank(), 1);
      EXPECT_FALSE(decays_by_default(parameter)) << parameter.name;
    }
  }
}

TEST_F(OptimizerTest, LayerScaleRegistersAndNormsOfHeadsDoNotDecay) {
  VitConfig model = small_model();
  model.init_values = 0.1;
  model.reg_tokens = 2;
  model.qk_norm = true;
  const Plan plan = plan_of(model);
  std::set<std::string> kept;
  for (const Parameter& parameter : plan.graph().parameters()) {
    if (!decays_by_default(parameter)) kept.insert(parameter.name);
  }
  for (const char* name :
       {"blocks.0.ls1.gamma", "blocks.0.ls2.gamma", "blocks.1.ls1.gamma", "blocks.1.ls2.gamma",
        "reg_token", "blocks.0.attn.q_norm.weight", "blocks.1.attn.k_norm.bias"}) {
    EXPECT_TRUE(kept.contains(name)) << name;
  }
  EXPECT_EQ(layer_depth("reg_token", 2), 0);
  EXPECT_EQ(layer_depth("blocks.1.ls2.gamma", 2), 2);
}

// With gradients of zero AdamW only decays, so what shrinks is what decays.
TEST_F(OptimizerTest, RegionsDecayWhatTheyShould) {
  const Plan plan = plan_of(small_model());
  const std::vector<float> weights = random_flat(plan, 11);
  const std::vector<float> zeros(elements(plan), 0.0f);
  for (bool decay_all : {false, true}) {
    SCOPED_TRACE(decay_all);
    Optimizer optimizer(*device_, plan, {.weight_decay = 0.5, .decay_all = decay_all});
    optimizer.upload_weights(weights);
    update(optimizer, zeros, 0.5f);
    const std::vector<float> after = numbers_of(optimizer.host_weights());
    const auto& parameters = plan.graph().parameters();
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      const bool decays = decay_all || decays_by_default(parameters[i]);
      const auto offset = static_cast<std::size_t>(plan.parameter_offset(static_cast<int>(i)));
      const auto count = static_cast<std::size_t>(parameters[i].shape.elements());
      for (std::size_t k = offset; k < offset + count; ++k) {
        ASSERT_FLOAT_EQ(after[k], decays ? 0.75f * weights[k] : weights[k])
            << parameters[i].name << " " << k - offset;
      }
    }
  }
}

TEST_F(OptimizerTest, StepsAreAdamsInDoublePrecision) {
  const Plan plan = plan_of(small_model());
  for (OptimizerKind kind : {OptimizerKind::adam, OptimizerKind::adamw}) {
    for (std::uint64_t seed : {3u, 4u}) {
      SCOPED_TRACE(testing::Message() << "kind " << static_cast<int>(kind) << ", seed " << seed);
      const OptimizerConfig config{
          .kind = kind, .weight_decay = 0.1, .decay_all = true, .clip_norm = 5.0};
      Optimizer optimizer(*device_, plan, config);
      std::vector<float> start = random_flat(plan, seed);
      optimizer.upload_weights(start);
      std::vector<double> w(start.begin(), start.end()), m(w.size()), v(w.size());
      for (int step = 1; step <= 4; ++step) {
        const std::vector<float> gradients = random_flat(plan, 100 * seed + step);
        update(optimizer, gradients, 0.01f);
        double norm = 0;
        for (float g : gradients) norm += static_cast<double>(g) * g;
        norm = std::sqrt(norm);
        EXPECT_NEAR(optimizer.state().gradient_norm, norm, 1e-6 * norm);
        EXPECT_EQ(optimizer.state().adam_step, step);
        for (std::size_t i = 0; i < w.size(); ++i) {
          double g = gradients[i] * std::min(1.0, 5.0 / (norm + 1e-6));
          if (kind == OptimizerKind::adam) g += 0.1 * w[i];
          if (kind == OptimizerKind::adamw) w[i] *= 1 - 0.01 * 0.1;
          m[i] = 0.9 * m[i] + 0.1 * g;
          v[i] = 0.999 * v[i] + 0.001 * g * g;
          const double m_hat = m[i] / (1 - std::pow(0.9, step));
          const double v_hat = v[i] / (1 - std::pow(0.999, step));
          w[i] -= 0.01 * m_hat / (std::sqrt(v_hat) + 1e-8);
        }
      }
      const std::vector<float> after = numbers_of(optimizer.host_weights());
      for (std::size_t i = 0; i < w.size(); ++i) ASSERT_NEAR(after[i], w[i], 2e-5) << i;
    }
  }
}

// timm 1.0.31's param_groups_layer_decay(layer_decay=0.75) of vit_tiny_patch16_224, and of the same
// with global_pool="avg" for fc_norm.
TEST_F(OptimizerTest, LayerDepthIsTimms) {
  const std::pair<const char*, double> scales[] = {
      {"cls_token", 0.023757264018058777},
      {"pos_embed", 0.023757264018058777},
      {"patch_embed.proj.weight", 0.023757264018058777},
      {"patch_embed.proj.bias", 0.023757264018058777},
      {"blocks.0.norm1.weight", 0.03167635202407837},
      {"blocks.0.mlp.fc2.bias", 0.03167635202407837},
      {"blocks.1.attn.qkv.weight", 0.04223513603210449},
      {"blocks.9.norm2.bias", 0.421875},
      {"blocks.10.attn.proj.weight", 0.5625},
      {"blocks.11.norm1.weight", 0.75},
      {"blocks.11.mlp.fc2.weight", 0.75},
      {"norm.weight", 0.75},
      {"norm.bias", 0.75},
      {"fc_norm.weight", 1.0},
      {"head.weight", 1.0},
      {"head.bias", 1.0}};
  constexpr std::int64_t kBlocks = 12;
  for (const auto& [name, scale] : scales) {
    const auto above = static_cast<double>(kBlocks + 1 - layer_depth(name, kBlocks));
    EXPECT_DOUBLE_EQ(std::pow(0.75, above), scale) << name;
  }
}

// Each parameter its own learning rate, none for those that are frozen; moments know no rate.
TEST_F(OptimizerTest, LayerDecayAndFreezingInDoublePrecision) {
  const std::vector<std::string> freeze = {"blocks.0.attn.proj", "norm.bias", "pos_embed"};
  const Plan plan = plan_vit(small_model(), {.freeze = freeze}, 3, device_->traits());
  constexpr double kDecay = 0.6, kRate = 0.01, kWeightDecay = 0.1;
  for (const OptimizerKind kind : {OptimizerKind::adam, OptimizerKind::adamw}) {
    SCOPED_TRACE(testing::Message() << "kind " << static_cast<int>(kind) << ", seed 51");
    Optimizer optimizer(*device_, plan,
                        {.kind = kind, .weight_decay = kWeightDecay, .layer_decay = kDecay});
    const std::vector<float> start = random_flat(plan, 51);
    const std::vector<float> gradients[] = {random_flat(plan, 52), random_flat(plan, 53),
                                            random_flat(plan, 54)};
    optimizer.upload_weights(start);
    for (const auto& gradient : gradients) update(optimizer, gradient, static_cast<float>(kRate));
    const std::vector<float> after = numbers_of(optimizer.host_weights());
    const std::vector<float> moments = numbers_of(optimizer.host_first_moment());
    for (std::size_t p = 0; p < plan.graph().parameters().size(); ++p) {
      const Parameter& parameter = plan.graph().parameters()[p];
      const bool embeds = parameter.name == "cls_token" || parameter.name == "pos_embed" ||
                          parameter.name.starts_with("patch_embed");
      const int above = embeds                                    ? 3
                        : parameter.name.starts_with("blocks.0.") ? 2
                        : parameter.name.starts_with("head.")     ? 0
                                                                  : 1;
      const double rate = kRate * std::pow(kDecay, above);
      const double weight_decay = decays_by_default(parameter) ? kWeightDecay : 0.0;
      const auto offset = static_cast<std::size_t>(plan.parameter_offset(static_cast<int>(p)));
      for (std::size_t i = offset; i < offset + parameter.shape.elements(); ++i) {
        if (!parameter.trained) {
          ASSERT_EQ(after[i], start[i]) << parameter.name;
          ASSERT_EQ(moments[i], 0.0f) << parameter.name;
          continue;
        }
        double w = start[i], m = 0, v = 0;
        for (int step = 1; step <= 3; ++step) {
          double g = gradients[step - 1][i];
          if (kind == OptimizerKind::adam) g += weight_decay * w;
          if (kind == OptimizerKind::adamw) w *= 1 - rate * weight_decay;
          m = 0.9 * m + 0.1 * g;
          v = 0.999 * v + 0.001 * g * g;
          const double m_hat = m / (1 - std::pow(0.9, step));
          w -= rate * m_hat / (std::sqrt(v / (1 - std::pow(0.999, step))) + 1e-8);
        }
        ASSERT_NEAR(after[i] - start[i], w - start[i], 1e-6) << parameter.name;
      }
    }
  }
}

// timm 1.0.31's ModelEmaV3(decay=0.9, use_warmup=…).get_decay(step + 1).
TEST(Average, DecayIsTimms) {
  const OptimizerConfig plain{.ema_decay = 0.9}, warm{.ema_decay = 0.9, .ema_warmup = true};
  const std::pair<std::int64_t, double> decays[] = {{0, 0.0},
                                                    {1, 0.3700394750525634},
                                                    {2, 0.5192501432308638},
                                                    {3, 0.6031497370079502},
                                                    {10, 0.7978199917664258},
                                                    {29, 0.8964255831348713},
                                                    {30, 0.8986651402454389},
                                                    {31, 0.9},
                                                    {1000, 0.9}};
  for (const auto& [step, decay] : decays) {
    EXPECT_DOUBLE_EQ(ema_decay_at(warm, step), decay) << step;
    EXPECT_DOUBLE_EQ(ema_decay_at(plain, step), step == 0 ? 0.0 : 0.9) << step;
  }
}

TEST_F(OptimizerTest, AveragesItsWeights) {
  const Plan plan = plan_of(small_model());
  const OptimizerConfig config{.ema_decay = 0.8, .ema_warmup = true};
  Optimizer optimizer(*device_, plan, config), without(*device_, plan, {});
  const std::vector<float> start = random_flat(plan, 61);
  optimizer.upload_weights(start);
  without.upload_weights(start);
  EXPECT_TRUE(optimizer.has_ema());
  EXPECT_EQ(numbers_of(optimizer.host_ema()), start);
  std::vector<double> expected(start.begin(), start.end());
  const auto steps = [&](Optimizer& averaging, std::int64_t first, std::int64_t last) {
    for (std::int64_t step = first; step < last; ++step) {
      const double decay = ema_decay_at(config, step);
      const std::vector<float> gradients = random_flat(plan, static_cast<std::uint64_t>(62 + step));
      update(averaging, gradients, 0.05f, decay);
      update(without, gradients, 0.05f);
      const std::vector<float> weights = numbers_of(averaging.host_weights());
      EXPECT_EQ(weights, numbers_of(without.host_weights())) << "the average changes no weight";
      for (std::size_t i = 0; i < expected.size(); ++i) {
        expected[i] = decay * expected[i] + (1 - decay) * weights[i];
      }
      const std::vector<float> found = numbers_of(averaging.host_ema());
      for (std::size_t i = 0; i < found.size(); ++i) ASSERT_NEAR(found[i], expected[i], 1e-6) << i;
    }
  };
  steps(optimizer, 0, 4);

  // A run that goes on with what was kept has the same bits.
  Optimizer resumed(*device_, plan, config);
  resumed.upload_weights(numbers_of(optimizer.host_weights()));
  resumed.upload_moments(numbers_of(optimizer.host_first_moment()),
                         numbers_of(optimizer.host_second_moment()), optimizer.state());
  resumed.upload_ema(numbers_of(optimizer.host_ema()));
  steps(resumed, 4, 6);
  EXPECT_FALSE(without.has_ema());
  EXPECT_EQ(without.host_ema().bytes(), 0u);
}

TEST_F(OptimizerTest, NonFiniteGradientSkipsTheStep) {
  const Plan plan = plan_of(small_model());
  Optimizer optimizer(*device_, plan, {});
  optimizer.upload_weights(random_flat(plan, 21));
  const std::vector<float> good = random_flat(plan, 22);
  update(optimizer, good, 0.01f);
  ASSERT_EQ(optimizer.state().adam_step, 1);
  const std::vector<float> weights = numbers_of(optimizer.host_weights());
  const std::vector<float> first = numbers_of(optimizer.host_first_moment());
  const std::vector<float> second = numbers_of(optimizer.host_second_moment());

  std::int64_t skipped = 0;
  for (float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                    -std::numeric_limits<float>::infinity()}) {
    std::vector<float> gradients = good;
    gradients[gradients.size() / 3] = bad;
    update(optimizer, gradients, 0.01f);
    EXPECT_EQ(optimizer.state().skipped_steps, ++skipped);
    EXPECT_EQ(optimizer.state().adam_step, 1);
    EXPECT_FALSE(std::isfinite(optimizer.state().gradient_norm));
    EXPECT_EQ(numbers_of(optimizer.host_weights()), weights);
    EXPECT_EQ(numbers_of(optimizer.host_first_moment()), first);
    EXPECT_EQ(numbers_of(optimizer.host_second_moment()), second);
  }
  update(optimizer, good, 0.01f);
  EXPECT_EQ(optimizer.state().adam_step, 2);
  EXPECT_EQ(optimizer.state().skipped_steps, skipped);
  EXPECT_NE(numbers_of(optimizer.host_weights()), weights);
}

TEST_F(OptimizerTest, BuffersAndStateComeBackAsTheyWere) {
  const Plan plan = plan_of(small_model());
  Optimizer optimizer(*device_, plan, {});
  const std::vector<float> weights = random_flat(plan, 31), first = random_flat(plan, 32),
                           second = random_flat(plan, 33);
  optimizer.upload_weights(weights);
  optimizer.upload_moments(first, second, {.adam_step = 7, .skipped_steps = 2});
  EXPECT_EQ(numbers_of(optimizer.host_weights()), weights);
  EXPECT_EQ(numbers_of(optimizer.host_first_moment()), first);
  EXPECT_EQ(numbers_of(optimizer.host_second_moment()), second);
  EXPECT_EQ(optimizer.state().adam_step, 7);
  EXPECT_EQ(optimizer.state().skipped_steps, 2);
}

}  // namespace
}  // namespace vitrine
