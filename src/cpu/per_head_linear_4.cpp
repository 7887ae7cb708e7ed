// The per-head linear layer for heads of four elements (see per_head_linear.cpp).
//
// A head fills one 128-bit block of a vector, so a vector holds one or two heads and
// Broadcast<i> gives element i of each head to all lanes of that head. The four columns (or rows)
// of a map stay in registers while a thread walks down the rows.
#include <type_traits>

#include "cpu/per_head_linear.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/per_head_linear_4.cpp"
#include "hwy/foreach_target.h"
// clang-format off: the line above decides what the next one compiles for
#include "hwy/highway.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace vitrine::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// One-lane targets have no blocks.
bool supported() {
  return HWY_TARGET != HWY_SCALAR;
}

#if HWY_TARGET == HWY_SCALAR

void forward(const PerHeadShape&, const float*, const float*, const float*, std::int64_t, float*) {}
void input_gradient(const PerHeadShape&, const float*, const float*, std::int64_t, bool, float*) {}
void weight_gradient(const PerHeadShape&, const float*, const float*, std::int64_t, float*) {}

#else

using TwoHeads = hn::CappedTag<float, 8>;
using OneHead = hn::CappedTag<float, 4>;

// The maps of neighbouring heads side by side: four vectors that share a column, or a row.
template <class D>
struct Maps {
  hn::Vec<D> v0, v1, v2, v3;

  HWY_INLINE void load(D d, const float* weight, bool columns) {
    const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
    alignas(64) float packed[4][8];
    for (std::int64_t lane = 0; lane < lanes; ++lane) {
      const float* map = weight + lane / 4 * 16;
      for (std::int64_t i = 0; i < 4; ++i) {
        packed[i][lane] = columns ? map[lane % 4 * 4 + i] : map[i * 4 + lane % 4];
      }
    }
    v0 = hn::LoadU(d, packed[0]);
    v1 = hn::LoadU(d, packed[1]);
    v2 = hn::LoadU(d, packed[2]);
    v3 = hn::LoadU(d, packed[3]);
  }

  // sum_i v_i x[i] + start, in each head.
  HWY_INLINE hn::Vec<D> apply(hn::Vec<D> x, hn::Vec<D> start) const {
    start = hn::MulAdd(hn::Broadcast<0>(x), v0, start);
    const auto other = hn::Mul(hn::Broadcast<1>(x), v1);
    start = hn::MulAdd(hn::Broadcast<2>(x), v2, start);
    return hn::Add(start, hn::MulAdd(hn::Broadcast<3>(x), v3, other));
  }
};

// The outer products dy xᵀ of neighbouring heads, summed over rows, and the sum of dy.
template <class D>
struct OuterSums {
  hn::Vec<D> v0, v1, v2, v3, dbias;

  explicit OuterSums(D d) : v0(hn::Zero(d)), v1(v0), v2(v0), v3(v0), dbias(v0) {}

  HWY_INLINE void add(hn::Vec<D> dy, hn::Vec<D> x) {
    v0 = hn::MulAdd(hn::Broadcast<0>(dy), x, v0);
    v1 = hn::MulAdd(hn::Broadcast<1>(dy), x, v1);
    v2 = hn::MulAdd(hn::Broadcast<2>(dy), x, v2);
    v3 = hn::MulAdd(hn::Broadcast<3>(dy), x, v3);
    dbias = hn::Add(dbias, dy);
  }

  HWY_INLINE void add(const OuterSums& other) {
    v0 = hn::Add(v0, other.v0);
    v1 = hn::Add(v1, other.v1);
    v2 = hn::Add(v2, other.v2);
    v3 = hn::Add(v3, other.v3);
    dbias = hn::Add(dbias, other.dbias);
  }

  void store(D d, float* dweight, float* dbias_out) const {
    const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
    alignas(64) float rows[4][8];
    hn::StoreU(v0, d, rows[0]);
    hn::StoreU(v1, d, rows[1]);
    hn::StoreU(v2, d, rows[2]);
    hn::StoreU(v3, d, rows[3]);
    for (std::int64_t lane = 0; lane < lanes; ++lane) {
      float* map = dweight + lane / 4 * 16;
      for (std::int64_t o = 0; o < 4; ++o) map[o * 4 + lane % 4] = rows[o][lane];
    }
    hn::StoreU(dbias, d, dbias_out);
  }
};

// Calls body(tag, head) for groups of as many heads as a vector holds, then for single ones.
template <class Body>
HWY_INLINE void for_head_groups(const PerHeadShape& s, const Body& body) {
  const TwoHeads two;
  const auto step = static_cast<std::int64_t>(hn::Lanes(two)) / 4;
  std::int64_t head = 0;
  for (; head + step <= s.heads; head += step) body(two, head);
  for (; head < s.heads; ++head) body(OneHead(), head);
}

// kParts parts from `part` on.
template <int kParts>
struct ForwardGroup {
  const PerHeadShape& s;
  const float *x, *weight, *bias;
  std::int64_t rows, part;
  float* y;

  template <class D>
  HWY_INLINE void operator()(D d, std::int64_t head) const {
    const std::int64_t x_stride = s.heads * 4, y_stride = x_stride * s.parts;
    Maps<D> maps[kParts];
    hn::Vec<D> start[kParts];
    for (int p = 0; p < kParts; ++p) {
      const std::int64_t map = (part + p) * s.heads + head;
      maps[p].load(d, weight + map * 16, true);
      start[p] = bias != nullptr ? hn::LoadU(d, bias + map * 4) : hn::Zero(d);
    }
    const float* from = x + head * 4;
    float* to = y + part * x_stride + head * 4;
    for (std::int64_t row = 0; row < rows; ++row, from += x_stride, to += y_stride) {
      const auto element = hn::LoadU(d, from);
      for (int p = 0; p < kParts; ++p) {
        hn::StoreU(maps[p].apply(element, start[p]), d, to + p * x_stride);
      }
    }
  }
};

template <int kParts>
struct InputGradientGroup {
  const PerHeadShape& s;
  const float *dy, *weight;
  std::int64_t rows, part;
  bool accumulate;
  float* dx;

  template <class D>
  HWY_INLINE void operator()(D d, std::int64_t head) const {
    const std::int64_t x_stride = s.heads * 4, y_stride = x_stride * s.parts;
    Maps<D> maps[kParts];
    for (int p = 0; p < kParts; ++p) {
      maps[p].load(d, weight + ((part + p) * s.heads + head) * 16, false);
    }
    const float* from = dy + part * x_stride + head * 4;
    float* to = dx + head * 4;
    for (std::int64_t row = 0; row < rows; ++row, from += y_stride, to += x_stride) {
      auto sum = accumulate ? hn::LoadU(d, to) : hn::Zero(d);
      for (int p = 0; p < kParts; ++p) {
        sum = maps[p].apply(hn::LoadU(d, from + p * x_stride), sum);
      }
      hn::StoreU(sum, d, to);
    }
  }
};

struct WeightGradientGroup {
  const PerHeadShape& s;
  const float *dy, *x;
  std::int64_t rows;
  float* partial;

  // Two sums side by side: one would wait for its own additions.
  template <class D>
  HWY_INLINE void operator()(D d, std::int64_t head) const {
    for (std::int64_t part = 0; part < s.parts; ++part) add_part(d, part, head);
  }

  template <class D>
  HWY_INLINE void add_part(D d, std::int64_t part, std::int64_t head) const {
    const std::int64_t map = part * s.heads + head;
    const std::int64_t x_stride = s.heads * 4;
    const std::int64_t y_stride = x_stride * s.parts;
    const float* dy_row = dy + map * 4;
    const float* x_row = x + head * 4;
    OuterSums<D> even(d), odd(d);
    std::int64_t row = 0;
    for (; row + 2 <= rows; row += 2, dy_row += 2 * y_stride, x_row += 2 * x_stride) {
      even.add(hn::LoadU(d, dy_row), hn::LoadU(d, x_row));
      odd.add(hn::LoadU(d, dy_row + y_stride), hn::LoadU(d, x_row + x_stride));
    }
    if (row < rows) even.add(hn::LoadU(d, dy_row), hn::LoadU(d, x_row));
    even.add(odd);
    even.store(d, partial + map * 16, partial + s.parts * s.heads * 16 + map * 4);
  }
};

// Calls body(count, part) for runs of up to three parts, q, k and v, which share what is loaded of
// a row; `count` is a compile-time constant.
template <class Body>
HWY_INLINE void for_part_runs(std::int64_t parts, const Body& body) {
  std::int64_t part = 0;
  for (; part + 3 <= parts; part += 3) body(std::integral_constant<int, 3>(), part);
  if (part + 2 == parts) return body(std::integral_constant<int, 2>(), part);
  if (part < parts) body(std::integral_constant<int, 1>(), part);
}

void forward(const PerHeadShape& s, const float* x, const float* weight, const float* bias,
             std::int64_t rows, float* y) {
  for_part_runs(s.parts, [&](auto count, std::int64_t part) HWY_ATTR {
    for_head_groups(s, ForwardGroup<count()>{s, x, weight, bias, rows, part, y});
  });
}

void input_gradient(const PerHeadShape& s, const float* dy, const float* weight, std::int64_t rows,
                    bool accumulate, float* dx) {
  for_part_runs(s.parts, [&](auto count, std::int64_t part) HWY_ATTR {
    for_head_groups(
        s, InputGradientGroup<count()>{s, dy, weight, rows, part, accumulate || part > 0, dx});
  });
}

void weight_gradient(const PerHeadShape& s, const float* dy, const float* x, std::int64_t rows,
                     float* partial) {
  for_head_groups(s, WeightGradientGroup{s, dy, x, rows, partial});
}

#endif  // HWY_TARGET == HWY_SCALAR

}  // namespace HWY_NAMESPACE
}  // namespace vitrine::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vitrine::cpu {

HWY_EXPORT(supported);
HWY_EXPORT(forward);
HWY_EXPORT(input_gradient);
HWY_EXPORT(weight_gradient);

bool has_per_head_linear_4(const PerHeadShape& shape) {
  return shape.head_size == 4 && HWY_DYNAMIC_DISPATCH(supported)();
}

void per_head_linear_4_forward(const PerHeadShape& shape, const float* x, const float* weight,
                               const float* bias, std::int64_t rows, float* y) {
  HWY_DYNAMIC_DISPATCH(forward)(shape, x, weight, bias, rows, y);
}

void per_head_linear_4_input_gradient(const PerHeadShape& shape, const float* dy,
                                      const float* weight, std::int64_t rows, bool accumulate,
                                      float* dx) {
  HWY_DYNAMIC_DISPATCH(input_gradient)(shape, dy, weight, rows, accumulate, dx);
}

void per_head_linear_4_weight_gradient(const PerHeadShape& shape, const float* dy, const float* x,
                                       std::int64_t rows, float* partial) {
  HWY_DYNAMIC_DISPATCH(weight_gradient)(shape, dy, x, rows, partial);
}

}  // namespace vitrine::cpu
#endif  // HWY_ONCE
