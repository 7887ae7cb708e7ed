// Plans without a device: lifetimes of random graphs and of real networks, simulated step by step
// with an owner for every 256 bytes. Blocks in the arena: place_blocks_test.cpp. Chunks and memory:
// chunking_test.cpp.
#include "vitrine/plan.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "graph/operations.h"
#include "vitrine/random.h"
#include "vitrine/recipe.h"
#include "vitrine/vit.h"

namespace vitrine {
namespace {

constexpr std::int64_t kCell = 256;

std::int64_t cells(std::int64_t bytes) {
  return (bytes + kCell - 1) / kCell;
}

/// Walks a plan with an owner for each cell of the arena and collects what goes wrong.
class Simulation {
 public:
  // A test of the simulation itself spoils these.
  std::vector<Location> locations;
  std::vector<PlanStep> steps;
  std::int64_t arena_bytes;

  explicit Simulation(const Plan& plan)
      : steps(plan.steps()), arena_bytes(plan.arena_bytes()), graph_(plan.graph()) {
    for (std::size_t id = 0; id < graph_.values().size(); ++id) {
      locations.push_back(plan.location(static_cast<ValueId>(id)));
    }
  }

  std::vector<std::string> run() {
    complaints_.clear();
    owner_.assign(static_cast<std::size_t>(cells(arena_bytes)), kNone);
    for (const PlanStep& step : steps) simulate(step);
    return complaints_;
  }

 private:
  static constexpr int kScratch = -2;

  struct Range {
    std::int64_t begin = 0, end = 0;
    bool operator==(const Range&) const = default;
    bool meets(const Range& other) const { return begin < other.end && other.begin < end; }
  };

  bool in_arena(ValueId id) const { return id != kNone && locations[id].place == Place::arena; }
  Range range(ValueId id) const {
    const std::int64_t begin = locations[id].offset / kCell;
    return {begin, begin + cells(graph_.value(id).bytes())};
  }
  void expect(bool condition, const Node& node, const std::string& what) {
    if (!condition) complaints_.push_back(node.name + " " + node.operation->name() + ": " + what);
  }
  void take(const Node& node, const Range& range, int owner) {
    expect(range.begin >= 0 && range.end <= static_cast<std::int64_t>(owner_.size()), node,
           "outside the arena");
    for (std::int64_t c = range.begin; c < range.end; ++c) {
      if (c >= 0 && c < static_cast<std::int64_t>(owner_.size())) owner_[c] = owner;
    }
  }

  void simulate(const PlanStep& step) {
    const Node& node = graph_.nodes()[step.node];
    check_inputs(node);
    check_addend(node, step);
    for (std::size_t out = 0; out < node.outputs.size(); ++out) check_output(node, out);
    if (step.workspace_floats > 0) {
      const std::int64_t begin = step.workspace_offset / kCell;
      const Range scratch{begin, begin + cells(step.workspace_floats * 4)};
      expect(step.workspace_offset % kCell == 0, node, "workspace is not aligned");
      for (const auto& operands : {node.inputs, node.outputs}) {
        for (ValueId id : operands) {
          expect(!in_arena(id) || !range(id).meets(scratch), node, "workspace meets an operand");
        }
      }
      take(node, scratch, kScratch);
    }
    for (ValueId id : node.outputs) {
      if (in_arena(id)) take(node, range(id), id);
    }
  }

  void check_inputs(const Node& node) {
    for (ValueId id : node.inputs) {
      if (id == kNone) continue;
      expect(locations[id].place != Place::none, node, "reads a value without a place");
      if (!in_arena(id)) continue;
      const Range cells = range(id);
      for (std::int64_t c = cells.begin; c < cells.end; ++c) {
        if (owner_.at(c) == id) continue;
        expect(false, node, "reads " + graph_.value(id).name + ", which was overwritten");
        break;
      }
    }
  }

  // Output 0 starts as the addend: in its place, or by a copy before the operation reads the rest.
  void check_addend(const Node& node, const PlanStep& step) {
    const int addend = node.operation->addend();
    if (addend < 0 || node.inputs[addend] == kNone) return;
    const Location &from = locations[node.inputs[addend]], &to = locations[node.outputs[0]];
    const bool same = from.place == to.place && from.offset == to.offset;
    expect(step.copy_addend != same, node, "the addend is neither copied nor in place");
  }

  void check_output(const Node& node, std::size_t out) {
    const ValueId id = node.outputs[out];
    if (id == kNone) return;
    expect(locations[id].place != Place::none, node, "writes a value without a place");
    if (!in_arena(id)) return;
    expect(locations[id].offset % kCell == 0, node, "output is not aligned");
    for (std::size_t other = 0; other < out; ++other) {
      const bool meets =
          in_arena(node.outputs[other]) && range(node.outputs[other]).meets(range(id));
      expect(!meets, node, "two outputs overlap");
    }
    for (std::size_t in = 0; in < node.inputs.size(); ++in) {
      if (!in_arena(node.inputs[in]) || !range(node.inputs[in]).meets(range(id))) continue;
      expect(range(node.inputs[in]) == range(id) && allowed(node, out, in), node,
             "output " + std::to_string(out) + " overwrites input " + std::to_string(in));
    }
  }

  // Element-wise operations may read an input that is there twice through either slot.
  bool allowed(const Node& node, std::size_t out, std::size_t in) const {
    if (out == 0 && static_cast<int>(in) == node.operation->addend()) return true;
    for (const auto& [o, i] : node.operation->may_share()) {
      if (o == static_cast<int>(out) && node.inputs[i] == node.inputs[in]) return true;
    }
    return false;
  }

  const Graph& graph_;
  std::vector<int> owner_;
  std::vector<std::string> complaints_;
};

void expect_sound(const Plan& plan) {
  const std::vector<std::string> complaints = Simulation(plan).run();
  EXPECT_TRUE(complaints.empty()) << complaints.size() << " complaints, first: " << complaints[0];
}

/// A random graph of operations on [B, T, D] whose values have several consumers.
class RandomGraph {
 public:
  explicit RandomGraph(std::uint64_t seed) : random_(seed, 0), graph_(true) {}

  Graph build() {
    const std::int64_t sizes[] = {64, 64, 192, 40};
    values_.push_back(
        graph_.input("x", Shape{kRows, kTokens, 64}, DType::f32, ValueKind::row_input));
    if (random_.below(2)) graph_.require_gradient(values_[0]);
    const auto count = 4 + random_.below(25);
    for (std::uint64_t i = 0; i < count; ++i) {
      const std::string name = "blocks." + std::to_string(i / 4) + "." + std::to_string(i);
      const ValueId x = any();
      const std::int64_t width = graph_.shape(x)[-1];
      switch (random_.below(5)) {
        case 0:
          values_.push_back(linear_of(name, x, sizes[random_.below(4)]));
          break;
        case 1:
          values_.push_back(activation(graph_, name, x, maybe_bias(name, width),
                                       ActivationKind::relu, maybe_dropout(), kWindow));
          break;
        case 2:
          values_.push_back(layer_norm(graph_, name, x, graph_.parameter(name + ".w", Shape{width}),
                                       graph_.parameter(name + ".b", Shape{width}), 1e-5f));
          break;
        default:
          values_.push_back(
              residual(graph_, name, x, partner(x), maybe_dropout(), maybe_dropout(), kWindow));
      }
      if (random_.below(12) == 0) graph_.keep(values_.back());
    }
    const ValueId pooled = pool(graph_, "pool", sum_of_unread(), {1, 2, kTokens});
    const ValueId logits = linear_of("head", pooled, 10);
    const ValueId labels = graph_.input("labels", Shape{kRows}, DType::i32, ValueKind::row_input);
    cross_entropy(graph_, "loss", logits, labels, {});
    Graph graph = std::move(graph_);
    if (random_.below(2)) graph = fuse_residual_norm(graph);
    if (random_.below(2)) graph = prune_unread_tokens(graph);
    graph.backward(graph.find("loss"));
    return graph;
  }

 private:
  static constexpr std::int64_t kRows = 3, kTokens = 5;
  static constexpr TokenWindow kWindow{kTokens, 0, kTokens};

  ValueId any() {
    const auto recent = std::min<std::uint64_t>(values_.size(), 6);
    return values_[values_.size() - 1 - random_.below(recent)];
  }
  // All results lead to the loss.
  ValueId sum_of_unread() {
    ValueId sum = linear_of("sum", values_.back(), 64);
    for (std::size_t i = 0; i + 1 < values_.size(); ++i) {
      if (!graph_.consumers(values_[i]).empty()) continue;
      const std::string name = "sum" + std::to_string(i);
      sum = residual(graph_, name, sum, linear_of(name + ".map", values_[i], 64), {}, {}, kWindow);
    }
    return sum;
  }
  // A value of the same shape, x itself when there is no other.
  ValueId partner(ValueId x) {
    std::vector<ValueId> same;
    for (ValueId id : values_) {
      if (graph_.shape(id) == graph_.shape(x)) same.push_back(id);
    }
    return same[random_.below(same.size())];
  }
  ValueId linear_of(const std::string& name, ValueId x, std::int64_t width) {
    const ValueId weight = graph_.parameter(name + ".w", Shape{width, graph_.shape(x)[-1]});
    return linear(graph_, name, x, weight, maybe_bias(name, width));
  }
  ValueId maybe_bias(const std::string& name, std::int64_t width) {
    return random_.below(2) ? graph_.parameter(name + ".bias", Shape{width}) : kNone;
  }
  Dropout maybe_dropout() { return {random_.below(3) == 0 ? 0.5f : 0.0f, operation_++}; }

  RandomStream random_;
  Graph graph_;
  std::vector<ValueId> values_;
  std::uint32_t operation_ = 0;
};

DeviceTraits traits_with(int partials) {
  return {.memory = std::int64_t{1} << 40, .max_partials = partials, .max_row_blocks = 8};
}

TEST(Plan, OfRandomGraphsNeverReadsWhatWasOverwritten) {
  int backward_nodes = 0, shared = 0;
  for (std::uint64_t seed = 1; seed <= 400; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const Plan plan(RandomGraph(seed).build(), traits_with(4), {.batch = 3, .rows = 3});
    expect_sound(plan);
    for (const Node& node : plan.graph().nodes()) backward_nodes += node.phase == Phase::backward;
    for (const PlanStep& step : plan.steps()) {
      const Node& node = plan.graph().nodes()[step.node];
      const int addend = node.operation->addend();
      shared += addend >= 0 && node.inputs[addend] != kNone && !step.copy_addend;
    }
  }
  EXPECT_GT(backward_nodes, 4000);
  EXPECT_GT(shared, 100);
}

TEST(Plan, OfRandomGraphsThatRecomputeNeverReadsWhatWasOverwritten) {
  int added = 0;
  for (std::uint64_t seed = 1; seed <= 400; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Graph graph = RandomGraph(seed).build();
    const std::size_t kept = graph.nodes().size();
    RandomStream random(seed, 7);
    graph.recompute({.selective = static_cast<std::int64_t>(random.below(8)),
                     .full = static_cast<std::int64_t>(random.below(8))});
    expect_sound(Plan(graph, traits_with(4), {.batch = 3, .rows = 3}));
    added += static_cast<int>(graph.nodes().size() - kept);
  }
  EXPECT_GT(added, 1000);
}

// x + linear(x): the gradient of the sum is both what linear's backward multiplies and its addend.
TEST(Plan, CopiesAnAddendThatIsAlsoMultiplied) {
  Graph graph(true);
  const ValueId x0 = graph.input("x", Shape{2, 1, 64}, DType::f32, ValueKind::row_input);
  const ValueId x = linear(graph, "in", x0, graph.parameter("in.w", Shape{64, 64}), kNone);
  const ValueId y = linear(graph, "y", x, graph.parameter("w", Shape{64, 64}), kNone);
  const ValueId sum = residual(graph, "sum", x, y, {}, {}, {1, 0, 1});
  const ValueId pooled = pool(graph, "pool", sum, {1, 0, 1});
  const ValueId logits =
      linear(graph, "logits", pooled, graph.parameter("head", Shape{3, 64}), kNone);
  const ValueId labels = graph.input("labels", Shape{2}, DType::i32, ValueKind::row_input);
  graph.backward(cross_entropy(graph, "loss", logits, labels, {}).loss);
  const Plan plan(graph, traits_with(1), {.batch = 2, .rows = 2});
  expect_sound(plan);
  EXPECT_EQ(std::count_if(plan.steps().begin(), plan.steps().end(),
                          [](const PlanStep& step) { return step.copy_addend; }),
            1);
}

// Whether a bias gradient is added to what is there is known when it runs, and then it is a sum of
// columns on every device.
TEST(Plan, HasRoomForASumOfColumnsBesideEachBias) {
  for (const bool fuse : {false, true}) {
    DeviceTraits traits = traits_with(16);
    traits.fuse_bias_gradient = fuse;
    const VitConfig config = preset("mnist-small").model;
    const Plan plan(build_vit(config, {.rows = 64}), traits, {.batch = 64, .rows = 64});
    int biases = 0;
    for (const PlanStep& step : plan.steps()) {
      const Node& node = plan.graph().nodes()[step.node];
      if (node.operation->name() != "matmul") continue;
      const bool biased =
          node.phase == Phase::backward && node.outputs.size() > 1 && node.outputs[1] != kNone;
      biases += biased;
      if (!biased) {
        EXPECT_EQ(step.workspace_floats, 0) << node.name;
        continue;
      }
      const std::int64_t m = plan.graph().shape(node.outputs[1]).elements();
      const std::int64_t rows = plan.graph().shape(node.inputs[0]).elements() / m;
      EXPECT_EQ(step.workspace_floats, m * std::clamp<std::int64_t>(rows / 64, 1, 16)) << node.name;
    }
    EXPECT_GT(biases, 3);
  }
}

VitConfig as_it_is(VitConfig c) {
  return c;
}
VitConfig dropping(VitConfig c) {
  c.hidden_dropout_prob = c.attention_probs_dropout_prob = c.drop_path_rate = 0.1;
  return c;
}
VitConfig dropping_by_subset(VitConfig c) {
  c.hidden_dropout_prob = 0;
  c.drop_path_rate = 0.5;
  c.drop_path_subset = true;
  return c;
}

TEST(Plan, OfRealNetworksNeverReadsWhatWasOverwritten) {
  for (const char* name : {"mnist-tutorial", "mnist-small", "notes-encoder", "d2l-224",
                           "cifar10-small", "vit_tiny_patch16_224"}) {
    for (bool training : {false, true}) {
      for (bool passes : {false, true}) {
        for (const auto& dropout : {as_it_is, dropping, dropping_by_subset}) {
          SCOPED_TRACE(name);
          const VitOptions options{.rows = 3,
                                   .training = training,
                                   .probabilities = !training,
                                   .fuse_residual_norm = passes,
                                   .prune_last_block = passes};
          const Plan plan(build_vit(dropout(preset(name).model), options), traits_with(16),
                          {.batch = 3, .rows = 3});
          expect_sound(plan);
          EXPECT_EQ(plan.has_backward(), training);
        }
      }
    }
  }
}

// The simulation must see planted mistakes.
TEST(Simulation, SeesPlantedMistakes) {
  const VitConfig config = preset("mnist-small").model;
  const Plan plan(build_vit(config, {.rows = 2}), traits_with(4), {.batch = 2, .rows = 2});
  const auto& nodes = plan.graph().nodes();
  int moved = 0, seen = 0;
  for (std::size_t id = 0; id < plan.graph().values().size(); ++id) {
    const Value& value = plan.graph().values()[id];
    Simulation spoiled(plan);
    if (spoiled.locations[id].place != Place::arena || value.bytes() < 4 * kCell) continue;
    if (plan.graph().consumers(static_cast<ValueId>(id)).empty()) continue;
    // Somewhere else, where some neighbour lives.
    spoiled.locations[id].offset = spoiled.locations[id].offset >= 2 * kCell
                                       ? spoiled.locations[id].offset - 2 * kCell
                                       : spoiled.locations[id].offset + 2 * kCell;
    ++moved;
    seen += !spoiled.run().empty();
  }
  EXPECT_GT(moved, 50);
  EXPECT_GT(seen, moved * 9 / 10);

  for (std::size_t i = 0; i < plan.steps().size(); ++i) {
    const Node& node = nodes[plan.steps()[i].node];
    const int addend = node.operation->addend();
    Simulation spoiled(plan);
    if (addend >= 0 && node.inputs[addend] != kNone) {
      spoiled.steps[i].copy_addend = !spoiled.steps[i].copy_addend;
      EXPECT_FALSE(spoiled.run().empty()) << node.name;
    }
    if (plan.steps()[i].workspace_floats > 0) {
      spoiled.steps = plan.steps();
      for (ValueId id : node.inputs) {
        if (id != kNone && spoiled.locations[id].place == Place::arena) {
          spoiled.steps[i].workspace_offset = spoiled.locations[id].offset;
        }
      }
      EXPECT_FALSE(spoiled.run().empty()) << node.name;
    }
  }
}

}  // namespace
}  // namespace vitrine
