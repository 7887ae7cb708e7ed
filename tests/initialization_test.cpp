// Initial weights: bounds and moments of every scheme, determinism by seed; fixed positions by
// their formulas; all presets build and plan.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "vitrine/error.h"
#include "vitrine/random.h"
#include "vitrine/recipe.h"
#include "vitrine/vit.h"

namespace vitrine {
namespace {

VitConfig config_of(Initialization init, EmbeddingInitialization embedding) {
  VitConfig c{.image_height = 32,
              .image_width = 48,
              .patch_size = 8,
              .num_channels = 3,
              .hidden_size = 48,
              .num_hidden_layers = 1,
              .num_attention_heads = 4,
              .intermediate_size = 100,
              .num_classes = 30};
  c.init = init;
  c.embedding_init = embedding;
  c.initializer_range = 0.05;
  return c;
}

Plan plan_of(const VitConfig& config) {
  return Plan(build_vit(config, {.training = false}), {}, {.batch = 1, .rows = 1});
}

/// One tensor of the flat buffer with its moments.
struct Tensor {
  std::vector<float> values;
  double mean = 0, deviation = 0, smallest = 0, largest = 0;
};

class Weights {
 public:
  explicit Weights(const VitConfig& config, std::uint64_t seed = 7)
      : plan_(plan_of(config)), flat_(initial_weights(config, plan_, seed)) {}

  Tensor tensor(const std::string& name) const {
    const auto& parameters = plan_.graph().parameters();
    for (std::size_t p = 0; p < parameters.size(); ++p) {
      if (parameters[p].name != name) continue;
      Tensor t;
      const float* begin = flat_.data() + plan_.parameter_offset(static_cast<int>(p));
      t.values.assign(begin, begin + parameters[p].shape.elements());
      const auto n = static_cast<double>(t.values.size());
      for (float v : t.values) t.mean += v / n;
      for (float v : t.values) t.deviation += (v - t.mean) * (v - t.mean) / n;
      t.deviation = std::sqrt(t.deviation);
      t.smallest = *std::min_element(t.values.begin(), t.values.end());
      t.largest = *std::max_element(t.values.begin(), t.values.end());
      return t;
    }
    ADD_FAILURE() << "no tensor " << name;
    return {};
  }

  void expect_constant(const std::string& name, float value) const {
    const Tensor t = tensor(name);
    EXPECT_EQ(t.smallest, value) << name;
    EXPECT_EQ(t.largest, value) << name;
  }
  /// Within five standard errors of U(low, high), and near both bounds.
  void expect_uniform(const std::string& name, double low, double high) const {
    const Tensor t = tensor(name);
    const double deviation = (high - low) / std::sqrt(12.0);
    const double n = static_cast<double>(t.values.size());
    EXPECT_GE(t.smallest, low - 1e-7) << name;
    EXPECT_LE(t.largest, high + 1e-7) << name;
    EXPECT_LT(t.smallest, low + (high - low) * std::min(0.5, 10 / n)) << name;
    EXPECT_GT(t.largest, high - (high - low) * std::min(0.5, 10 / n)) << name;
    EXPECT_NEAR(t.mean, (low + high) / 2, 5 * deviation / std::sqrt(n)) << name;
  }
  void expect_normal(const std::string& name, double deviation) const {
    const Tensor t = tensor(name);
    const double n = static_cast<double>(t.values.size());
    EXPECT_NEAR(t.mean, 0, 5 * deviation / std::sqrt(n)) << name;
    EXPECT_NEAR(t.deviation, deviation, 5 * deviation / std::sqrt(2 * n)) << name;
    EXPECT_GT(t.largest, 1.5 * deviation) << name;
  }
  const std::vector<float>& flat() const { return flat_; }

 private:
  Plan plan_;
  std::vector<float> flat_;
};

const std::string kBlock = "blocks.0.";

void expect_unit_norms(const Weights& w) {
  for (const char* norm : {"blocks.0.norm1", "blocks.0.norm2", "norm"}) {
    w.expect_constant(std::string(norm) + ".weight", 1.0f);
    w.expect_constant(std::string(norm) + ".bias", 0.0f);
  }
}

TEST(InitialWeights, Torch) {
  const Weights w(config_of(Initialization::torch, EmbeddingInitialization::uniform));
  expect_unit_norms(w);
  const double patch = 1 / std::sqrt(3.0 * 64), hidden = 1 / std::sqrt(48.0);
  for (const char* kind : {".weight", ".bias"}) {
    w.expect_uniform(std::string("patch_embed.proj") + kind, -patch, patch);
    for (const char* layer : {"attn.qkv", "attn.proj", "mlp.fc1"}) {
      w.expect_uniform(kBlock + layer + kind, -hidden, hidden);
    }
    w.expect_uniform(kBlock + "mlp.fc2" + kind, -0.1, 0.1);
    w.expect_uniform(std::string("head") + kind, -hidden, hidden);
  }
  w.expect_uniform("cls_token", 0, 1);
  w.expect_uniform("pos_embed", 0, 1);
}

TEST(InitialWeights, TorchOfPerHeadMaps) {
  VitConfig config = config_of(Initialization::torch, EmbeddingInitialization::uniform);
  config.qkv_layout = QkvLayout::per_head;
  const double bound = 1 / std::sqrt(12.0);
  const Weights w(config);
  w.expect_uniform(kBlock + "attn.qkv.weight", -bound, bound);
  w.expect_uniform(kBlock + "attn.qkv.bias", -bound, bound);
}

TEST(InitialWeights, TorchEncoder) {
  VitConfig config = config_of(Initialization::torch_encoder, EmbeddingInitialization::normal);
  config.patch_init_normal = true;
  const Weights w(config);
  expect_unit_norms(w);
  const double xavier = std::sqrt(6 / (48.0 + 3 * 48)), hidden = 1 / std::sqrt(48.0);
  w.expect_uniform(kBlock + "attn.qkv.weight", -xavier, xavier);
  w.expect_constant(kBlock + "attn.qkv.bias", 0.0f);
  w.expect_uniform(kBlock + "attn.proj.weight", -hidden, hidden);
  w.expect_constant(kBlock + "attn.proj.bias", 0.0f);
  w.expect_uniform(kBlock + "mlp.fc1.bias", -hidden, hidden);
  w.expect_uniform(kBlock + "mlp.fc2.weight", -0.1, 0.1);
  w.expect_normal("patch_embed.proj.weight", 1.0);
  w.expect_normal("cls_token", 1.0);
  w.expect_normal("pos_embed", 1.0);
}

TEST(InitialWeights, Normal) {
  for (Initialization init : {Initialization::normal, Initialization::trunc_normal}) {
    const Weights w(config_of(init, EmbeddingInitialization::trunc_normal));
    expect_unit_norms(w);
    for (const char* layer : {"attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"}) {
      w.expect_normal(kBlock + layer + ".weight", 0.05);
      w.expect_constant(kBlock + layer + ".bias", 0.0f);
    }
    w.expect_normal("patch_embed.proj.weight", 0.05);
    w.expect_constant("patch_embed.proj.bias", 0.0f);
    w.expect_normal("head.weight", 0.05);
    w.expect_normal("pos_embed", 0.05);
  }
}

// Truncated at ±2 whatever the deviation is; that of N(0, 2²) cut there is 0.5396 of it.
TEST(InitialWeights, TruncatedNormalStaysWithinTwo) {
  VitConfig config = config_of(Initialization::trunc_normal, EmbeddingInitialization::trunc_normal);
  config.initializer_range = 2.0;
  const Tensor t = Weights(config).tensor(kBlock + "attn.qkv.weight");
  EXPECT_GE(t.smallest, -2.0);
  EXPECT_LE(t.largest, 2.0);
  EXPECT_NEAR(t.deviation, 2 * 0.5396, 0.03);
}

TEST(InitialWeights, Timm) {
  const Weights w(config_of(Initialization::timm, EmbeddingInitialization::timm));
  expect_unit_norms(w);
  const double patch = 1 / std::sqrt(3.0 * 64);
  w.expect_uniform("patch_embed.proj.weight", -patch, patch);
  w.expect_uniform("patch_embed.proj.bias", -patch, patch);
  w.expect_normal(kBlock + "attn.qkv.weight", 0.02);
  w.expect_constant(kBlock + "attn.qkv.bias", 0.0f);
  w.expect_normal("head.weight", 0.02);
  w.expect_normal("cls_token", 1e-6);
  w.expect_normal("pos_embed", 0.02);
}

// Whatever the rest starts from, and nothing else changes.
TEST(InitialWeights, ZeroHead) {
  for (const Initialization init :
       {Initialization::torch, Initialization::torch_encoder, Initialization::normal,
        Initialization::trunc_normal, Initialization::timm}) {
    VitConfig config = config_of(init, EmbeddingInitialization::timm);
    const Weights standard(config);
    EXPECT_GT(standard.tensor("head.weight").deviation, 0.0);
    config.head_init = HeadInitialization::zero;
    const Weights zero(config);
    zero.expect_constant("head.weight", 0.0f);
    zero.expect_constant("head.bias", 0.0f);
    for (const char* name : {"blocks.0.attn.qkv.weight", "blocks.0.mlp.fc2.bias", "norm.weight",
                             "patch_embed.proj.weight", "pos_embed", "cls_token"}) {
      EXPECT_EQ(zero.tensor(name).values, standard.tensor(name).values) << name;
    }
  }
}

TEST(InitialWeights, LayerScale) {
  for (const Initialization init : {Initialization::torch, Initialization::timm}) {
    VitConfig config = config_of(init, EmbeddingInitialization::timm);
    config.init_values = 1e-5;
    const Weights w(config);
    w.expect_constant("blocks.0.ls1.gamma", 1e-5f);
    w.expect_constant("blocks.0.ls2.gamma", 1e-5f);
    expect_unit_norms(w);
  }
}

TEST(InitialWeights, RegistersStartAsTheClassTokenDoes) {
  VitConfig config = config_of(Initialization::timm, EmbeddingInitialization::timm);
  config.reg_tokens = 4;
  config.qk_norm = true;
  const Weights w(config);
  EXPECT_EQ(w.tensor("reg_token").values.size(), 4u * 48u);
  w.expect_normal("reg_token", 1e-6);
  for (const char* norm : {"blocks.0.attn.q_norm", "blocks.0.attn.k_norm"}) {
    w.expect_constant(std::string(norm) + ".weight", 1.0f);
    w.expect_constant(std::string(norm) + ".bias", 0.0f);
  }
  config.embedding_init = EmbeddingInitialization::normal;
  Weights(config).expect_normal("reg_token", 1.0);
}

TEST(InitialWeights, AreAFunctionOfSeedAndName) {
  VitConfig config = config_of(Initialization::timm, EmbeddingInitialization::timm);
  const Weights one(config, 1), again(config, 1), two(config, 2);
  EXPECT_EQ(one.flat(), again.flat());
  EXPECT_NE(one.flat(), two.flat());
  config.num_hidden_layers = 3;
  config.num_classes = 5;
  const Weights deeper(config, 1);
  for (const char* name : {"blocks.0.attn.qkv.weight", "blocks.0.mlp.fc2.weight", "pos_embed"}) {
    EXPECT_EQ(one.tensor(name).values, deeper.tensor(name).values) << name;
  }
  EXPECT_NE(deeper.tensor("blocks.0.mlp.fc1.weight").values,
            deeper.tensor("blocks.1.mlp.fc1.weight").values);
}

TEST(SincosPositions, OneDimensional) {
  VitConfig c = config_of(Initialization::timm, EmbeddingInitialization::timm);
  c.position = Position::sincos1d;
  const std::vector<float> table = sincos_positions(c);
  ASSERT_EQ(table.size(), static_cast<std::size_t>(25 * 48));
  EXPECT_EQ(table[0], 0.0f);
  EXPECT_EQ(table[1], 1.0f);
  EXPECT_FLOAT_EQ(table[7 * 48 + 0], std::sin(7.0));
  EXPECT_FLOAT_EQ(table[7 * 48 + 1], std::cos(7.0));
  EXPECT_FLOAT_EQ(table[24 * 48 + 10], std::sin(24 / std::pow(10000.0, 10.0 / 48)));
  EXPECT_FLOAT_EQ(table[24 * 48 + 11], std::cos(24 / std::pow(10000.0, 10.0 / 48)));
}

TEST(SincosPositions, TwoDimensional) {
  VitConfig c = config_of(Initialization::timm, EmbeddingInitialization::timm);
  c.position = Position::sincos2d;
  const double omega = std::pow(10000.0, -4.0 * 5 / 48);
  for (ClassToken place : {ClassToken::first, ClassToken::last, ClassToken::none}) {
    c.class_token = place;
    const std::vector<float> table = sincos_positions(c);
    ASSERT_EQ(table.size(), static_cast<std::size_t>(c.tokens() * 48));
    // Row 2, column 4 of 4 x 6 patches; k = 5.
    const std::int64_t token = 2 * 6 + 4 + (place == ClassToken::first ? 1 : 0);
    const float* row = table.data() + token * 48;
    EXPECT_FLOAT_EQ(row[5], std::sin(2 * omega));
    EXPECT_FLOAT_EQ(row[12 + 5], std::cos(2 * omega));
    EXPECT_FLOAT_EQ(row[24 + 5], std::sin(4 * omega));
    EXPECT_FLOAT_EQ(row[36 + 5], std::cos(4 * omega));
    if (place == ClassToken::none) continue;
    const float* token_row = table.data() + (place == ClassToken::first ? 0 : 24 * 48);
    EXPECT_TRUE(std::all_of(token_row, token_row + 48, [](float v) { return v == 0; }));
  }
}

// With registers the patches' rows lie behind them, without positions of other tokens first.
TEST(SincosPositions, OfPatchesBehindRegisters) {
  VitConfig c = config_of(Initialization::timm, EmbeddingInitialization::timm);
  c.position = Position::sincos2d;
  c.class_token = ClassToken::none;
  const std::vector<float> patches = sincos_positions(c);
  c.class_token = ClassToken::first;
  c.reg_tokens = 3;
  std::vector<float> expected(4 * 48, 0.0f);
  expected.insert(expected.end(), patches.begin(), patches.end());
  EXPECT_EQ(sincos_positions(c), expected);
  c.no_embed_class = true;
  EXPECT_EQ(sincos_positions(c), patches);
  c.position = Position::sincos1d;
  EXPECT_EQ(sincos_positions(c).size(), static_cast<std::size_t>(24 * 48));
}

TEST(Presets, BuildAndPlan) {
  EXPECT_GE(presets().size(), 40u);
  for (const PresetInfo& info : presets()) {
    const RunConfig run = preset(info.name);
    EXPECT_EQ(run.preset, info.name);
    EXPECT_NO_THROW(validate(run.model, info.name));
    EXPECT_NO_THROW(validate(run.recipe, info.name));
    const Plan plan = plan_vit(run.model, {}, 2, {});
    EXPECT_TRUE(plan.has_backward()) << info.name;
    EXPECT_GT(plan.parameter_elements(), 0) << info.name;
    EXPECT_GT(plan.cost().flops, 2 * plan.forward_flops()) << info.name;
  }
  EXPECT_THROW(preset("vit_base_patch16"), BadInput);
}

// A tensor of more numbers than a thread takes at a time is still one sequence.
TEST(Initialization, LargeTensorsAreDrawnInPieces) {
  VitConfig config = config_of(Initialization::normal, EmbeddingInitialization::normal);
  config.hidden_size = 256;
  config.intermediate_size = 1200;
  constexpr std::uint64_t kSeed = 7;
  const Tensor fc1 = Weights(config, kSeed).tensor("blocks.0.mlp.fc1.weight");
  ASSERT_GT(fc1.values.size(), std::size_t{1} << 18);
  std::uint64_t stream = 14695981039346656037ull;  // FNV-1a of the name
  for (const unsigned char c : std::string("blocks.0.mlp.fc1.weight")) {
    stream = (stream ^ c) * 1099511628211ull;
  }
  RandomStream random(kSeed, stream & 0x7fffffffffffffffull);
  for (std::size_t i = 0; i < fc1.values.size(); ++i) {
    const double expected = config.initializer_range * random.normal();
    ASSERT_NEAR(fc1.values[i], expected, 1e-7 * std::abs(expected) + 1e-15) << i;
  }
}

}  // namespace
}  // namespace vitrine
