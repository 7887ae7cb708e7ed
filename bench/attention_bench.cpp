// attention, forward and backward, of the presets and of every length of sequence.
//
// The peer on a GPU is cuDNN's softmax of the scores, which an attention in three operations would
// need between its two products.
#include <algorithm>
#include <set>

#include "cuda_peers.h"
#include "graph_case.h"
#include "reference/attention.h"

namespace vitrine::bench {
namespace {

constexpr std::int64_t kHeadsChecked = 2;

struct Sizes {
  std::int64_t batch, tokens, queries, heads, head_size;
  float dropout = 0.0f;

  std::int64_t hidden() const { return heads * head_size; }
  bool packed() const { return queries == tokens; }
  std::string text() const {
    return "/B:" + std::to_string(batch) + "/T:" + std::to_string(tokens) +
           "/Tq:" + std::to_string(queries) + "/H:" + std::to_string(heads) +
           "/d:" + std::to_string(head_size) + (dropout > 0 ? "/dropout" : "");
  }
};

struct Ids {
  ValueId q, kv, out, log_sum_exp, dout = kNone, dq = kNone, dkv = kNone;
};

Graph build(const Sizes& s, Precision precision, Ids& ids) {
  Graph graph = new_graph(precision);
  const std::int64_t hidden = s.hidden();
  ids.q = random_input(graph, "q", {s.batch, s.queries, s.packed() ? 3 * hidden : hidden});
  ids.kv = s.packed() ? kNone : random_input(graph, "kv", {s.batch, s.tokens, 2 * hidden});
  const AttentionValues values =
      attention(graph, "attention", ids.q, ids.kv, s.heads, {s.queries, 0, s.tokens},
                {s.dropout, reference::AttentionInputs::kOperation}, false);
  ids.out = values.out, ids.log_sum_exp = values.log_sum_exp;
  return graph;
}

/// `part` of `parts` of one head in rows [first, first + count) of a tensor [rows, parts, H, d].
template <typename Read>
std::vector<float> head_of(const Sizes& s, std::int64_t head, std::int64_t first,
                           std::int64_t count, std::int64_t parts, std::int64_t part,
                           const Read& read) {
  const std::int64_t stride = parts * s.hidden(), d = s.head_size;
  const std::vector<float> rows = read(first * stride, count * stride);
  std::vector<float> values;
  for (std::int64_t row = 0; row < count; ++row) {
    const auto at = rows.begin() + row * stride + part * s.hidden() + head * d;
    values.insert(values.end(), at, at + d);
  }
  return values;
}

/// One head of one image with its reference, in double and in float.
struct Head {
  const Sizes& s;
  std::int64_t image, head;
  reference::AttentionInputs in;

  Head(const GraphCase& c, const Sizes& s_, const Ids& ids, std::int64_t pair)
      : s(s_),
        image(pair / s.heads),
        head(pair % s.heads),
        in({1, 1, s.head_size, s.tokens, s.queries, 0, s.dropout, /*packed=*/false}, 0) {
    const auto drawn = [&c](ValueId id) {
      return [&c, id](std::int64_t first, std::int64_t count) { return c.drawn(id, first, count); };
    };
    in.state = c.state();
    in.state.first_row = pair;  // of [B·H] sequences, each of which is a sample of one head here
    in.q = head_of(s, head, image * s.queries, s.queries, s.packed() ? 3 : 1, 0, drawn(ids.q));
    const std::vector<float> k = keys_or_values(ids, 0, drawn), v = keys_or_values(ids, 1, drawn);
    for (std::int64_t t = 0; t < s.tokens; ++t) {
      std::copy_n(k.begin() + t * s.head_size, s.head_size, in.kv.begin() + 2 * t * s.head_size);
      std::copy_n(v.begin() + t * s.head_size, s.head_size,
                  in.kv.begin() + (2 * t + 1) * s.head_size);
    }
    if (ids.dout != kNone) {
      in.dout = head_of(s, head, image * s.queries, s.queries, 1, 0, drawn(ids.dout));
    }
  }

  template <typename Drawn>
  std::vector<float> keys_or_values(const Ids& ids, std::int64_t which, const Drawn& drawn) const {
    const ValueId id = s.packed() ? ids.q : ids.kv;
    const std::int64_t parts = s.packed() ? 3 : 2;
    return head_of(s, head, image * s.tokens, s.tokens, parts, which + parts - 2, drawn(id));
  }
};

float to_bf16(float value) {
  return as_working(DType::bf16, value);
}

std::string error_of(const GraphCase& c, const Sizes& s, const Ids& ids) {
  const DType type = c.dtype(ids.out);
  // With one key dq vanishes, and what is left is noise.
  Comparison out("out", type), sum("log_sum_exp", DType::f32), dq("dq", type), dkv("dkv", type);
  const auto read = [&c](ValueId id) {
    return [&c, id](std::int64_t first, std::int64_t count) { return c.read(id, first, count); };
  };
  for (const std::int64_t pair : sample(s.batch * s.heads, kHeadsChecked)) {
    const Head one(c, s, ids, pair);
    reference::Attention<double> exact(one.in);
    const auto round = type == DType::bf16 ? to_bf16 : reference::unrounded<float>;
    reference::Attention<float> naive(one.in, round, round);
    exact.run();
    naive.run();
    const std::int64_t first = one.image * s.queries;
    if (ids.dout == kNone) {
      out.add(head_of(s, one.head, first, s.queries, 1, 0, read(ids.out)), naive.out, exact.out);
      sum.add(c.read(ids.log_sum_exp, pair * s.queries, s.queries), naive.log_sum_exp,
              exact.log_sum_exp);
      continue;
    }
    dq.add(head_of(s, one.head, first, s.queries, s.packed() ? 3 : 1, 0, read(ids.dq)), naive.dq,
           exact.dq);
    std::vector<float> gradients(naive.dkv.size());
    for (std::int64_t which = 0; which < 2; ++which) {
      const std::int64_t parts = s.packed() ? 3 : 2;
      const std::vector<float> of_part =
          head_of(s, one.head, one.image * s.tokens, s.tokens, parts, which + parts - 2,
                  read(s.packed() ? ids.dq : ids.dkv));
      for (std::int64_t t = 0; t < s.tokens; ++t) {
        std::copy_n(of_part.begin() + t * s.head_size, s.head_size,
                    gradients.begin() + (2 * t + which) * s.head_size);
      }
    }
    dkv.add(gradients, naive.dkv, exact.dkv);
  }
  if (ids.dout == kNone) return first_error({out, sum});
  return s.tokens == 1 ? dkv.error() : first_error({dq, dkv});
}

GraphWork forward(const Sizes& s, Precision precision) {
  Ids ids{};
  Graph graph = build(s, precision, ids);
  return {.graph = std::move(graph), .timed = {0}, .error = [s, ids](const GraphCase& c) {
            return error_of(c, s, ids);
          }};
}

GraphWork backward(const Sizes& s, Precision precision) {
  Ids ids{};
  Graph graph = build(s, precision, ids);
  ids.dout = differentiate(graph, ids.out);
  ids.dq = graph.nodes().back().outputs[0], ids.dkv = graph.nodes().back().outputs[1];
  return {.graph = std::move(graph), .timed = {1}, .error = [s, ids](const GraphCase& c) {
            return error_of(c, s, ids);
          }};
}

void add_one(const Sizes& s, Precision precision, bool chunk) {
  const Title title{"attention_forward" + s.text(), precision, chunk};
  add_graph(
      title, [=](const DeviceTraits&) { return forward(s, precision); }, /*copy=*/false);
  if (on_gpu()) {
    add(title.with_peer("cudnn_softmax"), [=](Device& device) {
      return cudnn_softmax(device, s.batch * s.heads * s.queries, s.tokens, working_type(precision),
                           cost_of(forward(s, precision)));
    });
  }
  add_graph(
      {"attention_backward" + s.text(), precision, chunk},
      [=](const DeviceTraits&) { return backward(s, precision); }, /*copy=*/false);
}

/// One query an image: the last block, when the class token alone is read.
void add_all() {
  for (const Precision precision : precisions()) {
    std::set<std::string> added;  // a model may have a shape of the row of lengths
    for (const Images& images : bench::images(precision)) {
      const shapes::Model& m = images.model;
      for (const std::int64_t queries : {m.tokens(), std::int64_t{1}}) {
        const Sizes s{images.batch, m.tokens(), queries, m.heads, m.head_size()};
        add_one(s, precision, images.chunk);
        added.insert(s.text());
      }
    }
    for (const std::int64_t tokens : shapes::kTokens) {
      if (quick() && tokens > 17) continue;
      const std::int64_t batch = on_gpu() && !quick() ? 64 : 1;
      const std::int64_t heads = on_gpu() && !quick() ? 12 : 3;
      const Sizes s{batch, tokens, tokens, heads, 64};
      if (added.count(s.text()) == 0) add_one(s, precision, false);
    }
    add_one({on_gpu() && !quick() ? 64 : 1, quick() ? 17 : 197, quick() ? 17 : 197, 3, 64, 0.1f},
            precision, false);
  }
}

const Registration registration(add_all);

}  // namespace
}  // namespace vitrine::bench
