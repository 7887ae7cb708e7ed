// patch_convolution: the patch projection of normalised images (cuDNN's convolution on a GPU), and
// the gradient of its weight; and the whole road from stored bytes to tokens' vectors by it.
//
// Peers: the same product of unfolded patches; of the whole road unfold and matmul.
#include "patch_images.h"
#include "reference/matmul.h"
#include "reference/patch_convolution.h"

namespace vitrine::bench {
namespace {

namespace oracle = reference::patch_convolution;

constexpr std::int64_t kImagesChecked = 2, kOutputsChecked = 5;

std::string text(const PatchSizes& s) {
  return s.text() + "/D:" + std::to_string(s.hidden);
}

oracle::Case reference_case(const PatchSizes& s, std::int64_t batch, std::int64_t hidden) {
  return {batch, s.channels, s.image_size, s.image_size, s.patch_size, hidden};
}

/// Some output channels of one image. `image` are its normalised pixels.
void add_image(Comparison& comparison, const GraphCase& c, const PatchSizes& s, ValueId y,
               ValueId weight, ValueId bias, std::int64_t image, const std::vector<float>& pixels) {
  const std::int64_t size = s.patches() * s.hidden;
  const std::vector<float> found = c.read(y, image * size, size);
  for (const std::int64_t o : sample(s.hidden, kOutputsChecked)) {
    oracle::Problem problem(reference_case(s, 1, 1), 0);
    problem.images = pixels;
    problem.weight = c.drawn(weight, o * s.pixels(), s.pixels());
    problem.bias = {c.drawn(bias, o)};
    std::vector<float> of_output;
    for (std::int64_t p = 0; p < s.patches(); ++p) {
      of_output.push_back(found[static_cast<std::size_t>(p * s.hidden + o)]);
    }
    comparison.add(of_output, oracle::forward<float>(problem, true),
                   oracle::forward<double>(problem, true));
  }
}

struct Parameters {
  ValueId weight, bias;
  Parameters(Graph& graph, const PatchSizes& s)
      : weight(graph.parameter("weight", {s.hidden, s.channels, s.patch_size, s.patch_size})),
        bias(graph.parameter("bias", {s.hidden})) {}
};

GraphWork forward(const PatchSizes& s, Precision precision) {
  Graph graph = new_graph(precision);
  const ValueId images =
      graph.activation_value("images", {s.batch, s.channels, s.image_size, s.image_size});
  const Parameters of_layer(graph, s);
  const ValueId y =
      patch_convolution(graph, "y", images, of_layer.weight, of_layer.bias, s.options());
  const auto error = [=](const GraphCase& c) {
    Comparison comparison("y", c.dtype(y));
    for (const std::int64_t image : sample(s.batch, kImagesChecked)) {
      add_image(comparison, c, s, y, of_layer.weight, of_layer.bias, image,
                c.drawn(images, image * s.image_elements(), s.image_elements()));
    }
    return comparison.error();
  };
  return {.graph = std::move(graph), .timed = {0}, .error = error};
}

GraphWork backward(const PatchSizes& s, Precision precision) {
  Graph graph = new_graph(precision);
  const ValueId images =
      graph.activation_value("images", {s.batch, s.channels, s.image_size, s.image_size});
  const Parameters of_layer(graph, s);
  const ValueId y =
      patch_convolution(graph, "y", images, of_layer.weight, of_layer.bias, s.options());
  const ValueId dy = differentiate(graph, y);
  const std::size_t node = nodes_named(graph, "patch_convolution_backward").at(0);
  const ValueId dweight = graph.nodes()[node].outputs[0];
  const auto error = [=](const GraphCase& c) {
    // Of 16-bit operands cuDNN has a 16-bit gradient alone.
    Comparison comparison("dweight", c.dtype(y));
    oracle::Problem problem(reference_case(s, s.batch, 1), 0);
    problem.images = c.drawn(images);
    for (const std::int64_t o : sample(s.hidden, 2)) {
      for (std::int64_t row = 0; row < s.batch * s.patches(); ++row) {
        problem.dy[static_cast<std::size_t>(row)] = c.drawn(dy, row * s.hidden + o);
      }
      comparison.add(c.read(dweight, o * s.pixels(), s.pixels()),
                     oracle::weight_gradient<float>(problem, false),
                     oracle::weight_gradient<double>(problem, false));
    }
    return comparison.error();
  };
  return {.graph = std::move(graph), .timed = {node}, .error = error};
}

/// Rows of patches as unfold leaves them: x [B, P, C·p·p] · weightᵀ + bias.
GraphWork product(const PatchSizes& s, Precision precision) {
  Graph graph = new_graph(precision);
  const ValueId x = graph.activation_value("patches", {s.batch, s.patches(), s.pixels()});
  const Parameters of_layer(graph, s);
  const ValueId y = linear(graph, "y", x, of_layer.weight, of_layer.bias);
  const auto error = [=](const GraphCase& c) {
    Comparison comparison("y", c.dtype(y));
    const auto a = [&](std::int64_t i, std::int64_t l) { return c.drawn(x, i * s.pixels() + l); };
    const auto b = [&](std::int64_t l, std::int64_t j) {
      return c.drawn(of_layer.weight, j * s.pixels() + l);
    };
    for (const std::int64_t i : sample(s.batch * s.patches(), 11)) {
      for (const std::int64_t j : sample(s.hidden, 11)) {
        const float add = c.drawn(of_layer.bias, j);
        comparison.add(c.read(y, i * s.hidden + j, 1),
                       {reference::product_element<float>(i, j, s.pixels(), a, b) + add},
                       {reference::product_element<double>(i, j, s.pixels(), a, b) +
                        static_cast<double>(add)});
      }
    }
    return comparison.error();
  };
  return {.graph = std::move(graph), .timed = {0}, .error = error};
}

/// Stored bytes to vectors, as a model takes either road.
GraphWork projection(const PatchSizes& s, Precision precision, bool convolves) {
  Graph graph = new_graph(precision);
  const StoredImages stored(graph, s, false);
  PatchEmbedOptions options = s.options();
  if (convolves) options.patch_size = s.image_size;  // one patch: the normalised image
  const ValueId pixels =
      patch_embed(graph, "pixels", stored.images, stored.rows, stored.mean, stored.std, options);
  const Parameters of_layer(graph, s);
  const ValueId y =
      convolves ? patch_convolution(graph, "y", pixels, of_layer.weight, of_layer.bias, s.options())
                : linear(graph, "y", pixels, of_layer.weight, of_layer.bias);
  const auto error = [=](const GraphCase& c) {
    Comparison comparison("y", c.dtype(y));
    for (const std::int64_t image : sample(s.batch, kImagesChecked)) {
      // The normalised image, rounded as it is between the two operations.
      const auto problem = stored.problem(c, s, image, s.image_size);
      std::vector<float> normalised =
          reference::patch_embed::patches_of<float>(problem, problem.bytes);
      for (float& pixel : normalised) pixel = as_working(c.dtype(y), pixel);
      add_image(comparison, c, s, y, of_layer.weight, of_layer.bias, image, normalised);
    }
    return comparison.error();
  };
  return {.graph = std::move(graph),
          .timed = {0, 1},
          .error = error,
          .given = {{stored.rows, stored.row_bytes()}}};
}

void add_all() {
  for (const Precision precision : precisions()) {
    for (const Images& images : bench::images(precision)) {
      const PatchSizes s = patch_sizes(images);
      const MakeWork convolution = [=](const DeviceTraits&) { return forward(s, precision); };
      const Title title{"patch_convolution_forward" + text(s), precision, images.chunk};
      add_graph(title, convolution, /*copy=*/false);
      add_graph_peer(
          title, "matmul", [=](const DeviceTraits&) { return product(s, precision); }, convolution);
      add_graph(
          {"patch_convolution_backward" + text(s), precision, images.chunk},
          [=](const DeviceTraits&) { return backward(s, precision); }, /*copy=*/false);
      const auto road = [=](bool convolves) {
        return [=](const DeviceTraits&) { return projection(s, precision, convolves); };
      };
      const Title whole{"patch_embed+patch_convolution_forward" + text(s), precision, images.chunk};
      add_graph(whole, road(true), /*copy=*/false);
      add_graph_peer(whole, "unfold_and_matmul", road(false), road(true));
    }
  }
}

const Registration registration(add_all);

}  // namespace
}  // namespace vitrine::bench
