// Attention for small heads: as many (image, head) pairs as a vector has lanes, side by side.
//
// With d = 4 or 12 neither a head nor a short row of scores fills vectors. Here lane l of every
// vector belongs to pair l of a group: q, k, v and dO are transposed to [token, channel, lane], and
// every product is element-wise, without padding, broadcasts or sums over lanes. Missing pairs of
// the last group repeat the last pair and are not stored, so a pair's bits do not depend on its
// neighbours. Formulas as in attention.cpp.
//
// Products are a register tile of 3 × 4 vectors. Forward takes a block of queries at a time,
// backward a block of keys, so that scores stay in the first-level cache. Gradients are written
// (=).
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/attention_lanes.cpp"
// Tiles are arrays of vectors, whose size the compiler must know.
#ifndef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#endif
#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu/attention.h"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// After highway.h.
#include "cpu/attention-inl.h"
#include "hwy/contrib/math/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace vitrine::cpu::HWY_NAMESPACE {
namespace {

using Tag = hn::ScalableTag<float>;
using Vector = hn::VFromD<Tag>;

constexpr int kTileRows = 3;
constexpr int kTileCols = 4;
constexpr int kTinyHead = 4;  // whose scores have a tile of their own
constexpr std::int64_t kMaxTiles = 8;
constexpr std::int64_t kLanes = hn::MaxLanes(Tag());
constexpr std::int64_t kScoreFloats = 8192;  // a block's scores stay in the first-level cache
constexpr float kLog2E = 1.44269504f;
constexpr float kLn2 = 0.693147181f;

// Vectors in memory: element (r, c) is at data + (r · row + c · col) · kLanes.
struct Matrix {
  float* data;
  std::int64_t row, col;

  float* at(std::int64_t r, std::int64_t c) const { return data + (r * row + c * col) * kLanes; }
};

template <int kRows, int kCols>
void Tile(const Matrix& a, const Matrix& b, std::int64_t depth, bool accumulate, const Matrix& c) {
  const Tag d;
  Vector sum[kRows][kCols];
  HWY_UNROLL(8)
  for (int m = 0; m < kRows; ++m) {
    HWY_UNROLL(8)
    for (int n = 0; n < kCols; ++n) {
      sum[m][n] = accumulate ? hn::Load(d, c.at(m, n)) : hn::Zero(d);
    }
  }
  const float* HWY_RESTRICT left = a.data;
  const float* HWY_RESTRICT right = b.data;
  for (std::int64_t k = 0; k < depth; ++k, left += a.col * kLanes, right += b.row * kLanes) {
    Vector row[kRows];
    HWY_UNROLL(8)
    for (int m = 0; m < kRows; ++m) row[m] = hn::Load(d, left + m * a.row * kLanes);
    HWY_UNROLL(8)
    for (int n = 0; n < kCols; ++n) {
      const Vector col = hn::Load(d, right + n * b.col * kLanes);
      HWY_UNROLL(8)
      for (int m = 0; m < kRows; ++m) sum[m][n] = hn::MulAdd(row[m], col, sum[m][n]);
    }
  }
  HWY_UNROLL(8)
  for (int m = 0; m < kRows; ++m) {
    HWY_UNROLL(8)
    for (int n = 0; n < kCols; ++n) hn::Store(sum[m][n], d, c.at(m, n));
  }
}

template <int kRows>
HWY_INLINE void TileOfCols(std::int64_t cols, const Matrix& a, const Matrix& b, std::int64_t depth,
                           bool accumulate, const Matrix& c) {
  switch (cols) {
    case 1:
      return Tile<kRows, 1>(a, b, depth, accumulate, c);
    case 2:
      return Tile<kRows, 2>(a, b, depth, accumulate, c);
    case 3:
      return Tile<kRows, 3>(a, b, depth, accumulate, c);
    default:
      return Tile<kRows, kTileCols>(a, b, depth, accumulate, c);
  }
}

// C [rows, cols] = (or +=) A [rows, depth] · B [depth, cols], lane by lane.
void Product(std::int64_t rows, std::int64_t cols, std::int64_t depth, const Matrix& a,
             const Matrix& b, bool accumulate, const Matrix& c) {
  for (std::int64_t n = 0; n < cols; n += kTileCols) {
    const std::int64_t tile_cols = std::min<std::int64_t>(kTileCols, cols - n);
    const Matrix tile_b{b.at(0, n), b.row, b.col};
    for (std::int64_t m = 0; m < rows; m += kTileRows) {
      const Matrix tile_a{a.at(m, 0), a.row, a.col};
      const Matrix tile_c{c.at(m, n), c.row, c.col};
      switch (rows - m) {
        case 1:
          TileOfCols<1>(tile_cols, tile_a, tile_b, depth, accumulate, tile_c);
          break;
        case 2:
          TileOfCols<2>(tile_cols, tile_a, tile_b, depth, accumulate, tile_c);
          break;
        default:
          TileOfCols<kTileRows>(tile_cols, tile_a, tile_b, depth, accumulate, tile_c);
      }
    }
  }
}

// Where the pairs of a group begin; row `t` of pair `l` is at begin[l] + t · stride.
struct Group {
  std::int64_t begin[kLanes];
  std::int64_t stride;
  std::int64_t valid;  // pairs; the other lanes repeat the last one

  Group(std::int64_t group, std::int64_t pairs, std::int64_t heads, std::int64_t head_size,
        std::int64_t tokens, std::int64_t token_stride)
      : stride(token_stride), valid(std::min(kLanes, pairs - group * kLanes)) {
    for (std::int64_t l = 0; l < kLanes; ++l) {
      const std::int64_t pair = group * kLanes + std::min(l, valid - 1);
      begin[l] = pair / heads * tokens * stride + pair % heads * head_size;
    }
  }
};

// to [rows, cols, lane] = scale · rows `first` and following of each pair.
void Gather(const float* from, const Group& group, std::int64_t first, std::int64_t rows,
            std::int64_t cols, float scale, float* to) {
  const std::int64_t quads = kLanes >= 4 ? cols / 4 * 4 : 0;
  from += first * group.stride;
  for (std::int64_t l = 0; quads > 0 && l < kLanes; l += 4) {
    const float *row0 = from + group.begin[l], *row1 = from + group.begin[l + 1];
    const float *row2 = from + group.begin[l + 2], *row3 = from + group.begin[l + 3];
    float* packed = to + l;
    for (std::int64_t t = 0; t < rows; ++t, packed += cols * kLanes) {
      for (std::int64_t c = 0; c < quads; c += 4) {
        const std::int64_t at = t * group.stride + c;
        CopyTransposed4(row0 + at, row1 + at, row2 + at, row3 + at, scale, packed + c * kLanes,
                        kLanes);
      }
    }
  }
  for (std::int64_t t = 0; quads < cols && t < rows; ++t) {
    for (std::int64_t c = quads; c < cols; ++c) {
      for (std::int64_t l = 0; l < kLanes; ++l) {
        to[(t * cols + c) * kLanes + l] = scale * from[group.begin[l] + t * group.stride + c];
      }
    }
  }
}

// The way back: only the pairs that exist are written.
void Scatter(const float* from, const Group& group, std::int64_t first, std::int64_t rows,
             std::int64_t cols, float scale, float* to) {
  const std::int64_t full = kLanes >= 4 ? group.valid / 4 * 4 : 0, quads = cols / 4 * 4;
  to += first * group.stride;
  for (std::int64_t l = 0; l < full; l += 4) {
    float *row0 = to + group.begin[l], *row1 = to + group.begin[l + 1];
    float *row2 = to + group.begin[l + 2], *row3 = to + group.begin[l + 3];
    for (std::int64_t t = 0; t < rows; ++t) {
      for (std::int64_t c = 0; c < quads; c += 4) {
        const float* packed = from + (t * cols + c) * kLanes + l;
        const std::int64_t at = t * group.stride + c;
        CopyTransposed4(packed, packed + kLanes, packed + 2 * kLanes, packed + 3 * kLanes, scale,
                        row0 + at, row1 + at, row2 + at, row3 + at);
      }
    }
  }
  for (std::int64_t l = 0; l < group.valid; ++l) {
    for (std::int64_t t = 0; t < rows; ++t) {
      for (std::int64_t c = l < full ? quads : 0; c < cols; ++c) {
        to[group.begin[l] + t * group.stride + c] = scale * from[(t * cols + c) * kLanes + l];
      }
    }
  }
}

// p = 2^(p - max) over one query's scores; returns log2 of the sum of all 2^p, and 1 / sum.
HWY_INLINE Vector Softmax(float* p, std::int64_t tokens, Vector* inverse_sum) {
  const Tag d;
  const Vector max = MaxOfRow(d, p, tokens);
  const Vector sum = ExpOfRow(d, p, tokens, max);
  *inverse_sum = hn::Div(hn::Set(d, 1.0f), sum);
  return hn::Add(max, hn::Log2(d, sum));
}

// log_sum_exp is [pair, query]: lanes are a row apart.
void LoadLanes(const float* from, std::int64_t group, std::int64_t valid, std::int64_t queries,
               std::int64_t query, float* to) {
  for (std::int64_t l = 0; l < kLanes; ++l) {
    to[l] = from[(group * kLanes + std::min(l, valid - 1)) * queries + query];
  }
}

// Queries (keys) that go through the products together: whole tiles whose scores stay in cache.
std::int64_t block_of(std::int64_t rows, std::int64_t cols) {
  const std::int64_t tiles = kScoreFloats / (kTileRows * cols * kLanes);
  return std::min(rows, kTileRows * std::clamp<std::int64_t>(tiles, 1, kMaxTiles));
}

struct Sizes {
  std::int64_t pairs, queries, tokens, head_size;
  std::int64_t query_block;  // forward
  std::int64_t key_block;    // backward
  float scale;

  template <typename Args>
  explicit Sizes(const Args& args)
      : pairs(args.batch * args.heads),
        queries(args.window.tokens),
        tokens(args.window.total),
        head_size(args.head_size),
        query_block(block_of(queries, tokens)),
        key_block(block_of(tokens, queries)),
        scale(1.0f / std::sqrt(static_cast<float>(head_size))) {}

  // Floats of [rows, head_size, lane].
  std::int64_t packed(std::int64_t rows) const { return rows * head_size * kLanes; }
};

// kRows rows of scores of a tiny head: the queries stay in registers.
template <int kRows, int kHead>
HWY_INLINE void ScoreRows(std::int64_t cols, const float* HWY_RESTRICT a,
                          const float* HWY_RESTRICT b, float* HWY_RESTRICT c) {
  const Tag d;
  Vector left[kRows][kHead];
  HWY_UNROLL(8)
  for (int m = 0; m < kRows; ++m) {
    HWY_UNROLL(8)
    for (int k = 0; k < kHead; ++k) left[m][k] = hn::Load(d, a + (m * kHead + k) * kLanes);
  }
  const std::int64_t c_row = cols * kLanes;
  for (const float* end = c + c_row; c < end; c += kLanes, b += kHead * kLanes) {
    Vector sum[kRows];
    HWY_UNROLL(8)
    for (int k = 0; k < kHead; ++k) {
      const Vector right = hn::Load(d, b + k * kLanes);
      HWY_UNROLL(8)
      for (int m = 0; m < kRows; ++m) {
        sum[m] = k == 0 ? hn::Mul(left[m][k], right) : hn::MulAdd(left[m][k], right, sum[m]);
      }
    }
    HWY_UNROLL(8)
    for (int m = 0; m < kRows; ++m) hn::Store(sum[m], d, c + m * c_row);
  }
}

// C [rows, cols] = A [rows, head_size] · B [cols, head_size]ᵀ, lane by lane.
void Scores(std::int64_t rows, std::int64_t cols, std::int64_t head_size, float* a, float* b,
            float* c) {
  if (head_size != kTinyHead) {
    return Product(rows, cols, head_size, {a, head_size, 1}, {b, 1, head_size}, false,
                   {c, cols, 1});
  }
  std::int64_t m = 0;
  for (; m + kTileRows <= rows; m += kTileRows) {
    ScoreRows<kTileRows, kTinyHead>(cols, a + m * kTinyHead * kLanes, b, c + m * cols * kLanes);
  }
  for (; m < rows; ++m) {
    ScoreRows<1, kTinyHead>(cols, a + m * kTinyHead * kLanes, b, c + m * cols * kLanes);
  }
}

void ForwardGroup(const AttentionForward& args, std::int64_t group) {
  const Tag tag;
  const Sizes size(args);
  const std::int64_t d = size.head_size, tokens = size.tokens;
  const Group q_group(group, size.pairs, args.heads, d, size.queries, args.q_stride);
  const Group kv_group(group, size.pairs, args.heads, d, tokens, args.kv_stride);
  const Group out_group(group, size.pairs, args.heads, d, size.queries, args.heads * d);

  float* keys = attention_scratch(2 * size.packed(tokens) + 2 * size.packed(size.query_block) +
                                  size.query_block * tokens * kLanes);
  float* values = keys + size.packed(tokens);
  float* queries = values + size.packed(tokens);
  float* out = queries + size.packed(size.query_block);
  float* scores = out + size.packed(size.query_block);
  Gather(args.k.f32().data, kv_group, 0, tokens, d, 1.0f, keys);
  Gather(args.v.f32().data, kv_group, 0, tokens, d, 1.0f, values);

  for (std::int64_t first = 0; first < size.queries; first += size.query_block) {
    const std::int64_t rows = std::min(size.query_block, size.queries - first);
    Gather(args.q.f32().data, q_group, first, rows, d, size.scale * kLog2E, queries);
    Scores(rows, tokens, d, queries, keys, scores);
    HWY_ALIGN float inverse_sum[kMaxTiles * kTileRows * kLanes];
    for (std::int64_t i = 0; i < rows; ++i) {
      Vector inverse;
      const Vector log2_sum = Softmax(scores + i * tokens * kLanes, tokens, &inverse);
      hn::Store(inverse, tag, inverse_sum + i * kLanes);
      if (!args.log_sum_exp) continue;
      HWY_ALIGN float natural[kLanes];
      hn::Store(hn::Mul(log2_sum, hn::Set(tag, kLn2)), tag, natural);
      for (std::int64_t l = 0; l < q_group.valid; ++l) {
        args.log_sum_exp[(group * kLanes + l) * size.queries + first + i] = natural[l];
      }
    }
    Product(rows, d, tokens, {scores, tokens, 1}, {values, d, 1}, false, {out, d, 1});
    for (std::int64_t i = 0; i < rows; ++i) {
      const Vector inverse = hn::Load(tag, inverse_sum + i * kLanes);
      for (std::int64_t c = 0; c < d; ++c) {
        float* at = out + (i * d + c) * kLanes;
        hn::Store(hn::Mul(hn::Load(tag, at), inverse), tag, at);
      }
    }
    Scatter(out, out_group, first, rows, d, 1.0f, args.out.f32().data);
  }
}

// Working memory of a backward group; tensors of [row, channel, lane].
struct BackwardScratch {
  float *keys, *values, *dk, *dv;                 // rows are tokens
  float *queries, *dout, *dq, *log2_sum, *delta;  // rows are queries
  float *p, *ds;                                  // [block of keys, query, lane]

  explicit BackwardScratch(const Sizes& size) {
    const std::int64_t token_rows = size.packed(size.tokens);
    const std::int64_t query_rows = size.packed(size.queries);
    const std::int64_t row_sums = size.queries * kLanes;
    const std::int64_t scores = size.key_block * size.queries * kLanes;
    keys = attention_scratch(4 * token_rows + 3 * query_rows + 2 * row_sums + 2 * scores);
    values = keys + token_rows;
    dk = values + token_rows;
    dv = dk + token_rows;
    queries = dv + token_rows;
    dout = queries + query_rows;
    dq = dout + query_rows;
    log2_sum = dq + query_rows;
    delta = log2_sum + row_sums;
    p = delta + row_sums;
    ds = p + scores;
  }
};

// log2 of the sums and rowsum(dO ∘ out) of all queries; out passes through dq.
void RowSums(const AttentionBackward& args, const Sizes& size, std::int64_t group,
             const Group& out_group, const BackwardScratch& scratch) {
  const Tag tag;
  const std::int64_t d = size.head_size;
  Gather(args.out.f32().data, out_group, 0, size.queries, d, 1.0f, scratch.dq);
  for (std::int64_t i = 0; i < size.queries; ++i) {
    float* sum = scratch.log2_sum + i * kLanes;
    LoadLanes(args.log_sum_exp.data, group, out_group.valid, size.queries, i, sum);
    hn::Store(hn::Mul(hn::Load(tag, sum), hn::Set(tag, kLog2E)), tag, sum);
    Vector delta = hn::Zero(tag);
    for (std::int64_t c = i * d; c < (i + 1) * d; ++c) {
      delta = hn::MulAdd(hn::Load(tag, scratch.dout + c * kLanes),
                         hn::Load(tag, scratch.dq + c * kLanes), delta);
    }
    hn::Store(delta, tag, scratch.delta + i * kLanes);
  }
}

// From scores and dP of one key to P and dS, in place.
void ScoreGradient(std::int64_t queries, const BackwardScratch& scratch, float* HWY_RESTRICT p,
                   float* HWY_RESTRICT ds) {
  const Tag d;
  const float* HWY_RESTRICT log2_sum = scratch.log2_sum;
  const float* HWY_RESTRICT delta = scratch.delta;
  for (std::int64_t i = 0; i < queries * kLanes; i += kLanes) {
    const Vector e = Exp2(d, hn::Sub(hn::Load(d, p + i), hn::Load(d, log2_sum + i)));
    hn::Store(e, d, p + i);
    hn::Store(hn::Mul(e, hn::Sub(hn::Load(d, ds + i), hn::Load(d, delta + i))), d, ds + i);
  }
}

// A block of keys: dv = Pᵀ dO, dk = dSᵀ Q, dq += dS K. By keys rather than by queries only one of
// the three gradients is added to in memory.
void BackwardBlock(const Sizes& size, std::int64_t first, std::int64_t keys,
                   const BackwardScratch& scratch) {
  const std::int64_t d = size.head_size, queries = size.queries;
  float *p = scratch.p, *ds = scratch.ds;
  float* key = scratch.keys + size.packed(first);
  float* value = scratch.values + size.packed(first);
  Scores(keys, queries, d, key, scratch.queries, p);
  Scores(keys, queries, d, value, scratch.dout, ds);
  for (std::int64_t j = 0; j < keys; ++j) {
    ScoreGradient(queries, scratch, p + j * queries * kLanes, ds + j * queries * kLanes);
  }
  Product(keys, d, queries, {p, queries, 1}, {scratch.dout, d, 1}, false,
          {scratch.dv + size.packed(first), d, 1});
  Product(keys, d, queries, {ds, queries, 1}, {scratch.queries, d, 1}, false,
          {scratch.dk + size.packed(first), d, 1});
  Product(queries, d, keys, {ds, 1, queries}, {key, d, 1}, first > 0, {scratch.dq, d, 1});
}

void BackwardGroup(const AttentionBackward& args, std::int64_t group) {
  const Sizes size(args);
  const std::int64_t d = size.head_size, tokens = size.tokens, queries = size.queries;
  const Group q_group(group, size.pairs, args.heads, d, queries, args.q_stride);
  const Group kv_group(group, size.pairs, args.heads, d, tokens, args.kv_stride);
  const Group out_group(group, size.pairs, args.heads, d, queries, args.heads * d);
  const BackwardScratch scratch(size);
  Gather(args.k.f32().data, kv_group, 0, tokens, d, 1.0f, scratch.keys);
  Gather(args.v.f32().data, kv_group, 0, tokens, d, 1.0f, scratch.values);
  Gather(args.q.f32().data, q_group, 0, queries, d, size.scale * kLog2E, scratch.queries);
  Gather(args.dout.f32().data, out_group, 0, queries, d, 1.0f, scratch.dout);
  RowSums(args, size, group, out_group, scratch);
  for (std::int64_t first = 0; first < tokens; first += size.key_block) {
    BackwardBlock(size, first, std::min(size.key_block, tokens - first), scratch);
  }
  Scatter(scratch.dq, q_group, 0, queries, d, size.scale, args.dq.f32().data);
  Scatter(scratch.dk, kv_group, 0, tokens, d, kLn2, args.dk.f32().data);
  Scatter(scratch.dv, kv_group, 0, tokens, d, 1.0f, args.dv.f32().data);
}

std::int64_t Lanes() {
  return kLanes;
}

}  // namespace
// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace vitrine::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vitrine::cpu {
namespace {

HWY_EXPORT(ForwardGroup);
HWY_EXPORT(BackwardGroup);
HWY_EXPORT(Lanes);

}  // namespace

bool attention_lanes_suit(std::int64_t tokens, std::int64_t head_size) {
  constexpr std::int64_t kMaxHead = 16;
  constexpr std::int64_t kMaxElements = 1200;  // of a pair's K
  return head_size <= kMaxHead && tokens * head_size <= kMaxElements;
}

std::int64_t attention_lanes() {
  return HWY_DYNAMIC_DISPATCH(Lanes)();
}

void attention_lanes_forward(const AttentionForward& args, std::int64_t group) {
  HWY_DYNAMIC_DISPATCH(ForwardGroup)(args, group);
}

void attention_lanes_backward(const AttentionBackward& args, std::int64_t group) {
  HWY_DYNAMIC_DISPATCH(BackwardGroup)(args, group);
}

}  // namespace vitrine::cpu
#endif  // HWY_ONCE
