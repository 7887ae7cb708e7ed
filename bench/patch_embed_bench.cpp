// patch_embed: stored bytes to normalised patches, of whole images and of random views; the
// gradient of the images.
//
// Peer: a plain copy of the same bytes. The stored images are not counted among them, as nowhere.
#include "patch_images.h"

namespace vitrine::bench {
namespace {

namespace oracle = reference::patch_embed;

constexpr std::int64_t kImagesChecked = 2;

GraphWork forward(const PatchSizes& s, Precision precision, bool varied) {
  Graph graph = new_graph(precision);
  const StoredImages stored(graph, s, varied);
  const ValueId patches = patch_embed(graph, "patches", stored.images, stored.rows, stored.mean,
                                      stored.std, s.options());
  const auto error = [=](const GraphCase& c) {
    Comparison comparison("patches", c.dtype(patches));
    for (const std::int64_t image : sample(s.batch, kImagesChecked)) {
      const oracle::Problem problem = stored.problem(c, s, image, s.patch_size);
      comparison.add(c.read(patches, image * s.image_elements(), s.image_elements()),
                     oracle::patches_of<float>(problem, problem.bytes),
                     oracle::patches_of<double>(problem, problem.bytes));
    }
    return comparison.error();
  };
  return {.graph = std::move(graph),
          .timed = {0},
          .error = error,
          .given = {{stored.rows, stored.row_bytes()}}};
}

GraphWork backward(const PatchSizes& s, Precision precision) {
  Graph graph = new_graph(precision);
  const StoredImages stored(graph, s, false);
  graph.require_gradient(stored.images);
  const ValueId patches = patch_embed(graph, "patches", stored.images, stored.rows, stored.mean,
                                      stored.std, s.options());
  const ValueId dpatches = differentiate(graph, patches);
  const ValueId dimages = graph.nodes()[1].outputs[0];
  const auto error = [=](const GraphCase& c) {
    Comparison comparison("dimages", c.dtype(dimages));
    for (const std::int64_t image : sample(s.batch, kImagesChecked)) {
      const oracle::Problem problem = stored.problem(c, s, image, s.patch_size);
      const std::int64_t first = image * s.image_elements();
      const std::vector<float> of_image = c.drawn(dpatches, first, s.image_elements());
      comparison.add(c.read(dimages, first, s.image_elements()),
                     oracle::folded<float>(problem, of_image),
                     oracle::folded<double>(problem, of_image));
    }
    return comparison.error();
  };
  return {.graph = std::move(graph),
          .timed = {1},
          .error = error,
          .given = {{stored.rows, stored.row_bytes()}}};
}

void add_all() {
  for (const Precision precision : precisions()) {
    for (const Images& images : bench::images(precision)) {
      if (images.model.hidden > shapes::kVitTiny.hidden) continue;  // reads what ViT-Ti reads
      const PatchSizes s = patch_sizes(images);
      for (const bool varied : {false, true}) {
        add_graph(
            {"patch_embed_forward" + s.text() + (varied ? "/views" : ""), precision, images.chunk},
            [=](const DeviceTraits&) { return forward(s, precision, varied); },
            /*copy=*/!varied);
      }
      add_graph(
          {"patch_embed_backward" + s.text(), precision, images.chunk},
          [=](const DeviceTraits&) { return backward(s, precision); }, /*copy=*/true);
    }
  }
}

const Registration registration(add_all);

}  // namespace
}  // namespace vitrine::bench
