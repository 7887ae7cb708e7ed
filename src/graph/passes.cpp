// Passes: from graph to graph, on the forward part, each exact and tested alone.
#include <algorithm>
#include <map>
#include <optional>
#include <tuple>

#include "graph/operations.h"

namespace vitrine {
namespace {

/// Copies a graph node by node; the pass decides what a node becomes.
class Rewriter {
 public:
  explicit Rewriter(const Graph& from) : from_(from), to_(from.training(), from.precision()) {
    for (const Node& node : from.nodes()) {
      require(node.phase == Phase::forward, node.name, "passes run before backward");
    }
  }

  /// The new id of an old value; parameters, inputs and constants are carried over on first use.
  ValueId mapped(ValueId old) {
    if (old == kNone) return kNone;
    const auto found = ids_.find(old);
    if (found != ids_.end()) return found->second;
    const Value& value = from_.value(old);
    ValueId id = kNone;
    if (value.kind == ValueKind::parameter) {
      id = parameter(value);
    } else if (value.kind == ValueKind::constant) {
      id = to_.constant(value.name, value.shape, value.constant, value.dtype);
    } else {
      id = to_.input(value.name, value.shape, value.dtype, value.kind);
    }
    if (value.needs_gradient && value.kind != ValueKind::parameter) to_.require_gradient(id);
    return ids_[old] = id;
  }
  void map(ValueId old, ValueId id) {
    if (old == kNone) return;
    ids_[old] = id;
    if (from_.value(old).keep) to_.keep(id);
  }

  /// Keeps the order of parameters, which is the order of the flat buffers.
  void carry_parameters() {
    for (std::size_t i = 0; i < from_.values().size(); ++i) {
      const Value& value = from_.values()[i];
      if (value.kind == ValueKind::parameter && value.offset == 0 &&
          value.shape == from_.parameters()[value.parameter].shape) {
        mapped(static_cast<ValueId>(i));
      }
    }
  }

  void copy(const Node& node) {
    std::vector<ValueId> inputs, outputs;
    for (ValueId id : node.inputs) inputs.push_back(mapped(id));
    for (ValueId id : node.outputs) outputs.push_back(fresh(id));
    to_.append_to(node.operation, node.name, inputs, outputs);
  }

  /// A new value in the place of an old one.
  ValueId fresh(ValueId old) { return old == kNone ? kNone : fresh(old, from_.shape(old)); }
  ValueId fresh(ValueId old, const Shape& shape) {
    const Value& value = from_.value(old);
    const ValueId id = to_.activation_value(value.name, shape, value.dtype);
    map(old, id);
    return id;
  }

  const Graph& from() const { return from_; }
  Graph& to() { return to_; }

 private:
  ValueId parameter(const Value& value) {
    const Parameter& whole = from_.parameters()[value.parameter];
    const ValueId id = to_.find(whole.name);
    const ValueId base = id != kNone ? id : to_.parameter(whole.name, whole.shape, whole.trained);
    return value.shape == whole.shape ? base : to_.slice(base, value.offset, value.shape);
  }

  const Graph& from_;
  Graph to_;
  std::map<ValueId, ValueId> ids_;
};

const LayerNormOperation* plain_norm(const Node& node) {
  const auto* norm = dynamic_cast<const LayerNormOperation*>(node.operation.get());
  return norm != nullptr && node.inputs[1] == kNone ? norm : nullptr;
}

}  // namespace

Graph fuse_residual_norm(const Graph& graph) {
  Rewriter rewriter(graph);
  rewriter.carry_parameters();
  std::vector<bool> done(graph.nodes().size(), false);
  for (std::size_t i = 0; i < graph.nodes().size(); ++i) {
    const Node& node = graph.nodes()[i];
    if (done[i]) continue;
    const auto* residual = dynamic_cast<const ResidualOperation*>(node.operation.get());
    int norm_node = -1;
    if (residual != nullptr) {
      for (int consumer : graph.consumers(node.outputs[0])) {
        if (plain_norm(graph.nodes()[consumer]) != nullptr) norm_node = consumer;
      }
    }
    if (norm_node < 0) {
      rewriter.copy(node);
      continue;
    }
    const Node& norm = graph.nodes()[norm_node];
    auto fused = std::make_shared<LayerNormOperation>(*plain_norm(norm));
    fused->dropout = residual->dropout;
    fused->drop_path = residual->drop_path;
    fused->window = residual->window;
    const std::vector<ValueId> inputs = {
        rewriter.mapped(node.inputs[0]), rewriter.mapped(node.inputs[1]),
        rewriter.mapped(norm.inputs[2]), rewriter.mapped(norm.inputs[3])};
    const ValueId y = rewriter.fresh(norm.outputs[0]);
    const ValueId x_out = rewriter.fresh(node.outputs[0]);
    const ValueId mean = rewriter.fresh(norm.outputs[2]);
    const ValueId rstd = rewriter.fresh(norm.outputs[3]);
    rewriter.to().append_to(fused, norm.name, inputs, {y, x_out, mean, rstd});
    done[norm_node] = true;
  }
  return std::move(rewriter.to());
}

namespace {

/// The pruning pass. A value is "narrow" when all who read it need the window's tokens only.
class Pruner {
 public:
  Pruner(const Graph& graph, const Node& pool_node, const PoolOperation& pool)
      : rewriter_(graph), pool_node_(pool_node), window_(pool.window) {
    find_narrow();
  }

  Graph run() {
    rewriter_.carry_parameters();
    for (const Node& node : rewriter_.from().nodes()) {
      if (&node == &pool_node_) {
        rewriter_.map(node.outputs[0], narrowed(node.inputs[0], node.name));
      } else if (splits(node)) {
        split_projection(node);
      } else if (is_narrow(node.outputs[0])) {
        narrow(node);
      } else {
        rewriter_.copy(node);
      }
    }
    return std::move(rewriter_.to());
  }

 private:
  bool is_narrow(ValueId id) const { return narrow_[id]; }

  // From the last node to the first: a node's results are narrow when none is kept and each
  // consumer is the pool or works row by row on its way to a narrow result.
  void find_narrow() {
    const Graph& graph = rewriter_.from();
    narrow_.assign(graph.values().size(), false);
    split_.assign(graph.values().size(), false);
    for (auto node = graph.nodes().rbegin(); node != graph.nodes().rend(); ++node) {
      const bool row_wise = node->operation->windowed(window_) != nullptr || is_attention(*node);
      bool narrow = row_wise && !graph.consumers(node->outputs[0]).empty() &&
                    std::all_of(node->outputs.begin(), node->outputs.end(),
                                [&](ValueId out) { return out == kNone || may_be_narrow(out); });
      if (narrow && is_attention(*node)) narrow = is_apart(*node) || mark_split(*node);
      for (ValueId out : node->outputs) {
        if (out != kNone) narrow_[out] = narrow;
      }
    }
  }

  bool may_be_narrow(ValueId out) const {
    const Graph& graph = rewriter_.from();
    const std::vector<int> readers = graph.consumers(out);
    return !graph.value(out).keep && std::all_of(readers.begin(), readers.end(), [&](int reader) {
      const Node& consumer = graph.nodes()[reader];
      if (&consumer == &pool_node_) return true;
      if (!is_narrow(consumer.outputs[0])) return false;
      return !is_attention(consumer) || only_queries(consumer, out);
    });
  }

  /// q, k and v are tensors of their own.
  static bool is_apart(const Node& attention) { return attention.inputs[2] != kNone; }
  static bool only_queries(const Node& attention, ValueId id) {
    const std::vector<ValueId>& in = attention.inputs;
    return is_apart(attention) && in[0] == id && in[1] != id && in[2] != id;
  }

  // Attention becomes narrow when its packed qkv comes from a projection of its own.
  bool mark_split(const Node& attention) {
    const Graph& graph = rewriter_.from();
    const ValueId qkv = attention.inputs[0];
    const int producer = graph.value(qkv).producer;
    if (attention.inputs[1] != kNone || producer < 0 || graph.consumers(qkv).size() != 1) {
      return false;
    }
    const Operation* projection = graph.nodes()[producer].operation.get();
    if (dynamic_cast<const MatmulOperation*>(projection) == nullptr &&
        dynamic_cast<const PerHeadLinearOperation*>(projection) == nullptr) {
      return false;
    }
    split_[qkv] = true;
    return true;
  }

  static bool is_attention(const Node& node) {
    return dynamic_cast<const AttentionOperation*>(node.operation.get()) != nullptr;
  }
  bool splits(const Node& node) const { return split_[node.outputs[0]]; }

  /// The window's tokens of an old value; `reader` is the first node to read them.
  ValueId narrowed(ValueId old, const std::string& reader) {
    if (is_narrow(old)) return rewriter_.mapped(old);
    const auto found = pooled_.find(old);
    if (found != pooled_.end()) return found->second;
    return pooled_[old] = pool(rewriter_.to(), reader + ".pool", rewriter_.mapped(old), window_);
  }

  void narrow(const Node& node) {
    std::vector<ValueId> inputs, outputs;
    if (is_attention(node)) {
      narrow_attention(node);
      return;
    }
    for (ValueId id : node.inputs) {
      inputs.push_back(has_tokens(id) ? narrowed(id, node.name) : rewriter_.mapped(id));
    }
    for (ValueId id : node.outputs) {
      outputs.push_back(id == kNone ? kNone : rewriter_.fresh(id, narrow_shape(id)));
    }
    rewriter_.to().append_to(node.operation->windowed(window_), node.name, inputs, outputs);
  }

  // Weights have none, nor have indices of samples.
  bool has_tokens(ValueId id) const {
    if (id == kNone) return false;
    const Value& value = rewriter_.from().value(id);
    return value.kind != ValueKind::parameter && value.dtype != DType::i32;
  }

  // [B, T, N] → [B, N]; statistics [B·T] → [B].
  Shape narrow_shape(ValueId id) const {
    const Shape& shape = rewriter_.from().shape(id);
    if (shape.rank() == 1) return Shape{shape[0] / window_.total};
    return Shape{shape[0], shape[-1]};
  }

  // The queries' rows of the weight apply to the narrowed input, those of k and v to all of it.
  void split_projection(const Node& node) {
    const ValueId x = node.inputs[0];
    const ValueId weight = node.inputs[1], bias = node.inputs[2];
    const ValueId narrow_x = narrowed(x, node.name);
    const ValueId kv = project(node, rewriter_.mapped(x), part(weight, 1, 2), part(bias, 1, 2));
    const ValueId q = project(node, narrow_x, part(weight, 0, 1), part(bias, 0, 1));
    qkv_[node.outputs[0]] = {q, kv};
  }

  ValueId project(const Node& node, ValueId x, ValueId weight, ValueId bias) {
    const bool dense = dynamic_cast<const MatmulOperation*>(node.operation.get()) != nullptr;
    return dense ? linear(rewriter_.to(), node.name, x, weight, bias)
                 : per_head_linear(rewriter_.to(), node.name, x, weight, bias);
  }

  // Thirds of a q|k|v parameter: `count` of them from `first` on.
  ValueId part(ValueId old, std::int64_t first, std::int64_t count) {
    if (old == kNone) return kNone;
    std::vector<std::int64_t> sizes(rewriter_.from().shape(old).sizes().begin(),
                                    rewriter_.from().shape(old).sizes().end());
    const std::int64_t third = rewriter_.from().shape(old).elements() / 3;
    sizes[0] = sizes[0] / 3 * count;
    return rewriter_.to().slice(rewriter_.mapped(old), first * third, Shape(sizes));
  }

  void narrow_attention(const Node& node) {
    const auto& whole = dynamic_cast<const AttentionOperation&>(*node.operation);
    ValueId q = kNone, k = kNone, v = kNone;
    if (is_apart(node)) {
      q = narrowed(node.inputs[0], node.name);
      k = rewriter_.mapped(node.inputs[1]), v = rewriter_.mapped(node.inputs[2]);
    } else {
      std::tie(q, k) = qkv_.at(node.inputs[0]);
    }
    const AttentionValues values = attention(rewriter_.to(), node.name, q, k, whole.heads, window_,
                                             whole.dropout, node.outputs[2] != kNone, v);
    rewriter_.map(node.outputs[0], values.out);
    rewriter_.map(node.outputs[1], values.log_sum_exp);
    rewriter_.map(node.outputs[2], values.probabilities);
  }

  Rewriter rewriter_;
  const Node& pool_node_;
  TokenWindow window_;
  std::vector<bool> narrow_, split_;
  std::map<ValueId, ValueId> pooled_;
  std::map<ValueId, std::pair<ValueId, ValueId>> qkv_;
};

}  // namespace

Graph prune_unread_tokens(const Graph& graph) {
  for (const Node& node : graph.nodes()) {
    const auto* pool = dynamic_cast<const PoolOperation*>(node.operation.get());
    if (pool != nullptr && pool->window.tokens == 1) return Pruner(graph, node, *pool).run();
  }
  return graph;
}

}  // namespace vitrine
