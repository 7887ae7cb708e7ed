// column_sum: the gradient of a bias that no product sums beside its weight's.
//
// Peer: a plain copy of the same bytes. The sums of a whole update are in adamw_bench.
#include <set>

#include "graph_case.h"
#include "reference/inputs.h"
#include "reference/reduce.h"

namespace vitrine::bench {
namespace {

/// A linear layer whose weight is frozen: its bias alone has a gradient.
GraphWork work(std::int64_t rows, std::int64_t cols, Precision precision) {
  Graph graph = new_graph(precision);
  const ValueId x = graph.activation_value("x", {rows, 1});
  const ValueId weight = graph.parameter("weight", {cols, 1}, /*trained=*/false);
  const ValueId bias = graph.parameter("bias", {cols});
  const ValueId dy = differentiate(graph, linear(graph, "linear", x, weight, bias));
  const ValueId dbias = graph.nodes()[1].outputs[0];
  const auto error = [=](const GraphCase& c) {
    std::vector<float> naive(static_cast<std::size_t>(cols));
    std::vector<double> exact(naive.size());
    for (std::int64_t row = 0; row < rows; ++row) {
      const std::vector<float> values = c.drawn(dy, row * cols, cols);
      naive = reference::column_sum(values, std::move(naive));
      exact = reference::column_sum(values, std::move(exact));
    }
    Comparison comparison("dbias", DType::f32);
    comparison.add(c.read(dbias), naive, exact);
    return comparison.error();
  };
  return {.graph = std::move(graph), .timed = {1}, .error = error};
}

void add_all() {
  for (const Precision precision : precisions()) {
    std::set<std::pair<std::int64_t, std::int64_t>> added;  // models may share a shape
    for (const Images& images : bench::images(precision)) {
      for (const std::int64_t cols : {images.model.hidden, images.model.intermediate}) {
        const std::int64_t rows = images.rows();
        if (!added.insert({rows, cols}).second) continue;
        add_graph(
            {"column_sum/rows:" + std::to_string(rows) + "/cols:" + std::to_string(cols), precision,
             images.chunk},
            [=](const DeviceTraits&) { return work(rows, cols, precision); },
            /*copy=*/true);
      }
    }
  }
}

const Registration registration(add_all);

}  // namespace
}  // namespace vitrine::bench
