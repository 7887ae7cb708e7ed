// Attention forward for small heads, one (image, head) pair at a time with its queries in the
// lanes.
//
// A vector of queries meets the keys one by one: k and v are broadcast, and neither the row's
// maximum nor its sum crosses lanes. First all scores and the maximum, then 2^(score - maximum) and
// the sum over v in registers; scores are in units of log2. The few queries that do not fill a
// vector, or the only one of a pruned block, go through alone with keys in the lanes. Formulas as
// in attention.cpp.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/attention_small_forward.cpp"
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

// Without fused multiply-add the rounding of peaked rows adds up: those take the way of the others.
#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128
void SmallForward(const AttentionForward& args, std::int64_t pair) {
  attention_pair_forward(args, pair);
}
#else
constexpr int kKeys = 8;  // whose scores are in registers together

// One pair. Tensors are [row, kHead] with a stride between rows.
struct Pair {
  const float *q, *k, *v;
  float *out, *log_sum_exp;  // log_sum_exp is optional
  std::int64_t q_stride, kv_stride, out_stride;
  std::int64_t tokens;
  float scale;

  Pair(const AttentionForward& args, std::int64_t pair)
      : q_stride(args.q_stride),
        kv_stride(args.kv_stride),
        out_stride(args.heads * args.head_size),
        tokens(args.window.total),
        scale(1.0f / std::sqrt(static_cast<float>(args.head_size))) {
    const std::int64_t image = pair / args.heads, at = pair % args.heads * args.head_size;
    const std::int64_t queries = args.window.tokens;
    q = args.q.f32().data + image * queries * q_stride + at;
    k = args.k.f32().data + image * tokens * kv_stride + at;
    v = args.v.f32().data + image * tokens * kv_stride + at;
    out = args.out.f32().data + image * queries * out_stride + at;
    log_sum_exp = args.log_sum_exp ? args.log_sum_exp.data + pair * queries : nullptr;
  }
};

// Scores of kCount keys; returns the maximum of these and `max`.
template <int kHead, int kCount>
HWY_INLINE Vector ScoresOfKeys(const Vector (&query)[kHead], const float* HWY_RESTRICT k,
                               Vector max, float* HWY_RESTRICT scores) {
  const Tag tag;
  Vector s[kCount];
  HWY_UNROLL(16)
  for (int c = 0; c < kHead; ++c) {
    HWY_UNROLL(16)
    for (int j = 0; j < kCount; ++j) {
      const Vector key = hn::Set(tag, k[j * kHead + c]);
      s[j] = c == 0 ? hn::Mul(query[c], key) : hn::MulAdd(query[c], key, s[j]);
    }
  }
  HWY_UNROLL(16)
  for (int j = 0; j < kCount; ++j) {
    hn::Store(s[j], tag, scores + j * kLanes);
    max = hn::Max(s[j], max);
  }
  return max;
}

// out += Σ 2^(score - max) · v over kCount keys; returns `sum` with the factors added.
template <int kHead, int kCount>
HWY_INLINE Vector AddValues(const float* HWY_RESTRICT scores, const float* HWY_RESTRICT v,
                            Vector max, Vector sum, Vector (&out)[kHead]) {
  const Tag tag;
  Vector p[kCount];
  HWY_UNROLL(16)
  for (int j = 0; j < kCount; ++j) {
    p[j] = Exp2(tag, hn::Sub(hn::Load(tag, scores + j * kLanes), max));
  }
  HWY_UNROLL(16)
  for (int j = 0; j < kCount; ++j) {
    sum = hn::Add(sum, p[j]);
    HWY_UNROLL(16)
    for (int c = 0; c < kHead; ++c) {
      out[c] = hn::MulAdd(p[j], hn::Set(tag, v[j * kHead + c]), out[c]);
    }
  }
  return sum;
}

// `rows` ≤ lanes queries from `first` on. scores [tokens, lane].
template <int kHead>
void ForwardLanes(const Pair& pair, std::int64_t first, std::int64_t rows, const float* k,
                  const float* v, float* scores) {
  const Tag tag;
  const std::int64_t tokens = pair.tokens;
  HWY_ALIGN float packed[kHead * kLanes];
  RowsToLanes<kHead>(pair.q + first * pair.q_stride, pair.q_stride, rows, pair.scale * kLog2E,
                     packed);
  Vector query[kHead], out[kHead];
  HWY_UNROLL(16)
  for (int c = 0; c < kHead; ++c) {
    query[c] = hn::Load(tag, packed + c * kLanes);
    out[c] = hn::Zero(tag);
  }
  Vector max = hn::Set(tag, -INFINITY), sum = hn::Zero(tag);
  std::int64_t j = 0;
  for (; j + kKeys <= tokens; j += kKeys) {
    max = ScoresOfKeys<kHead, kKeys>(query, k + j * kHead, max, scores + j * kLanes);
  }
  for (; j < tokens; ++j) {
    max = ScoresOfKeys<kHead, 1>(query, k + j * kHead, max, scores + j * kLanes);
  }
  for (j = 0; j + kKeys <= tokens; j += kKeys) {
    sum = AddValues<kHead, kKeys>(scores + j * kLanes, v + j * kHead, max, sum, out);
  }
  for (; j < tokens; ++j) {
    sum = AddValues<kHead, 1>(scores + j * kLanes, v + j * kHead, max, sum, out);
  }
  const Vector inverse = hn::Div(hn::Set(tag, 1.0f), sum);
  HWY_UNROLL(16)
  for (int c = 0; c < kHead; ++c) hn::Store(hn::Mul(out[c], inverse), tag, packed + c * kLanes);
  LanesToRows<kHead>(packed, rows, 1.0f, pair.out + first * pair.out_stride, pair.out_stride);
  if (pair.log_sum_exp == nullptr) return;
  const Vector log2_sum = hn::Add(max, hn::Log2(tag, sum));
  hn::Store(hn::Mul(log2_sum, hn::Set(tag, kLn2)), tag, packed);
  std::copy_n(packed, rows, pair.log_sum_exp + first);
}

// One query. scores [tokens], with room for whole vectors.
template <int kHead>
void ForwardRow(const Pair& pair, std::int64_t row, float* scores) {
  const Tag tag;
  const std::int64_t tokens = pair.tokens, vectors = vectors_of(tokens);
  const auto query = Row<kHead>::Load(pair.q + row * pair.q_stride).Times(pair.scale * kLog2E);
  DotRows<kHead>(query, pair.k, pair.kv_stride, tokens, scores);
  for (std::int64_t j = tokens; j < vectors * kLanes; ++j) scores[j] = -INFINITY;
  const Vector max = hn::MaxOfLanes(tag, MaxOfRow(tag, scores, vectors));
  const float sum = hn::GetLane(hn::SumOfLanes(tag, ExpOfRow(tag, scores, vectors, max)));
  WeightedSum<kHead>(scores, pair.v, pair.kv_stride, tokens)
      .Times(1.0f / sum)
      .Store(pair.out + row * pair.out_stride);
  if (pair.log_sum_exp == nullptr) return;
  pair.log_sum_exp[row] = (hn::GetLane(max) + std::log2(sum)) * kLn2;
}

template <int kHead>
void ForwardHead(const AttentionForward& args, std::int64_t index) {
  const Pair pair(args, index);
  const std::int64_t queries = args.window.tokens;
  float* scores = attention_scratch(scratch_size((pair.tokens + 1) * kLanes) +
                                    2 * scratch_size(pair.tokens * kHead));
  float* k = scores + scratch_size((pair.tokens + 1) * kLanes);
  float* v = k + scratch_size(pair.tokens * kHead);
  std::int64_t i = 0;
  if (queries > kMaxSingleRows) {
    for (std::int64_t j = 0; j < pair.tokens; ++j) {
      CopyRow<kHead>(pair.k + j * pair.kv_stride, k + j * kHead);
      CopyRow<kHead>(pair.v + j * pair.kv_stride, v + j * kHead);
    }
  }
  while (queries - i > kMaxSingleRows) {
    const std::int64_t rows = std::min(kLanes, queries - i);
    ForwardLanes<kHead>(pair, i, rows, k, v, scores);
    i += rows;
  }
  for (; i < queries; ++i) ForwardRow<kHead>(pair, i, scores);
}

void SmallForward(const AttentionForward& args, std::int64_t pair) {
  switch (args.head_size) {
    case 8:
      return ForwardHead<8>(args, pair);
    case 12:
      return ForwardHead<12>(args, pair);
    default:
      return ForwardHead<16>(args, pair);
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

HWY_EXPORT(SmallForward);

}  // namespace

void attention_small_forward(const AttentionForward& args, std::int64_t pair) {
  HWY_DYNAMIC_DISPATCH(SmallForward)(args, pair);
}

}  // namespace vitrine::cpu
#endif  // HWY_ONCE
