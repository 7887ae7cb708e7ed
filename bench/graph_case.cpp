#include "graph_case.h"

#include <algorithm>
#include <cstring>

#include "vitrine/conversion.h"
#include "vitrine/random.h"

namespace vitrine::bench {
namespace {

constexpr std::int64_t kDrawn = 262147;          // a prime
constexpr std::int64_t kBytesOfPiece = 1 << 18;  // of a copy, for which a worker is worth waking

std::size_t positive(std::int64_t bytes) {
  return static_cast<std::size_t>(std::max<std::int64_t>(bytes, 256));
}

std::vector<float> draw_numbers(std::int64_t n, DType dtype, std::uint64_t stream) {
  RandomStream random(kSeed, stream);
  std::vector<float> numbers(static_cast<std::size_t>(std::min(n, kDrawn)));
  for (float& number : numbers) {
    number = dtype == DType::u8 ? static_cast<float>(random.below(256))
                                : static_cast<float>(random.normal());
  }
  return dtype == DType::u8 ? numbers : as_floats(converted(numbers, dtype), dtype);
}

std::vector<char> bytes_of(const std::vector<float>& numbers, DType dtype) {
  if (dtype != DType::u8) return converted(numbers, dtype);
  std::vector<char> bytes;
  for (const float number : numbers) bytes.push_back(static_cast<char>(static_cast<int>(number)));
  return bytes;
}

class CopyCase final : public Case {
 public:
  CopyCase(Device& device, double bytes)
      : device_(device),
        bytes_(bytes),
        pieces_(std::clamp<std::int64_t>(static_cast<std::int64_t>(bytes) / kBytesOfPiece, 1,
                                         device.workers())),
        part_(static_cast<std::size_t>(bytes / 2) / static_cast<std::size_t>(pieces_) + 1),
        size_(part_ * static_cast<std::size_t>(pieces_)),
        from_(device.allocate(size_, "copy")),
        to_(device.allocate(size_, "copy")) {
    fill(device, from_.data(), size_, converted(draw_numbers(kDrawn, DType::f32, 0), DType::f32));
  }

  void run() override {
    device_.for_each(pieces_, [&](int, std::int64_t i) {
      const std::size_t offset = static_cast<std::size_t>(i) * part_;
      device_.copy(to_.as<char>() + offset, from_.as<char>() + offset, part_);
    });
  }
  std::string error() const override {
    std::vector<char> one(size_), other(size_);
    device_.download(one.data(), from_.data(), size_);
    device_.download(other.data(), to_.data(), size_);
    return one == other ? "" : "copy: bytes differ";
  }
  Cost cost() const override { return {.bytes = bytes_}; }

 private:
  Device& device_;
  double bytes_;
  std::int64_t pieces_;
  std::size_t part_, size_;
  Buffer from_, to_;
};

}  // namespace

namespace {

/// Where chunks run side by side, an operation is one piece.
DeviceTraits traits_for(const Device& device, const Title& title) {
  DeviceTraits traits = device.traits();
  if (title.chunk) traits.max_partials = traits.max_row_blocks = 1;
  return traits;
}

std::unique_ptr<Case> make_graph_case(Device& device, const Title& title, const MakeWork& make) {
  const DeviceTraits traits = traits_for(device, title);
  GraphWork work = make(traits);
  if (!work.traits) work.traits = traits;
  return std::make_unique<GraphCase>(device, std::move(work));
}

}  // namespace

void fill(Device& device, void* memory, std::size_t bytes, const std::vector<char>& pattern) {
  auto* const start = static_cast<char*>(memory);
  std::size_t done = std::min(bytes, pattern.size());
  device.upload(start, pattern.data(), done);
  while (done < bytes) {  // `done` stays a multiple of the pattern until the end
    const std::size_t more = std::min(done, bytes - done);
    device.copy(start + done, start, more);
    done += more;
  }
}

/// A node's operands in the memory of their values.
class GraphCase::Bound final : public Operands {
 public:
  Bound(const GraphCase& owner, std::size_t node)
      : owner_(owner), index_(node), node_(owner.graph().nodes()[node]) {}

  View<void> out(int i) const override {
    const ValueId id = node_.outputs[static_cast<std::size_t>(i)];
    if (id == kNone) return {};
    return {memory(id).data(), owner_.elements(id), owner_.dtype(id)};
  }
  ConstView<void> in(int i) const override {
    const ValueId id = node_.inputs[static_cast<std::size_t>(i)];
    if (id == kNone) return {};
    return {memory(id).data(), owner_.elements(id), owner_.dtype(id)};
  }
  View<float> workspace() const override {
    const std::int64_t floats = node_.operation->workspace(owner_.graph(), node_, owner_.traits_);
    if (floats == 0) return {};
    return {owner_.workspaces_[index_].as<float>(), floats};
  }
  const StepState* state() const override { return owner_.device_state_.as<StepState>(); }
  Metrics* metrics() const override { return owner_.metrics_.as<Metrics>(); }
  bool accumulate() const override { return false; }
  const DeviceTraits& traits() const override { return owner_.traits_; }

 private:
  const Buffer& memory(ValueId id) const { return owner_.memory_[static_cast<std::size_t>(id)]; }

  const GraphCase& owner_;
  std::size_t index_;
  const Node& node_;
};

GraphCase::GraphCase(Device& device, GraphWork work)
    : device_(device),
      work_(std::move(work)),
      traits_(work_.traits.value_or(device.traits())),
      device_state_(device.allocate(sizeof(StepState), "state")),
      metrics_(device.allocate(sizeof(Metrics), "running sums")) {
  device.upload(device_state_.data(), &state_, sizeof state_);
  const std::vector<char> nan(std::size_t{1} << 20, static_cast<char>(0xFF));
  const auto values = static_cast<ValueId>(graph().values().size());
  numbers_.resize(static_cast<std::size_t>(values));
  for (ValueId id = 0; id < values; ++id) {
    const Value& value = graph().value(id);
    memory_.push_back(device.allocate(positive(value.bytes()), value.name));
    if (value.producer < 0) {
      draw(id);
    } else {
      fill(device, memory_.back().data(), static_cast<std::size_t>(value.bytes()), nan);
    }
  }
  for (const Node& node : graph().nodes()) {
    const std::int64_t floats = node.operation->workspace(graph(), node, traits_);
    workspaces_.push_back(floats == 0 ? Buffer()
                                      : device.allocate(positive(4 * floats), "workspace"));
  }
  for (std::size_t i = 0; i < graph().nodes().size(); ++i) {
    if (std::find(work_.timed.begin(), work_.timed.end(), i) == work_.timed.end()) run_node(i);
  }
}

GraphCase::~GraphCase() {
  device_.synchronize();
}

void GraphCase::draw(ValueId id) {
  const Value& value = graph().value(id);
  std::vector<char> bytes;
  if (const auto given = work_.given.find(id); given != work_.given.end()) {
    bytes = given->second;
  } else {
    std::vector<float>& numbers = numbers_[static_cast<std::size_t>(id)];
    numbers =
        value.kind == ValueKind::constant
            ? as_floats(converted(value.constant, value.dtype), value.dtype)
            : draw_numbers(value.shape.elements(), value.dtype, static_cast<std::uint64_t>(id));
    bytes = bytes_of(numbers, value.dtype);
  }
  fill(device_, memory_[static_cast<std::size_t>(id)].data(),
       static_cast<std::size_t>(value.bytes()), bytes);
}

void GraphCase::run_node(std::size_t i) {
  graph().nodes()[i].operation->run(device_.kernels(), Bound(*this, i));
}

void GraphCase::run() {
  for (const std::size_t i : work_.timed) run_node(i);
}

Cost GraphCase::cost() const {
  return cost_of(work_);
}

Cost cost_of(const GraphWork& work) {
  if (work.cost) return *work.cost;
  Cost sum;
  for (const std::size_t i : work.timed) {
    const Cost cost = work.graph.cost(work.graph.nodes()[i]);
    sum.flops += cost.flops;
    sum.bytes += cost.bytes;
  }
  return sum;
}

std::vector<float> GraphCase::drawn(ValueId id, std::int64_t first, std::int64_t count) const {
  const std::vector<float>& numbers = numbers_[static_cast<std::size_t>(id)];
  std::vector<float> values;
  values.reserve(static_cast<std::size_t>(count));
  auto at = static_cast<std::size_t>(first) % numbers.size();
  for (std::int64_t i = 0; i < count; ++i) {
    values.push_back(numbers[at]);
    if (++at == numbers.size()) at = 0;
  }
  return values;
}

std::vector<float> GraphCase::read(ValueId id, std::int64_t first, std::int64_t count) const {
  const std::int64_t size = size_of(dtype(id));
  std::vector<char> bytes(static_cast<std::size_t>(count * size));
  device_.download(bytes.data(), memory_[static_cast<std::size_t>(id)].as<char>() + first * size,
                   bytes.size());
  return as_floats(bytes, dtype(id));
}

Metrics GraphCase::metrics() const {
  Metrics metrics;
  device_.download(&metrics, metrics_.data(), sizeof metrics);
  return metrics;
}

std::vector<std::size_t> nodes_named(const Graph& graph, const std::string& name) {
  std::vector<std::size_t> found;
  for (std::size_t i = 0; i < graph.nodes().size(); ++i) {
    if (graph.nodes()[i].operation->name() == name) found.push_back(i);
  }
  return found;
}

ValueId random_input(Graph& graph, const std::string& name, const Shape& shape) {
  const ValueId id = graph.activation_value(name, shape);
  graph.require_gradient(id);
  return id;
}

ValueId differentiate(Graph& graph, ValueId value) {
  const ValueId gradient =
      graph.activation_value(graph.value(value).name + ".grad", graph.shape(value));
  graph.set_gradient(value, gradient);
  const Node node = graph.nodes()[static_cast<std::size_t>(graph.value(value).producer)];
  node.operation->gradient(graph, node);
  return gradient;
}

void add_graph(const Title& title, const MakeWork& make, bool copy) {
  add(title, [=](Device& device) { return make_graph_case(device, title, make); });
  if (!copy) return;
  add(title.with_peer("copy"), [=](Device& device) {
    return copy_case(device, cost_of(make(traits_for(device, title))).bytes);
  });
}

void add_graph_peer(const Title& title, const std::string& peer, const MakeWork& make,
                    const MakeWork& beside) {
  add(title.with_peer(peer), [=](Device& device) {
    return make_graph_case(device, title, [&](const DeviceTraits& traits) {
      GraphWork work = make(traits);
      work.cost = cost_of(beside(traits));
      return work;
    });
  });
}

std::unique_ptr<Case> copy_case(Device& device, double bytes) {
  return std::make_unique<CopyCase>(device, bytes);
}

}  // namespace vitrine::bench
