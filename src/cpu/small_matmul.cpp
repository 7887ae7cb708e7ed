// Matrix product in register tiles, for the shapes of small models.
//
//   c = a · b (+ bias) (+ c)
//
// A tile of c, some rows by up to three vectors of columns, stays in registers while k runs: each
// step loads the tile's piece of a row of b, and multiplies it by one element of each row of a,
// broadcast from memory. Sums start from the bias or from c, so nothing is written twice, and every
// element of c is summed in the same order wherever it lies in a tile.
//
// A transposed b, or one whose rows end within a vector, is packed first, column tile by column
// tile, once for all rows. Two kinds of shapes would leave vectors half empty otherwise:
//   - n of half a vector (a model of width 8 on AVX-512): a vector holds two steps of k, b[k, j]
//     beside b[k + 1, j], and meets a pair of neighbouring elements of a; the halves of each sum
//     are added at the end;
//   - a weight gradient narrower than a vector whose other side fills vectors: it is computed
//     transposed.
#include "cpu/small_matmul.h"

#include <algorithm>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/small_matmul.cpp"
#include "hwy/foreach_target.h"
// clang-format off: the line above decides what the next one compiles for
#include "hwy/highway.h"
// clang-format on

#ifndef VITRINE_CPU_SMALL_MATMUL_TILE
#define VITRINE_CPU_SMALL_MATMUL_TILE
namespace vitrine::cpu {

constexpr std::int64_t kPairElements = 8192;        // of b where pairs of k lie side by side
constexpr std::int64_t kTransposedElements = 1024;  // of c where it is computed transposed
constexpr std::int64_t kTileVectors = 3;

/// Some rows of c by one to three vectors of its columns, and k of a piece of b in whole vectors.
struct ColumnTile {
  std::int64_t k, cols;
  const float* a;  // element (row, k) is a[row · a_row + k · a_step]
  std::int64_t a_row, a_step;
  const float* b;
  std::int64_t b_stride;
  const float* bias;
  bool accumulate;
  float* c;
  std::int64_t c_stride;
};

}  // namespace vitrine::cpu
#endif  // VITRINE_CPU_SMALL_MATMUL_TILE

HWY_BEFORE_NAMESPACE();
namespace vitrine::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class D>
constexpr std::int64_t lanes_of(D d) {
  return static_cast<std::int64_t>(hn::Lanes(d));
}

/// The first n elements from `from`, zeros behind them; no other memory is read.
template <class D>
HWY_INLINE hn::Vec<D> load_first(D d, std::int64_t n, const float* from) {
#if HWY_MEM_OPS_MIGHT_FAULT  // masks hide elements after they are read
  if (n == lanes_of(d)) return hn::LoadU(d, from);
  HWY_ALIGN float elements[hn::MaxLanes(D())] = {};
  std::copy_n(from, n, elements);
  return hn::Load(d, elements);
#else
  return hn::MaskedLoad(hn::FirstN(d, static_cast<std::size_t>(n)), d, from);
#endif
}

/// The first n elements of v; no other memory is written.
template <class D>
HWY_INLINE void store_first(D d, std::int64_t n, hn::Vec<D> v, float* to) {
#if HWY_MEM_OPS_MIGHT_FAULT
  if (n == lanes_of(d)) return hn::StoreU(v, d, to);
  HWY_ALIGN float elements[hn::MaxLanes(D())];
  hn::Store(v, d, elements);
  std::copy_n(elements, n, to);
#else
  hn::BlendedStore(v, hn::FirstN(d, static_cast<std::size_t>(n)), d, to);
#endif
}

/// Rows [row, row + kRows) of a tile of kVectors vectors, the last of which may be cut short.
template <int kRows, int kVectors>
HWY_INLINE void multiply_rows(const ColumnTile t, std::int64_t row) {  // stores cannot alias a copy
  const hn::ScalableTag<float> d;
  using V = hn::Vec<decltype(d)>;
  const std::int64_t lanes = lanes_of(d);
  const std::int64_t last = (kVectors - 1) * lanes;
  const std::int64_t in_last = t.cols - last;
  const auto load = [=](const float* from, int v) HWY_ATTR {
    return v < kVectors - 1 ? hn::LoadU(d, from + v * lanes) : load_first(d, in_last, from + last);
  };
  float* c = t.c + row * t.c_stride;
  V start[kVectors], sums[kRows][kVectors];
  for (int v = 0; v < kVectors; ++v) start[v] = t.bias != nullptr ? load(t.bias, v) : hn::Zero(d);
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) sums[r][v] = start[v];
  }
  if (t.accumulate) {
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVectors; ++v) {
        sums[r][v] = hn::Add(sums[r][v], load(c + r * t.c_stride, v));
      }
    }
  }
  const float* a = t.a + row * t.a_row;
  const float* b = t.b;
  for (std::int64_t k = 0; k < t.k; ++k, a += t.a_step, b += t.b_stride) {
    V factors[kVectors];
    for (int v = 0; v < kVectors; ++v) factors[v] = hn::LoadU(d, b + v * lanes);
    for (int r = 0; r < kRows; ++r) {
      const V element = hn::Set(d, a[r * t.a_row]);
      for (int v = 0; v < kVectors; ++v) sums[r][v] = hn::MulAdd(element, factors[v], sums[r][v]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors - 1; ++v) {
      hn::StoreU(sums[r][v], d, c + r * t.c_stride + v * lanes);
    }
    store_first(d, in_last, sums[r][kVectors - 1], c + r * t.c_stride + last);
  }
}

template <int kVectors>
void multiply_tile(const ColumnTile& t, std::int64_t m) {
  // With AVX-512's 32 registers eight rows of three vectors fit, with 16 registers four.
  constexpr int kRows = HWY_TARGET <= HWY_AVX3 || kVectors == 1 ? 8 : 4;
  std::int64_t row = 0;
  for (; row + kRows <= m; row += kRows) multiply_rows<kRows, kVectors>(t, row);
  if (kRows > 4 && row + 4 <= m) multiply_rows<4, kVectors>(t, row), row += 4;
  if (row + 2 <= m) multiply_rows<2, kVectors>(t, row), row += 2;
  if (row < m) multiply_rows<1, kVectors>(t, row);
}

/// packed[i · width + j] = b[i, col + j] for j in [0, cols), and 0 from there to `width`.
void pack_columns(const GemmOperand& b, std::int64_t k, std::int64_t col, std::int64_t cols,
                  std::int64_t width, float* packed) {
  const hn::ScalableTag<float> d;
  const hn::RebindToSigned<decltype(d)> di;
  const std::int64_t lanes = lanes_of(d);
  const auto rows = hn::Mul(hn::Iota(di, 0), hn::Set(di, static_cast<std::int32_t>(b.stride)));
  for (std::int64_t i = 0; i < k; ++i, packed += width) {
    std::int64_t j = 0;
    if (b.transposed) {
      const float* from = b.data + col * b.stride + i;
      for (; j + lanes <= cols; j += lanes) {
        hn::StoreU(hn::GatherIndex(d, from + j * b.stride, rows), d, packed + j);
      }
      for (; j < cols; ++j) packed[j] = from[j * b.stride];
    } else {
      const float* from = b.data + i * b.stride + col;
      for (; j < cols; ++j) packed[j] = from[j];
    }
    for (; j < width; ++j) packed[j] = 0.0f;
  }
}

/// How the columns of b are cut: tiles of nearly equal numbers of vectors.
struct ColumnCut {
  std::int64_t n, lanes, vectors, tiles;

  explicit ColumnCut(std::int64_t columns)
      : n(columns),
        lanes(lanes_of(hn::ScalableTag<float>())),
        vectors((n + lanes - 1) / lanes),
        tiles((vectors + kTileVectors - 1) / kTileVectors) {}

  std::int64_t begin(std::int64_t tile) const { return vectors * tile / tiles * lanes; }
  std::int64_t cols(std::int64_t tile) const { return std::min(n, begin(tile + 1)) - begin(tile); }
  std::int64_t width(std::int64_t tile) const { return begin(tile + 1) - begin(tile); }
};

void multiply(const Product& p) {
  const ColumnCut cut(p.n);
  for (std::int64_t tile = 0; tile < cut.tiles; ++tile) {
    const std::int64_t col = cut.begin(tile), width = cut.width(tile);
    ColumnTile t{};
    t.k = p.k;
    t.cols = cut.cols(tile);
    t.a = p.a.data;
    t.a_row = p.a.transposed ? 1 : p.a.stride;
    t.a_step = p.a.transposed ? p.a.stride : 1;
    t.b = p.packed != nullptr ? p.packed + col * p.k : p.b.data + col;
    t.b_stride = p.packed != nullptr ? width : p.b.stride;
    t.bias = p.bias != nullptr ? p.bias + col : nullptr;
    t.accumulate = p.accumulate;
    t.c = p.c + col;
    t.c_stride = p.c_stride;
    if (width == cut.lanes) {
      multiply_tile<1>(t, p.m);
    } else if (width == 2 * cut.lanes) {
      multiply_tile<2>(t, p.m);
    } else {
      multiply_tile<3>(t, p.m);
    }
  }
}

/// The transposed product, where the other side fills vectors better.
void multiply_transposed(const Product& p) {
  float transposed[kTransposedElements];
  multiply({.m = p.n,
            .n = p.m,
            .k = p.k,
            .a = {p.b.data, p.b.stride, !p.b.transposed},
            .b = {p.a.data, p.a.stride, !p.a.transposed},
            .packed = nullptr,
            .bias = nullptr,
            .accumulate = false,
            .c = transposed,
            .c_stride = p.m});
  for (std::int64_t i = 0; i < p.m; ++i) {
    float* c = p.c + i * p.c_stride;
    for (std::int64_t j = 0; j < p.n; ++j) {
      c[j] = (p.accumulate ? c[j] : 0.0f) + transposed[j * p.m + i];
    }
  }
}

#if HWY_TARGET == HWY_SCALAR

bool fills_pairs(const Product&) {
  return false;
}
void multiply_pairs(const Product&) {}

#else

/// Two neighbouring elements of memory in all pairs of lanes.
template <class D>
HWY_INLINE hn::Vec<D> load_pair(D d, const float* from) {
  const hn::Repartition<double, D> pairs;
  double pair;
  std::memcpy(&pair, from, sizeof pair);
  return hn::BitCast(d, hn::Set(pairs, pair));
}

/// Rows [row, row + kRows): an even number of them, or the last one.
template <int kRows, class D>
HWY_INLINE void multiply_pair_rows(D d, const Product& p, const float* panel, hn::Vec<D> start,
                                   std::int64_t row) {
  hn::Vec<D> sums[kRows + kRows % 2];
  for (auto& sum : sums) sum = hn::Zero(d);
  const float* a = p.a.data + row * p.a.stride;
  for (std::int64_t k = 0; k < p.k; k += 2, panel += lanes_of(d)) {
    const auto factor = hn::LoadU(d, panel);
    for (int r = 0; r < kRows; ++r) {
      sums[r] = hn::MulAdd(load_pair(d, a + r * p.a.stride + k), factor, sums[r]);
    }
  }
  // Sums of even and of odd k alternate; added, two rows fill a vector.
  for (int r = 0; r < kRows; r += 2) {
    auto two =
        hn::Add(hn::ConcatEven(d, sums[r + 1], sums[r]), hn::ConcatOdd(d, sums[r + 1], sums[r]));
    two = hn::Add(two, start);
    float* c = p.c + (row + r) * p.n;
    const std::int64_t valid = r + 1 < kRows ? 2 * p.n : p.n;
    if (p.accumulate) two = hn::Add(two, load_first(d, valid, c));
    store_first(d, valid, two, c);
  }
}

bool fills_pairs(const Product& p) {
  return 2 * p.n == lanes_of(hn::ScalableTag<float>()) && p.c_stride == p.n && !p.a.transposed &&
         p.k % 2 == 0 && p.k * p.n <= kPairElements;
}

void multiply_pairs(const Product& p) {
  const hn::ScalableTag<float> d;
  const std::int64_t lanes = lanes_of(d);
  alignas(64) float panel[kPairElements];
  for (std::int64_t k = 0; k < p.k; ++k) {
    for (std::int64_t j = 0; j < p.n; ++j) {
      panel[k / 2 * lanes + 2 * j + k % 2] =
          p.b.transposed ? p.b.data[j * p.b.stride + k] : p.b.data[k * p.b.stride + j];
    }
  }
  auto start = hn::Zero(d);
  if (p.bias != nullptr) {
    const auto half = load_first(d, p.n, p.bias);
    start = hn::ConcatLowerLower(d, half, half);
  }
  std::int64_t row = 0;
  for (; row + 8 <= p.m; row += 8) multiply_pair_rows<8>(d, p, panel, start, row);
  for (; row + 2 <= p.m; row += 2) multiply_pair_rows<2>(d, p, panel, start, row);
  if (row < p.m) multiply_pair_rows<1>(d, p, panel, start, row);
}

#endif  // HWY_TARGET == HWY_SCALAR

enum class Way { direct, packed, pairs, transposed };

/// Depends on m for weight gradients only, so rows of other products can be divided.
Way way_of(const Product& p) {
  const std::int64_t lanes = lanes_of(hn::ScalableTag<float>());
  if (fills_pairs(p)) return Way::pairs;
  const bool gradient = p.a.transposed && !p.b.transposed && p.bias == nullptr;
  if (gradient && p.m % lanes == 0 && p.m * p.n <= kTransposedElements &&
      p.m / lanes * p.n < (p.n + lanes - 1) / lanes * p.m) {
    return Way::transposed;
  }
  return p.b.transposed || p.n % lanes != 0 ? Way::packed : Way::direct;
}

std::int64_t packed_elements_of(const Product& p) {
  const ColumnCut cut(p.n);
  return way_of(p) == Way::packed ? cut.vectors * cut.lanes * p.k : 0;
}

void pack_factor_of(const Product& p, float* packed) {
  const ColumnCut cut(p.n);
  for (std::int64_t tile = 0; tile < cut.tiles; ++tile) {
    const std::int64_t col = cut.begin(tile), width = cut.width(tile);
    pack_columns(p.b, p.k, col, cut.cols(tile), width, packed + col * p.k);
  }
}

void run_product(const Product& p) {
  switch (way_of(p)) {
    case Way::pairs:
      return multiply_pairs(p);
    case Way::transposed:
      return multiply_transposed(p);
    case Way::direct:
    case Way::packed:
      return multiply(p);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace vitrine::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vitrine::cpu {

HWY_EXPORT(run_product);
HWY_EXPORT(packed_elements_of);
HWY_EXPORT(pack_factor_of);

std::int64_t packed_elements(const Product& product) {
  return HWY_DYNAMIC_DISPATCH(packed_elements_of)(product);
}

void pack_factor(const Product& product, float* packed) {
  HWY_DYNAMIC_DISPATCH(pack_factor_of)(product, packed);
}

// Measured with AVX-512: up to 192 x 48 no product of rows is slower than oneDNN's, larger weight
// gradients are.
bool is_small(const Product& p) {
  constexpr std::int64_t kFactor = 9216, kGradient = 1024;
  return p.a.transposed ? p.m * p.n <= kGradient : p.k * p.n <= kFactor;
}

void small_matmul(const Product& product) {
  HWY_DYNAMIC_DISPATCH(run_product)(product);
}

}  // namespace vitrine::cpu
#endif  // HWY_ONCE
