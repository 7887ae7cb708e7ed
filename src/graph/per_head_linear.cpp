// per_head_linear: one d×d map per head and part.
#include "graph/operations.h"

namespace vitrine {
namespace {

/// in: dy, x, weight, addend   out: dx, dweight, dbias, each only where it is wanted
struct PerHeadLinearBackwardOperation final : Operation {
  PerHeadLinearOperation forward;

  std::string name() const override { return "per_head_linear_backward"; }
  double flops(const Graph& graph, const Node& node) const override {
    const double of_x = node.outputs[0] == kNone ? 0.0 : 1.0;
    const double of_weight = node.outputs[1] == kNone ? 0.0 : 1.0;
    return (of_x + of_weight) * forward.flops(graph, node);
  }
  int addend() const override { return 3; }
  std::int64_t workspace(const Graph&, const Node&, const DeviceTraits& traits) const override {
    const std::int64_t maps = forward.parts * forward.heads;
    return partials_of(forward.rows, traits) * maps * forward.head_size * (forward.head_size + 1);
  }
  void run(Kernels& kernels, const Operands& operands) const override {
    kernels.per_head_linear_backward({.dx = operands.out(0),
                                      .dweight = operands.out(1).f32(),
                                      .dbias = operands.out(2).f32(),
                                      .dy = operands.in(0),
                                      .x = operands.in(1),
                                      .weight = operands.in(2),
                                      .workspace = operands.workspace(),
                                      .rows = forward.rows,
                                      .parts = forward.parts,
                                      .heads = forward.heads,
                                      .head_size = forward.head_size,
                                      .accumulate_dx = static_cast<bool>(operands.in(3)),
                                      .accumulate = operands.accumulate()});
  }
};

}  // namespace

ValueId per_head_linear(Graph& graph, const std::string& name, ValueId x, ValueId weight,
                        ValueId bias) {
  const Shape& maps = graph.shape(weight);
  auto operation = std::make_shared<PerHeadLinearOperation>();
  require(maps.rank() == 4 && maps[2] == maps[3] && maps[1] * maps[2] == cols_of(graph.shape(x)),
          name, "weight " + maps.str() + " does not fit " + graph.shape(x).str());
  require(bias == kNone || graph.shape(bias).elements() * maps[2] == maps.elements(), name,
          "bias does not fit weight " + maps.str());
  operation->rows = rows_of(graph.shape(x));
  operation->parts = maps[0];
  operation->heads = maps[1];
  operation->head_size = maps[2];
  std::vector<std::int64_t> shape(graph.shape(x).sizes().begin(), graph.shape(x).sizes().end());
  shape.back() *= operation->parts;
  return graph.append(operation, name, {x, weight, bias}, {{name, Shape(shape)}})[0];
}

double PerHeadLinearOperation::flops(const Graph&, const Node&) const {
  return 2.0 * static_cast<double>(rows * parts * heads * head_size * head_size);
}

OperationPtr PerHeadLinearOperation::windowed(const TokenWindow& window) const {
  auto copy = std::make_shared<PerHeadLinearOperation>(*this);
  copy->rows = windowed_rows(rows, window);
  return copy;
}

void PerHeadLinearOperation::gradient(Graph& graph, const Node& node) const {
  const ValueId x = node.inputs[0];
  auto operation = std::make_shared<PerHeadLinearBackwardOperation>();
  operation->forward = *this;
  const bool wanted = graph.value(x).needs_gradient;
  const ValueId dx =
      wanted ? graph.activation_value(graph.value(x).name + ".grad", graph.shape(x)) : kNone;
  graph.append_to(
      operation, node.name, {graph.gradient(node.outputs[0]), x, node.inputs[1], graph.gradient(x)},
      {dx, graph.parameter_gradient(node.inputs[1]), graph.parameter_gradient(node.inputs[2])});
  if (wanted) graph.set_gradient(x, dx);
}

void PerHeadLinearOperation::run(Kernels& kernels, const Operands& operands) const {
  kernels.per_head_linear_forward({.y = operands.out(0),
                                   .x = operands.in(0),
                                   .weight = operands.in(1),
                                   .bias = operands.in(2),
                                   .rows = rows,
                                   .parts = parts,
                                   .heads = heads,
                                   .head_size = head_size});
}

}  // namespace vitrine
