// layer_norm, with the residual in front of it and alone, and its gradient.
//
// Peers: a plain copy of the same bytes; residual and normalisation apart; on a GPU cuDNN's
// normalisation.
#include <algorithm>

#include "cuda_peers.h"
#include "graph_case.h"
#include "reference/inputs.h"
#include "reference/layer_norm.h"

namespace vitrine::bench {
namespace {

constexpr float kEps = 1e-6f;
constexpr std::int64_t kRowsChecked = 64;

struct Sizes {
  std::int64_t images, tokens, cols;
  bool branch;

  std::int64_t rows() const { return images * tokens; }
  std::string text() const {
    return "/rows:" + std::to_string(rows()) + "/cols:" + std::to_string(cols) +
           (branch ? "/residual" : "");
  }
};

/// Ids of one normalisation, its gradient included where it has one.
struct Ids {
  ValueId x, branch, weight, bias, y, x_out, mean, rstd, dy, dresidual, dx, dweight, dbias;
};

/// Fused as a plan has it, or the residual apart.
Graph build(const Sizes& s, Precision precision, bool fused, Ids& ids) {
  Graph graph = new_graph(precision);
  const Shape shape{s.images, s.tokens, s.cols};
  ids.x = random_input(graph, "x", shape);
  ids.weight = graph.parameter("weight", Shape{s.cols});
  ids.bias = graph.parameter("bias", Shape{s.cols});
  ValueId normalised = ids.x;
  ids.branch = ids.x_out = kNone;
  if (s.branch) {
    ids.branch = random_input(graph, "branch", shape);
    normalised = ids.x_out =
        residual(graph, "residual", ids.x, ids.branch, {}, {}, {s.tokens, 0, s.tokens});
  }
  layer_norm(graph, "norm", normalised, ids.weight, ids.bias, kEps);
  if (s.branch) graph.keep(ids.x_out);
  if (fused) graph = fuse_residual_norm(graph);
  const Node& node = graph.nodes().back();
  ids.y = node.outputs[0], ids.mean = node.outputs[2], ids.rstd = node.outputs[3];
  ids.x = graph.find("x"), ids.branch = graph.find("branch");
  ids.weight = graph.find("weight"), ids.bias = graph.find("bias");
  if (s.branch) ids.x_out = fused ? node.outputs[1] : node.inputs[0];
  return graph;
}

/// Rows of what is normalised, from what was drawn, as they are after a trip through memory.
std::vector<float> normalised_rows(const GraphCase& c, const Ids& ids, std::int64_t first,
                                   std::int64_t count) {
  if (ids.x_out != kNone) return c.read(ids.x_out, first, count);
  return c.drawn(ids.x, first, count);
}

std::string forward_error(const GraphCase& c, const Sizes& s, const Ids& ids) {
  Comparison y("y", c.dtype(ids.y)), mean("mean", DType::f32), rstd("rstd", DType::f32);
  Comparison sum("x_out", c.dtype(ids.y));
  const std::vector<float> weight = c.drawn(ids.weight), bias = c.drawn(ids.bias);
  for (const std::int64_t row : sample(s.rows(), kRowsChecked)) {
    const std::vector<float> x = normalised_rows(c, ids, row * s.cols, s.cols);
    const auto naive = reference::layer_norm(x, weight, bias, s.cols, kEps);
    const auto exact = reference::layer_norm(converted<double>(x), converted<double>(weight),
                                             converted<double>(bias), s.cols, kEps);
    y.add(c.read(ids.y, row * s.cols, s.cols), naive.y, exact.y);
    mean.add(c.read(ids.mean, row, 1), naive.mean, exact.mean);
    rstd.add(c.read(ids.rstd, row, 1), naive.rstd, exact.rstd);
    if (!s.branch) {
      sum.add({0}, {0}, {0});
      continue;
    }
    std::vector<float> added = c.drawn(ids.x, row * s.cols, s.cols);
    std::vector<double> exactly = converted<double>(added);
    const std::vector<float> branch = c.drawn(ids.branch, row * s.cols, s.cols);
    for (std::size_t i = 0; i < branch.size(); ++i) {
      added[i] += branch[i];
      exactly[i] += static_cast<double>(branch[i]);
    }
    sum.add(x, added, exactly);
  }
  return first_error({y, mean, rstd, sum});
}

GraphWork forward(const Sizes& s, Precision precision, bool fused) {
  Ids ids{};
  Graph graph = build(s, precision, fused, ids);
  std::vector<std::size_t> timed;
  for (std::size_t i = 0; i < graph.nodes().size(); ++i) timed.push_back(i);
  return {.graph = std::move(graph), .timed = timed, .error = [s, ids](const GraphCase& c) {
            return forward_error(c, s, ids);
          }};
}

/// Sums over all rows, computed in T.
template <typename T>
struct Sums {
  std::vector<T> dweight, dbias;
  explicit Sums(std::int64_t cols)
      : dweight(static_cast<std::size_t>(cols)), dbias(static_cast<std::size_t>(cols)) {}
  void add(const reference::LayerNormGradients<T>& row) {
    for (std::size_t i = 0; i < dweight.size(); ++i) {
      dweight[i] += row.dweight[i];
      dbias[i] += row.dbias[i];
    }
  }
};

template <typename T>
reference::LayerNormGradients<T> gradients_of(const std::vector<float>& dy,
                                              const std::vector<float>& x,
                                              const std::vector<float>& weight,
                                              const std::vector<float>& dresidual) {
  return reference::layer_norm_gradients(converted<T>(dy), converted<T>(x), converted<T>(weight),
                                         converted<T>(dresidual), std::ssize(weight), kEps);
}

std::string backward_error(const GraphCase& c, const Sizes& s, const Ids& ids) {
  Comparison dx("dx", c.dtype(ids.dx)), dweight("dweight", DType::f32), dbias("dbias", DType::f32);
  const std::vector<float> weight = c.drawn(ids.weight);
  const std::vector<std::int64_t> checked = sample(s.rows(), kRowsChecked);
  Sums<float> naive_sums(s.cols);
  Sums<double> exact_sums(s.cols);
  for (std::int64_t row = 0; row < s.rows(); ++row) {
    const std::int64_t first = row * s.cols;
    const auto x = normalised_rows(c, ids, first, s.cols), dy = c.drawn(ids.dy, first, s.cols);
    const auto dresidual = c.drawn(ids.dresidual, first, s.cols);
    const auto naive = gradients_of<float>(dy, x, weight, dresidual);
    const auto exact = gradients_of<double>(dy, x, weight, dresidual);
    naive_sums.add(naive);
    exact_sums.add(exact);
    if (std::binary_search(checked.begin(), checked.end(), row)) {
      dx.add(c.read(ids.dx, first, s.cols), naive.dx, exact.dx);
    }
  }
  dweight.add(c.read(ids.dweight), naive_sums.dweight, exact_sums.dweight);
  dbias.add(c.read(ids.dbias), naive_sums.dbias, exact_sums.dbias);
  return first_error({dx, dweight, dbias});
}

/// Without a branch, which changes nothing in it: the gradient that skips the norm is added anyway.
GraphWork backward(const Sizes& s, Precision precision) {
  Ids ids{};
  Graph graph = build(s, precision, true, ids);
  ids.dresidual = graph.activation_value("x.skipped.grad", graph.shape(ids.x));
  graph.set_gradient(ids.x, ids.dresidual);
  ids.dy = differentiate(graph, ids.y);
  const Node& node = graph.nodes().back();
  ids.dx = node.outputs[0], ids.dweight = node.outputs[2], ids.dbias = node.outputs[3];
  auto timed = nodes_named(graph, "layer_norm_backward");
  return {.graph = std::move(graph), .timed = timed, .error = [s, ids](const GraphCase& c) {
            return backward_error(c, s, ids);
          }};
}

void add_all() {
  for (const Precision precision : precisions()) {
    for (const Images& images : bench::images(precision)) {
      const Sizes plain{images.batch, images.model.tokens(), images.model.hidden, false};
      const Sizes joined{images.batch, images.model.tokens(), images.model.hidden, true};
      const auto make = [=](const Sizes& s, bool fused) {
        return [=](const DeviceTraits&) { return forward(s, precision, fused); };
      };
      const auto title = [&](const std::string& operation, const Sizes& s,
                             const std::string& more = "") {
        return Title{operation + s.text() + more, precision, images.chunk};
      };
      const Title with_branch = title("layer_norm_forward", joined);
      add_graph(with_branch, make(joined, true), /*copy=*/true);
      add_graph_peer(with_branch, "unfused", make(joined, false), make(joined, true));
      const Title alone = title("layer_norm_forward", plain);
      add_graph(alone, make(plain, true), /*copy=*/true);
      if (on_gpu()) {
        add(alone.with_peer("cudnn"), [=](Device& device) {
          return cudnn_normalization(device, plain.rows(), plain.cols, working_type(precision),
                                     cost_of(forward(plain, precision, true)));
        });
      }
      add_graph(
          title("layer_norm_backward", plain, "/skip"),
          [=](const DeviceTraits&) { return backward(plain, precision); }, /*copy=*/true);
    }
  }
}

const Registration registration(add_all);

}  // namespace
}  // namespace vitrine::bench
