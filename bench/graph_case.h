// Operations of a graph as a benchmark: built by the graph's own functions, so that arguments,
// workspaces, FLOPs and bytes are those of a training step.
//
// Every value has memory of its own. What no operation writes is drawn: standard normal numbers (or
// bytes, for u8), a prime number of them and then these again, so that rows differ and the host
// knows every element. What operations write starts as NaN.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "harness.h"

namespace vitrine::bench {

/// All random numbers of a benchmark follow from it.
inline constexpr std::uint64_t kSeed = 20;

/// `bytes` bytes as they come, again and again until the memory is full.
void fill(Device& device, void* memory, std::size_t bytes, const std::vector<char>& pattern);

class GraphCase;

/// What a graph case is made of.
struct GraphWork {
  Graph graph;
  std::vector<std::size_t> timed;  ///< nodes that are; the others run once before
  /// What is wrong with the values; "" when nothing is.
  std::function<std::string(const GraphCase&)> error;
  std::map<ValueId, std::vector<char>> given = {};  ///< bytes of values that are not drawn
  std::optional<DeviceTraits> traits = {};          ///< the device's when empty
  std::optional<Cost> cost = {};                    ///< of the timed operations when empty
};

class GraphCase final : public Case {
 public:
  GraphCase(Device& device, GraphWork work);
  ~GraphCase() override;

  void run() override;
  std::string error() const override { return work_.error(*this); }
  Cost cost() const override;

  const Graph& graph() const { return work_.graph; }
  const StepState& state() const { return state_; }
  std::int64_t elements(ValueId id) const { return graph().shape(id).elements(); }
  DType dtype(ValueId id) const { return graph().value(id).dtype; }
  /// An element of an input.
  float drawn(ValueId id, std::int64_t i) const {
    const std::vector<float>& numbers = numbers_[static_cast<std::size_t>(id)];
    return numbers[static_cast<std::size_t>(i) % numbers.size()];
  }
  /// `count` elements of an input from `first` on, as the device has them.
  std::vector<float> drawn(ValueId id, std::int64_t first, std::int64_t count) const;
  std::vector<float> drawn(ValueId id) const { return drawn(id, 0, elements(id)); }
  /// Elements from the device.
  std::vector<float> read(ValueId id, std::int64_t first, std::int64_t count) const;
  std::vector<float> read(ValueId id) const { return read(id, 0, elements(id)); }
  Metrics metrics() const;

 private:
  class Bound;

  void draw(ValueId id);
  void run_node(std::size_t i);

  Device& device_;
  GraphWork work_;
  DeviceTraits traits_;
  StepState state_{.seed = kSeed, .step = 3, .learning_rate = 1e-3f, .loss_scale = 0.25f};
  std::vector<Buffer> memory_;               // by value
  std::vector<std::vector<float>> numbers_;  // by value, those that were drawn
  std::vector<Buffer> workspaces_;           // by node
  Buffer device_state_, metrics_;
};

/// A graph for `precision`, and the values that benchmarks put into it.
inline Graph new_graph(Precision precision) {
  return Graph(/*training=*/true, precision);
}
/// A random value of the working type whose gradient somebody wants, as inside a model.
ValueId random_input(Graph& graph, const std::string& name, const Shape& shape);
/// Appends the gradient operations of the node that writes `value`, given a random gradient of it,
/// whose id is returned.
ValueId differentiate(Graph& graph, ValueId value);

/// The nodes whose operation has that name, in order.
std::vector<std::size_t> nodes_named(const Graph& graph, const std::string& name);

using MakeWork = std::function<GraphWork(const DeviceTraits&)>;

/// Registers the work, and beside it a plain copy of as many bytes where `copy` is set.
void add_graph(const Title& title, const MakeWork& make, bool copy);
/// Registers a peer, with the cost of the work it stands beside.
void add_graph_peer(const Title& title, const std::string& peer, const MakeWork& make,
                    const MakeWork& beside);
/// FLOPs and bytes of the timed operations.
Cost cost_of(const GraphWork& work);

/// Copies half as many bytes, which are read and written, the device's workers side by side.
std::unique_ptr<Case> copy_case(Device& device, double bytes);

}  // namespace vitrine::bench
