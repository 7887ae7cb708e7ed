// A branch on a subset of the samples: take_samples into it, add_samples back into the stream. Each
// is the other's gradient.
#include "graph/operations.h"

namespace vitrine {
namespace {

/// The sizes of a subset, checked against what is cut by samples.
struct Sizes {
  std::int64_t batch, count;
};
Sizes sizes_of(const Graph& graph, const std::string& name, const SampleSubset& subset) {
  const Shape &samples = graph.shape(subset.samples), &slots = graph.shape(subset.slots);
  require(samples.rank() == 1 && slots.rank() == 1 && samples[0] <= slots[0], name,
          "samples " + samples.str() + " do not fit slots " + slots.str());
  return {slots[0], samples[0]};
}

/// The same shape for that many samples.
Shape with_samples(const Shape& shape, std::int64_t samples) {
  std::vector<std::int64_t> sizes(shape.sizes().begin(), shape.sizes().end());
  sizes[0] = samples;
  return Shape(sizes);
}

ConstView<std::int32_t> indices(const ConstView<void>& view) {
  return {static_cast<const std::int32_t*>(view.data), view.size};
}
View<std::int32_t> indices(const View<void>& view) {
  return {static_cast<std::int32_t*>(view.data), view.size};
}

/// Bytes of `samples` samples of `value`, which has `of` of them.
double bytes_of(const Value& value, std::int64_t samples, std::int64_t of) {
  return static_cast<double>(value.bytes()) * static_cast<double>(samples) /
         static_cast<double>(of);
}

}  // namespace

SampleSubset choose_samples(Graph& graph, const std::string& name, std::int64_t batch,
                            std::int64_t count, std::uint32_t operation) {
  require(count > 0 && count <= batch, name,
          std::to_string(count) + " samples of " + std::to_string(batch));
  auto choose = std::make_shared<ChooseSamplesOperation>();
  choose->batch = batch;
  choose->count = count;
  choose->operation = operation;
  const auto values = graph.append(
      choose, name, {},
      {{name + ".samples", Shape{count}, DType::i32}, {name + ".slots", Shape{batch}, DType::i32}});
  return {values[0], values[1]};
}

void ChooseSamplesOperation::run(Kernels& kernels, const Operands& operands) const {
  kernels.choose_samples({.samples = indices(operands.out(0)),
                          .slots = indices(operands.out(1)),
                          .batch = batch,
                          .count = count,
                          .operation = operation,
                          .state = operands.state()});
}

ValueId take_samples(Graph& graph, const std::string& name, ValueId x, const SampleSubset& subset,
                     float scale) {
  const Sizes sizes = sizes_of(graph, name, subset);
  const Shape& shape = graph.shape(x);
  require(shape.rank() > 1 && shape[0] == sizes.batch, name,
          shape.str() + " does not have the subset's " + std::to_string(sizes.batch) + " samples");
  auto operation = std::make_shared<TakeSamplesOperation>();
  operation->batch = sizes.batch;
  operation->count = sizes.count;
  operation->cols = shape.elements() / sizes.batch;
  operation->scale = scale;
  return graph.append(operation, name, {x, subset.samples, subset.slots},
                      {{name, with_samples(shape, sizes.count)}})[0];
}

double TakeSamplesOperation::flops(const Graph&, const Node&) const {
  return scale == 1.0f ? 0.0 : static_cast<double>(count * cols);
}

std::optional<double> TakeSamplesOperation::bytes(const Graph& graph, const Node& node) const {
  return 2.0 * static_cast<double>(graph.value(node.outputs[0]).bytes()) +
         static_cast<double>(graph.value(node.inputs[1]).bytes());
}

OperationPtr TakeSamplesOperation::windowed(const TokenWindow& to) const {
  auto copy = std::make_shared<TakeSamplesOperation>(*this);
  copy->cols = windowed_rows(cols, to);
  return copy;
}

// The sum so far takes the samples in, so that no tensor of zeros is made and added.
void TakeSamplesOperation::gradient(Graph& graph, const Node& node) const {
  const ValueId x = node.inputs[0];
  auto operation = std::make_shared<AddSamplesOperation>();
  operation->batch = batch;
  operation->count = count;
  operation->cols = cols;
  operation->scale = scale;
  const auto dx = graph.append(
      operation, node.name,
      {graph.gradient(x), graph.gradient(node.outputs[0]), node.inputs[1], node.inputs[2]},
      {{graph.value(x).name + ".grad", graph.shape(x)}});
  graph.set_gradient(x, dx[0]);
}

void TakeSamplesOperation::run(Kernels& kernels, const Operands& operands) const {
  kernels.take_samples({.out = operands.out(0),
                        .x = operands.in(0),
                        .samples = indices(operands.in(1)),
                        .batch = batch,
                        .count = count,
                        .cols = cols,
                        .scale = scale});
}

ValueId add_samples(Graph& graph, const std::string& name, ValueId x, ValueId part,
                    const SampleSubset& subset, float scale) {
  const Sizes sizes = sizes_of(graph, name, subset);
  const Shape& shape = graph.shape(x);
  require(shape.rank() > 1 && shape[0] == sizes.batch, name,
          shape.str() + " does not have the subset's " + std::to_string(sizes.batch) + " samples");
  require(graph.shape(part) == with_samples(shape, sizes.count), name,
          "part " + graph.shape(part).str() + " does not fit " + std::to_string(sizes.count) +
              " samples of " + shape.str());
  auto operation = std::make_shared<AddSamplesOperation>();
  operation->batch = sizes.batch;
  operation->count = sizes.count;
  operation->cols = shape.elements() / sizes.batch;
  operation->scale = scale;
  return graph.append(operation, name, {x, part, subset.samples, subset.slots}, {{name, shape}})[0];
}

double AddSamplesOperation::flops(const Graph&, const Node&) const {
  return 2.0 * static_cast<double>(count * cols);
}

// In the place of x, as the plan puts it where x is not read again: the subset's samples alone.
std::optional<double> AddSamplesOperation::bytes(const Graph& graph, const Node& node) const {
  const Value& out = graph.value(node.outputs[0]);
  const double subset = bytes_of(out, count, batch);
  const double stream = node.inputs[0] == kNone ? static_cast<double>(out.bytes()) : 2 * subset;
  return stream + subset + static_cast<double>(graph.value(node.inputs[3]).bytes());
}

OperationPtr AddSamplesOperation::windowed(const TokenWindow& to) const {
  auto copy = std::make_shared<AddSamplesOperation>(*this);
  copy->cols = windowed_rows(cols, to);
  return copy;
}

void AddSamplesOperation::gradient(Graph& graph, const Node& node) const {
  const ValueId x = node.inputs[0], part = node.inputs[1];
  const ValueId dy = graph.gradient(node.outputs[0]);
  graph.add_gradient(x, dy);
  if (!graph.value(part).needs_gradient) return;
  auto operation = std::make_shared<TakeSamplesOperation>();
  operation->batch = batch;
  operation->count = count;
  operation->cols = cols;
  operation->scale = scale;
  const auto dpart = graph.append(operation, node.name, {dy, node.inputs[2], node.inputs[3]},
                                  {{graph.value(part).name + ".grad", graph.shape(part)}});
  graph.add_gradient(part, dpart[0]);
}

void AddSamplesOperation::run(Kernels& kernels, const Operands& operands) const {
  kernels.add_samples({.out = operands.out(0),
                       .x = operands.in(0),
                       .part = operands.in(1),
                       .slots = indices(operands.in(3)),
                       .batch = batch,
                       .count = count,
                       .cols = cols,
                       .scale = scale});
}

}  // namespace vitrine
