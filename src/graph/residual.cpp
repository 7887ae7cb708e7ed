// residual: x + drop_path(dropout(branch)); without dropout both gradients are dy itself.
#include "graph/operations.h"

namespace vitrine {
namespace {

/// in: dy   out: dbranch
struct ResidualBackwardOperation final : Operation {
  ResidualOperation forward;

  std::string name() const override { return "residual_backward"; }
  double flops(const Graph&, const Node&) const override {
    return static_cast<double>(forward.rows * forward.cols);
  }
  void run(Kernels& kernels, const Operands& operands) const override {
    kernels.residual_backward({.dbranch = operands.out(0),
                               .dy = operands.in(0),
                               .rows = forward.rows,
                               .cols = forward.cols,
                               .dropout = forward.dropout,
                               .drop_path = forward.drop_path,
                               .window = forward.window,
                               .state = operands.state()});
  }
};

}  // namespace

ValueId residual(Graph& graph, const std::string& name, ValueId x, ValueId branch, Dropout dropout,
                 Dropout drop_path, TokenWindow window) {
  require(graph.shape(x) == graph.shape(branch), name,
          "branch " + graph.shape(branch).str() + " does not fit " + graph.shape(x).str());
  auto operation = std::make_shared<ResidualOperation>();
  operation->rows = rows_of(graph.shape(x));
  operation->cols = cols_of(graph.shape(x));
  operation->dropout = dropout;
  operation->drop_path = drop_path;
  operation->window = window;
  return graph.append(operation, name, {x, branch}, {{name, graph.shape(x)}})[0];
}

double ResidualOperation::flops(const Graph&, const Node&) const {
  return static_cast<double>(rows * cols);
}

OperationPtr ResidualOperation::windowed(const TokenWindow& to) const {
  auto copy = std::make_shared<ResidualOperation>(*this);
  copy->rows = windowed_rows(rows, to);
  copy->window = to;
  return copy;
}

void ResidualOperation::gradient(Graph& graph, const Node& node) const {
  const ValueId x = node.inputs[0], branch = node.inputs[1];
  const ValueId dy = graph.gradient(node.outputs[0]);
  ValueId dbranch = dy;
  if (graph.value(branch).needs_gradient &&
      (dropout.probability > 0 || drop_path.probability > 0)) {
    auto operation = std::make_shared<ResidualBackwardOperation>();
    operation->forward = *this;
    dbranch = graph.append(operation, node.name, {dy},
                           {{graph.value(branch).name + ".grad", graph.shape(branch)}})[0];
  }
  graph.add_gradient(x, dy);
  graph.add_gradient(branch, dbranch);
}

void ResidualOperation::run(Kernels& kernels, const Operands& operands) const {
  kernels.residual_forward({.y = operands.out(0),
                            .x = operands.in(0),
                            .branch = operands.in(1),
                            .rows = rows,
                            .cols = cols,
                            .dropout = dropout,
                            .drop_path = drop_path,
                            .window = window,
                            .state = operands.state()});
}

ValueId add(Graph& graph, const std::string& name, ValueId a, ValueId b) {
  require(graph.shape(a) == graph.shape(b), name,
          graph.shape(a).str() + " and " + graph.shape(b).str() + " cannot be added");
  return graph.append(std::make_shared<AddOperation>(), name, {a, b}, {{name, graph.shape(a)}})[0];
}

double AddOperation::flops(const Graph& graph, const Node& node) const {
  return static_cast<double>(graph.shape(node.outputs[0]).elements());
}

void AddOperation::run(Kernels& kernels, const Operands& operands) const {
  kernels.add({.out = operands.out(0), .a = operands.in(0), .b = operands.in(1)});
}

}  // namespace vitrine
