// Attention for heads of four channels: as many (image, head) pairs as a vector has lanes, side by
// side.
//
// Lane l of every vector belongs to pair l of a group: q, k, v and dO are transposed to [token,
// channel, lane], and every product is element-wise, without padding, broadcasts or sums over
// lanes. Missing pairs of the last group repeat the last pair, which is written again with the same
// values, so a pair's bits do not depend on its neighbours. Formulas as in attention.cpp; scores
// are in units of log2.
//
// Forward keeps two queries in registers, backward a key with its gradients, while a block of
// queries stays in the first-level cache. Gradients are written (=).
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/attention_lanes.cpp"
// Tiles are arrays of vectors, whose size the compiler must know.
#ifndef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#endif
#include "cpu/attention.h"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// After highway.h.
#include "cpu/attention_small-inl.h"
#include "hwy/contrib/math/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace vitrine::cpu::HWY_NAMESPACE {
namespace {

#if HWY_TARGET == HWY_SCALAR
std::int64_t Lanes() {
  return 1;
}
void LanesForward(const AttentionForward& args, std::int64_t pair) {
  attention_pair_forward(args, pair);
}
void LanesBackward(const AttentionBackward& args, std::int64_t pair) {
  attention_pair_backward(args, pair);
}
#else

constexpr int kHead = 4;
constexpr std::int64_t kRow = kHead * kLanes;  // floats of a token
constexpr std::int64_t kBlock = 25;            // queries that pass over the keys together
constexpr float kScale = 0.5f;                 // 1 / √kHead
constexpr float kSafeScore = 32.0f;            // of log2: sums of 2^score stay in range

std::int64_t Lanes() {
  return kLanes;
}

// Where the pairs of a group begin in a tensor; T may be const.
template <typename T>
struct Group {
  T* pair[kLanes];
  std::int64_t stride;  // between tokens

  Group(T* data, std::int64_t group, std::int64_t pairs, std::int64_t heads, std::int64_t tokens,
        std::int64_t token_stride)
      : stride(token_stride) {
    for (std::int64_t l = 0; l < kLanes; ++l) {
      const std::int64_t p = std::min(group * kLanes + l, pairs - 1);
      pair[l] = data + p / heads * tokens * stride + p % heads * kHead;
    }
  }
};

template <class D>
HWY_INLINE hn::VFromD<D> LoadPairs(D d, const float* const* pairs, std::int64_t at) {
  if constexpr (hn::MaxLanes(D()) == 4) {
    return hn::LoadU(d, pairs[0] + at);
  } else {
    const hn::Half<D> half;
    return hn::Combine(d, LoadPairs(half, pairs + hn::MaxLanes(half), at),
                       LoadPairs(half, pairs, at));
  }
}

template <class D>
HWY_INLINE void StorePairs(D d, hn::VFromD<D> v, float* const* pairs, std::int64_t at) {
  if constexpr (hn::MaxLanes(D()) == 4) {
    hn::StoreU(v, d, pairs[0] + at);
  } else {
    const hn::Half<D> half;
    StorePairs(half, hn::LowerHalf(half, v), pairs, at);
    StorePairs(half, hn::UpperHalf(half, v), pairs + hn::MaxLanes(half), at);
  }
}

// Four floats of every pair, transposed: v[c] holds channel c.
HWY_INLINE void GatherQuad(const float* const* pairs, std::int64_t at, Vector (&v)[4]) {
  HWY_UNROLL(4)
  for (int r = 0; r < 4; ++r) v[r] = LoadPairs(Tag(), pairs + r, at);
  TransposeBlocks(v);
}

HWY_INLINE void ScatterQuad(Vector (&v)[4], float* const* pairs, std::int64_t at) {
  TransposeBlocks(v);
  HWY_UNROLL(4)
  for (int r = 0; r < 4; ++r) StorePairs(Tag(), v[r], pairs + r, at);
}

// to [token, channel, lane] = scale · tokens of each pair.
HWY_NOINLINE void Gather(const Group<const float>& group, std::int64_t tokens, float scale,
                         float* to, std::int64_t to_stride = kRow) {
  const Tag tag;
  for (std::int64_t t = 0; t < tokens; ++t, to += to_stride) {
    Vector v[4];
    GatherQuad(group.pair, t * group.stride, v);
    HWY_UNROLL(4)
    for (int c = 0; c < 4; ++c) {
      hn::Store(hn::Mul(v[c], hn::Set(tag, scale)), tag, to + c * kLanes);
    }
  }
}

// The way back.
HWY_NOINLINE void Scatter(const float* from, std::int64_t tokens, float scale,
                          const Group<float>& group, std::int64_t from_stride = kRow) {
  const Tag tag;
  for (std::int64_t t = 0; t < tokens; ++t, from += from_stride) {
    Vector v[4];
    HWY_UNROLL(4)
    for (int c = 0; c < 4; ++c) {
      v[c] = hn::Mul(hn::Load(tag, from + c * kLanes), hn::Set(tag, scale));
    }
    ScatterQuad(v, group.pair, t * group.stride);
  }
}

// The greatest Σ_c x[t, c]² of the tokens, lane by lane.
HWY_NOINLINE Vector MaxSquaredNorm(const float* x, std::int64_t tokens) {
  const Tag tag;
  Vector max = hn::Zero(tag);
  for (std::int64_t t = 0; t < tokens; ++t, x += kRow) {
    Vector sum = hn::Zero(tag);
    HWY_UNROLL(4)
    for (int c = 0; c < kHead; ++c) {
      const Vector v = hn::Load(tag, x + c * kLanes);
      sum = hn::MulAdd(v, v, sum);
    }
    max = hn::Max(sum, max);
  }
  return max;
}

// kRows scores: q · k, summed in the order of the channels.
template <int kRows>
HWY_INLINE void Scores(const Vector (&q)[kRows][kHead], const float* key, Vector (&s)[kRows]) {
  HWY_UNROLL(4)
  for (int c = 0; c < kHead; ++c) {
    const Vector k = hn::Load(Tag(), key + c * kLanes);
    HWY_UNROLL(4)
    for (int r = 0; r < kRows; ++r) {
      s[r] = c == 0 ? hn::Mul(q[r][c], k) : hn::MulAdd(q[r][c], k, s[r]);
    }
  }
}

// kRows queries: out = Σ 2^(score - shift) v / sum, lane by lane. A softmax needs no shift where
// the scores cannot overflow (kShifted false), and the maximum of the scores where they could: the
// lanes in `shifted`.
template <int kRows, bool kShifted>
HWY_NOINLINE void ForwardQueries(const float* HWY_RESTRICT queries, const float* HWY_RESTRICT keys,
                                 const float* HWY_RESTRICT values, std::int64_t tokens,
                                 Mask shifted, float* HWY_RESTRICT out,
                                 float* HWY_RESTRICT log2_sum) {
  const Tag tag;
  Vector q[kRows][kHead], s[kRows], shift[kRows], sum[kRows], o[kRows][kHead];
  HWY_UNROLL(4)
  for (int r = 0; r < kRows; ++r) {
    shift[r] = sum[r] = hn::Zero(tag);
    HWY_UNROLL(4)
    for (int c = 0; c < kHead; ++c) {
      q[r][c] = hn::Load(tag, queries + r * kRow + c * kLanes);
      o[r][c] = hn::Zero(tag);
    }
  }
  if constexpr (kShifted) {
    Vector max[kRows];
    Scores(q, keys, max);
    for (std::int64_t j = 1; j < tokens; ++j) {
      Scores(q, keys + j * kRow, s);
      HWY_UNROLL(4)
      for (int r = 0; r < kRows; ++r) max[r] = hn::Max(s[r], max[r]);
    }
    HWY_UNROLL(4)
    for (int r = 0; r < kRows; ++r) shift[r] = hn::IfThenElseZero(shifted, max[r]);
  }
  for (std::int64_t j = 0; j < tokens; ++j, keys += kRow, values += kRow) {
    Scores(q, keys, s);
    HWY_UNROLL(4)
    for (int r = 0; r < kRows; ++r) {
      const Vector p = Exp2(tag, kShifted ? hn::Sub(s[r], shift[r]) : s[r]);
      sum[r] = hn::Add(sum[r], p);
      HWY_UNROLL(4)
      for (int c = 0; c < kHead; ++c) {
        o[r][c] = hn::MulAdd(p, hn::Load(tag, values + c * kLanes), o[r][c]);
      }
    }
  }
  HWY_UNROLL(4)
  for (int r = 0; r < kRows; ++r) {
    const Vector inverse = hn::Div(hn::Set(tag, 1.0f), sum[r]);
    HWY_UNROLL(4)
    for (int c = 0; c < kHead; ++c) {
      hn::Store(hn::Mul(o[r][c], inverse), tag, out + r * kRow + c * kLanes);
    }
    hn::Store(hn::Add(shift[r], hn::Log2(tag, sum[r])), tag, log2_sum + r * kLanes);
  }
}

template <bool kShifted>
void AllQueries(const float* q, const float* keys, const float* values, std::int64_t queries,
                std::int64_t tokens, Mask shifted, float* out, float* log2_sum) {
  std::int64_t i = 0;
  for (; i + 2 <= queries; i += 2) {
    ForwardQueries<2, kShifted>(q + i * kRow, keys, values, tokens, shifted, out + i * kRow,
                                log2_sum + i * kLanes);
  }
  if (i < queries) {
    ForwardQueries<1, kShifted>(q + i * kRow, keys, values, tokens, shifted, out + i * kRow,
                                log2_sum + i * kLanes);
  }
}

void LanesForward(const AttentionForward& args, std::int64_t group) {
  const Tag tag;
  const std::int64_t pairs = args.batch * args.heads;
  const std::int64_t queries = args.window.tokens, tokens = args.window.total;
  using In = Group<const float>;
  float* keys = attention_scratch((2 * tokens + 2 * queries) * kRow + queries * kLanes);
  float* values = keys + tokens * kRow;
  float* q = values + tokens * kRow;
  float* out = q + queries * kRow;
  float* log2_sum = out + queries * kRow;
  Gather(In(args.k.f32().data, group, pairs, args.heads, tokens, args.kv_stride), tokens, 1.0f,
         keys);
  Gather(In(args.v.f32().data, group, pairs, args.heads, tokens, args.kv_stride), tokens, 1.0f,
         values);
  Gather(In(args.q.f32().data, group, pairs, args.heads, queries, args.q_stride), queries,
         kScale * kLog2E, q);
  // |score| ≤ |q| |k|: most groups stay far from overflow, and need no pass for the maxima. Each
  // lane is decided for itself. NaN: shifted.
  const Mask shifted =
      hn::Not(hn::Le(hn::Mul(MaxSquaredNorm(q, queries), MaxSquaredNorm(keys, tokens)),
                     hn::Set(tag, kSafeScore * kSafeScore)));
  if (hn::AllFalse(tag, shifted)) {
    AllQueries<false>(q, keys, values, queries, tokens, shifted, out, log2_sum);
  } else {
    AllQueries<true>(q, keys, values, queries, tokens, shifted, out, log2_sum);
  }
  Scatter(out, queries, 1.0f,
          Group<float>(args.out.f32().data, group, pairs, args.heads, queries, args.heads * kHead));
  if (!args.log_sum_exp) return;
  for (std::int64_t i = 0; i < queries; ++i) {
    float* row = log2_sum + i * kLanes;
    hn::Store(hn::Mul(hn::Load(tag, row), hn::Set(tag, kLn2)), tag, row);
    for (std::int64_t l = 0; l < std::min(kLanes, pairs - group * kLanes); ++l) {
      args.log_sum_exp[(group * kLanes + l) * queries + i] = row[l];
    }
  }
}

// A query of a backward group: offsets of its vectors in a record.
constexpr std::int64_t kDout = kRow, kLog2Sum = 2 * kRow, kMinusDelta = kLog2Sum + kLanes;
constexpr std::int64_t kDq = kMinusDelta + kLanes;
constexpr std::int64_t kRecord = kDq + kRow;

// Working memory of a backward group: tensors of [token, channel, lane], and the queries.
struct Scratch {
  float *keys, *values, *dk, *dv, *queries;

  Scratch(std::int64_t query_count, std::int64_t tokens) {
    keys = attention_scratch(4 * tokens * kRow + query_count * kRecord);
    values = keys + tokens * kRow;
    dk = values + tokens * kRow;
    dv = dk + tokens * kRow;
    queries = dv + tokens * kRow;
  }
};

// log2 of the sums and -rowsum(dO ∘ out) of all queries; dq = 0.
HWY_NOINLINE void RowSums(const AttentionBackward& args, std::int64_t group,
                          const Scratch& scratch) {
  const Tag tag;
  const std::int64_t pairs = args.batch * args.heads, queries = args.window.tokens;
  const Group<const float> out(args.out.f32().data, group, pairs, args.heads, queries,
                               args.heads * kHead);
  float* query = scratch.queries;
  for (std::int64_t i = 0; i < queries; ++i, query += kRecord) {
    Vector v[4], minus_delta = hn::Zero(tag);
    GatherQuad(out.pair, i * out.stride, v);
    HWY_UNROLL(4)
    for (int c = 0; c < kHead; ++c) {
      const Vector dout = hn::Load(tag, query + kDout + c * kLanes);
      minus_delta = hn::NegMulAdd(dout, v[c], minus_delta);
      hn::Store(hn::Zero(tag), tag, query + kDq + c * kLanes);
    }
    hn::Store(minus_delta, tag, query + kMinusDelta);
    for (std::int64_t l = 0; l < kLanes; ++l) {
      const std::int64_t pair = std::min(group * kLanes + l, pairs - 1);
      query[kLog2Sum + l] = kLog2E * args.log_sum_exp[pair * queries + i];
    }
  }
}

// Key j and `count` queries from `first` on: dk and dv in registers, dq in memory.
HWY_NOINLINE void BackwardKey(const Scratch& scratch, std::int64_t j, std::int64_t first,
                              std::int64_t count) {
  const Tag tag;
  Vector k[kHead], v[kHead], dk[kHead], dv[kHead];
  HWY_UNROLL(4)
  for (int c = 0; c < kHead; ++c) {
    const std::int64_t at = j * kRow + c * kLanes;
    k[c] = hn::Load(tag, scratch.keys + at);
    v[c] = hn::Load(tag, scratch.values + at);
    dk[c] = first == 0 ? hn::Zero(tag) : hn::Load(tag, scratch.dk + at);
    dv[c] = first == 0 ? hn::Zero(tag) : hn::Load(tag, scratch.dv + at);
  }
  float* HWY_RESTRICT query = scratch.queries + first * kRecord;
  for (const float* end = query + count * kRecord; query < end; query += kRecord) {
    Vector q[kHead], dout[kHead], s, dp = hn::Load(tag, query + kMinusDelta);
    HWY_UNROLL(4)
    for (int c = 0; c < kHead; ++c) {
      q[c] = hn::Load(tag, query + c * kLanes);
      dout[c] = hn::Load(tag, query + kDout + c * kLanes);
      s = c == 0 ? hn::Mul(k[c], q[c]) : hn::MulAdd(k[c], q[c], s);
      dp = hn::MulAdd(v[c], dout[c], dp);
    }
    const Vector p = Exp2(tag, hn::Sub(s, hn::Load(tag, query + kLog2Sum)));
    const Vector ds = hn::Mul(p, dp);
    HWY_UNROLL(4)
    for (int c = 0; c < kHead; ++c) {
      dv[c] = hn::MulAdd(p, dout[c], dv[c]);
      dk[c] = hn::MulAdd(ds, q[c], dk[c]);
      float* dq = query + kDq + c * kLanes;
      hn::Store(hn::MulAdd(k[c], ds, hn::Load(tag, dq)), tag, dq);
    }
  }
  HWY_UNROLL(4)
  for (int c = 0; c < kHead; ++c) {
    hn::Store(dk[c], tag, scratch.dk + j * kRow + c * kLanes);
    hn::Store(dv[c], tag, scratch.dv + j * kRow + c * kLanes);
  }
}

void LanesBackward(const AttentionBackward& args, std::int64_t group) {
  const std::int64_t pairs = args.batch * args.heads, heads = args.heads;
  const std::int64_t queries = args.window.tokens, tokens = args.window.total;
  const Scratch scratch(queries, tokens);
  using In = Group<const float>;
  using Out = Group<float>;
  Gather(In(args.k.f32().data, group, pairs, heads, tokens, args.kv_stride), tokens, 1.0f,
         scratch.keys);
  Gather(In(args.v.f32().data, group, pairs, heads, tokens, args.kv_stride), tokens, 1.0f,
         scratch.values);
  Gather(In(args.q.f32().data, group, pairs, heads, queries, args.q_stride), queries,
         kScale * kLog2E, scratch.queries, kRecord);
  Gather(In(args.dout.f32().data, group, pairs, heads, queries, heads * kHead), queries, 1.0f,
         scratch.queries + kDout, kRecord);
  RowSums(args, group, scratch);
  for (std::int64_t first = 0; first < queries; first += kBlock) {
    const std::int64_t count = std::min(kBlock, queries - first);
    for (std::int64_t j = 0; j < tokens; ++j) BackwardKey(scratch, j, first, count);
  }
  Scatter(scratch.queries + kDq, queries, kScale,
          Out(args.dq.f32().data, group, pairs, heads, queries, args.q_stride), kRecord);
  Scatter(scratch.dk, tokens, kLn2,
          Out(args.dk.f32().data, group, pairs, heads, tokens, args.kv_stride));
  Scatter(scratch.dv, tokens, 1.0f,
          Out(args.dv.f32().data, group, pairs, heads, tokens, args.kv_stride));
}
#endif  // HWY_SCALAR

}  // namespace
// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace vitrine::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vitrine::cpu {
namespace {

HWY_EXPORT(Lanes);
HWY_EXPORT(LanesForward);
HWY_EXPORT(LanesBackward);

}  // namespace

std::int64_t attention_lanes() {
  return HWY_DYNAMIC_DISPATCH(Lanes)();
}

void attention_lanes_forward(const AttentionForward& args, std::int64_t group) {
  HWY_DYNAMIC_DISPATCH(LanesForward)(args, group);
}

void attention_lanes_backward(const AttentionBackward& args, std::int64_t group) {
  HWY_DYNAMIC_DISPATCH(LanesBackward)(args, group);
}

}  // namespace vitrine::cpu
#endif  // HWY_ONCE
