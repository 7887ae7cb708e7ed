// per_head_linear: one map a head, as in the tutorial model; forward and gradients.
//
// Peers: a plain copy of the same bytes; forward as one product with the block-diagonal matrix that
// the maps are together.
#include "graph_case.h"
#include "reference/per_head_linear.h"

namespace vitrine::bench {
namespace {

constexpr std::int64_t kParts = 3;

struct Sizes {
  std::int64_t rows, heads, head_size;

  std::int64_t hidden() const { return heads * head_size; }
  std::string text() const {
    return "/rows:" + std::to_string(rows) + "/H:" + std::to_string(heads) +
           "/d:" + std::to_string(head_size);
  }
};

struct Ids {
  ValueId x, weight, bias, y, dy = kNone, dx, dweight, dbias;
};

reference::PerHeadLinearProblem problem_of(const GraphCase& c, const Sizes& s, const Ids& ids) {
  reference::PerHeadLinearProblem problem(
      {s.rows, kParts, s.heads, s.head_size, true, false, false, 1}, 0);
  problem.x = c.drawn(ids.x);
  problem.weight = c.drawn(ids.weight);
  problem.bias = c.drawn(ids.bias);
  if (ids.dy != kNone) problem.dy = c.drawn(ids.dy);
  return problem;
}

std::string error_of(const GraphCase& c, const Sizes& s, const Ids& ids) {
  const reference::PerHeadLinearProblem problem = problem_of(c, s, ids);
  const reference::PerHeadLinearResult<float> naive(problem);
  const reference::PerHeadLinearResult<double> exact(problem);
  if (ids.dy == kNone) {
    Comparison y("y", c.dtype(ids.y));
    y.add(c.read(ids.y), naive.y, exact.y);
    return y.error();
  }
  Comparison dx("dx", c.dtype(ids.dx)), dweight("dweight", DType::f32), dbias("dbias", DType::f32);
  dx.add(c.read(ids.dx), naive.dx, exact.dx);
  dweight.add(c.read(ids.dweight), naive.dweight, exact.dweight);
  dbias.add(c.read(ids.dbias), naive.dbias, exact.dbias);
  return first_error({dx, dweight, dbias});
}

GraphWork maps(const Sizes& s, Precision precision, bool gradient) {
  Ids ids{};
  Graph graph = new_graph(precision);
  ids.x = random_input(graph, "x", {s.rows, s.hidden()});
  ids.weight = graph.parameter("weight", {kParts, s.heads, s.head_size, s.head_size});
  ids.bias = graph.parameter("bias", {kParts, s.heads, s.head_size});
  ids.y = per_head_linear(graph, "maps", ids.x, ids.weight, ids.bias);
  if (gradient) {
    ids.dy = differentiate(graph, ids.y);
    const Node& node = graph.nodes()[1];
    ids.dx = node.outputs[0], ids.dweight = node.outputs[1], ids.dbias = node.outputs[2];
  }
  return {.graph = std::move(graph),
          .timed = {gradient ? std::size_t{1} : std::size_t{0}},
          .error = [=](const GraphCase& c) { return error_of(c, s, ids); }};
}

/// The same maps in a matrix [3·H·d, H·d].
GraphWork one_product(const Sizes& s, Precision precision) {
  const std::int64_t d = s.head_size, maps = kParts * s.heads;
  Graph graph = new_graph(precision);
  Ids ids{};
  ids.x = random_input(graph, "x", {s.rows, s.hidden()});
  ids.bias = graph.parameter("bias", {maps * d});
  const std::vector<float> drawn = random_normal(maps * d * d, kSeed, 9);
  std::vector<float> matrix(static_cast<std::size_t>(maps * d * s.hidden()));
  for (std::int64_t i = 0; i < std::ssize(drawn); ++i) {
    const std::int64_t row = i / d, head = row / d % s.heads;
    matrix[static_cast<std::size_t>(row * s.hidden() + head * d + i % d)] =
        as_working(working_type(precision), drawn[static_cast<std::size_t>(i)]);
  }
  ids.weight = graph.constant("weight", {maps * d, s.hidden()}, matrix, working_type(precision));
  ids.y = linear(graph, "product", ids.x, ids.weight, ids.bias);
  const auto error = [=](const GraphCase& c) {
    reference::PerHeadLinearProblem problem({s.rows, kParts, s.heads, d, true, false, false, 1}, 0);
    problem.x = c.drawn(ids.x);
    problem.bias = c.drawn(ids.bias);
    for (std::size_t i = 0; i < drawn.size(); ++i) {
      problem.weight[i] = as_working(working_type(precision), drawn[i]);
    }
    Comparison y("y", c.dtype(ids.y));
    y.add(c.read(ids.y), reference::PerHeadLinearResult<float>(problem).y,
          reference::PerHeadLinearResult<double>(problem).y);
    return y.error();
  };
  return {.graph = std::move(graph), .timed = {0}, .error = error};
}

void add_all() {
  std::vector<Images> of_device = {
      {shapes::kMnistTutorial, on_gpu() ? 128 : shapes::kMnistTutorialChunk, !on_gpu()}};
  if (quick()) of_device = bench::images(Precision::fp32);
  for (const Precision precision : precisions()) {
    for (const Images& images : of_device) {
      const Sizes s{images.rows(), images.model.heads, images.model.head_size()};
      const MakeWork make = [=](const DeviceTraits&) { return maps(s, precision, false); };
      const Title title{"per_head_linear_forward" + s.text(), precision, images.chunk};
      add_graph(title, make, /*copy=*/true);
      add_graph_peer(
          title, "matmul", [=](const DeviceTraits&) { return one_product(s, precision); }, make);
      add_graph(
          {"per_head_linear_backward" + s.text(), precision, images.chunk},
          [=](const DeviceTraits&) { return maps(s, precision, true); }, /*copy=*/true);
    }
  }
}

const Registration registration(add_all);

}  // namespace
}  // namespace vitrine::bench
