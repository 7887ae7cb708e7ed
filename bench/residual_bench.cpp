// residual, without and with dropout; its gradient, which without dropout is none; and add.
//
// Peer: a plain copy of the same bytes.
#include "graph_case.h"
#include "reference/inputs.h"
#include "reference/residual.h"

namespace vitrine::bench {
namespace {

constexpr std::int64_t kRowsChecked = 64;

struct Sizes {
  std::int64_t images, tokens, cols;
  float dropout;

  std::int64_t rows() const { return images * tokens; }
  std::string text() const {
    return "/rows:" + std::to_string(rows()) + "/cols:" + std::to_string(cols) +
           (dropout > 0 ? "/dropout" : "");
  }
};

/// What the reference asks of a call's arguments.
struct Zeroing {
  std::int64_t cols;
  Dropout dropout, drop_path;
  TokenWindow window;
};

/// Rows of scale(branch), in T; and with x added to them.
template <typename T>
std::vector<T> expected(const GraphCase& c, const Zeroing& zeroing, std::int64_t row, ValueId x,
                        ValueId branch) {
  std::vector<T> values;
  for (std::int64_t i = row * zeroing.cols; i < (row + 1) * zeroing.cols; ++i) {
    const auto factor = static_cast<T>(reference::branch_factor(zeroing, c.state(), i));
    const T scaled = static_cast<T>(c.drawn(branch, i)) * factor;
    values.push_back(x == kNone ? scaled : static_cast<T>(c.drawn(x, i)) + scaled);
  }
  return values;
}

std::string error_of(const GraphCase& c, const Sizes& s, const Zeroing& zeroing, ValueId out,
                     ValueId x, ValueId branch) {
  Comparison comparison(c.graph().value(out).name, c.dtype(out));
  for (const std::int64_t row : sample(s.rows(), kRowsChecked)) {
    comparison.add(c.read(out, row * s.cols, s.cols), expected<float>(c, zeroing, row, x, branch),
                   expected<double>(c, zeroing, row, x, branch));
  }
  return comparison.error();
}

GraphWork work(const Sizes& s, Precision precision, bool gradient) {
  const Zeroing zeroing{s.cols, {s.dropout, 5}, {s.dropout / 2, 6}, {s.tokens, 0, s.tokens}};
  Graph graph = new_graph(precision);
  const Shape shape{s.images, s.tokens, s.cols};
  const ValueId x = random_input(graph, "x", shape), branch = random_input(graph, "branch", shape);
  const ValueId y =
      residual(graph, "y", x, branch, zeroing.dropout, zeroing.drop_path, zeroing.window);
  if (!gradient) {
    return {.graph = std::move(graph), .timed = {0}, .error = [=](const GraphCase& c) {
              return error_of(c, s, zeroing, y, x, branch);
            }};
  }
  const ValueId dy = differentiate(graph, y);
  const ValueId dbranch = graph.nodes()[1].outputs[0];
  return {.graph = std::move(graph), .timed = {1}, .error = [=](const GraphCase& c) {
            return error_of(c, s, zeroing, dbranch, kNone, dy);
          }};
}

GraphWork sum(const Sizes& s, Precision precision) {
  Graph graph = new_graph(precision);
  const Shape shape{s.rows(), s.cols};
  const ValueId a = random_input(graph, "a", shape), b = random_input(graph, "b", shape);
  const ValueId out = vitrine::add(graph, "sum", a, b);
  return {.graph = std::move(graph), .timed = {0}, .error = [=](const GraphCase& c) {
            return error_of(c, s, {.cols = s.cols}, out, a, b);
          }};
}

void add_all() {
  for (const Precision precision : precisions()) {
    for (const Images& images : bench::images(precision)) {
      for (const float dropout : {0.0f, 0.1f}) {
        const Sizes s{images.batch, images.model.tokens(), images.model.hidden, dropout};
        add_graph(
            {"residual_forward" + s.text(), precision, images.chunk},
            [=](const DeviceTraits&) { return work(s, precision, false); }, /*copy=*/true);
        if (dropout == 0.0f) {
          add_graph(
              {"add" + s.text(), precision, images.chunk},
              [=](const DeviceTraits&) { return sum(s, precision); }, /*copy=*/true);
        } else {
          add_graph(
              {"residual_backward" + s.text(), precision, images.chunk},
              [=](const DeviceTraits&) { return work(s, precision, true); }, /*copy=*/true);
        }
      }
    }
  }
}

const Registration registration(add_all);

}  // namespace
}  // namespace vitrine::bench
