// The passes alone and together: the same logits, loss and gradients with and without them. Fusing
// changes no operation's arithmetic, so bits are equal; pruning runs matmuls over fewer rows.
#include <gtest/gtest.h>

#include <map>

#include "vit_run.h"

namespace vitrine {
namespace {

constexpr std::int64_t kBatch = 5;
constexpr double kEpsilons = 16;

struct Case {
  std::string name;
  VitConfig config;
};

std::vector<Case> cases() {
  std::vector<Case> list;
  auto add = [&](const std::string& name, auto change) {
    VitConfig c = small_vit();
    change(c);
    list.push_back({name, c});
    drop_everywhere(c);
    list.push_back({name + ", dropout", c});
  };
  add("pre", [](VitConfig&) {});
  add("post", [](VitConfig& c) { c.norm_order = NormOrder::post; });
  add("d2l, token last", [](VitConfig& c) {
    c.norm_order = NormOrder::d2l;
    c.class_token = ClassToken::last;
    c.final_norm = false;
  });
  add("pre, per head, no projection", [](VitConfig& c) {
    c.qkv_layout = QkvLayout::per_head;
    c.output_projection = false;
    c.class_token = ClassToken::last;
  });
  add("post, per head without bias", [](VitConfig& c) {
    c.norm_order = NormOrder::post;
    c.qkv_layout = QkvLayout::per_head;
    c.qkv_bias = false;
  });
  add("pre, no biases, one block", [](VitConfig& c) {
    c.qkv_bias = c.proj_bias = c.patch_bias = false;
    c.num_hidden_layers = 1;
  });
  add("d2l, no projection", [](VitConfig& c) {
    c.norm_order = NormOrder::d2l;
    c.output_projection = false;
  });
  add("qk norm", [](VitConfig& c) { c.qk_norm = true; });
  add("qk norm, post, per head, token last", [](VitConfig& c) {
    c.qk_norm = true;
    c.norm_order = NormOrder::post;
    c.qkv_layout = QkvLayout::per_head;
    c.class_token = ClassToken::last;
  });
  add("layer scale", [](VitConfig& c) { c.init_values = 0.1; });
  add("layer scale, d2l", [](VitConfig& c) {
    c.init_values = 0.1;
    c.norm_order = NormOrder::d2l;
  });
  add("registers, token last", [](VitConfig& c) {
    c.reg_tokens = 3;
    c.class_token = ClassToken::last;
  });
  add("one token", [](VitConfig& c) {
    c.image_height = c.image_width = 4;
    c.class_token = ClassToken::none;
    c.pool = Pool::mean;
  });
  add("no blocks", [](VitConfig& c) {
    c.num_hidden_layers = 0;
    c.class_token = ClassToken::none;
    c.pool = Pool::mean;
  });
  add("mean pool", [](VitConfig& c) { c.pool = Pool::mean; });
  add("mean pool, then norm", [](VitConfig& c) {
    c.pool = Pool::mean;
    c.pool_norm = PoolNorm::after;
    c.class_token = ClassToken::none;
  });
  return list;
}

struct Result {
  std::vector<float> logits, gradients, image_gradient;
  Metrics metrics;
};

Result run(Device& device, const VitConfig& config, bool fuse, bool prune, std::uint64_t seed,
           std::vector<Parameter>* parameters = nullptr) {
  VitRun vit(device, config,
             {.label_smoothing = 0.1f,
              .image_gradient = true,
              .fuse_residual_norm = fuse,
              .prune_last_block = prune},
             {.batch = kBatch, .rows = kBatch}, kBatch);
  const Batch batch(config, kBatch, kBatch, seed);
  vit.run(random_weights(vit.plan(), seed), batch,
          {.seed = seed, .step = 3, .loss_scale = 1.0f / kBatch, .first_row = 10}, kBatch);
  if (parameters != nullptr) *parameters = vit.plan().graph().parameters();
  return {vit.output("logits"), vit.gradients(), vit.output("images.grad"),
          vit.executor().metrics()};
}

class Passes : public testing::TestWithParam<std::uint64_t> {
 protected:
  std::unique_ptr<Device> device_ = make_cpu_device(1);
};

TEST_P(Passes, FusedResidualNormHasTheSameBits) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.name + ", seed " + std::to_string(GetParam()));
    for (bool prune : {false, true}) {
      const Result plain = run(*device_, c.config, false, prune, GetParam());
      const Result fused = run(*device_, c.config, true, prune, GetParam());
      EXPECT_TRUE(same_bits(fused.logits, plain.logits));
      EXPECT_TRUE(same_bits(fused.gradients, plain.gradients));
      EXPECT_TRUE(same_bits(fused.image_gradient, plain.image_gradient));
      EXPECT_EQ(fused.metrics.loss, plain.metrics.loss);
    }
  }
}

TEST_P(Passes, PrunedLastBlockHasTheSameNumbers) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.name + ", seed " + std::to_string(GetParam()));
    for (bool fuse : {false, true}) {
      std::vector<Parameter> parameters, pruned_parameters;
      const Result plain = run(*device_, c.config, fuse, false, GetParam(), &parameters);
      const Result pruned = run(*device_, c.config, fuse, true, GetParam(), &pruned_parameters);
      ASSERT_EQ(parameters.size(), pruned_parameters.size());
      for (std::size_t i = 0; i < parameters.size(); ++i) {
        EXPECT_EQ(pruned_parameters[i].name, parameters[i].name);
        EXPECT_EQ(pruned_parameters[i].shape, parameters[i].shape);
      }
      expect_near_norm(pruned.logits, plain.logits, kEpsilons, "logits");
      expect_near_norm(pruned.image_gradient, plain.image_gradient, kEpsilons, "images");
      const Plan plan(build_vit(c.config, {}), device_->traits(), {.batch = 1, .rows = 1});
      expect_gradients_near(plan, pruned.gradients, plain.gradients, kEpsilons);
      EXPECT_NEAR(pruned.metrics.loss, plain.metrics.loss, 1e-5 * plain.metrics.loss);
      EXPECT_EQ(pruned.metrics.top1, plain.metrics.top1);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, Passes, testing::Values(11, 20261121));

Graph forward(const VitConfig& config, bool fuse, bool prune) {
  return build_vit(config,
                   {.training = false, .fuse_residual_norm = fuse, .prune_last_block = prune});
}

std::map<std::string, int> count_nodes(const Graph& graph) {
  std::map<std::string, int> counts;
  for (const Node& node : graph.nodes()) ++counts[node.operation->name()];
  return counts;
}

double flops(const Graph& graph, const std::string& operation = "") {
  double sum = 0;
  for (const Node& node : graph.nodes()) {
    if (operation.empty() || node.operation->name() == operation) sum += graph.cost(node).flops;
  }
  return sum;
}

TEST(FuseResidualNorm, LeavesNoResidualBeforeANorm) {
  struct Expected {
    NormOrder order;
    bool prune, final_norm;
    int residuals;
  };
  // Three blocks: six residuals. The last one of a pre-norm network is followed by the pool, which
  // pruning moves ahead.
  const std::vector<Expected> table = {
      {NormOrder::pre, false, true, 1},  {NormOrder::pre, true, true, 0},
      {NormOrder::pre, true, false, 1},  {NormOrder::post, false, true, 0},
      {NormOrder::post, true, false, 0}, {NormOrder::d2l, false, false, 1}};
  for (const Expected& row : table) {
    VitConfig config = small_vit();
    config.num_hidden_layers = 3;
    config.norm_order = row.order;
    config.final_norm = row.final_norm;
    auto plain = count_nodes(forward(config, false, row.prune));
    auto fused = count_nodes(forward(config, true, row.prune));
    EXPECT_EQ(plain["residual_forward"], 6);
    EXPECT_EQ(fused["residual_forward"], row.residuals);
    EXPECT_EQ(fused["layer_norm_forward"], plain["layer_norm_forward"]);
  }
}

TEST(FuseResidualNorm, KeepsAKeptResidual) {
  Graph graph(true);
  const ValueId x = graph.input("x", Shape{2, 3, 5}, DType::f32, ValueKind::row_input);
  const ValueId weight = graph.parameter("norm.weight", Shape{5});
  const ValueId bias = graph.parameter("norm.bias", Shape{5});
  const ValueId sum = residual(graph, "sum", x, x, {}, {}, {3, 0, 3});
  layer_norm(graph, "norm", sum, weight, bias, 1e-6f);
  graph.keep(sum);
  const Graph fused = fuse_residual_norm(graph);
  ASSERT_EQ(fused.nodes().size(), 1u);
  EXPECT_TRUE(fused.value(fused.find("sum")).keep);
  EXPECT_FALSE(fused.value(fused.find("norm")).keep);
}

TEST(PruneUnreadTokens, DropsWorkOfTheLastBlock) {
  for (NormOrder order : {NormOrder::pre, NormOrder::post, NormOrder::d2l}) {
    for (QkvLayout layout : {QkvLayout::dense, QkvLayout::per_head}) {
      VitConfig config = small_vit();
      config.norm_order = order;
      config.qkv_layout = layout;
      const Graph pruned = forward(config, false, true), plain = forward(config, false, false);
      const char* qkv = layout == QkvLayout::dense ? "matmul" : "per_head_linear_forward";
      EXPECT_LT(flops(pruned), flops(plain));
      EXPECT_LT(flops(pruned, "matmul"), flops(plain, "matmul"));
      EXPECT_EQ(count_nodes(pruned)[qkv], count_nodes(plain)[qkv] + 1) << "q apart from k and v";
      EXPECT_EQ(pruned.shape(pruned.find("blocks.1.mlp.fc1")), (Shape{1, 20}));
      EXPECT_EQ(pruned.shape(pruned.find("blocks.0.mlp.fc1")), (Shape{1, 7, 20}));
      EXPECT_EQ(pruned.shape(pruned.find("logits")), (Shape{1, 7}));
    }
  }
}

TEST(PruneUnreadTokens, LeavesMeanPoolingAlone) {
  VitConfig config = small_vit();
  config.pool = Pool::mean;
  const Graph pruned = forward(config, false, true), plain = forward(config, false, false);
  EXPECT_EQ(pruned.nodes().size(), plain.nodes().size());
  EXPECT_EQ(flops(pruned), flops(plain));
}

TEST(PruneUnreadTokens, LeavesAValueThatIsKept) {
  Graph graph(false);
  const ValueId x = graph.input("x", Shape{2, 3, 5}, DType::f32, ValueKind::row_input);
  const ValueId weight = graph.parameter("weight", Shape{4, 5});
  const ValueId y = linear(graph, "y", x, weight, kNone);
  graph.keep(y);
  graph.keep(pool(graph, "pool", y, {1, 2, 3}));
  const Graph pruned = prune_unread_tokens(graph);
  EXPECT_EQ(pruned.shape(pruned.find("y")), (Shape{2, 3, 4}));
}

// q, k and v of normalised heads are apart: the queries alone are narrow, before their norm too.
TEST(PruneUnreadTokens, QueriesOfNormalisedHeads) {
  VitConfig config = small_vit();
  config.qk_norm = true;
  const Graph pruned = forward(config, true, true);
  EXPECT_EQ(pruned.shape(pruned.find("blocks.1.attn")), (Shape{1, 12}));
  EXPECT_EQ(pruned.shape(pruned.find("blocks.1.attn.q_norm")), (Shape{1, 12}));
  EXPECT_EQ(pruned.shape(pruned.find("blocks.1.attn.k_norm")), (Shape{1, 7, 12}));
  EXPECT_EQ(pruned.shape(pruned.find("blocks.1.attn.qkv.v")), (Shape{1, 7, 12}));
  EXPECT_EQ(pruned.shape(pruned.find("blocks.1.mlp.fc1")), (Shape{1, 20}));
}

TEST(PruneUnreadTokens, SavesItsShareOfVitBase) {
  const VitConfig base;
  const double plain = flops(forward(base, true, false), "matmul");
  const double pruned = flops(forward(base, true, true), "matmul");
  EXPECT_NEAR(1 - pruned / plain, 0.069, 0.001);
}

TEST(PassesAlone, RefuseAGraphWithABackwardPart) {
  const Graph graph = build_vit(small_vit(), {});
  EXPECT_THROW(fuse_residual_norm(graph), BadInput);
  EXPECT_THROW(prune_unread_tokens(graph), BadInput);
}

}  // namespace
}  // namespace vitrine
