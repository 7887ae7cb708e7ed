// patch_embed: images to rows of pixels, and the gradient of the images when somebody wants it.
#include "graph/operations.h"

namespace vitrine {
namespace {

/// in: dpatches, std   out: dimages
struct PatchEmbedBackwardOperation final : Operation {
  PatchEmbedOptions options;

  std::string name() const override { return "patch_embed_backward"; }
  double flops(const Graph& graph, const Node& node) const override {
    return static_cast<double>(graph.shape(node.outputs[0]).elements());
  }
  void run(Kernels& kernels, const Operands& operands) const override {
    kernels.patch_embed_backward({.dimages = operands.out(0),
                                  .dpatches = operands.in(0),
                                  .std = operands.in(1).f32(),
                                  .channels = options.channels,
                                  .height = options.height,
                                  .width = options.width,
                                  .patch_size = options.patch_size});
  }
};

}  // namespace

ValueId patch_embed(Graph& graph, const std::string& name, ValueId images, ValueId rows,
                    ValueId mean, ValueId std, const PatchEmbedOptions& options) {
  const std::int64_t p = options.patch_size;
  require(p > 0 && options.height % p == 0 && options.width % p == 0, name,
          "image " + std::to_string(options.height) + "x" + std::to_string(options.width) +
              " is not divisible by patch size " + std::to_string(p));
  const Shape& stored = graph.shape(images);
  require(stored.rank() == 4 && stored[1] == options.channels &&
              stored[2] == options.source_height && stored[3] == options.source_width,
          name,
          "images are " + stored.str() + ", expected [N, " + std::to_string(options.channels) +
              ", " + std::to_string(options.source_height) + ", " +
              std::to_string(options.source_width) + "]");
  require(graph.shape(mean).elements() == options.channels &&
              graph.shape(std).elements() == options.channels,
          name,
          "mean " + graph.shape(mean).str() + " and std " + graph.shape(std).str() +
              " do not fit " + std::to_string(options.channels) + " channels");
  auto operation = std::make_shared<PatchEmbedOperation>();
  operation->options = options;
  const std::int64_t patches = (options.height / p) * (options.width / p);
  const Shape shape{graph.shape(rows)[0], patches, options.channels * p * p};
  return graph.append(operation, name, {images, rows, mean, std}, {{name, shape}})[0];
}

double PatchEmbedOperation::flops(const Graph& graph, const Node& node) const {
  return 2.0 * static_cast<double>(graph.shape(node.outputs[0]).elements());
}

void PatchEmbedOperation::gradient(Graph& graph, const Node& node) const {
  const ValueId images = node.inputs[0];
  auto operation = std::make_shared<PatchEmbedBackwardOperation>();
  operation->options = options;
  const Shape shape{graph.shape(node.outputs[0])[0], options.channels, options.height,
                    options.width};
  const auto dimages =
      graph.append(operation, node.name, {graph.gradient(node.outputs[0]), node.inputs[3]},
                   {{graph.value(images).name + ".grad", shape}});
  graph.add_gradient(images, dimages[0]);
}

void PatchEmbedOperation::run(Kernels& kernels, const Operands& operands) const {
  const ConstView<void> rows = operands.in(1);
  kernels.patch_embed_forward({.patches = operands.out(0),
                               .images = operands.in(0),
                               .rows = {static_cast<const BatchRow*>(rows.data),
                                        rows.size / static_cast<std::int64_t>(sizeof(BatchRow))},
                               .mean = operands.in(2).f32(),
                               .std = operands.in(3).f32(),
                               .channels = options.channels,
                               .height = options.height,
                               .width = options.width,
                               .patch_size = options.patch_size,
                               .source_height = options.source_height,
                               .source_width = options.source_width});
}

}  // namespace vitrine
