// activation: dropout(f(x + bias)). What forward saves is f' with dropout's factors in it, so that
// backward is one multiplication and needs no random numbers.
#include "graph/operations.h"

namespace vitrine {
namespace {

/// in: dy, saved   out: dx, dbias
struct ActivationBackwardOperation final : Operation {
  ActivationOperation forward;

  std::string name() const override { return "activation_backward"; }
  double flops(const Graph&, const Node&) const override {
    return 2.0 * static_cast<double>(forward.rows * forward.cols);
  }
  Sharing may_share() const override { return {{0, 0}, {0, 1}}; }
  std::int64_t workspace(const Graph&, const Node& node,
                         const DeviceTraits& traits) const override {
    return node.outputs[1] == kNone ? 0 : partials_of(forward.rows, traits) * forward.cols;
  }
  void run(Kernels& kernels, const Operands& operands) const override {
    kernels.activation_backward({.dx = operands.out(0),
                                 .dbias = operands.out(1).f32(),
                                 .dy = operands.in(0),
                                 .saved = operands.in(1),
                                 .workspace = operands.workspace(),
                                 .rows = forward.rows,
                                 .cols = forward.cols,
                                 .kind = forward.kind,
                                 .saved_kind = ActivationSaved::derivative,
                                 .accumulate = operands.accumulate(),
                                 .dropout = forward.dropout,
                                 .window = forward.window,
                                 .state = operands.state()});
  }
};

}  // namespace

ValueId activation(Graph& graph, const std::string& name, ValueId x, ValueId bias,
                   ActivationKind kind, Dropout dropout, TokenWindow window) {
  auto operation = std::make_shared<ActivationOperation>();
  operation->rows = rows_of(graph.shape(x));
  operation->cols = cols_of(graph.shape(x));
  operation->kind = kind;
  operation->dropout = dropout;
  operation->window = window;
  require(bias == kNone || graph.shape(bias).elements() == operation->cols, name,
          "bias does not fit " + graph.shape(x).str());
  const std::string saved = graph.training() ? name + ".derivative" : "";
  return graph.append(operation, name, {x, bias},
                      {{name, graph.shape(x)}, {saved, graph.shape(x)}})[0];
}

double ActivationOperation::flops(const Graph&, const Node&) const {
  return (kind == ActivationKind::relu ? 1.0 : 20.0) * static_cast<double>(rows * cols);
}

OperationPtr ActivationOperation::windowed(const TokenWindow& to) const {
  auto copy = std::make_shared<ActivationOperation>(*this);
  copy->rows = windowed_rows(rows, to);
  copy->window = to;
  return copy;
}

void ActivationOperation::gradient(Graph& graph, const Node& node) const {
  const ValueId x = node.inputs[0];
  const ValueId dy = graph.gradient(node.outputs[0]);
  auto operation = std::make_shared<ActivationBackwardOperation>();
  operation->forward = *this;
  const ValueId dx = graph.activation_value(graph.value(x).name + ".grad", graph.shape(x));
  const ValueId dbias = node.inputs[1] == kNone ? kNone : graph.parameter_gradient(node.inputs[1]);
  graph.append_to(operation, node.name, {dy, node.outputs[1]}, {dx, dbias});
  graph.add_gradient(x, dx);
}

void ActivationOperation::run(Kernels& kernels, const Operands& operands) const {
  const View<void> saved = operands.out(1);
  kernels.activation_forward(
      {.y = operands.out(0),
       .saved = saved,
       .x = operands.in(0),
       .bias = operands.in(1),
       .rows = rows,
       .cols = cols,
       .kind = kind,
       .saved_kind = saved ? ActivationSaved::derivative : ActivationSaved::nothing,
       .dropout = dropout,
       .window = window,
       .state = operands.state()});
}

}  // namespace vitrine
