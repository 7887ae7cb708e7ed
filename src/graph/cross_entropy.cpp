// cross_entropy: loss, counts and the gradient of the logits in one operation.
#include "graph/operations.h"

namespace vitrine {

LossValues cross_entropy(Graph& graph, const std::string& name, ValueId logits, ValueId labels,
                         const LossOptions& options) {
  auto operation = std::make_shared<CrossEntropyOperation>();
  const Shape shape = graph.shape(logits);
  require(shape.rank() == 2 && graph.shape(labels).elements() == shape[0], name,
          "labels " + graph.shape(labels).str() + " do not fit logits " + shape.str());
  operation->batch = shape[0];
  operation->classes = shape[1];
  operation->options = options;
  const auto outputs =
      graph.append(operation, name, {logits, labels},
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
  const ConstView<void> labels = operands.in(1);
  kernels.cross_entropy({.loss = operands.out(0).f32(),
                         .probabilities = operands.out(2).f32(),
                         .dlogits = operands.out(1),
                         .metrics = operands.metrics(),
                         .logits = operands.in(0),
                         .labels = {static_cast<const std::int32_t*>(labels.data), labels.size},
                         .batch = batch,
                         .classes = classes,
                         .label_smoothing = options.label_smoothing,
                         .head_softmax = options.head_softmax,
                         .state = operands.state()});
}

}  // namespace vitrine
