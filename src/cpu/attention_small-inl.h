// What forward and backward of small heads share: rows between memory and lanes, and the products
// of a single row.
//
// Include after hwy/highway.h, inside a file compiled once per target.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "hwy/highway.h"

// Highway's per-target include guard.
#if defined(VITRINE_CPU_ATTENTION_SMALL_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VITRINE_CPU_ATTENTION_SMALL_INL_H_
#undef VITRINE_CPU_ATTENTION_SMALL_INL_H_
#else
#define VITRINE_CPU_ATTENTION_SMALL_INL_H_
#endif

#include "cpu/attention-inl.h"

// One lane holds no quad: without vectors small heads take the way of the others.
#if HWY_TARGET != HWY_SCALAR
HWY_BEFORE_NAMESPACE();
namespace vitrine::cpu::HWY_NAMESPACE {

using Tag = hn::ScalableTag<float>;
using Vector = hn::VFromD<Tag>;
using Mask = hn::Mask<Tag>;
using QuadTag = hn::CappedTag<float, 4>;
using Quad = hn::VFromD<QuadTag>;

constexpr std::int64_t kLanes = hn::MaxLanes(Tag());
/// Up to so many rows beyond whole vectors are cheaper one at a time.
constexpr std::int64_t kMaxSingleRows = kLanes / 5;
constexpr float kLog2E = 1.44269504f;
constexpr float kLn2 = 0.693147181f;

/// Vectors that hold `n` floats.
constexpr std::int64_t vectors_of(std::int64_t n) {
  return (n + kLanes - 1) / kLanes;
}

template <int kHead>
HWY_INLINE void CopyRow(const float* from, float* to) {
  const QuadTag quad;
  HWY_UNROLL(4)
  for (int c = 0; c < kHead; c += 4) hn::StoreU(hn::LoadU(quad, from + c), quad, to + c);
}

/// 4×4 transposes inside the blocks of four lanes.
HWY_INLINE void TransposeBlocks(Vector (&v)[4]) {
  const Tag tag;
  const hn::Repartition<double, Tag> pairs;
  const auto low01 = hn::BitCast(pairs, hn::InterleaveLower(tag, v[0], v[1]));
  const auto high01 = hn::BitCast(pairs, hn::InterleaveUpper(tag, v[0], v[1]));
  const auto low23 = hn::BitCast(pairs, hn::InterleaveLower(tag, v[2], v[3]));
  const auto high23 = hn::BitCast(pairs, hn::InterleaveUpper(tag, v[2], v[3]));
  v[0] = hn::BitCast(tag, hn::InterleaveLower(pairs, low01, low23));
  v[1] = hn::BitCast(tag, hn::InterleaveUpper(pairs, low01, low23));
  v[2] = hn::BitCast(tag, hn::InterleaveLower(pairs, high01, high23));
  v[3] = hn::BitCast(tag, hn::InterleaveUpper(pairs, high01, high23));
}

/// Block b of the result is the quad of row 4 · b.
template <class D>
HWY_INLINE hn::VFromD<D> LoadQuads(D d, const float* row, std::int64_t stride) {
  if constexpr (hn::MaxLanes(D()) == 4) {
    return hn::LoadU(d, row);
  } else {
    const hn::Half<D> half;
    return hn::Combine(d, LoadQuads(half, row + hn::MaxLanes(half) * stride, stride),
                       LoadQuads(half, row, stride));
  }
}

/// The way back.
template <class D>
HWY_INLINE void StoreQuads(D d, hn::VFromD<D> v, float* row, std::int64_t stride) {
  if constexpr (hn::MaxLanes(D()) == 4) {
    hn::StoreU(v, d, row);
  } else {
    const hn::Half<D> half;
    StoreQuads(half, hn::LowerHalf(half, v), row, stride);
    StoreQuads(half, hn::UpperHalf(half, v), row + hn::MaxLanes(half) * stride, stride);
  }
}

/// to [kHead, lane] = scale · rows; lanes beyond the last row repeat it.
template <int kHead>
HWY_INLINE void RowsToLanes(const float* from, std::int64_t stride, std::int64_t rows, float scale,
                            float* to) {
  const Tag tag;
  const Vector factor = hn::Set(tag, scale);
  HWY_ALIGN float padded[kHead * kLanes];
  if (rows < kLanes) {
    for (std::int64_t l = 0; l < kLanes; ++l) {
      CopyRow<kHead>(from + std::min(l, rows - 1) * stride, padded + l * kHead);
    }
    from = padded;
    stride = kHead;
  }
  for (std::int64_t c = 0; c < kHead; c += 4) {
    Vector v[4];
    HWY_UNROLL(4)
    for (int r = 0; r < 4; ++r) v[r] = LoadQuads(tag, from + r * stride + c, stride);
    TransposeBlocks(v);
    HWY_UNROLL(4)
    for (int r = 0; r < 4; ++r) hn::Store(hn::Mul(v[r], factor), tag, to + (c + r) * kLanes);
  }
}

/// The way back: `rows` ≤ lanes rows.
template <int kHead>
HWY_INLINE void LanesToRows(const float* from, std::int64_t rows, float scale, float* to,
                            std::int64_t stride) {
  const Tag tag;
  const Vector factor = hn::Set(tag, scale);
  HWY_ALIGN float padded[kHead * kLanes];
  float* row = rows < kLanes ? padded : to;
  const std::int64_t row_stride = rows < kLanes ? kHead : stride;
  for (std::int64_t c = 0; c < kHead; c += 4) {
    Vector v[4];
    HWY_UNROLL(4)
    for (int r = 0; r < 4; ++r) v[r] = hn::Mul(hn::Load(tag, from + (c + r) * kLanes), factor);
    TransposeBlocks(v);
    HWY_UNROLL(4)
    for (int r = 0; r < 4; ++r) StoreQuads(tag, v[r], row + r * row_stride + c, row_stride);
  }
  if (rows == kLanes) return;
  for (std::int64_t l = 0; l < rows; ++l) CopyRow<kHead>(padded + l * kHead, to + l * stride);
}

/// The sum of the blocks of four lanes.
template <class D>
HWY_INLINE Quad SumOfBlocks([[maybe_unused]] D d, hn::VFromD<D> v) {
  if constexpr (hn::MaxLanes(D()) == 4) {
    return v;
  } else {
    const hn::Half<D> half;
    return SumOfBlocks(half, hn::Add(hn::LowerHalf(half, v), hn::UpperHalf(half, v)));
  }
}

/// The sums of the lanes of four vectors, or of four quads.
template <class D, class V = hn::VFromD<D>>
HWY_INLINE Quad SumsOfLanes(D d, V v0, V v1, V v2, V v3) {
  const hn::Repartition<double, D> pairs;
  const auto sum01 =
      hn::BitCast(pairs, hn::Add(hn::InterleaveLower(d, v0, v1), hn::InterleaveUpper(d, v0, v1)));
  const auto sum23 =
      hn::BitCast(pairs, hn::Add(hn::InterleaveLower(d, v2, v3), hn::InterleaveUpper(d, v2, v3)));
  return SumOfBlocks(d, hn::Add(hn::BitCast(d, hn::InterleaveLower(pairs, sum01, sum23)),
                                hn::BitCast(d, hn::InterleaveUpper(pairs, sum01, sum23))));
}

/// Calls body(rows, first) for tiles that make up n rows: of kRows, of one fewer, of one.
template <int kRows, class Body>
HWY_INLINE void ForTiles(std::int64_t n, const Body& body) {
  const std::int64_t tiles = (n + kRows - 1) / kRows;
  const std::int64_t full = std::max<std::int64_t>(0, n - tiles * (kRows - 1));
  std::int64_t i = 0;
  for (std::int64_t t = 0; t < full; ++t, i += kRows) body(std::integral_constant<int, kRows>(), i);
  for (; i + kRows - 1 <= n; i += kRows - 1) body(std::integral_constant<int, kRows - 1>(), i);
  for (; i < n; ++i) body(std::integral_constant<int, 1>(), i);
}

/// A row of kHead channels in vectors of at most kMaxWidth lanes, by default without any to spare:
/// what is read and written in place shall not cross more cache lines than it must.
template <int kHead, int kMaxWidth = (kHead % 16 == 0  ? 16
                                      : kHead % 8 == 0 ? 8
                                                       : 4)>
struct Row {
  using D = hn::CappedTag<float, kMaxWidth>;
  using V = hn::VFromD<D>;
  static constexpr int kWidth = static_cast<int>(hn::MaxLanes(D()));
  static constexpr int kVectors = (kHead + kWidth - 1) / kWidth;
  static constexpr int kRest = kHead - (kVectors - 1) * kWidth;

  V v[kVectors];

  static HWY_INLINE Row Zero() {
    Row row;
    HWY_UNROLL(4)
    for (int n = 0; n < kVectors; ++n) row.v[n] = hn::Zero(D());
    return row;
  }
  static HWY_INLINE Row Load(const float* from) {
    const D d;
    Row row;
    HWY_UNROLL(4)
    for (int n = 0; n < kVectors; ++n) {
      if (n + 1 < kVectors || kRest == kWidth) {
        row.v[n] = hn::LoadU(d, from + n * kWidth);
      } else {
        row.v[n] = hn::MaskedLoad(hn::FirstN(d, kRest), d, from + n * kWidth);
      }
    }
    return row;
  }
  HWY_INLINE void Store(float* to) const {
    const D d;
    HWY_UNROLL(4)
    for (int n = 0; n < kVectors; ++n) {
      if (n + 1 < kVectors || kRest == kWidth) {
        hn::StoreU(v[n], d, to + n * kWidth);
      } else {
        hn::BlendedStore(v[n], hn::FirstN(d, kRest), d, to + n * kWidth);
      }
    }
  }
  HWY_INLINE Row Times(float factor) const {
    Row row;
    HWY_UNROLL(4)
    for (int n = 0; n < kVectors; ++n) row.v[n] = hn::Mul(v[n], hn::Set(D(), factor));
    return row;
  }
  HWY_INLINE Row Plus(const Row& other) const {
    Row row;
    HWY_UNROLL(4)
    for (int n = 0; n < kVectors; ++n) row.v[n] = hn::Add(v[n], other.v[n]);
    return row;
  }
  /// this + weight · other
  HWY_INLINE Row PlusTimes(V weight, const Row& other) const {
    Row row;
    HWY_UNROLL(4)
    for (int n = 0; n < kVectors; ++n) row.v[n] = hn::MulAdd(weight, other.v[n], v[n]);
    return row;
  }
  /// Lanes of the products with `other`, not yet added up.
  HWY_INLINE V Products(const Row& other) const {
    V sum = hn::Mul(v[0], other.v[0]);
    HWY_UNROLL(4)
    for (int n = 1; n < kVectors; ++n) sum = hn::MulAdd(v[n], other.v[n], sum);
    return sum;
  }
};

/// to[i] = rows i of a and b multiplied.
template <int kHead>
HWY_INLINE void DotRows(const float* a, std::int64_t a_stride, const float* b,
                        std::int64_t b_stride, std::int64_t rows, float* to) {
  using R = Row<kHead>;
  const typename R::D d;
  const auto products = [&](std::int64_t i) HWY_ATTR {
    i = std::min(i, rows - 1);
    return R::Load(a + i * a_stride).Products(R::Load(b + i * b_stride));
  };
  for (std::int64_t i = 0; i < rows; i += 4) {
    const Quad sums =
        SumsOfLanes(d, products(i), products(i + 1), products(i + 2), products(i + 3));
    hn::StoreU(sums, QuadTag(), to + i);
  }
}

/// to[i] = `row` and row i of b multiplied. Room for whole quads.
template <int kHead>
HWY_INLINE void DotRows(const Row<kHead>& row, const float* b, std::int64_t stride,
                        std::int64_t rows, float* to) {
  const typename Row<kHead>::D d;
  const auto products = [&](std::int64_t i) HWY_ATTR {
    return row.Products(Row<kHead>::Load(b + std::min(i, rows - 1) * stride));
  };
  for (std::int64_t i = 0; i < rows; i += 4) {
    const Quad sums =
        SumsOfLanes(d, products(i), products(i + 1), products(i + 2), products(i + 3));
    hn::StoreU(sums, QuadTag(), to + i);
  }
}

/// Σ weight[i] · row i
template <int kHead>
HWY_INLINE Row<kHead> WeightedSum(const float* HWY_RESTRICT weight, const float* HWY_RESTRICT from,
                                  std::int64_t stride, std::int64_t rows) {
  using R = Row<kHead>;
  const typename R::D d;
  R sum[4] = {R::Zero(), R::Zero(), R::Zero(), R::Zero()};
  std::int64_t i = 0;
  for (; i + 4 <= rows; i += 4, from += 4 * stride) {
    HWY_UNROLL(4)
    for (int r = 0; r < 4; ++r) {
      sum[r] = sum[r].PlusTimes(hn::Set(d, weight[i + r]), R::Load(from + r * stride));
    }
  }
  for (; i < rows; ++i, from += stride) {
    sum[0] = sum[0].PlusTimes(hn::Set(d, weight[i]), R::Load(from));
  }
  return sum[0].Plus(sum[1]).Plus(sum[2].Plus(sum[3]));
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace vitrine::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // HWY_SCALAR

#endif  // VITRINE_CPU_ATTENTION_SMALL_INL_H_
