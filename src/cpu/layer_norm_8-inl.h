// Layer normalisation of rows of eight elements, as many rows at once as a vector has lanes.
//
// Eight vectors hold these rows one after another. Adding the even lanes of two vectors to the odd
// ones halves their number; three times, and one vector has the sum of row r in lane r, so that the
// statistics of all rows are computed side by side. A table lookup brings a row's number back to
// its eight elements. Vectors of eight lanes or a multiple only.
// Included by files that foreach_target.h compiles once per target.
#include "cpu/layer_norm.h"
#include "hwy/highway.h"

// Highway's per-target include guard.
#if defined(VITRINE_CPU_LAYER_NORM_8_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VITRINE_CPU_LAYER_NORM_8_INL_H_
#undef VITRINE_CPU_LAYER_NORM_8_INL_H_
#else
#define VITRINE_CPU_LAYER_NORM_8_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace vitrine::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_SCALAR  // one lane has no even and odd lanes

inline std::int64_t forward_rows_of_8(const ForwardTile&) {
  return 0;
}
inline std::int64_t backward_rows_of_8(const BackwardTile&) {
  return 0;
}

#else

/// The sum of row r in lane r, of the rows in `vectors` of which there are eight.
template <class D, class V = hn::VFromD<D> >
HWY_INLINE V sums_of_8(D d, const V* vectors) {
  V sums[8];
  for (int i = 0; i < 8; ++i) sums[i] = vectors[i];
  for (int n = 4; n > 0; n /= 2) {
    for (int i = 0; i < n; ++i) {
      const V low = sums[2 * i], high = sums[2 * i + 1];
      sums[i] = hn::Add(hn::ConcatEven(d, high, low), hn::ConcatOdd(d, high, low));
    }
  }
  return sums[0];
}

/// For each element of vector i the number of its row.
template <class D, class V = hn::VFromD<D> >
HWY_INLINE V spread_to_8(D d, V numbers, int i) {
  const hn::RebindToSigned<D> di;
  const auto first = hn::Set(di, static_cast<std::int32_t>(hn::Lanes(d)) / 8 * i);
  const auto rows = hn::Add(hn::ShiftRight<3>(hn::Iota(di, 0)), first);
  return hn::TableLookupLanes(numbers, hn::IndicesFromVec(d, rows));
}

/// A row of eight, again and again.
template <class D, class V = hn::VFromD<D> >
HWY_INLINE V repeat_8(D d, const float* row) {
  const hn::RebindToSigned<D> di;
  const auto elements = hn::And(hn::Iota(di, 0), hn::Set(di, 7));
  return hn::GatherIndex(d, row, elements);
}

/// sums[c] += the lanes of `v` that are elements c of their rows, in the order of the rows.
template <class D, class V = hn::VFromD<D> >
HWY_INLINE void add_to_8(D d, V v, float* sums) {
  HWY_ALIGN float lanes[HWY_MAX_BYTES / sizeof(float)];
  hn::Store(v, d, lanes);
  for (std::size_t i = 0; i < hn::Lanes(d); ++i) sums[i % 8] += lanes[i];
}

/// Returns how many of the tile's rows were done.
inline std::int64_t forward_rows_of_8(const ForwardTile& t) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  if (lanes % 8 != 0) return 0;
  const auto weight = repeat_8(d, t.weight), bias = repeat_8(d, t.bias);
  const auto eighth = hn::Set(d, 1.0f / 8);
  std::int64_t row = 0;
  for (; row + lanes <= t.rows; row += lanes) {
    const float* x = t.x + row * 8;
    float* y = t.y + row * 8;
    hn::Vec<decltype(d)> centred[8], squares[8];
    for (int i = 0; i < 8; ++i) centred[i] = hn::LoadU(d, x + i * lanes);
    const auto mean = hn::Mul(sums_of_8(d, centred), eighth);
    for (int i = 0; i < 8; ++i) {
      centred[i] = hn::Sub(centred[i], spread_to_8(d, mean, i));
      squares[i] = hn::Mul(centred[i], centred[i]);
    }
    const auto variance = hn::Mul(sums_of_8(d, squares), eighth);
    const auto rstd = hn::Div(hn::Set(d, 1.0f), hn::Sqrt(hn::Add(variance, hn::Set(d, t.eps))));
    for (int i = 0; i < 8; ++i) {
      const auto scaled = hn::Mul(centred[i], spread_to_8(d, rstd, i));
      hn::StoreU(hn::MulAdd(scaled, weight, bias), d, y + i * lanes);
    }
    if (t.mean != nullptr) hn::StoreU(mean, d, t.mean + row);
    if (t.rstd != nullptr) hn::StoreU(rstd, d, t.rstd + row);
  }
  return row;
}

/// Returns how many of the tile's rows were done.
inline std::int64_t backward_rows_of_8(const BackwardTile& t) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  if (lanes % 8 != 0) return 0;
  const auto weight = repeat_8(d, t.weight);
  const auto eighth = hn::Set(d, 1.0f / 8);
  auto dweight = hn::Zero(d), dbias = hn::Zero(d);
  std::int64_t row = 0;
  for (; row + lanes <= t.rows; row += lanes) {
    const float* dy = t.dy + row * 8;
    const float* x = t.x + row * 8;
    const auto mean = hn::LoadU(d, t.mean + row), rstd = hn::LoadU(d, t.rstd + row);
    hn::Vec<decltype(d)> g[8], normalised[8], products[8];
    for (int i = 0; i < 8; ++i) {
      const auto gradient = hn::LoadU(d, dy + i * lanes);
      const auto centred = hn::Sub(hn::LoadU(d, x + i * lanes), spread_to_8(d, mean, i));
      normalised[i] = hn::Mul(centred, spread_to_8(d, rstd, i));
      dweight = hn::MulAdd(gradient, normalised[i], dweight);
      dbias = hn::Add(dbias, gradient);
      g[i] = hn::Mul(gradient, weight);
      products[i] = hn::Mul(g[i], normalised[i]);
    }
    const auto mean_g = hn::Mul(sums_of_8(d, g), eighth);
    const auto mean_gx = hn::Mul(sums_of_8(d, products), eighth);
    for (int i = 0; i < 8; ++i) {
      const std::int64_t at = row * 8 + i * lanes;
      const auto parallel =
          hn::MulAdd(normalised[i], spread_to_8(d, mean_gx, i), spread_to_8(d, mean_g, i));
      auto dx = hn::Mul(spread_to_8(d, rstd, i), hn::Sub(g[i], parallel));
      if (t.dresidual != nullptr) dx = hn::Add(dx, hn::LoadU(d, t.dresidual + at));
      hn::StoreU(dx, d, t.dx + at);
    }
  }
  add_to_8(d, dweight, t.dweight);
  add_to_8(d, dbias, t.dbias);
  return row;
}

#endif  // HWY_TARGET == HWY_SCALAR

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace vitrine::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // VITRINE_CPU_LAYER_NORM_8_INL_H_
