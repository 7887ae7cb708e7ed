// patch_convolution: the patch projection of normalised images as a convolution.
#include "graph/operations.h"

namespace vitrine {
namespace {

/// What both directions are told.
struct Geometry {
  std::int64_t batch = 0, channels = 0, height = 0, width = 0, patch_size = 0, hidden = 0;
  bool tf32 = false;

  std::int64_t patches() const { return height / patch_size * (width / patch_size); }
  std::int64_t y_size() const { return batch * patches() * hidden; }
  std::int64_t weight_size() const { return hidden * channels * patch_size * patch_size; }
  double flops() const {
    return 2.0 * static_cast<double>(batch * patches()) * static_cast<double>(weight_size());
  }
};

/// in: dy, images   out: dweight
struct PatchConvolutionBackwardOperation final : Operation {
  Geometry geometry;

  explicit PatchConvolutionBackwardOperation(const Geometry& g) : geometry(g) {}
  std::string name() const override { return "patch_convolution_backward"; }
  double flops(const Graph&, const Node&) const override { return geometry.flops(); }
  std::int64_t workspace(const Graph&, const Node&, const DeviceTraits&) const override {
    return geometry.y_size() + geometry.weight_size();
  }
  void run(Kernels& kernels, const Operands& operands) const override {
    kernels.patch_convolution_backward({.dweight = operands.out(0).f32(),
                                        .dy = operands.in(0),
                                        .images = operands.in(1),
                                        .workspace = operands.workspace(),
                                        .batch = geometry.batch,
                                        .channels = geometry.channels,
                                        .height = geometry.height,
                                        .width = geometry.width,
                                        .patch_size = geometry.patch_size,
                                        .hidden = geometry.hidden,
                                        .tf32 = geometry.tf32,
                                        .accumulate = operands.accumulate()});
  }
};

/// in: images, weight, bias   out: y
struct PatchConvolutionOperation final : Operation {
  Geometry geometry;

  explicit PatchConvolutionOperation(const Geometry& g) : geometry(g) {}
  std::string name() const override { return "patch_convolution_forward"; }
  double flops(const Graph&, const Node&) const override { return geometry.flops(); }
  std::int64_t workspace(const Graph&, const Node&, const DeviceTraits&) const override {
    return geometry.y_size();
  }
  void gradient(Graph& graph, const Node& node) const override {
    const ValueId images = node.inputs[0], weight = node.inputs[1], bias = node.inputs[2];
    require(!graph.value(images).needs_gradient, node.name,
            "the convolution has no gradient of its images, expected images without one");
    const ValueId dy = graph.gradient(node.outputs[0]);
    const ValueId dweight = graph.parameter_gradient(weight);
    if (dweight != kNone) {
      graph.append_to(std::make_shared<PatchConvolutionBackwardOperation>(geometry), node.name,
                      {dy, images}, {dweight});
    }
    bias_gradient(graph, node, dy, bias);
  }
  void run(Kernels& kernels, const Operands& operands) const override {
    kernels.patch_convolution_forward({.y = operands.out(0),
                                       .images = operands.in(0),
                                       .weight = operands.in(1),
                                       .bias = operands.in(2),
                                       .workspace = operands.workspace(),
                                       .batch = geometry.batch,
                                       .channels = geometry.channels,
                                       .height = geometry.height,
                                       .width = geometry.width,
                                       .patch_size = geometry.patch_size,
                                       .hidden = geometry.hidden,
                                       .tf32 = geometry.tf32});
  }
};

}  // namespace

ValueId patch_convolution(Graph& graph, const std::string& name, ValueId images, ValueId weight,
                          ValueId bias, const PatchEmbedOptions& options) {
  const std::int64_t p = options.patch_size;
  require(p > 0 && options.height % p == 0 && options.width % p == 0, name,
          "image " + std::to_string(options.height) + "x" + std::to_string(options.width) +
              " is not divisible by patch size " + std::to_string(p));
  const Shape& given = graph.shape(images);
  const std::int64_t image = options.channels * options.height * options.width;
  require(given.rank() > 1 && given.elements() == given[0] * image, name,
          "images are " + given.str() + ", expected [B, " + std::to_string(options.channels) +
              ", " + std::to_string(options.height) + ", " + std::to_string(options.width) + "]");
  const Shape& filter = graph.shape(weight);
  const std::int64_t hidden = filter[0];
  require(filter.elements() == hidden * options.channels * p * p, name,
          "weight " + filter.str() + " does not fit " + std::to_string(options.channels) +
              " channels and patch size " + std::to_string(p));
  require(bias == kNone || graph.shape(bias).elements() == hidden, name,
          "bias does not fit weight " + filter.str());
  const Geometry geometry{.batch = given[0],
                          .channels = options.channels,
                          .height = options.height,
                          .width = options.width,
                          .patch_size = p,
                          .hidden = hidden,
                          .tf32 = graph.precision() == Precision::tf32};
  const Shape shape{geometry.batch, geometry.patches(), hidden};
  return graph.append(std::make_shared<PatchConvolutionOperation>(geometry), name,
                      {images, weight, bias}, {{name, shape}})[0];
}

}  // namespace vitrine
