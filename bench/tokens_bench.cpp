// tokens: class token and positions put to the patches, and their gradients; pool: the way back.
//
// Peer: a plain copy of the same bytes.
#include "graph_case.h"
#include "reference/inputs.h"
#include "reference/tokens.h"

namespace vitrine::bench {
namespace {

constexpr std::int64_t kImagesChecked = 3;

struct Sizes {
  std::int64_t batch, patches, hidden;

  std::int64_t tokens() const { return patches + 1; }
  std::string text() const {
    return "/B:" + std::to_string(batch) + "/T:" + std::to_string(tokens()) +
           "/D:" + std::to_string(hidden);
  }
};

struct Ids {
  ValueId patches, class_token, position, x, dx = kNone, dpatches, dclass, dposition;
};

Graph build(const Sizes& s, Precision precision, Ids& ids) {
  Graph graph = new_graph(precision);
  ids.patches = random_input(graph, "patches", {s.batch, s.patches, s.hidden});
  ids.class_token = graph.parameter("class_token", {s.hidden});
  ids.position = graph.parameter("position", {s.tokens(), s.hidden});
  ids.x =
      tokens(graph, "tokens", ids.patches, ids.class_token, ids.position, ClassToken::first, {});
  return graph;
}

/// The operation on one image alone.
reference::tokens::Problem problem_of(const GraphCase& c, const Sizes& s, const Ids& ids,
                                      std::int64_t image) {
  reference::tokens::Problem problem(
      {1, s.patches, s.hidden, ClassToken::first, s.tokens(), 0.0f, false}, 0);
  problem.patches = c.drawn(ids.patches, image * s.patches * s.hidden, s.patches * s.hidden);
  problem.class_token = c.drawn(ids.class_token);
  problem.position = c.drawn(ids.position);
  if (ids.dx != kNone) {
    problem.dx = c.drawn(ids.dx, image * s.tokens() * s.hidden, s.tokens() * s.hidden);
  }
  return problem;
}

std::string forward_error(const GraphCase& c, const Sizes& s, const Ids& ids) {
  Comparison x("x", c.dtype(ids.x));
  const std::int64_t size = s.tokens() * s.hidden;
  for (const std::int64_t image : sample(s.batch, kImagesChecked)) {
    const auto problem = problem_of(c, s, ids, image);
    x.add(c.read(ids.x, image * size, size), reference::tokens::reference_forward<float>(problem),
          reference::tokens::reference_forward<double>(problem));
  }
  return x.error();
}

template <typename T>
void add_to(std::vector<T>& sums, const std::vector<T>& more) {
  sums.resize(more.size());
  for (std::size_t i = 0; i < more.size(); ++i) sums[i] += more[i];
}

std::string backward_error(const GraphCase& c, const Sizes& s, const Ids& ids) {
  Comparison dpatches("dpatches", c.dtype(ids.dpatches)), dclass("dclass", DType::f32),
      dposition("dposition", DType::f32);
  const std::vector<std::int64_t> checked = sample(s.batch, kImagesChecked);
  std::vector<float> naive_class, naive_position;
  std::vector<double> exact_class, exact_position;
  for (std::int64_t image = 0; image < s.batch; ++image) {
    const auto problem = problem_of(c, s, ids, image);
    const reference::tokens::ReferenceGradients<float> naive(problem);
    const reference::tokens::ReferenceGradients<double> exact(problem);
    add_to(naive_class, naive.dclass), add_to(naive_position, naive.dposition);
    add_to(exact_class, exact.dclass), add_to(exact_position, exact.dposition);
    if (std::binary_search(checked.begin(), checked.end(), image)) {
      const std::int64_t size = s.patches * s.hidden;
      dpatches.add(c.read(ids.dpatches, image * size, size), naive.dpatches, exact.dpatches);
    }
  }
  dclass.add(c.read(ids.dclass), naive_class, exact_class);
  dposition.add(c.read(ids.dposition), naive_position, exact_position);
  return first_error({dpatches, dclass, dposition});
}

GraphWork forward(const Sizes& s, Precision precision) {
  Ids ids{};
  Graph graph = build(s, precision, ids);
  return {.graph = std::move(graph), .timed = {0}, .error = [=](const GraphCase& c) {
            return forward_error(c, s, ids);
          }};
}

GraphWork backward(const Sizes& s, Precision precision) {
  Ids ids{};
  Graph graph = build(s, precision, ids);
  ids.dx = differentiate(graph, ids.x);
  const Node& node = graph.nodes()[1];
  ids.dpatches = node.outputs[0], ids.dclass = node.outputs[1], ids.dposition = node.outputs[2];
  return {.graph = std::move(graph), .timed = {1}, .error = [=](const GraphCase& c) {
            return backward_error(c, s, ids);
          }};
}

reference::pool::Problem pool_problem(const Sizes& s, const TokenWindow& window) {
  return reference::pool::Problem({1, s.hidden, window}, 0);
}

GraphWork pool_of(const Sizes& s, const TokenWindow& window, Precision precision, bool gradient) {
  Graph graph = new_graph(precision);
  const ValueId x = random_input(graph, "x", {s.batch, s.tokens(), s.hidden});
  const ValueId y = pool(graph, "pool", x, window);
  const ValueId dy = gradient ? differentiate(graph, y) : kNone;
  const ValueId dx = gradient ? graph.nodes()[1].outputs[0] : kNone;
  const auto error = [=](const GraphCase& c) {
    Comparison comparison(gradient ? "dx" : "y", c.dtype(y));
    const std::int64_t size = s.tokens() * s.hidden;
    for (const std::int64_t image : sample(s.batch, kImagesChecked)) {
      reference::pool::Problem problem = pool_problem(s, window);
      if (gradient) {
        problem.dy = c.drawn(dy, image * s.hidden, s.hidden);
        comparison.add(c.read(dx, image * size, size),
                       reference::pool::reference_backward<float>(problem, false),
                       reference::pool::reference_backward<double>(problem, false));
      } else {
        problem.x = c.drawn(x, image * size, size);
        comparison.add(c.read(y, image * s.hidden, s.hidden),
                       reference::pool::reference_forward<float>(problem),
                       reference::pool::reference_forward<double>(problem));
      }
    }
    return comparison.error();
  };
  return {.graph = std::move(graph),
          .timed = {gradient ? std::size_t{1} : std::size_t{0}},
          .error = error};
}

void add_all() {
  for (const Precision precision : precisions()) {
    for (const Images& images : bench::images(precision)) {
      const Sizes s{images.batch, images.model.patches(), images.model.hidden};
      add_graph(
          {"tokens_forward" + s.text(), precision, images.chunk},
          [=](const DeviceTraits&) { return forward(s, precision); }, /*copy=*/true);
      add_graph(
          {"tokens_backward" + s.text(), precision, images.chunk},
          [=](const DeviceTraits&) { return backward(s, precision); }, /*copy=*/true);
      for (const auto& [name, window] : {std::pair{"/token", TokenWindow{1, 0, s.tokens()}},
                                         {"/mean", TokenWindow{s.patches, 1, s.tokens()}}}) {
        for (const bool gradient : {false, true}) {
          add_graph(
              {(gradient ? "pool_backward" : "pool_forward") + s.text() + name, precision,
               images.chunk},
              [s, window = window, precision, gradient](const DeviceTraits&) {
                return pool_of(s, window, precision, gradient);
              },
              /*copy=*/false);
        }
      }
    }
  }
}

const Registration registration(add_all);

}  // namespace
}  // namespace vitrine::bench
