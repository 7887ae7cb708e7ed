// Computing results of the forward part again in the backward part, instead of keeping them.
//
//   Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost", arXiv:1604.06174
//
// A value of the forward part that the backward part reads is alive between the two. Where its
// producer may be run again, a copy of that node is put before the first reader, and its inputs are
// treated alike, down to values that are kept: the residual stream, weights, images. Random numbers
// are functions of (seed, step, place), so the copy writes the same bits.
#include <algorithm>
#include <map>
#include <set>

#include "graph/operations.h"

namespace vitrine {

class Graph::Recomputer {
 public:
  Recomputer(Graph& graph, const Recompute& how) : graph_(graph) { choose(how); }

  void run() {
    std::vector<Node> nodes = std::move(graph_.nodes_);
    graph_.nodes_.clear();
    before_ = nodes;
    for (Node& node : nodes) {
      if (node.phase == Phase::backward) {
        for (ValueId& id : node.inputs) id = again(id);
      }
      append(std::move(node));
    }
    graph_.drop_unread();
  }

 private:
  // A layer counts where the backward part reads something that is dear to compute again.
  void choose(const Recompute& how) {
    for (const Value& value : graph_.values_) producers_.push_back(value.producer);
    std::set<ValueId> read;
    for (const Node& node : graph_.nodes_) {
      if (node.phase == Phase::backward) read.insert(node.inputs.begin(), node.inputs.end());
    }
    std::vector<std::string> layers;
    for (const Node& node : graph_.nodes_) {
      if (node.phase == Phase::backward || kind_of(node) != Recomputation::full) continue;
      const bool counts = std::any_of(node.outputs.begin(), node.outputs.end(), [&](ValueId id) {
        return id != kNone && !graph_.value(id).keep && read.count(id) > 0;
      });
      const std::string layer = layer_of(node.name);
      if (counts && (layers.empty() || layers.back() != layer)) layers.push_back(layer);
    }
    const auto count = static_cast<std::int64_t>(layers.size());
    Recompute& done = graph_.recomputed_;
    done.full = std::min(how.full, count);
    done.selective = std::min(std::max(how.selective, how.full), count);
    again_.assign(graph_.nodes_.size(), false);
    for (std::size_t i = 0; i < graph_.nodes_.size(); ++i) {
      const Node& node = graph_.nodes_[i];
      if (node.phase == Phase::backward || kind_of(node) == Recomputation::never) continue;
      const auto layer = std::find(layers.begin(), layers.end(), layer_of(node.name));
      if (layer == layers.end()) continue;
      const bool cheap = kind_of(node) == Recomputation::selective;
      again_[i] = layer - layers.begin() < (cheap ? done.selective : done.full);
    }
  }

  static Recomputation kind_of(const Node& node) { return node.operation->recomputation(); }

  /// The value to read in the place of `id` in the backward part.
  ValueId again(ValueId id) {
    if (id == kNone) return kNone;
    const auto found = copies_.find(id);
    if (found != copies_.end()) return found->second;
    const Value& value = graph_.value(id);
    const int producer = producers_[id];
    if (producer < 0 || value.keep || !again_[producer]) return id;
    const Node& original = before_[producer];
    Node copy = original.operation->again(original);
    if (std::find(copy.outputs.begin(), copy.outputs.end(), id) == copy.outputs.end()) return id;
    for (ValueId& input : copy.inputs) input = again(input);
    for (ValueId& output : copy.outputs) {
      if (output == kNone) continue;
      Value fresh = graph_.value(output);
      fresh.name += ".again";
      fresh.keep = fresh.needs_gradient = false;
      output = copies_[output] = graph_.add_value(std::move(fresh));
    }
    append(std::move(copy));
    return copies_.at(id);
  }

  void append(Node node) {
    for (ValueId id : node.outputs) {
      if (id != kNone) graph_.values_[id].producer = static_cast<int>(graph_.nodes_.size());
    }
    graph_.nodes_.push_back(std::move(node));
  }

  Graph& graph_;
  std::vector<Node> before_;    // the nodes as they were
  std::vector<int> producers_;  // of each value, by the node's old number
  std::vector<bool> again_;     // which nodes are run again, by the same number
  std::map<ValueId, ValueId> copies_;
};

std::string to_text(const Recompute& how) {
  const auto layers = [](std::int64_t first, std::int64_t end) {
    const std::string last = first + 1 < end ? "-" + std::to_string(end - 1) : "";
    return (last.empty() ? "layer " : "layers ") + std::to_string(first) + last;
  };
  const bool cheap = how.selective > how.full;
  std::string text;
  if (how.full > 0) text = layers(0, how.full) + " all but the residual stream";
  if (how.full > 0 && cheap) text += ", ";
  if (cheap) text += layers(how.full, how.selective) + " norms and activations";
  return text.empty() ? "nothing" : text;
}

void Graph::recompute(const Recompute& how) {
  require(phase_ == Phase::backward, "recompute", "called before backward");
  if (how != Recompute{}) Recomputer(*this, how).run();
}

}  // namespace vitrine
