// scale_columns and its gradient, that of the scale included.
//
// Peer: a plain copy of the same bytes.
#include "graph_case.h"
#include "reference/scale_columns.h"

namespace vitrine::bench {
namespace {

constexpr std::int64_t kRowsChecked = 64;

struct Sizes {
  std::int64_t rows, cols;

  std::string text() const {
    return "/rows:" + std::to_string(rows) + "/cols:" + std::to_string(cols);
  }
};

/// Some rows of out = in · scale.
std::string error_of(const GraphCase& c, const Sizes& s, ValueId out, ValueId in, ValueId scale) {
  reference::scale_columns::Problem problem({1, s.cols, 1, false}, 0);
  problem.scale = c.drawn(scale);
  Comparison comparison(c.graph().value(out).name, c.dtype(out));
  for (const std::int64_t row : sample(s.rows, kRowsChecked)) {
    const std::vector<float> values = c.drawn(in, row * s.cols, s.cols);
    comparison.add(c.read(out, row * s.cols, s.cols),
                   reference::scale_columns::scaled<float>(problem, values),
                   reference::scale_columns::scaled<double>(problem, values));
  }
  return comparison.error();
}

/// All of dscale.
std::string sum_error(const GraphCase& c, const Sizes& s, ValueId dscale, ValueId dy, ValueId x) {
  reference::scale_columns::Problem problem({1, s.cols, 1, false}, 0);
  problem.dy = c.drawn(dy);
  problem.x = c.drawn(x);
  Comparison comparison("dscale", DType::f32);
  comparison.add(c.read(dscale), reference::scale_columns::scale_gradient<float>(problem),
                 reference::scale_columns::scale_gradient<double>(problem));
  return comparison.error();
}

GraphWork work(const Sizes& s, Precision precision, bool gradient) {
  Graph graph = new_graph(precision);
  const ValueId x = random_input(graph, "x", {s.rows, s.cols});
  const ValueId scale = graph.parameter("scale", {s.cols});
  const ValueId y = scale_columns(graph, "y", x, scale);
  if (!gradient) {
    return {.graph = std::move(graph), .timed = {0}, .error = [=](const GraphCase& c) {
              return error_of(c, s, y, x, scale);
            }};
  }
  const ValueId dy = differentiate(graph, y);
  const ValueId dx = graph.nodes()[1].outputs[0], dscale = graph.nodes()[1].outputs[1];
  return {.graph = std::move(graph), .timed = {1}, .error = [=](const GraphCase& c) {
            const std::string error = error_of(c, s, dx, dy, scale);
            return error.empty() ? sum_error(c, s, dscale, dy, x) : error;
          }};
}

void add_all() {
  for (const Precision precision : precisions()) {
    for (const Images& images : bench::images(precision)) {
      const Sizes s{images.batch * images.model.tokens(), images.model.hidden};
      for (const bool gradient : {false, true}) {
        const std::string name = gradient ? "scale_columns_backward" : "scale_columns_forward";
        add_graph(
            {name + s.text(), precision, images.chunk},
            [=](const DeviceTraits&) { return work(s, precision, gradient); }, /*copy=*/true);
      }
    }
  }
}

const Registration registration(add_all);

}  // namespace
}  // namespace vitrine::bench
