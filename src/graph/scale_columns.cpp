// scale_columns: a factor for each channel, LayerScale's (Touvron et al. 2021, arXiv:2103.17239).
#include "graph/operations.h"

namespace vitrine {
namespace {

/// in: dy, x, scale   out: dx, dscale
struct ScaleColumnsBackwardOperation final : Operation {
  std::int64_t rows = 0, cols = 0;

  std::string name() const override { return "scale_columns_backward"; }
  double flops(const Graph&, const Node&) const override {
    return 3.0 * static_cast<double>(rows * cols);
  }
  Sharing may_share() const override { return {{0, 0}, {0, 1}}; }
  std::int64_t workspace(const Graph&, const Node& node,
                         const DeviceTraits& traits) const override {
    return node.outputs[1] == kNone ? 0 : partials_of(rows, traits) * cols;
  }
  void run(Kernels& kernels, const Operands& operands) const override {
    kernels.scale_columns_backward({.dx = operands.out(0),
                                    .dscale = operands.out(1).f32(),
                                    .dy = operands.in(0),
                                    .x = operands.in(1),
                                    .scale = operands.in(2),
                                    .workspace = operands.workspace(),
                                    .rows = rows,
                                    .cols = cols,
                                    .accumulate = operands.accumulate()});
  }
};

}  // namespace

ValueId scale_columns(Graph& graph, const std::string& name, ValueId x, ValueId scale) {
  auto operation = std::make_shared<ScaleColumnsOperation>();
  operation->rows = rows_of(graph.shape(x));
  operation->cols = cols_of(graph.shape(x));
  require(graph.shape(scale).elements() == operation->cols, name,
          "scale " + graph.shape(scale).str() + " does not fit " + graph.shape(x).str());
  return graph.append(operation, name, {x, scale}, {{name, graph.shape(x)}})[0];
}

double ScaleColumnsOperation::flops(const Graph&, const Node&) const {
  return static_cast<double>(rows * cols);
}

OperationPtr ScaleColumnsOperation::windowed(const TokenWindow& to) const {
  auto copy = std::make_shared<ScaleColumnsOperation>(*this);
  copy->rows = windowed_rows(rows, to);
  return copy;
}

void ScaleColumnsOperation::gradient(Graph& graph, const Node& node) const {
  const ValueId x = node.inputs[0], scale = node.inputs[1];
  auto operation = std::make_shared<ScaleColumnsBackwardOperation>();
  operation->rows = rows;
  operation->cols = cols;
  const ValueId dx = graph.value(x).needs_gradient
                         ? graph.activation_value(graph.value(x).name + ".grad", graph.shape(x))
                         : kNone;
  graph.append_to(operation, node.name, {graph.gradient(node.outputs[0]), x, scale},
                  {dx, graph.parameter_gradient(scale)});
  graph.add_gradient(x, dx);
}

void ScaleColumnsOperation::run(Kernels& kernels, const Operands& operands) const {
  kernels.scale_columns_forward({.y = operands.out(0),
                                 .x = operands.in(0),
                                 .scale = operands.in(1),
                                 .rows = rows,
                                 .cols = cols});
}

}  // namespace vitrine
