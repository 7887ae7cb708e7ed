// cross_entropy: loss, counts and the gradient of the logits in one operation.
#include "graph/operations.h"

namespace vitrine {

LossValues cross_entropy(Graph& graph, const std::string& name, ValueId logits, ValueId labels,
                         const LossOptions& options, ValueId mixes) {
  auto operation = std::make_shared<CrossEntropyOperation>();
  const Shape shape = graph.shape(logits);
  require(shape.rank() == 2 && graph.shape(labels).elements() == shape[0], name,
          "labels " + graph.shape(labels).str() + " do not fit logits " + shape.str());
  require(mixes == kNone ||
              graph.value(mixes).bytes() == shape[0] * static_cast<std::int64_t>(sizeof(LabelMix)),
          name, "mixes do not fit labels " + graph.shape(labels).str());
  operation->batch = shape[0];
  operation->classes = shape[1];
  operation->options = options;
  const auto outputs =
      graph.append(operation, name, {logits, labels, mixes},
                   {{name, Shape{shape[0]}, DType::f32},
                    {graph.training() ? "logits.grad" : "", shape},
                    {options.probabilities ? "probabilities" : "", shape, DType::f32}});
  return {outputs[0], outputs[1], outputs[2]};
}

double CrossEntropyOperation::flops(const Graph&, const Node&) const {
  return 10.0 * static_cast<double>(batch * classes);
}

void CrossEntropyOperation::gradient(Graph& graph, const Node& node) const {
  graph.add_gradient(node.inputs[0], node.outputs[1]);
}

void CrossEntropyOperation::run(Kernels& kernels, const Operands& operands) const {
  const ConstView<void> labels = operands.in(1), mixes = operands.in(2);
  kernels.cross_entropy({.loss = operands.out(0).f32(),
                         .probabilities = operands.out(2).f32(),
                         .dlogits = operands.out(1),
                         .metrics = operands.metrics(),
                         .logits = operands.in(0),
                         .labels = {static_cast<const std::int32_t*>(labels.data), labels.size},
                         .mixes = {static_cast<const LabelMix*>(mixes.data), mixes ? batch : 0},
                         .batch = batch,
                         .classes = classes,
                         .kind = options.kind,
                         .label_smoothing = options.label_smoothing,
                         .target_threshold = options.target_threshold,
                         .sum_classes = options.sum_classes,
                         .head_softmax = options.head_softmax,
                         .state = operands.state()});
}

}  // namespace vitrine
