// linear: y = x·Wᵀ + b, and its gradient dx = dy·W, dW = dyᵀ·x, db = Σ dy.
#include <bit>

#include "graph/operations.h"

namespace vitrine {
namespace {

// A power of two, so that pieces divide evenly among the usual numbers of threads.
int row_blocks_of(std::int64_t m, const DeviceTraits& traits) {
  constexpr std::int64_t kRowsPerBlock = 96;
  const auto most = static_cast<std::uint64_t>(std::max<std::int64_t>(m / kRowsPerBlock, 1));
  return static_cast<int>(
      std::min<std::uint64_t>(std::bit_floor(most), static_cast<unsigned>(traits.max_row_blocks)));
}

ColumnSum column_sum_of(const Operands& operands, View<float> out, std::int64_t rows) {
  return {.out = out,
          .x = operands.in(0),
          .workspace = operands.workspace(),
          .rows = rows,
          .cols = out.size,
          .accumulate = operands.accumulate()};
}

/// in: dy   out: dbias
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
    kernels.column_sum(column_sum_of(operands, operands.out(0).f32(), rows));
  }
};

/// in: dy [k, m], x [k, n]   out: dweight [m, n], dbias [m]
///
/// Whether gradients are added to is known when it runs, so the workspace is there in any case.
struct WeightGradientOperation final : Operation {
  std::int64_t m = 0, n = 0, k = 0;
  bool tf32 = false;

  std::string name() const override { return "matmul"; }
  double flops(const Graph&, const Node& node) const override {
    const double columns = node.outputs[1] == kNone ? 0.0 : 1.0;
    return static_cast<double>(m) * static_cast<double>(k) *
           (2.0 * static_cast<double>(n) + columns);
  }
  std::int64_t workspace(const Graph&, const Node& node,
                         const DeviceTraits& traits) const override {
    return node.outputs[1] == kNone ? 0 : partials_of(k, traits) * m;
  }
  void run(Kernels& kernels, const Operands& operands) const override {
    const View<float> dbias = operands.out(1).f32();
    const bool fused = dbias && operands.traits().fuse_bias_gradient && !operands.accumulate();
    kernels.matmul({.out = operands.out(0),
                    .bias_gradient = fused ? dbias : View<float>(),
                    .a = operands.in(0),
                    .b = operands.in(1),
                    .workspace = fused ? operands.workspace() : View<float>(),
                    .m = m,
                    .n = n,
                    .k = k,
                    .transpose_a = true,
                    .accumulate = operands.accumulate(),
                    .tf32 = tf32,
                    .row_blocks = row_blocks_of(m, operands.traits())});
    if (dbias && !fused) kernels.column_sum(column_sum_of(operands, dbias, k));
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
  if (dweight == kNone) {
    bias_gradient(graph, node, dy, bias);
  } else {
    auto operation = std::make_shared<WeightGradientOperation>();
    operation->tf32 = tf32;
    operation->m = n;
    operation->n = k;
    operation->k = m;
    graph.append_to(operation, node.name, {dy, x}, {dweight, graph.parameter_gradient(bias)});
  }
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
  kernels.matmul({.out = operands.out(0),
                  .a = operands.in(0),
                  .b = operands.in(1),
                  .bias = operands.in(2),
                  .m = m,
                  .n = n,
                  .k = k,
                  .transpose_b = transpose_b,
                  .accumulate = static_cast<bool>(operands.in(3)),
                  .tf32 = tf32,
                  .row_blocks = row_blocks_of(m, operands.traits())});
}

}  // namespace vitrine
