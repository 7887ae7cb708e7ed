// activation: bias and GELU of the MLP's inner layer, which keeps the derivative, and its gradient
// with that of the bias; then the whole inner layer, product and activation.
//
// Peers: a plain copy of the same bytes; of the inner layer the bias in the product's epilogue.
#include <algorithm>

#include "graph_case.h"
#include "reference/activation.h"
#include "reference/inputs.h"
#include "reference/matmul.h"

namespace vitrine::bench {
namespace {

constexpr std::int64_t kRowsChecked = 32, kRowsRead = 512;

struct Sizes {
  std::int64_t images, tokens, cols;
  ActivationKind kind;

  std::int64_t rows() const { return images * tokens; }
  std::string text() const {
    const char* names[] = {"gelu_erf", "gelu_tanh", "relu"};
    return "/rows:" + std::to_string(rows()) + "/cols:" + std::to_string(cols) + "/" +
           names[static_cast<int>(kind)] + "/bias/derivative";
  }
};

struct Ids {
  ValueId x, bias, y, saved, dy = kNone, dx = kNone, dbias = kNone;
};

Graph build(const Sizes& s, Precision precision, Ids& ids) {
  Graph graph = new_graph(precision);
  ids.x = random_input(graph, "x", {s.images, s.tokens, s.cols});
  ids.bias = graph.parameter("bias", {s.cols});
  ids.y = activation(graph, "activation", ids.x, ids.bias, s.kind, {}, {s.tokens, 0, s.tokens});
  ids.saved = graph.nodes()[0].outputs[1];
  return graph;
}

template <typename T>
reference::ActivationValues<T> values_of(const GraphCase& c, const Sizes& s, const Ids& ids,
                                         std::int64_t row) {
  return reference::activation_forward(s.kind, converted<T>(c.drawn(ids.x, row * s.cols, s.cols)),
                                       converted<T>(c.drawn(ids.bias)),
                                       std::vector<float>(static_cast<std::size_t>(s.cols), 1.0f));
}

std::string forward_error(const GraphCase& c, const Sizes& s, const Ids& ids) {
  Comparison y("y", c.dtype(ids.y)), saved("saved", c.dtype(ids.y));
  for (const std::int64_t row : sample(s.rows(), kRowsChecked)) {
    const auto naive = values_of<float>(c, s, ids, row);
    const auto exact = values_of<double>(c, s, ids, row);
    y.add(c.read(ids.y, row * s.cols, s.cols), naive.y, exact.y);
    saved.add(c.read(ids.saved, row * s.cols, s.cols), naive.derivative, exact.derivative);
  }
  return first_error({y, saved});
}

// The derivatives are taken as forward saved them, rounded.
std::string backward_error(const GraphCase& c, const Sizes& s, const Ids& ids) {
  Comparison dx("dx", c.dtype(ids.dx)), dbias("dbias", DType::f32);
  const std::vector<std::int64_t> checked = sample(s.rows(), kRowsChecked);
  std::vector<float> naive_sum(static_cast<std::size_t>(s.cols));
  std::vector<double> exact_sum(naive_sum.size());
  std::vector<float> derivatives;  // of some rows
  for (std::int64_t row = 0; row < s.rows(); ++row) {
    const std::int64_t in_block = row % kRowsRead;
    if (in_block == 0) {
      derivatives = c.read(ids.saved, row * s.cols, std::min(kRowsRead, s.rows() - row) * s.cols);
    }
    const float* derivative = derivatives.data() + in_block * s.cols;
    std::vector<float> naive = c.drawn(ids.dy, row * s.cols, s.cols);
    std::vector<double> exact = converted<double>(naive);
    for (std::size_t i = 0; i < naive.size(); ++i) {
      naive[i] *= derivative[i];
      exact[i] *= static_cast<double>(derivative[i]);
      naive_sum[i] += naive[i];
      exact_sum[i] += exact[i];
    }
    if (std::binary_search(checked.begin(), checked.end(), row)) {
      dx.add(c.read(ids.dx, row * s.cols, s.cols), naive, exact);
    }
  }
  dbias.add(c.read(ids.dbias), naive_sum, exact_sum);
  return first_error({dx, dbias});
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
  ids.dy = differentiate(graph, ids.y);
  ids.dx = graph.nodes()[1].outputs[0], ids.dbias = graph.nodes()[1].outputs[1];
  return {.graph = std::move(graph), .timed = {1}, .error = [=](const GraphCase& c) {
            return backward_error(c, s, ids);
          }};
}

/// x [rows, inputs] → f(x · weightᵀ + bias); the bias is added by the activation, as a model has
/// it, or by the product.
GraphWork inner_layer(const Sizes& s, std::int64_t inputs, Precision precision,
                      bool bias_in_product) {
  Graph graph = new_graph(precision);
  const ValueId x = random_input(graph, "x", {s.images, s.tokens, inputs});
  const ValueId weight = graph.parameter("weight", {s.cols, inputs});
  const ValueId bias = graph.parameter("bias", {s.cols});
  const ValueId hidden = linear(graph, "linear", x, weight, bias_in_product ? bias : kNone);
  const ValueId y = activation(graph, "activation", hidden, bias_in_product ? kNone : bias, s.kind,
                               {}, {s.tokens, 0, s.tokens});
  const auto error = [=](const GraphCase& c) {
    Comparison comparison("y", c.dtype(y));
    const auto b = [&](std::int64_t l, std::int64_t j) { return c.drawn(weight, j * inputs + l); };
    for (const std::int64_t row : sample(s.rows(), 11)) {
      const auto a = [&](std::int64_t i, std::int64_t l) { return c.drawn(x, i * inputs + l); };
      for (const std::int64_t col : sample(s.cols, 11)) {
        const float add = c.drawn(bias, col);
        const float sum = reference::product_element<float>(row, col, inputs, a, b);
        // What an unfused implementation writes between the two operations is rounded.
        const float between = as_working(c.dtype(y), bias_in_product ? sum + add : sum);
        const double exact =
            reference::product_element<double>(row, col, inputs, a, b) + static_cast<double>(add);
        comparison.add(c.read(y, row * s.cols + col, 1),
                       {reference::activation(s.kind, bias_in_product ? between : between + add)},
                       {reference::activation(s.kind, exact)});
      }
    }
    return comparison.error();
  };
  return {.graph = std::move(graph), .timed = {0, 1}, .error = error};
}

void add_all() {
  for (const Precision precision : precisions()) {
    for (const Images& images : bench::images(precision)) {
      const shapes::Model& m = images.model;
      for (const ActivationKind kind :
           {ActivationKind::gelu_erf, ActivationKind::gelu_tanh, ActivationKind::relu}) {
        const Sizes s{images.batch, m.tokens(), m.intermediate, kind};
        add_graph(
            {"activation_forward" + s.text(), precision, images.chunk},
            [=](const DeviceTraits&) { return forward(s, precision); },
            kind == ActivationKind::gelu_erf);
      }
      const Sizes s{images.batch, m.tokens(), m.intermediate, ActivationKind::gelu_erf};
      add_graph(
          {"activation_backward" + s.text(), precision, images.chunk},
          [=](const DeviceTraits&) { return backward(s, precision); }, /*copy=*/true);
      const auto inner = [=](bool bias_in_product) {
        return [=](const DeviceTraits&) {
          return inner_layer(s, m.hidden, precision, bias_in_product);
        };
      };
      const Title title{"matmul+activation_forward/m:" + std::to_string(s.rows()) +
                            "/n:" + std::to_string(s.cols) + "/k:" + std::to_string(m.hidden),
                        precision, images.chunk};
      add_graph(title, inner(false), /*copy=*/false);
      add_graph_peer(title, "bias_in_matmul", inner(true), inner(false));
    }
  }
}

const Registration registration(add_all);

}  // namespace
}  // namespace vitrine::bench
