// linear: y = x·Wᵀ + b, and its gradient dx = dy·W, dW = dyᵀ·x, db = Σ dy.
#include <bit>

#include "graph/operations.h"

namespace vitrine {
namespace {

// A power of two, so that pieces divide evenly among the usual numbers of threads.
int row_blocks_of(std::int64_t m, const DeviceTraits& traits) {
  constexpr std::int64_t kRowsPerBlock = 48;
  const auto most = static_cast<std::uint64_t>(std::max<std::int64_t>(m / kRowsPerBlock, 1));
  return static_cast<int>(
      std::min<std::uint64_t>(std::bit_floor(most), static_cast<unsigned>(traits.max_row_blocks)));
}

struct ColumnSumOperation final : Operation {
  std::int64_t rows = 0, cols = 0;

  std::string name() const override { return "column_sum"; }
  double flops(const Graph&, const Node&) const override {
    return static_cast<double>(rows) * static_cast<double>(cols);
  }
  std::int64_t workspace(const Graph&, const Node&, const DeviceTraits& traits) const override {
    return partials_of(rows, traits) * cols;
  }
  void run(Kernels& kernels, const Operands& operands) const override {
    kernels.column_sum({.out = operands.out(0).f32(),
                        .x = operands.in(0),
                        .workspace = operands.workspace(),
                        .rows = rows,
                        .cols = cols,
                        .accumulate = operands.accumulate()});
  }
};

}  // namespace

void bias_gradient(Graph& graph, const Node& node, ValueId dy, ValueId bias) {
  const ValueId dbias = graph.parameter_gradient(bias);
  if (dbias == kNone) return;
  auto operation = std::make_shared<ColumnSumOperation>();
  operation->cols = graph.shape(bias).elements();
  operation->rows = graph.shape(dy).elements() / operation->cols;
  graph.append_to(operation, node.name, {dy}, {dbias});
}

std::int64_t windowed_rows(std::int64_t rows, const TokenWindow& window) {
  return rows / window.total * window.tokens;
}

ValueId linear(Graph& graph, const std::string& name, ValueId x, ValueId weight, ValueId bias) {
  auto operation = std::make_shared<MatmulOperation>();
  operation->tf32 = graph.precision() == Precision::tf32;
  operation->m = rows_of(graph.shape(x));
  operation->k = cols_of(graph.shape(x));
  operation->n = graph.shape(weight)[0];
  require(graph.shape(weight).elements() == operation->n * operation->k, name,
          "weight " + graph.shape(weight).str() + " does not fit input " + graph.shape(x).str());
  require(bias == kNone || graph.shape(bias).elements() == operation->n, name,
          "bias does not fit weight " + graph.shape(weight).str());
  std::vector<std::int64_t> shape(graph.shape(x).sizes().begin(), graph.shape(x).sizes().end());
  shape.back() = operation->n;
  return graph.append(operation, name, {x, weight, bias, kNone}, {{name, Shape(shape)}})[0];
}

double MatmulOperation::flops(const Graph&, const Node&) const {
  return 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
}

OperationPtr MatmulOperation::windowed(const TokenWindow& window) const {
  auto copy = std::make_shared<MatmulOperation>(*this);
  copy->m = windowed_rows(m, window);
  return copy;
}

void MatmulOperation::gradient(Graph& graph, const Node& node) const {
  const ValueId x = node.inputs[0], weight = node.inputs[1], bias = node.inputs[2];
  const ValueId dy = graph.gradient(node.outputs[0]);
  const ValueId dweight = graph.parameter_gradient(weight);
  if (dweight != kNone) {
    auto operation = std::make_shared<MatmulOperation>();
    operation->tf32 = tf32;
    operation->m = n;
    operation->n = k;
    operation->k = m;
    operation->transpose_a = true;
    operation->transpose_b = false;
    operation->parameter_gradient = true;
    graph.append_to(operation, node.name, {dy, x, kNone, kNone}, {dweight});
  }
  bias_gradient(graph, node, dy, bias);
  if (!graph.value(x).needs_gradient) return;
  auto operation = std::make_shared<MatmulOperation>();
  operation->tf32 = tf32;
  operation->m = m;
  operation->n = k;
  operation->k = n;
  operation->transpose_b = false;
  const auto dx = graph.append(operation, node.name, {dy, weight, kNone, graph.gradient(x)},
                               {{graph.value(x).name + ".grad", graph.shape(x)}});
  graph.set_gradient(x, dx[0]);
}

void MatmulOperation::run(Kernels& kernels, const Operands& operands) const {
  const bool added = operands.in(3) || (parameter_gradient && operands.accumulate());
  kernels.matmul({.out = operands.out(0),
                  .a = operands.in(0),
                  .b = operands.in(1),
                  .bias = operands.in(2),
                  .m = m,
                  .n = n,
                  .k = k,
                  .transpose_a = transpose_a,
                  .transpose_b = transpose_b,
                  .accumulate = added,
                  .tf32 = tf32,
                  .row_blocks = row_blocks_of(m, operands.traits())});
}

}  // namespace vitrine
