// layer_norm, alone or with the residual in front of it.
#include "graph/operations.h"

namespace vitrine {
namespace {

/// in: dy, dresidual, x, mean, rstd, weight   out: dx, dbranch, dweight, dbias
struct LayerNormBackwardOperation final : Operation {
  LayerNormOperation forward;

  std::string name() const override { return "layer_norm_backward"; }
  double flops(const Graph&, const Node&) const override {
    return 12.0 * static_cast<double>(forward.rows * forward.cols);
  }
  Sharing may_share() const override { return {{0, 1}, {0, 0}}; }
  std::int64_t workspace(const Graph&, const Node&, const DeviceTraits& traits) const override {
    return partials_of(forward.rows, traits) * 2 * forward.cols;
  }
  void run(Kernels& kernels, const Operands& operands) const override {
    kernels.layer_norm_backward({.dx = operands.out(0),
                                 .dbranch = operands.out(1),
                                 .dweight = operands.out(2).f32(),
                                 .dbias = operands.out(3).f32(),
                                 .dy = operands.in(0),
                                 .dresidual = operands.in(1),
                                 .x = operands.in(2),
                                 .mean = operands.in(3).f32(),
                                 .rstd = operands.in(4).f32(),
                                 .weight = operands.in(5),
                                 .workspace = operands.workspace(),
                                 .rows = forward.rows,
                                 .cols = forward.cols,
                                 .accumulate = operands.accumulate(),
                                 .dropout = forward.dropout,
                                 .drop_path = forward.drop_path,
                                 .window = forward.window,
                                 .state = operands.state()});
  }
};

/// Over pieces of `cols` neighbours of the last dimension.
ValueId norm_of_pieces(Graph& graph, const std::string& name, ValueId x, ValueId weight,
                       ValueId bias, float eps, std::int64_t cols) {
  auto operation = std::make_shared<LayerNormOperation>();
  operation->rows = graph.shape(x).elements() / cols;
  operation->cols = cols;
  operation->eps = eps;
  require(graph.shape(weight).elements() == operation->cols, name,
          "weight " + graph.shape(weight).str() + " does not fit " + graph.shape(x).str());
  require(graph.shape(bias).elements() == operation->cols, name,
          "bias " + graph.shape(bias).str() + " does not fit " + graph.shape(x).str());
  const Shape rows{operation->rows};
  return graph.append(operation, name, {x, kNone, weight, bias},
                      {{name, graph.shape(x)},
                       {"", {}},
                       {graph.training() ? name + ".mean" : "", rows, DType::f32},
                       {graph.training() ? name + ".rstd" : "", rows, DType::f32}})[0];
}

}  // namespace

ValueId layer_norm(Graph& graph, const std::string& name, ValueId x, ValueId weight, ValueId bias,
                   float eps) {
  return norm_of_pieces(graph, name, x, weight, bias, eps, cols_of(graph.shape(x)));
}

ValueId layer_norm_of_heads(Graph& graph, const std::string& name, ValueId x, ValueId weight,
                            ValueId bias, float eps) {
  const std::int64_t cols = graph.shape(weight).elements();
  require(cols_of(graph.shape(x)) % cols == 0, name,
          "weight " + graph.shape(weight).str() + " does not divide " + graph.shape(x).str());
  return norm_of_pieces(graph, name, x, weight, bias, eps, cols);
}

double LayerNormOperation::flops(const Graph&, const Node&) const {
  return 8.0 * static_cast<double>(rows * cols);
}

OperationPtr LayerNormOperation::windowed(const TokenWindow& to) const {
  auto copy = std::make_shared<LayerNormOperation>(*this);
  copy->rows = windowed_rows(rows, to);
  copy->window = to;
  return copy;
}

// Of x_out, which stays: y alone.
Node LayerNormOperation::again(const Node& node) const {
  auto plain = std::make_shared<LayerNormOperation>(*this);
  plain->dropout = plain->drop_path = {};
  const ValueId x = node.inputs[1] == kNone ? node.inputs[0] : node.outputs[1];
  return {.operation = plain,
          .name = node.name,
          .phase = Phase::backward,
          .inputs = {x, kNone, node.inputs[2], node.inputs[3]},
          .outputs = {node.outputs[0], kNone, kNone, kNone}};
}

void LayerNormOperation::gradient(Graph& graph, const Node& node) const {
  const ValueId x = node.inputs[0], branch = node.inputs[1];
  const ValueId x_out = node.outputs[1];
  const ValueId dy = graph.gradient(node.outputs[0]);
  require(dy != kNone, node.name, "the normalised output is not used");
  // What skips the norm: with a branch the gradient of x_out, without one what x has so far.
  const ValueId dresidual = branch != kNone ? graph.gradient(x_out) : graph.gradient(x);
  const bool zeroed = dropout.probability > 0 || drop_path.probability > 0;
  auto operation = std::make_shared<LayerNormBackwardOperation>();
  operation->forward = *this;
  const ValueId dx = graph.activation_value(graph.value(x).name + ".grad", graph.shape(x));
  const ValueId dbranch =
      branch != kNone && zeroed && graph.value(branch).needs_gradient
          ? graph.activation_value(graph.value(branch).name + ".grad", graph.shape(x))
          : kNone;
  graph.append_to(operation, node.name,
                  {dy, dresidual, branch != kNone ? x_out : x, node.outputs[2], node.outputs[3],
                   node.inputs[2]},
                  {dx, dbranch, graph.parameter_gradient(node.inputs[2]),
                   graph.parameter_gradient(node.inputs[3])});
  if (branch == kNone) {
    if (graph.value(x).needs_gradient) graph.set_gradient(x, dx);
  } else {
    graph.add_gradient(x, dx);
    graph.add_gradient(branch, zeroed ? dbranch : dx);
  }
}

void LayerNormOperation::run(Kernels& kernels, const Operands& operands) const {
  kernels.layer_norm_forward({.y = operands.out(0),
                              .x_out = operands.out(1),
                              .mean = operands.out(2).f32(),
                              .rstd = operands.out(3).f32(),
                              .x = operands.in(0),
                              .branch = operands.in(1),
                              .weight = operands.in(2),
                              .bias = operands.in(3),
                              .rows = rows,
                              .cols = cols,
                              .eps = eps,
                              .dropout = dropout,
                              .drop_path = drop_path,
                              .window = window,
                              .state = operands.state()});
}

}  // namespace vitrine
