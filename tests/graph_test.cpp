// Building graphs: shape rules and their errors, bookkeeping of gradients, costs, and the sizes of
// the paper's networks.
#include "vitrine/graph.h"

#include <gtest/gtest.h>

#include <functional>

#include "graph/operations.h"
#include "vitrine/recipe.h"
#include "vitrine/vit.h"

namespace vitrine {
namespace {

constexpr TokenWindow kAll{5, 0, 5};

/// Expects BadInput in one line that opens with the node's name and has `words` in it.
void expect_bad(const std::string& words, const std::function<void(Graph&)>& build) {
  Graph graph;
  try {
    build(graph);
    ADD_FAILURE() << "accepted: " << words;
  } catch (const BadInput& error) {
    const std::string message = error.what();
    EXPECT_EQ(message.rfind("node: ", 0), 0u) << message;
    EXPECT_NE(message.find(words), std::string::npos) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  }
}

ValueId rows_input(Graph& graph, const Shape& shape) {
  return graph.input("x", shape, DType::f32, ValueKind::row_input);
}
ValueId weight(Graph& graph, const Shape& shape) {
  return graph.parameter("p" + std::to_string(graph.parameters().size()), shape);
}

TEST(GraphErrors, OfMatricesAndNorms) {
  expect_bad("[4, 7] does not fit input [2, 5, 6]", [](Graph& g) {
    linear(g, "node", rows_input(g, {2, 5, 6}), weight(g, {4, 7}), kNone);
  });
  expect_bad("bias", [](Graph& g) {
    linear(g, "node", rows_input(g, {2, 5, 6}), weight(g, {4, 6}), weight(g, {5}));
  });
  expect_bad("weight [2, 2, 4, 4]", [](Graph& g) {
    per_head_linear(g, "node", rows_input(g, {2, 5, 6}), weight(g, {2, 2, 4, 4}), kNone);
  });
  expect_bad("bias", [](Graph& g) {
    per_head_linear(g, "node", rows_input(g, {2, 5, 6}), weight(g, {3, 2, 3, 3}), weight(g, {6}));
  });
  expect_bad("weight [5]", [](Graph& g) {
    layer_norm(g, "node", rows_input(g, {2, 5, 6}), weight(g, {5}), weight(g, {6}), 1e-6f);
  });
  expect_bad("bias [7]", [](Graph& g) {
    layer_norm(g, "node", rows_input(g, {2, 5, 6}), weight(g, {6}), weight(g, {7}), 1e-6f);
  });
  expect_bad("bias", [](Graph& g) {
    activation(g, "node", rows_input(g, {2, 5, 6}), weight(g, {5}), ActivationKind::relu, {}, kAll);
  });
  expect_bad("branch [2, 5, 7] does not fit [2, 5, 6]", [](Graph& g) {
    residual(g, "node", rows_input(g, {2, 5, 6}), rows_input(g, {2, 5, 7}), {}, {}, kAll);
  });
  expect_bad("scale [5] does not fit [2, 5, 6]", [](Graph& g) {
    scale_columns(g, "node", rows_input(g, {2, 5, 6}), weight(g, {5}));
  });
  expect_bad("[2, 6] and [2, 7]", [](Graph& g) {
    add(g, "node", rows_input(g, {2, 6}), rows_input(g, {2, 7}));
  });
}

TEST(GraphErrors, OfSamples) {
  for (const std::int64_t count : {0, 6}) {
    expect_bad(std::to_string(count) + " samples of 5",
               [&](Graph& g) { choose_samples(g, "node", 5, count, 1); });
  }
  expect_bad("[4, 3, 6] does not have the subset's 5 samples", [](Graph& g) {
    take_samples(g, "node", rows_input(g, {4, 3, 6}), choose_samples(g, "subset", 5, 2, 1));
  });
  expect_bad("[4, 3, 6] does not have the subset's 5 samples", [](Graph& g) {
    const ValueId x = rows_input(g, {4, 3, 6});
    add_samples(g, "node", x, x, choose_samples(g, "subset", 5, 2, 1), 1.0f);
  });
  expect_bad("part [3, 3, 6] does not fit 2 samples of [5, 3, 6]", [](Graph& g) {
    add_samples(g, "node", rows_input(g, {5, 3, 6}), rows_input(g, {3, 3, 6}),
                choose_samples(g, "subset", 5, 2, 1), 1.0f);
  });
}

TEST(GraphErrors, OfTokensAndAttention) {
  expect_bad("[B, P, D]", [](Graph& g) {
    tokens(g, "node", rows_input(g, {8, 6}), kNone, kNone, ClassToken::none, {});
  });
  expect_bad("contradict", [](Graph& g) {
    tokens(g, "node", rows_input(g, {2, 4, 6}), kNone, kNone, ClassToken::first, {});
  });
  expect_bad("contradict", [](Graph& g) {
    tokens(g, "node", rows_input(g, {2, 4, 6}), weight(g, {6}), kNone, ClassToken::none, {});
  });
  expect_bad("class token", [](Graph& g) {
    tokens(g, "node", rows_input(g, {2, 4, 6}), weight(g, {7}), kNone, ClassToken::last, {});
  });
  expect_bad("the 5 tokens", [](Graph& g) {
    tokens(g, "node", rows_input(g, {2, 4, 6}), weight(g, {6}), weight(g, {4, 6}), ClassToken::last,
           {});
  });
  expect_bad("registers [2, 7] do not fit patches [2, 4, 6]", [](Graph& g) {
    tokens(g, "node", rows_input(g, {2, 4, 6}), kNone, kNone, ClassToken::none, {},
           g.parameter("registers", {2, 7}));
  });
  expect_bad("the 4 patches", [](Graph& g) {
    tokens(g, "node", rows_input(g, {2, 4, 6}), kNone, weight(g, {3, 6}), ClassToken::none, {},
           g.parameter("registers", {2, 6}), true);
  });
  expect_bad("weight [4] does not divide [2, 5, 6]", [](Graph& g) {
    layer_norm_of_heads(g, "node", rows_input(g, {2, 5, 6}), weight(g, {4}), weight(g, {4}), 1e-6f);
  });
  expect_bad("values do not fit the keys [2, 5, 6]", [](Graph& g) {
    attention(g, "node", rows_input(g, {2, 5, 6}), rows_input(g, {2, 5, 6}), 2, kAll, {}, false,
              rows_input(g, {2, 5, 4}));
  });
  for (const TokenWindow& window : {TokenWindow{1, 5, 5}, {0, 0, 5}, {1, -1, 5}, {1, 0, 4}}) {
    expect_bad("window", [&](Graph& g) { pool(g, "node", rows_input(g, {2, 5, 6}), window); });
  }
  expect_bad("4 heads", [](Graph& g) {
    attention(g, "node", rows_input(g, {2, 5, 18}), kNone, 4, kAll, {}, false);
  });
  expect_bad("divisible by 3", [](Graph& g) {
    attention(g, "node", rows_input(g, {2, 5, 20}), kNone, 2, kAll, {}, false);
  });
  expect_bad("tokens", [](Graph& g) {
    attention(g, "node", rows_input(g, {2, 4, 18}), kNone, 2, kAll, {}, false);
  });
  expect_bad("queries [2, 8]", [](Graph& g) {
    attention(g, "node", rows_input(g, {2, 8}), rows_input(g, {2, 5, 12}), 2, {1, 0, 5}, {}, false);
  });
  expect_bad("labels [3]", [](Graph& g) {
    cross_entropy(g, "node", rows_input(g, {2, 10}), rows_input(g, {3}), {});
  });
}

TEST(GraphErrors, OfImages) {
  auto embed = [](Graph& g, const Shape& images, std::int64_t channels, PatchEmbedOptions options) {
    patch_embed(g, "node", rows_input(g, images), rows_input(g, {2, 32}), weight(g, {channels}),
                weight(g, {channels}), options);
  };
  const PatchEmbedOptions good{3, 8, 12, 4, 8, 12};
  Graph graph;
  embed(graph, {9, 3, 8, 12}, 3, good);
  EXPECT_EQ(graph.shape(graph.find("node")), (Shape{2, 6, 48}));
  PatchEmbedOptions odd = good;
  odd.width = 13;
  expect_bad("8x13 is not divisible by patch size 4", [&](Graph& g) {
    embed(g, {9, 3, 8, 12}, 3, odd);
  });
  expect_bad("images are [9, 1, 8, 12]", [&](Graph& g) { embed(g, {9, 1, 8, 12}, 3, good); });
  expect_bad("images are [9, 3, 8, 16]", [&](Graph& g) { embed(g, {9, 3, 8, 16}, 3, good); });
  expect_bad("3 channels", [&](Graph& g) { embed(g, {9, 3, 8, 12}, 1, good); });
}

TEST(GraphErrors, OfParametersAndConstants) {
  expect_bad("twice", [](Graph& g) {
    g.parameter("node", {3});
    g.parameter("node", {4});
  });
  expect_bad("2 numbers for shape [3]", [](Graph& g) { g.constant("node", {3}, {1, 2}); });
  expect_bad("exceeds [4, 3]", [](Graph& g) { g.slice(g.parameter("node", {4, 3}), 7, {2, 3}); });
  expect_bad("only parameters", [](Graph& g) { g.slice(g.activation_value("node", {4}), 0, {2}); });
  expect_bad("not computed", [](Graph& g) { g.backward(g.parameter("node", {1})); });
  expect_bad("used twice", [](Graph& g) {
    const ValueId p = g.parameter("node", {6, 6});
    const ValueId x = linear(g, "y", rows_input(g, {2, 6}), p, kNone);
    const ValueId logits = linear(g, "z", x, p, kNone);
    g.backward(cross_entropy(g, "loss", logits, rows_input(g, {2}), {}).loss);
  });
  Graph graph = build_vit(preset("mnist-tutorial").model, {});
  EXPECT_THROW(graph.backward(graph.find("loss")), BadInput);
}

bool same_graph(const Graph& a, const Graph& b) {
  if (a.values().size() != b.values().size() || a.nodes().size() != b.nodes().size()) return false;
  for (std::size_t i = 0; i < a.values().size(); ++i) {
    const Value &x = a.values()[i], &y = b.values()[i];
    if (x.name != y.name || x.shape != y.shape || x.kind != y.kind || x.offset != y.offset ||
        x.keep != y.keep || x.producer != y.producer || x.constant != y.constant) {
      return false;
    }
  }
  for (std::size_t i = 0; i < a.nodes().size(); ++i) {
    const Node &x = a.nodes()[i], &y = b.nodes()[i];
    if (x.name != y.name || x.operation->name() != y.operation->name() || x.inputs != y.inputs ||
        x.outputs != y.outputs || x.phase != y.phase) {
      return false;
    }
  }
  return true;
}

TEST(Graph, BuiltTwiceIsTheSame) {
  for (const char* name : {"mnist-tutorial", "notes-encoder", "d2l-224", "vit_tiny_patch16_224"}) {
    const VitConfig config = preset(name).model;
    EXPECT_TRUE(same_graph(build_vit(config, {.rows = 3}), build_vit(config, {.rows = 3}))) << name;
  }
  EXPECT_FALSE(same_graph(build_vit(preset("d2l-224").model, {.rows = 3}),
                          build_vit(preset("d2l-224").model, {.rows = 2})));
}

TEST(Graph, EvaluationKeepsNothingForBackward) {
  const Graph graph = build_vit(preset("mnist-small").model, {.training = false});
  for (const Node& node : graph.nodes()) EXPECT_EQ(node.phase, Phase::forward);
  for (const Value& value : graph.values()) {
    EXPECT_FALSE(value.needs_gradient) << value.name;
    for (const char* saved : {".mean", ".rstd", ".derivative", ".log_sum_exp", ".grad"}) {
      EXPECT_EQ(value.name.find(saved), std::string::npos) << value.name;
    }
  }
}

/// Nodes of the backward part by their operation's name.
std::vector<const Node*> backward_nodes(const Graph& graph, const std::string& operation) {
  std::vector<const Node*> found;
  for (const Node& node : graph.nodes()) {
    if (node.phase == Phase::backward && node.operation->name() == operation) {
      found.push_back(&node);
    }
  }
  return found;
}

TEST(Gradients, ReachWhatNeedsThem) {
  Graph graph;
  const ValueId x = rows_input(graph, {2, 6});
  const ValueId frozen = graph.constant("c", {6, 6}, std::vector<float>(36, 1.0f));
  const ValueId y = linear(graph, "y", x, frozen, kNone);
  EXPECT_FALSE(graph.value(y).needs_gradient);
  const ValueId w = graph.parameter("w", {3, 6});
  const ValueId logits = linear(graph, "logits", y, w, kNone);
  EXPECT_TRUE(graph.value(logits).needs_gradient);
  const LossValues loss = cross_entropy(graph, "loss", logits, rows_input(graph, {2}), {});
  graph.backward(loss.loss);
  EXPECT_EQ(backward_nodes(graph, "matmul").size(), 1u) << "the weight's, not the input's";
  EXPECT_EQ(graph.gradient(y), kNone);
  EXPECT_EQ(graph.gradient(logits), loss.dlogits);
  EXPECT_EQ(graph.value(graph.gradient(w)).kind, ValueKind::parameter_gradient);
  EXPECT_EQ(graph.shape(graph.gradient(w)), (Shape{3, 6}));
}

// The weight's and the bias's are one node, and dy passes once; a frozen weight leaves the bias's.
TEST(Gradients, OfABiasBesideThatOfItsWeight) {
  for (const bool frozen : {false, true}) {
    for (const bool biased : {false, true}) {
      Graph graph;
      const ValueId x = rows_input(graph, {10, 6});
      const ValueId w = frozen ? graph.constant("c", {9, 6}, std::vector<float>(54, 1.0f))
                               : graph.parameter("w", {9, 6});
      const ValueId b = biased ? graph.parameter("b", {9}) : kNone;
      const ValueId logits = linear(graph, "logits", x, w, b);
      if (frozen && !biased) graph.require_gradient(logits);
      graph.backward(cross_entropy(graph, "loss", logits, rows_input(graph, {10}), {}).loss);
      const std::vector<const Node*> products = backward_nodes(graph, "matmul");
      const std::vector<const Node*> sums = backward_nodes(graph, "column_sum");
      ASSERT_EQ(products.size(), frozen ? 0u : 1u);
      ASSERT_EQ(sums.size(), frozen && biased ? 1u : 0u);
      if (frozen) continue;
      const Node& node = *products[0];
      EXPECT_EQ(node.outputs, (std::vector{graph.gradient(w), biased ? graph.gradient(b) : kNone}));
      EXPECT_EQ(graph.cost(node).flops, 2.0 * 10 * 9 * 6 + (biased ? 10 * 9 : 0));
      EXPECT_EQ(graph.cost(node).bytes, 4.0 * (90 + 60 + 54 + (biased ? 9 : 0)));
    }
  }
}

TEST(Gradients, AreAddedOrTakenAsAddends) {
  Graph graph;
  const ValueId x0 = rows_input(graph, {2, 1, 6});
  const ValueId x = linear(graph, "x1", x0, graph.parameter("w0", {6, 6}), kNone);
  const ValueId a = activation(graph, "a", x, kNone, ActivationKind::relu, {}, {1, 0, 1});
  const ValueId b = linear(graph, "b", x, graph.parameter("w1", {6, 6}), kNone);
  const ValueId sum = residual(graph, "sum", a, b, {}, {}, {1, 0, 1});
  const ValueId pooled = pool(graph, "pool", sum, {1, 0, 1});
  const ValueId logits = linear(graph, "logits", pooled, graph.parameter("w2", {3, 6}), kNone);
  graph.backward(cross_entropy(graph, "loss", logits, rows_input(graph, {2}), {}).loss);
  // b comes last and gives x its first gradient; the activation has no addend and needs an `add`.
  EXPECT_EQ(backward_nodes(graph, "add").size(), 1u);
  EXPECT_EQ(graph.gradient(a), graph.gradient(b)) << "no dropout: the gradient itself";
  const std::vector<const Node*> adds = backward_nodes(graph, "add");
  EXPECT_EQ(adds[0]->outputs[0], graph.gradient(x));

  Graph swapped;
  const ValueId y0 = rows_input(swapped, {2, 1, 6});
  const ValueId y = linear(swapped, "y1", y0, swapped.parameter("w0", {6, 6}), kNone);
  const ValueId d = linear(swapped, "d", y, swapped.parameter("w1", {6, 6}), kNone);
  const ValueId c = activation(swapped, "c", y, kNone, ActivationKind::relu, {}, {1, 0, 1});
  const ValueId total = residual(swapped, "sum", c, d, {0.5f, 1}, {}, {1, 0, 1});
  const ValueId mean = pool(swapped, "pool", total, {1, 0, 1});
  const ValueId scores = linear(swapped, "logits", mean, swapped.parameter("w2", {3, 6}), kNone);
  swapped.backward(cross_entropy(swapped, "loss", scores, rows_input(swapped, {2}), {}).loss);
  EXPECT_TRUE(backward_nodes(swapped, "add").empty()) << "the matmul takes an addend";
  EXPECT_EQ(backward_nodes(swapped, "residual_backward").size(), 1u);
  bool addend = false;
  for (const Node* node : backward_nodes(swapped, "matmul")) {
    addend |= node->inputs.size() > 3 && node->inputs[3] != kNone;
  }
  EXPECT_TRUE(addend);
}

TEST(Gradients, EveryParameterHasOne) {
  for (const char* name : {"mnist-tutorial", "notes-encoder", "d2l-224", "cifar10-small"}) {
    for (bool passes : {false, true}) {
      const Graph graph =
          build_vit(preset(name).model, {.fuse_residual_norm = passes, .prune_last_block = passes});
      std::vector<std::int64_t> written(graph.parameters().size(), 0);
      for (const Node& node : graph.nodes()) {
        for (ValueId id : node.outputs) {
          if (id == kNone || graph.value(id).kind != ValueKind::parameter_gradient) continue;
          written[graph.value(id).parameter] += graph.shape(id).elements();
        }
      }
      for (std::size_t p = 0; p < written.size(); ++p) {
        EXPECT_EQ(written[p], graph.parameters()[p].shape.elements())
            << name << " " << graph.parameters()[p].name;
      }
    }
  }
}

TEST(Cost, CountsTwoOperationsAMultiplyAdd) {
  Graph graph;
  const ValueId x = rows_input(graph, {2, 5, 6});
  linear(graph, "y", x, graph.parameter("w", {9, 6}), graph.parameter("b", {9}));
  const Cost matmul = graph.cost(graph.nodes()[0]);
  EXPECT_EQ(matmul.flops, 2.0 * 10 * 9 * 6);
  EXPECT_EQ(matmul.bytes, 4.0 * (60 + 54 + 9 + 90));
  attention(graph, "a", rows_input(graph, {2, 5, 18}), kNone, 3, kAll, {}, false);
  EXPECT_EQ(graph.cost(graph.nodes()[1]).flops, 2.0 * (2.0 * 2 * 3 * 5 * 5 * 2));
  attention(graph, "q", rows_input(graph, {2, 6}), rows_input(graph, {2, 5, 12}), 3, {1, 0, 5}, {},
            false);
  EXPECT_EQ(graph.cost(graph.nodes()[2]).flops, 2.0 * (2.0 * 2 * 3 * 1 * 5 * 2));
}

TEST(VitSizes, AreThePapers) {
  const std::vector<std::pair<const char*, std::int64_t>> sizes = {
      {"vit_tiny_patch16_224", 5717416},
      {"vit_small_patch16_224", 22050664},
      {"vit_base_patch16_224", 86567656},
      {"vit_large_patch16_224", 304326632},
      {"vit_huge_patch14_224", 632045800}};
  for (const auto& [name, parameters] : sizes) {
    const Graph graph = build_vit(preset(name).model, {.training = false});
    EXPECT_EQ(graph.parameter_count(), parameters) << name;
  }
  const Graph base = build_vit(preset("vit_base_patch16_224").model,
                               {.training = false, .prune_last_block = false});
  EXPECT_EQ(base.parameters().size(), 152u);
  double flops = 0;
  for (const Node& node : base.nodes()) flops += base.cost(node).flops;
  EXPECT_NEAR(flops, 35.2e9, 0.3e9);
}

TEST(Graph, LayersOfPlaces) {
  EXPECT_EQ(layer_of("blocks.3.attn.qkv"), "blocks.3");
  EXPECT_EQ(layer_of("blocks.11"), "blocks.11");
  EXPECT_EQ(layer_of("patch_embed.proj"), "patch_embed");
  EXPECT_EQ(layer_of("tokens"), "tokens");
}

}  // namespace
}  // namespace vitrine
