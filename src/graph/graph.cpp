// Building a graph and differentiating it.
//
// Reverse mode: nodes of the forward part are visited last to first; each appends the nodes that
// turn the gradients of its outputs into contributions to the gradients of its inputs.
#include "vitrine/graph.h"

#include <algorithm>

#include "graph/operations.h"

namespace vitrine {

void require(bool condition, const std::string& node, const std::string& message) {
  if (!condition) throw BadInput(node + ": " + message);
}

std::int64_t cols_of(const Shape& shape) {
  return shape[-1];
}
std::int64_t rows_of(const Shape& shape) {
  return shape.elements() / shape[-1];
}

std::int64_t partials_of(std::int64_t rows, const DeviceTraits& traits) {
  constexpr std::int64_t kRowsPerPartial = 64;
  return std::clamp<std::int64_t>(rows / kRowsPerPartial, 1, traits.max_partials);
}

std::string layer_of(const std::string& place) {
  const std::size_t first = place.find('.');
  return place.substr(0, place.starts_with("blocks.") ? place.find('.', first + 1) : first);
}

void Operation::gradient(Graph&, const Node& node) const {
  throw BadInput(node.name + ": " + name() + " has no gradient");
}

Node Operation::again(const Node& node) const {
  Node copy = node;
  copy.phase = Phase::backward;
  return copy;
}

ValueId Graph::add_value(Value value) {
  values_.push_back(std::move(value));
  gradients_.push_back(kNone);
  return static_cast<ValueId>(values_.size()) - 1;
}

ValueId Graph::parameter(const std::string& name, const Shape& shape, bool trained) {
  for (const Parameter& other : parameters_) {
    require(other.name != name, name, "parameter defined twice");
  }
  parameters_.push_back({name, shape, trained});
  Value value{.name = name, .shape = shape, .dtype = working_type(), .kind = ValueKind::parameter};
  value.parameter = static_cast<int>(parameters_.size()) - 1;
  value.needs_gradient = training_ && trained;
  return add_value(std::move(value));
}

ValueId Graph::slice(ValueId parameter, std::int64_t offset, const Shape& shape) {
  Value value = values_.at(parameter);
  require(value.kind == ValueKind::parameter, value.name, "only parameters can be sliced");
  const std::int64_t available = value.shape.elements();
  require(
      offset >= 0 && offset + shape.elements() <= available, value.name,
      "slice " + shape.str() + " at " + std::to_string(offset) + " exceeds " + value.shape.str());
  value.name += "@" + std::to_string(offset);
  value.offset += offset;
  value.shape = shape;
  return add_value(std::move(value));
}

ValueId Graph::input(const std::string& name, const Shape& shape, DType dtype, ValueKind kind) {
  return add_value({.name = name, .shape = shape, .dtype = dtype, .kind = kind});
}

ValueId Graph::constant(const std::string& name, const Shape& shape, std::vector<float> numbers,
                        DType dtype) {
  require(static_cast<std::int64_t>(numbers.size()) == shape.elements(), name,
          std::to_string(numbers.size()) + " numbers for shape " + shape.str());
  Value value{.name = name, .shape = shape, .dtype = dtype, .kind = ValueKind::constant};
  value.constant = std::move(numbers);
  return add_value(std::move(value));
}

ValueId Graph::activation_value(const std::string& name, const Shape& shape,
                                std::optional<DType> dtype) {
  return add_value({.name = name, .shape = shape, .dtype = dtype.value_or(working_type())});
}

void Graph::append_to(std::shared_ptr<const Operation> operation, const std::string& name,
                      const std::vector<ValueId>& inputs, const std::vector<ValueId>& outputs) {
  const bool needs_gradient = std::any_of(inputs.begin(), inputs.end(), [&](ValueId id) {
    return id != kNone && values_.at(id).needs_gradient;
  });
  for (ValueId id : outputs) {
    if (id == kNone) continue;
    values_.at(id).producer = static_cast<int>(nodes_.size());
    values_.at(id).needs_gradient = needs_gradient && phase_ == Phase::forward;
  }
  nodes_.push_back({std::move(operation), name, phase_, inputs, outputs});
}

std::vector<ValueId> Graph::append(std::shared_ptr<const Operation> operation,
                                   const std::string& name, const std::vector<ValueId>& inputs,
                                   const std::vector<NewValue>& outputs) {
  std::vector<ValueId> ids;
  for (const NewValue& value : outputs) {
    ids.push_back(value.name.empty() ? kNone
                                     : activation_value(value.name, value.shape, value.dtype));
  }
  append_to(std::move(operation), name, inputs, ids);
  return ids;
}

void Graph::backward(ValueId loss) {
  require(phase_ == Phase::forward, "backward", "called twice");
  const int producer = value(loss).producer;
  require(producer >= 0, value(loss).name, "is not computed by the graph");
  phase_ = Phase::backward;
  set_gradient(loss, loss);  // marks where the walk starts; its operation knows its own seed
  for (int i = producer; i >= 0; --i) {
    const Node node = nodes_[i];  // a copy: gradient() appends to nodes_
    const bool reached = std::any_of(node.outputs.begin(), node.outputs.end(), [&](ValueId id) {
      return id != kNone && gradient(id) != kNone;
    });
    const bool wanted = std::any_of(node.inputs.begin(), node.inputs.end(), [&](ValueId id) {
      return id != kNone && value(id).needs_gradient;
    });
    if (reached && wanted) node.operation->gradient(*this, node);
  }
  set_gradient(loss, kNone);
  drop_unread();
}

// Forward has saved nothing that the backward part does not read.
void Graph::drop_unread() {
  std::vector<bool> read(values_.size(), false);
  for (const Node& node : nodes_) {
    for (ValueId id : node.inputs) {
      if (id != kNone) read[id] = true;
    }
  }
  for (Node& node : nodes_) {
    for (std::size_t out = 0; out < node.outputs.size(); ++out) {
      ValueId& id = node.outputs[out];
      if (id == kNone || read[id] || values_[id].keep) continue;
      if (node.operation->saves(static_cast<int>(out))) id = values_[id].producer = kNone;
    }
  }
}

void Graph::add_gradient(ValueId value, ValueId contribution) {
  if (!values_.at(value).needs_gradient || contribution == kNone) return;
  const ValueId so_far = gradient(value);
  if (so_far == kNone) {
    set_gradient(value, contribution);
  } else {
    set_gradient(value, add(*this, values_.at(value).name + ".grad", so_far, contribution));
  }
}

ValueId Graph::parameter_gradient(ValueId parameter) {
  if (parameter == kNone) return kNone;
  Value value = values_.at(parameter);
  if (value.kind != ValueKind::parameter) return kNone;  // a constant in a parameter's place
  if (!value.needs_gradient) return kNone;
  require(gradient(parameter) == kNone, value.name, "parameter is used twice");
  value.kind = ValueKind::parameter_gradient;
  value.dtype = DType::f32;
  value.name += ".grad";
  value.needs_gradient = false;
  const ValueId id = add_value(std::move(value));
  set_gradient(parameter, id);
  return id;
}

std::int64_t Graph::parameter_count() const {
  std::int64_t count = 0;
  for (const Parameter& parameter : parameters_) count += parameter.shape.elements();
  return count;
}

std::int64_t Graph::trained_parameter_count() const {
  std::int64_t count = 0;
  for (const Parameter& parameter : parameters_) {
    if (parameter.trained) count += parameter.shape.elements();
  }
  return count;
}

ValueId Graph::find(const std::string& name) const {
  for (std::size_t i = 0; i < values_.size(); ++i) {
    if (values_[i].name == name) return static_cast<ValueId>(i);
  }
  return kNone;
}

Cost Graph::cost(const Node& node) const {
  Cost cost{.flops = node.operation->flops(*this, node)};
  if (const std::optional<double> bytes = node.operation->bytes(*this, node)) {
    cost.bytes = *bytes;
    return cost;
  }
  for (ValueId id : node.inputs) {
    if (id != kNone && value(id).kind != ValueKind::input) {
      cost.bytes += static_cast<double>(value(id).bytes());
    }
  }
  for (ValueId id : node.outputs) {
    if (id != kNone) cost.bytes += static_cast<double>(value(id).bytes());
  }
  return cost;
}

std::vector<int> Graph::consumers(ValueId id) const {
  std::vector<int> found;
  for (std::size_t i = 0; i < nodes_.size(); ++i) {
    const std::vector<ValueId>& inputs = nodes_[i].inputs;
    if (std::find(inputs.begin(), inputs.end(), id) != inputs.end()) {
      found.push_back(static_cast<int>(i));
    }
  }
  return found;
}

}  // namespace vitrine
