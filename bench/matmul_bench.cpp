// matmul: the linear layers of the presets; forward, dx and dW with the gradient of the bias.
//
// Peers: a forward without its bias; dW with the bias gradient in an operation of its own, or in
// the same one, whichever the device does not do; on a GPU fp32 factors that may be rounded to
// tf32.
#include <bit>

#include "graph_case.h"
#include "reference/inputs.h"
#include "reference/matmul.h"

namespace vitrine::bench {
namespace {

constexpr std::int64_t kSideChecked = 11;  // of a grid of elements

struct Sizes {
  std::int64_t m, n, k;  // of the forward product: rows, outputs, inputs
  bool bias;
};

std::string text(std::int64_t m, std::int64_t n, std::int64_t k) {
  return "/m:" + std::to_string(m) + "/n:" + std::to_string(n) + "/k:" + std::to_string(k);
}

struct Ids {
  ValueId x, weight, bias, y, dy = kNone, dweight = kNone, dbias = kNone, dx = kNone;
};

// Nodes: the product, then dW, then dx.
Graph build(const Sizes& s, Precision precision, bool with_gradients, Ids& ids) {
  Graph graph = new_graph(precision);
  ids.x = random_input(graph, "x", {s.m, s.k});
  ids.weight = graph.parameter("weight", {s.n, s.k});
  ids.bias = s.bias ? graph.parameter("bias", {s.n}) : kNone;
  ids.y = linear(graph, "linear", ids.x, ids.weight, ids.bias);
  if (!with_gradients) return graph;
  ids.dy = differentiate(graph, ids.y);
  ids.dweight = graph.nodes()[1].outputs[0], ids.dbias = graph.nodes()[1].outputs[1];
  ids.dx = graph.nodes()[2].outputs[0];
  return graph;
}

/// Elements of a drawn matrix.
class Matrix {
 public:
  Matrix(const GraphCase& c, ValueId id) : c_(c), id_(id), cols_(c.graph().shape(id)[-1]) {}
  float operator()(std::int64_t row, std::int64_t col) const {
    return c_.drawn(id_, row * cols_ + col);
  }

 private:
  const GraphCase& c_;
  ValueId id_;
  std::int64_t cols_;
};

/// A naive product in tf32 drops the last 13 bits of its factors.
float as_factor(Precision precision, float number) {
  if (precision != Precision::tf32) return number;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(number) & 0xFFFFE000u);
}

/// A grid of elements of out [m, n] = a · b (+ bias).
template <typename A, typename B>
Comparison compare(const GraphCase& c, ValueId out, std::int64_t k, const A& a, const B& b,
                   const std::vector<float>& bias) {
  Comparison comparison(c.graph().value(out).name, c.dtype(out));
  const std::int64_t m = c.graph().shape(out)[0], n = c.graph().shape(out)[-1];
  const auto naive = [&](const auto& factor) {
    return [&](std::int64_t row, std::int64_t col) {
      return as_factor(c.graph().precision(), factor(row, col));
    };
  };
  for (const std::int64_t i : sample(m, kSideChecked)) {
    const std::vector<float> row = c.read(out, i * n, n);
    for (const std::int64_t j : sample(n, kSideChecked)) {
      const auto at = static_cast<std::size_t>(j);
      const float add = bias.empty() ? 0.0f : bias[at];
      comparison.add(
          {row[at]}, {reference::product_element<float>(i, j, k, naive(a), naive(b)) + add},
          {reference::product_element<double>(i, j, k, a, b) + static_cast<double>(add)});
    }
  }
  return comparison;
}

std::string forward_error(const GraphCase& c, const Sizes& s, const Ids& ids) {
  const Matrix x(c, ids.x), weight(c, ids.weight);
  const auto transposed = [&](std::int64_t l, std::int64_t j) { return weight(j, l); };
  return compare(c, ids.y, s.k, x, transposed, s.bias ? c.drawn(ids.bias) : std::vector<float>())
      .error();
}

std::string dx_error(const GraphCase& c, const Sizes& s, const Ids& ids) {
  return compare(c, ids.dx, s.n, Matrix(c, ids.dy), Matrix(c, ids.weight), {}).error();
}

std::string dweight_error(const GraphCase& c, const Sizes& s, const Ids& ids) {
  const Matrix x(c, ids.x), dy(c, ids.dy);
  const auto transposed = [&](std::int64_t i, std::int64_t l) { return dy(l, i); };
  std::vector<Comparison> outputs = {compare(c, ids.dweight, s.m, transposed, x, {})};
  if (s.bias) {
    Comparison dbias("dbias", DType::f32);
    const auto one = [](std::int64_t, std::int64_t) { return 1.0f; };
    // A product that sums its factor beside it sums what it made of it.
    const auto naive = [&](std::int64_t i, std::int64_t l) {
      return as_factor(c.graph().precision(), dy(l, i));
    };
    const std::vector<float> sums = c.read(ids.dbias);
    for (const std::int64_t i : sample(s.n, kSideChecked)) {
      dbias.add({sums[static_cast<std::size_t>(i)]},
                {reference::product_element<float>(i, 0, s.m, naive, one)},
                {reference::product_element<double>(i, 0, s.m, transposed, one)});
    }
    outputs.push_back(dbias);
  }
  return first_error(outputs);
}

using Check = std::string (*)(const GraphCase&, const Sizes&, const Ids&);

GraphWork product(const Sizes& s, Precision precision, std::size_t node, Check check) {
  Ids ids{};
  Graph graph = build(s, precision, node > 0, ids);
  return {.graph = std::move(graph), .timed = {node}, .error = [=](const GraphCase& c) {
            return check(c, s, ids);
          }};
}

void add_layer(const Sizes& s, Precision precision, bool chunk) {
  const Title forward{"matmul/forward" + text(s.m, s.n, s.k) + (s.bias ? "/bias" : ""), precision,
                      chunk};
  const auto make = [=](const Sizes& sizes, std::size_t node, Check check) {
    return [=](const DeviceTraits&) { return product(sizes, precision, node, check); };
  };
  const MakeWork make_forward = make(s, 0, forward_error);
  add_graph(forward, make_forward, /*copy=*/false);
  if (s.bias) {
    add_graph_peer(forward, "without_bias", make({s.m, s.n, s.k, false}, 0, forward_error),
                   make_forward);
  }
  add_graph({"matmul/dx" + text(s.m, s.k, s.n), precision, chunk}, make(s, 2, dx_error),
            /*copy=*/false);
  const Title gradient{"matmul/dweight" + text(s.n, s.k, s.m) + (s.bias ? "/bias_gradient" : ""),
                       precision, chunk};
  const MakeWork make_gradient = make(s, 1, dweight_error);
  add_graph(gradient, make_gradient, /*copy=*/false);
  if (!s.bias) return;
  // The same node told the other way.
  add_graph_peer(
      gradient, on_gpu() ? "column_sum_apart" : "column_sum_inside",
      [=](const DeviceTraits& traits) {
        GraphWork work = make_gradient(traits);
        work.traits = traits;
        work.traits->fuse_bias_gradient = !traits.fuse_bias_gradient;
        return work;
      },
      make_gradient);
}

void add_all() {
  std::vector<Precision> of_device = precisions();
  if (on_gpu()) of_device.push_back(Precision::tf32);
  for (const Precision precision : of_device) {
    for (const Images& images : bench::images(precision)) {
      const shapes::Model& m = images.model;
      const std::int64_t rows = images.rows();
      const bool per_head =
          m.hidden == shapes::kMnistTutorial.hidden;  // neither qkv nor projection
      const std::vector<Sizes> layers =
          per_head ? std::vector<Sizes>{}
                   : std::vector<Sizes>{{rows, 3 * m.hidden, m.hidden, true},
                                        {rows, m.hidden, m.hidden, true}};
      for (const Sizes& s : layers) add_layer(s, precision, images.chunk);
      for (const Sizes& s : {Sizes{rows, m.intermediate, m.hidden, false},
                             {rows, m.hidden, m.intermediate, true},
                             {images.batch * m.patches(), m.hidden, m.pixels(), true},
                             {images.batch, m.classes, m.hidden, true}}) {
        add_layer(s, precision, images.chunk);
      }
    }
  }
}

const Registration registration(add_all);

}  // namespace
}  // namespace vitrine::bench
