// Attention backward for small heads, one (image, head) pair at a time with its keys in the lanes.
//
// A tile of queries meets a vector of keys: scores and dP are products of keys and values with q
// and dO, which are broadcast; P and dS stay in registers until they are added to dv and dk. Only
// dS goes to memory, for dq. The few keys that do not fill a vector take one row of all queries
// each; a single query (a pruned block) one row of all keys. Formulas as in attention.cpp.
// Gradients are written (=), summed in an order that the shape alone decides.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/attention_small_backward.cpp"
// Tiles are arrays of vectors, whose size the compiler must know.
#ifndef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#endif
#include "cpu/attention.h"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// After highway.h.
#include "cpu/attention_small-inl.h"

HWY_BEFORE_NAMESPACE();
namespace vitrine::cpu::HWY_NAMESPACE {
namespace {

// Without fused multiply-add the rounding of peaked rows adds up: those take the way of the others.
#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128
void SmallBackward(const AttentionBackward& args, std::int64_t pair) {
  attention_pair_backward(args, pair);
}
#else
constexpr bool kManyRegisters = kLanes == 16 || !HWY_ARCH_X86;
constexpr int kTileQueries = kManyRegisters ? 8 : 4;
constexpr int kChains = kManyRegisters ? 4 : 2;  // channels of dk and dv added to together

// One pair. Tensors are [row, kHead] with a stride between rows.
struct Pair {
  const float *q, *k, *v, *out, *dout, *log_sum_exp;
  float *dq, *dk, *dv;
  std::int64_t q_stride, kv_stride, out_stride;
  std::int64_t queries, tokens;
  float scale;

  Pair(const AttentionBackward& args, std::int64_t pair)
      : q_stride(args.q_stride),
        kv_stride(args.kv_stride),
        out_stride(args.heads * args.head_size),
        queries(args.window.tokens),
        tokens(args.window.total),
        scale(1.0f / std::sqrt(static_cast<float>(args.head_size))) {
    const std::int64_t image = pair / args.heads, at = pair % args.heads * args.head_size;
    const std::int64_t q_at = image * queries * q_stride + at;
    const std::int64_t kv_at = image * tokens * kv_stride + at;
    const std::int64_t out_at = image * queries * out_stride + at;
    q = args.q.f32().data + q_at;
    k = args.k.f32().data + kv_at;
    v = args.v.f32().data + kv_at;
    out = args.out.f32().data + out_at;
    dout = args.dout.f32().data + out_at;
    log_sum_exp = args.log_sum_exp.data + pair * queries;
    dq = args.dq.f32().data + q_at;
    dk = args.dk.f32().data + kv_at;
    dv = args.dv.f32().data + kv_at;
  }
};

// What a query brings to all keys, side by side: one address reaches a tile of them.
template <int kHead>
struct Query {
  float q[kHead], dout[kHead];
};

// Working memory. Element (i, j) of dS is at ds + ((j / lanes) · queries + i) · lanes + j % lanes.
template <int kHead>
struct Scratch {
  float *ds, *log2_sum, *minus_delta, *p, *dp;
  Query<kHead>* queries;

  explicit Scratch(const Pair& pair) {
    const std::int64_t vectors = vectors_of(pair.tokens);
    const std::int64_t row = scratch_size(std::max(pair.queries, pair.tokens) + kLanes);
    const std::int64_t ds_size = scratch_size(vectors * pair.queries * kLanes);
    const std::int64_t queries_size = scratch_size(pair.queries * 2 * kHead);
    ds = attention_scratch(ds_size + queries_size + 4 * row);
    queries = reinterpret_cast<Query<kHead>*>(ds + ds_size);
    log2_sum = ds + ds_size + queries_size;
    minus_delta = log2_sum + row;
    p = minus_delta + row;
    dp = p + row;
  }
};

// A vector of keys: k scaled by log2(e) / √d, v, and their gradients, each [kHead, lane].
template <int kHead>
struct KeyVector {
  HWY_ALIGN float k[kHead * kLanes], v[kHead * kLanes], dk[kHead * kLanes], dv[kHead * kLanes];
};

// kRows queries: dS into memory, dk and dv added to.
template <int kHead, int kRows>
HWY_NOINLINE void Tile(const Scratch<kHead>& scratch, std::int64_t i, KeyVector<kHead>& keys,
                       float* HWY_RESTRICT ds) {
  const Tag tag;
  const Query<kHead>* HWY_RESTRICT queries = scratch.queries + i;
  const float* HWY_RESTRICT log2_sum = scratch.log2_sum + i;
  const float* HWY_RESTRICT minus_delta = scratch.minus_delta + i;
  Vector p[kRows], dp[kRows];
  HWY_UNROLL(16)
  for (int r = 0; r < kRows; ++r) dp[r] = hn::Set(tag, minus_delta[r]);
  HWY_UNROLL(16)
  for (int c = 0; c < kHead; ++c) {
    const Vector k = hn::Load(tag, keys.k + c * kLanes), v = hn::Load(tag, keys.v + c * kLanes);
    HWY_UNROLL(16)
    for (int r = 0; r < kRows; ++r) {
      const Vector q = hn::Set(tag, queries[r].q[c]);
      p[r] = c == 0 ? hn::Mul(k, q) : hn::MulAdd(k, q, p[r]);
      dp[r] = hn::MulAdd(v, hn::Set(tag, queries[r].dout[c]), dp[r]);
    }
  }
  HWY_UNROLL(16)
  for (int r = 0; r < kRows; ++r) {
    p[r] = Exp2(tag, hn::Sub(p[r], hn::Set(tag, log2_sum[r])));
    dp[r] = hn::Mul(p[r], dp[r]);
    hn::Store(dp[r], tag, ds + r * kLanes);
  }
  for (int first = 0; first < kHead; first += kChains) {
    Vector dk[kChains], dv[kChains];
    HWY_UNROLL(16)
    for (int c = 0; c < kChains; ++c) {
      dk[c] = hn::Load(tag, keys.dk + (first + c) * kLanes);
      dv[c] = hn::Load(tag, keys.dv + (first + c) * kLanes);
    }
    HWY_UNROLL(16)
    for (int r = 0; r < kRows; ++r) {
      HWY_UNROLL(16)
      for (int c = 0; c < kChains; ++c) {
        dk[c] = hn::MulAdd(dp[r], hn::Set(tag, queries[r].q[first + c]), dk[c]);
        dv[c] = hn::MulAdd(p[r], hn::Set(tag, queries[r].dout[first + c]), dv[c]);
      }
    }
    HWY_UNROLL(16)
    for (int c = 0; c < kChains; ++c) {
      hn::Store(dk[c], tag, keys.dk + (first + c) * kLanes);
      hn::Store(dv[c], tag, keys.dv + (first + c) * kLanes);
    }
  }
}

// Keys `first` and the following in the lanes, all queries.
template <int kHead>
void BackwardLanes(const Pair& pair, const Scratch<kHead>& scratch, std::int64_t first,
                   std::int64_t rows) {
  const Tag tag;
  KeyVector<kHead> keys;
  RowsToLanes<kHead>(pair.k + first * pair.kv_stride, pair.kv_stride, rows, pair.scale * kLog2E,
                     keys.k);
  RowsToLanes<kHead>(pair.v + first * pair.kv_stride, pair.kv_stride, rows, 1.0f, keys.v);
  for (int c = 0; c < kHead; ++c) {
    hn::Store(hn::Zero(tag), tag, keys.dk + c * kLanes);
    hn::Store(hn::Zero(tag), tag, keys.dv + c * kLanes);
  }
  float* ds = scratch.ds + first * pair.queries;
  ForTiles<kTileQueries>(pair.queries, [&](auto count, std::int64_t i) HWY_ATTR {
    Tile<kHead, count()>(scratch, i, keys, ds + i * kLanes);
  });
  LanesToRows<kHead>(keys.dk, rows, pair.scale, pair.dk + first * pair.kv_stride, pair.kv_stride);
  LanesToRows<kHead>(keys.dv, rows, 1.0f, pair.dv + first * pair.kv_stride, pair.kv_stride);
}

// One of the last keys, against all queries.
template <int kHead>
void BackwardKey(const Pair& pair, const Scratch<kHead>& scratch, std::int64_t j) {
  const Tag tag;
  const std::int64_t queries = pair.queries, at = j * pair.kv_stride;
  float *p = scratch.p, *ds = scratch.dp;
  DotRows<kHead>(Row<kHead>::Load(pair.k + at).Times(pair.scale * kLog2E), pair.q, pair.q_stride,
                 queries, p);
  DotRows<kHead>(Row<kHead>::Load(pair.v + at), pair.dout, pair.out_stride, queries, ds);
  for (std::int64_t i = 0; i < queries; i += kLanes) {
    const Vector log2_sum = hn::Load(tag, scratch.log2_sum + i);
    const Vector minus_delta = hn::Load(tag, scratch.minus_delta + i);
    const Vector e = Exp2(tag, hn::Sub(hn::Load(tag, p + i), log2_sum));
    hn::Store(e, tag, p + i);
    hn::Store(hn::Mul(e, hn::Add(hn::Load(tag, ds + i), minus_delta)), tag, ds + i);
  }
  WeightedSum<kHead>(p, pair.dout, pair.out_stride, queries).Store(pair.dv + at);
  WeightedSum<kHead>(ds, pair.q, pair.q_stride, queries).Times(pair.scale).Store(pair.dk + at);
  float* column = scratch.ds + j / kLanes * queries * kLanes + j % kLanes;
  for (std::int64_t i = 0; i < queries; ++i) column[i * kLanes] = ds[i];
}

// A row of K in as few vectors as possible.
template <int kHead>
using WideRow = Row<kHead, (kHead <= 8 ? 8 : 16)>;

// kRows queries of dq = dS K: a row of K in the lanes.
template <int kHead, int kRows>
HWY_NOINLINE void QueryGradient(const Pair& pair, const Scratch<kHead>& scratch, std::int64_t i) {
  using R = WideRow<kHead>;
  R sum[kRows];
  HWY_UNROLL(16)
  for (int r = 0; r < kRows; ++r) sum[r] = R::Zero();
  const float* HWY_RESTRICT key = pair.k;
  for (std::int64_t first = 0; first < pair.tokens; first += kLanes) {
    const float* HWY_RESTRICT ds = scratch.ds + first * pair.queries + i * kLanes;
    const std::int64_t count = std::min(kLanes, pair.tokens - first);
    for (std::int64_t j = 0; j < count; ++j, ++ds, key += pair.kv_stride) {
      const R k = R::Load(key);
      HWY_UNROLL(16)
      for (int r = 0; r < kRows; ++r) {
        sum[r] = sum[r].PlusTimes(hn::Set(typename R::D(), ds[r * kLanes]), k);
      }
    }
  }
  HWY_UNROLL(16)
  for (int r = 0; r < kRows; ++r) sum[r].Times(pair.scale).Store(pair.dq + (i + r) * pair.q_stride);
}

template <int kHead>
void QueryGradients(const Pair& pair, const Scratch<kHead>& scratch) {
  constexpr int kVectors = WideRow<kHead>::kVectors;
  constexpr int kRows = kVectors == 1 ? (kManyRegisters ? 13 : 10) : 10 / kVectors;
  ForTiles<kRows>(pair.queries, [&](auto rows, std::int64_t i)
                                    HWY_ATTR { QueryGradient<kHead, rows()>(pair, scratch, i); });
}

// One query against all keys; adds to dk and dv unless it is the first.
template <int kHead>
void BackwardRow(const Pair& pair, const Scratch<kHead>& scratch, std::int64_t i) {
  using R = Row<kHead>;
  const Tag tag;
  const typename R::D d;
  const std::int64_t tokens = pair.tokens, stride = pair.kv_stride;
  const R q = R::Load(pair.q + i * pair.q_stride).Times(pair.scale);
  const R dout = R::Load(pair.dout + i * pair.out_stride);
  float *p = scratch.p, *ds = scratch.dp;
  DotRows<kHead>(q.Times(kLog2E), pair.k, stride, tokens, p);
  DotRows<kHead>(dout, pair.v, stride, tokens, ds);
  GradientOfRow(tag, p, ds, vectors_of(tokens), hn::Set(tag, scratch.log2_sum[i]),
                hn::Set(tag, -scratch.minus_delta[i]));
  WeightedSum<kHead>(ds, pair.k, stride, tokens)
      .Times(pair.scale)
      .Store(pair.dq + i * pair.q_stride);
  for (std::int64_t j = 0; j < tokens; ++j) {
    float *dk = pair.dk + j * stride, *dv = pair.dv + j * stride;
    const R old_dk = i == 0 ? R::Zero() : R::Load(dk), old_dv = i == 0 ? R::Zero() : R::Load(dv);
    old_dk.PlusTimes(hn::Set(d, ds[j]), q).Store(dk);
    old_dv.PlusTimes(hn::Set(d, p[j]), dout).Store(dv);
  }
}

// -rowsum(dO ∘ out) and log2 of the sums.
template <int kHead>
HWY_INLINE void RowSums(const Pair& pair, const Scratch<kHead>& scratch) {
  const Tag tag;
  DotRows<kHead>(pair.dout, pair.out_stride, pair.out, pair.out_stride, pair.queries,
                 scratch.minus_delta);
  std::copy_n(pair.log_sum_exp, pair.queries, scratch.log2_sum);
  for (std::int64_t i = 0; i < pair.queries; i += kLanes) {
    const Vector log2_sum = hn::Mul(hn::Load(tag, scratch.log2_sum + i), hn::Set(tag, kLog2E));
    hn::Store(log2_sum, tag, scratch.log2_sum + i);
    hn::Store(hn::Neg(hn::Load(tag, scratch.minus_delta + i)), tag, scratch.minus_delta + i);
  }
}

template <int kHead>
void BackwardHead(const AttentionBackward& args, std::int64_t index) {
  const Pair pair(args, index);
  const Scratch<kHead> scratch(pair);
  RowSums<kHead>(pair, scratch);
  if (pair.queries <= kMaxSingleRows) {
    for (std::int64_t i = 0; i < pair.queries; ++i) BackwardRow<kHead>(pair, scratch, i);
    return;
  }
  for (std::int64_t i = 0; i < pair.queries; ++i) {
    CopyRow<kHead>(pair.q + i * pair.q_stride, scratch.queries[i].q);
    CopyRow<kHead>(pair.dout + i * pair.out_stride, scratch.queries[i].dout);
  }
  std::int64_t j = 0;
  while (pair.tokens - j > kMaxSingleRows) {
    const std::int64_t rows = std::min(kLanes, pair.tokens - j);
    BackwardLanes<kHead>(pair, scratch, j, rows);
    j += rows;
  }
  for (; j < pair.tokens; ++j) BackwardKey<kHead>(pair, scratch, j);
  QueryGradients<kHead>(pair, scratch);
}

void SmallBackward(const AttentionBackward& args, std::int64_t pair) {
  switch (args.head_size) {
    case 8:
      return BackwardHead<8>(args, pair);
    case 12:
      return BackwardHead<12>(args, pair);
    default:
      return BackwardHead<16>(args, pair);
  }
}
#endif  // HWY_SCALAR

}  // namespace
// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace vitrine::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vitrine::cpu {
namespace {

HWY_EXPORT(SmallBackward);

}  // namespace

void attention_small_backward(const AttentionBackward& args, std::int64_t pair) {
  HWY_DYNAMIC_DISPATCH(SmallBackward)(args, pair);
}

}  // namespace vitrine::cpu
#endif  // HWY_ONCE
