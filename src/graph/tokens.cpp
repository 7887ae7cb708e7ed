// tokens: patches to the sequence, with class token, registers, positions and dropout; pool is the
// way back.
#include "graph/operations.h"

namespace vitrine {
namespace {

/// in: dx   out: dpatches, dclass, dposition, dregisters
struct TokensBackwardOperation final : Operation {
  TokensOperation forward;

  std::string name() const override { return "tokens_backward"; }
  double flops(const Graph& graph, const Node& node) const override {
    return 2.0 * static_cast<double>(graph.shape(node.inputs[0]).elements());
  }
  void run(Kernels& kernels, const Operands& operands) const override {
    kernels.tokens_backward({.dpatches = operands.out(0),
                             .dclass = operands.out(1).f32(),
                             .dregisters = operands.out(3).f32(),
                             .dposition = operands.out(2).f32(),
                             .dx = operands.in(0),
                             .place = forward.place,
                             .patch_positions = forward.patch_positions,
                             .batch = forward.batch,
                             .num_patches = forward.num_patches,
                             .num_registers = forward.num_registers,
                             .hidden = forward.hidden,
                             .dropout = forward.dropout,
                             .state = operands.state(),
                             .accumulate = operands.accumulate()});
  }
};

/// in: dy, addend   out: dx
struct PoolBackwardOperation final : Operation {
  PoolOperation forward;

  std::string name() const override { return "pool_backward"; }
  double flops(const Graph& graph, const Node& node) const override {
    return static_cast<double>(graph.shape(node.inputs[0]).elements() * forward.window.tokens);
  }
  // Added to what is there it touches the window alone, otherwise it writes every token.
  std::optional<double> bytes(const Graph& graph, const Node& node) const override {
    const auto dy = static_cast<double>(graph.value(node.inputs[0]).bytes());
    const TokenWindow& window = forward.window;
    const bool adds = node.inputs[1] != kNone;
    return dy * static_cast<double>(1 + (adds ? 2 * window.tokens : window.total));
  }
  int addend() const override { return 1; }
  void run(Kernels& kernels, const Operands& operands) const override {
    kernels.pool_backward({.dx = operands.out(0),
                           .dy = operands.in(0),
                           .batch = forward.batch,
                           .hidden = forward.hidden,
                           .window = forward.window,
                           .accumulate = static_cast<bool>(operands.in(1))});
  }
};

}  // namespace

ValueId tokens(Graph& graph, const std::string& name, ValueId patches, ValueId class_token,
               ValueId position, ClassToken place, Dropout dropout, ValueId registers,
               bool patch_positions) {
  require(graph.shape(patches).rank() == 3, name,
          "patches are " + graph.shape(patches).str() + ", expected [B, P, D]");
  auto operation = std::make_shared<TokensOperation>();
  operation->place = place;
  operation->patch_positions = patch_positions;
  operation->batch = graph.shape(patches)[0];
  operation->num_patches = graph.shape(patches)[1];
  operation->hidden = graph.shape(patches)[2];
  operation->dropout = dropout;
  require((class_token == kNone) == (place == ClassToken::none), name,
          "class token and its place contradict each other");
  require(class_token == kNone || graph.shape(class_token).elements() == operation->hidden, name,
          "class token does not fit patches " + graph.shape(patches).str());
  if (registers != kNone) {
    require(cols_of(graph.shape(registers)) == operation->hidden, name,
            "registers " + graph.shape(registers).str() + " do not fit patches " +
                graph.shape(patches).str());
    operation->num_registers = rows_of(graph.shape(registers));
  }
  const std::int64_t count =
      operation->num_patches + operation->num_registers + (place == ClassToken::none ? 0 : 1);
  const std::int64_t rows = patch_positions ? operation->num_patches : count;
  require(position == kNone || graph.shape(position).elements() >= rows * operation->hidden, name,
          "position table has fewer rows than the " + std::to_string(rows) +
              (patch_positions ? " patches" : " tokens"));
  return graph.append(operation, name, {patches, class_token, position, registers},
                      {{name, Shape{operation->batch, count, operation->hidden}}})[0];
}

double TokensOperation::flops(const Graph& graph, const Node& node) const {
  return static_cast<double>(graph.shape(node.outputs[0]).elements());
}

void TokensOperation::gradient(Graph& graph, const Node& node) const {
  auto operation = std::make_shared<TokensBackwardOperation>();
  operation->forward = *this;
  const ValueId patches = node.inputs[0];
  const bool wanted = graph.value(patches).needs_gradient;
  const ValueId dpatches =
      wanted ? graph.activation_value(graph.value(patches).name + ".grad", graph.shape(patches))
             : kNone;
  graph.append_to(
      operation, node.name, {graph.gradient(node.outputs[0])},
      {dpatches, graph.parameter_gradient(node.inputs[1]), graph.parameter_gradient(node.inputs[2]),
       graph.parameter_gradient(node.inputs[3])});
  graph.add_gradient(patches, dpatches);
}

void TokensOperation::run(Kernels& kernels, const Operands& operands) const {
  kernels.tokens_forward({.x = operands.out(0),
                          .patches = operands.in(0),
                          .class_token = operands.in(1),
                          .registers = operands.in(3),
                          .position = operands.in(2),
                          .place = place,
                          .patch_positions = patch_positions,
                          .batch = batch,
                          .num_patches = num_patches,
                          .num_registers = num_registers,
                          .hidden = hidden,
                          .dropout = dropout,
                          .state = operands.state()});
}

ValueId pool(Graph& graph, const std::string& name, ValueId x, TokenWindow window) {
  auto operation = std::make_shared<PoolOperation>();
  const Shape& shape = graph.shape(x);
  require(shape.rank() == 3 && shape[1] == window.total && window.tokens > 0 && window.first >= 0 &&
              window.first + window.tokens <= window.total,
          name, "token window does not fit " + shape.str());
  operation->window = window;
  operation->batch = shape[0];
  operation->hidden = shape[2];
  return graph.append(operation, name, {x}, {{name, Shape{shape[0], shape[2]}}})[0];
}

double PoolOperation::flops(const Graph&, const Node&) const {
  return static_cast<double>(batch * window.tokens * hidden);
}

std::optional<double> PoolOperation::bytes(const Graph& graph, const Node& node) const {
  return static_cast<double>(graph.value(node.outputs[0]).bytes() * (window.tokens + 1));
}

void PoolOperation::gradient(Graph& graph, const Node& node) const {
  auto operation = std::make_shared<PoolBackwardOperation>();
  operation->forward = *this;
  const ValueId x = node.inputs[0];
  const auto dx =
      graph.append(operation, node.name, {graph.gradient(node.outputs[0]), graph.gradient(x)},
                   {{graph.value(x).name + ".grad", graph.shape(x)}});
  graph.set_gradient(x, dx[0]);
}

void PoolOperation::run(Kernels& kernels, const Operands& operands) const {
  kernels.pool_forward({.y = operands.out(0),
                        .x = operands.in(0),
                        .batch = batch,
                        .hidden = hidden,
                        .window = window});
}

}  // namespace vitrine
