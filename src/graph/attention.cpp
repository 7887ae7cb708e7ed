// attention over packed qkv [B, T, 3, H, d], or with fewer queries: q [B, Tq, H, d] and packed
// kv [B, T, 2, H, d], or over q, k and v apart, [B, T, H, d] each.
#include "graph/operations.h"

namespace vitrine {
namespace {

/// Pointers and strides of q, k and v inside their packed tensors.
template <typename V>
struct Qkv {
  V q, k, v;
  std::int64_t q_stride, kv_stride;
};

template <typename V>
V from(const V& view, std::int64_t offset, std::int64_t tail) {
  auto* data =
      static_cast<std::conditional_t<std::is_same_v<V, View<void>>, char, const char>*>(view.data) +
      offset * size_of(view.dtype);
  V part = view;
  part.data = data;
  part.size = view.size - offset - tail;
  return part;
}

template <typename V>
Qkv<V> unpack(const AttentionOperation& operation, const V& qkv, const V& kv, const V& v) {
  const std::int64_t hidden = operation.heads * operation.head_size;
  if (operation.apart) return {qkv, kv, v, hidden, hidden};
  if (!kv) {
    return {from(qkv, 0, 2 * hidden), from(qkv, hidden, hidden), from(qkv, 2 * hidden, 0),
            3 * hidden, 3 * hidden};
  }
  return {qkv, from(kv, 0, hidden), from(kv, hidden, 0), hidden, 2 * hidden};
}

/// in: dout, out, log_sum_exp, qkv, kv, v   out: dqkv, dkv, dv
struct AttentionBackwardOperation final : Operation {
  AttentionOperation forward;

  std::string name() const override { return "attention_backward"; }
  double flops(const Graph& graph, const Node& node) const override {
    return 2.5 * forward.flops(graph, node);
  }
  void run(Kernels& kernels, const Operands& operands) const override {
    const auto in = unpack(forward, operands.in(3), operands.in(4), operands.in(5));
    const auto out = unpack(forward, operands.out(0), operands.out(1), operands.out(2));
    kernels.attention_backward({.dq = out.q,
                                .dk = out.k,
                                .dv = out.v,
                                .dout = operands.in(0),
                                .out = operands.in(1),
                                .log_sum_exp = operands.in(2).f32(),
                                .q = in.q,
                                .k = in.k,
                                .v = in.v,
                                .q_stride = in.q_stride,
                                .kv_stride = in.kv_stride,
                                .batch = forward.batch,
                                .heads = forward.heads,
                                .head_size = forward.head_size,
                                .window = forward.window,
                                .dropout = forward.dropout,
                                .state = operands.state()});
  }
};

}  // namespace

AttentionValues attention(Graph& graph, const std::string& name, ValueId qkv, ValueId kv,
                          std::int64_t heads, TokenWindow window, Dropout dropout,
                          bool keep_probabilities, ValueId v) {
  auto operation = std::make_shared<AttentionOperation>();
  const Shape& keys = graph.shape(kv == kNone ? qkv : kv);
  const std::int64_t parts = kv == kNone ? 3 : v == kNone ? 2 : 1;
  require(v == kNone || (kv != kNone && graph.shape(v) == keys), name,
          "values do not fit the keys " + keys.str());
  operation->apart = v != kNone;
  const std::int64_t hidden = cols_of(keys) / parts;
  operation->batch = rows_of(keys) / window.total;
  operation->heads = heads;
  require(cols_of(keys) % parts == 0, name,
          "columns of " + keys.str() + " are not divisible by " + std::to_string(parts));
  require(hidden % heads == 0, name,
          "hidden size " + std::to_string(hidden) + " is not divisible by " +
              std::to_string(heads) + " heads");
  operation->head_size = hidden / heads;
  operation->window = window;
  operation->dropout = dropout;
  require(rows_of(keys) == operation->batch * window.total, name,
          "tokens do not divide " + keys.str());
  const Shape out = kv == kNone ? Shape{operation->batch, window.total, hidden} : graph.shape(qkv);
  require(out.elements() == operation->batch * window.tokens * hidden, name,
          "queries " + out.str() + " do not fit the window");
  const Shape statistics{operation->batch, heads, window.tokens};
  const Shape scores{operation->batch, heads, window.tokens, window.total};
  const auto outputs =
      graph.append(operation, name, {qkv, kv, v},
                   {{name, out},
                    {graph.training() ? name + ".log_sum_exp" : "", statistics, DType::f32},
                    {keep_probabilities ? name + ".probabilities" : "", scores, DType::f32}});
  if (keep_probabilities) graph.keep(outputs[2]);
  return {outputs[0], outputs[1], outputs[2]};
}

double AttentionOperation::flops(const Graph&, const Node&) const {
  return 4.0 * static_cast<double>(batch * window.tokens * window.total * heads * head_size);
}

void AttentionOperation::gradient(Graph& graph, const Node& node) const {
  const ValueId qkv = node.inputs[0], kv = node.inputs[1], v = node.inputs[2];
  auto operation = std::make_shared<AttentionBackwardOperation>();
  operation->forward = *this;
  auto gradient_of = [&](ValueId id) {
    return id == kNone ? NewValue{"", {}}
                       : NewValue{graph.value(id).name + ".grad", graph.shape(id)};
  };
  const auto gradients =
      graph.append(operation, node.name,
                   {graph.gradient(node.outputs[0]), node.outputs[0], node.outputs[1], qkv, kv, v},
                   {gradient_of(qkv), gradient_of(kv), gradient_of(v)});
  graph.add_gradient(qkv, gradients[0]);
  if (kv != kNone) graph.add_gradient(kv, gradients[1]);
  if (v != kNone) graph.add_gradient(v, gradients[2]);
}

void AttentionOperation::run(Kernels& kernels, const Operands& operands) const {
  const auto in = unpack(*this, operands.in(0), operands.in(1), operands.in(2));
  kernels.attention_forward({.out = operands.out(0),
                             .log_sum_exp = operands.out(1).f32(),
                             .probabilities = operands.out(2).f32(),
                             .q = in.q,
                             .k = in.k,
                             .v = in.v,
                             .q_stride = in.q_stride,
                             .kv_stride = in.kv_stride,
                             .batch = batch,
                             .heads = heads,
                             .head_size = head_size,
                             .window = window,
                             .dropout = dropout,
                             .state = operands.state()});
}

}  // namespace vitrine
