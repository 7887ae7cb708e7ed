// cross_entropy with the gradient of the logits and the counts; of the tutorial's head, which takes
// the softmax twice, too.
//
// Peers: a plain copy of the same bytes; on a GPU cuDNN's softmax, the larger part of it.
#include <cstring>

#include "cuda_peers.h"
#include "graph_case.h"
#include "reference/cross_entropy.h"

namespace vitrine::bench {
namespace {

namespace oracle = reference::cross_entropy;

constexpr float kSmoothing = 0.1f;

struct Sizes {
  std::int64_t batch, classes;
  bool head_softmax;

  std::string text() const {
    return "/B:" + std::to_string(batch) + "/K:" + std::to_string(classes) + "/smoothing" +
           (head_softmax ? "/head_softmax" : "");
  }
};

std::vector<char> bytes_of(const std::vector<std::int32_t>& labels) {
  std::vector<char> bytes(labels.size() * sizeof(std::int32_t));
  std::memcpy(bytes.data(), labels.data(), bytes.size());
  return bytes;
}

GraphWork work(const Sizes& s, Precision precision) {
  Graph graph = new_graph(precision);
  const ValueId logits = random_input(graph, "logits", {s.batch, s.classes});
  const ValueId labels = graph.input("labels", {s.batch}, DType::i32, ValueKind::row_input);
  const LossValues values =
      cross_entropy(graph, "loss", logits, labels,
                    {.label_smoothing = kSmoothing, .head_softmax = s.head_softmax});
  const oracle::Problem drawn({s.batch, s.classes, kSmoothing, s.head_softmax, false}, kSeed);
  const auto error = [=](const GraphCase& c) {
    oracle::Problem problem = drawn;
    problem.logits = c.drawn(logits);
    problem.state = c.state();
    const oracle::Reference<float> naive(problem);
    const oracle::Reference<double> exact(problem);
    Comparison loss("loss", DType::f32), gradient("dlogits", c.dtype(values.dlogits));
    loss.add(c.read(values.loss), naive.loss, exact.loss);
    gradient.add(c.read(values.dlogits), naive.dlogits, exact.dlogits);
    std::int64_t labelled = 0;
    for (const std::int32_t label : problem.labels) labelled += label >= 0 ? 1 : 0;
    const std::string wrong = first_error({loss, gradient});
    if (!wrong.empty() || c.metrics().samples == labelled) return wrong;
    return "metrics: found " + std::to_string(c.metrics().samples) + " samples, expected " +
           std::to_string(labelled);
  };
  return {.graph = std::move(graph),
          .timed = {0},
          .error = error,
          .given = {{labels, bytes_of(drawn.labels)}}};
}

void add_all() {
  std::vector<Sizes> sizes = {{shapes::kMnistTutorialChunk, 10, true},
                              {shapes::kCifar10SmallChunk, 10, false},
                              {shapes::kVitTinyChunk, 1000, false}};
  if (on_gpu())
    sizes = {{128, 10, true}, {256, 10, false}, {256, 1000, false}, {1024, 1000, false}};
  if (quick()) sizes = {{5, 10, true}, {5, 10, false}};
  for (const Precision precision : precisions()) {
    for (const Sizes& s : sizes) {
      const bool chunk = !on_gpu() && !quick() && s.classes == 10;
      const Title title{"cross_entropy" + s.text(), precision, chunk};
      add_graph(
          title, [=](const DeviceTraits&) { return work(s, precision); }, /*copy=*/true);
      if (!on_gpu()) continue;
      add(title.with_peer("cudnn_softmax"), [=](Device& device) {
        return cudnn_softmax(device, s.batch, s.classes, working_type(precision),
                             cost_of(work(s, precision)));
      });
    }
  }
}

const Registration registration(add_all);

}  // namespace
}  // namespace vitrine::bench
