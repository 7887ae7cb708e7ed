// Attention for heads that fill vectors: one (image, head) pair at a time, in cache.
//
// A pair's K and V are packed into the calling thread's scratch and blocks of queries pass over
// them. All products are one register tile of 6 rows × 2 vectors: rows are broadcast from A,
// vectors come from B. Scores are kept in units of log2: the queries carry log2(e) / √d. Dropout
// multiplies the unnormalised probabilities. Formulas as in attention.cpp. Gradients are written
// (=), summed in the order of the queries.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/attention_pairs.cpp"
// Tiles are arrays of vectors, whose size the compiler must know.
#ifndef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#endif
#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu/attention.h"
#include "cpu/dropout.h"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// After highway.h.
#include "cpu/attention-inl.h"

HWY_BEFORE_NAMESPACE();
namespace vitrine::cpu::HWY_NAMESPACE {
namespace {

using Tag = hn::ScalableTag<float>;
using Vector = hn::VFromD<Tag>;

constexpr int kTileRows = 6;
constexpr std::int64_t kBlockRows = 24;  // queries that pass over K and V together
constexpr float kLog2E = 1.44269504f;
constexpr float kLn2 = 0.693147181f;

std::int64_t lanes() {
  return static_cast<std::int64_t>(hn::Lanes(Tag()));
}
std::int64_t round_up(std::int64_t n, std::int64_t to) {
  return (n + to - 1) / to * to;
}

// Element (m, k) of A is a[m · row + k · col].
struct Broadcast {
  const float* data;
  std::int64_t row, col;
};

// Vectors 2p and 2p + 1 of row k of B are at data + p · panel + k · row.
struct Panels {
  const float* data;
  std::int64_t row, panel;
};

template <int kRows, int kVectors>
HWY_INLINE void Tile(const Broadcast& a, const float* HWY_RESTRICT b, std::int64_t b_row,
                     std::int64_t depth, bool accumulate, float* HWY_RESTRICT c,
                     std::int64_t c_row) {
  const Tag d;
  const std::int64_t n = lanes();
  Vector sum[kRows][kVectors];
  HWY_UNROLL(8)
  for (int m = 0; m < kRows; ++m) {
    HWY_UNROLL(8)
    for (int v = 0; v < kVectors; ++v) {
      sum[m][v] = accumulate ? hn::Load(d, c + m * c_row + v * n) : hn::Zero(d);
    }
  }
  const float* HWY_RESTRICT a_data = a.data;
  for (std::int64_t k = 0; k < depth; ++k, a_data += a.col, b += b_row) {
    Vector right[kVectors];
    HWY_UNROLL(8)
    for (int v = 0; v < kVectors; ++v) right[v] = hn::Load(d, b + v * n);
    HWY_UNROLL(8)
    for (int m = 0; m < kRows; ++m) {
      const Vector left = hn::Set(d, a_data[m * a.row]);
      HWY_UNROLL(8)
      for (int v = 0; v < kVectors; ++v) sum[m][v] = hn::MulAdd(left, right[v], sum[m][v]);
    }
  }
  HWY_UNROLL(8)
  for (int m = 0; m < kRows; ++m) {
    HWY_UNROLL(8)
    for (int v = 0; v < kVectors; ++v) hn::Store(sum[m][v], d, c + m * c_row + v * n);
  }
}

template <int kVectors>
void TileOfRows(std::int64_t rows, const Broadcast& a, const float* b, std::int64_t b_row,
                std::int64_t depth, bool accumulate, float* c, std::int64_t c_row) {
  switch (rows) {
    case 1:
      return Tile<1, kVectors>(a, b, b_row, depth, accumulate, c, c_row);
    case 2:
      return Tile<2, kVectors>(a, b, b_row, depth, accumulate, c, c_row);
    case 3:
      return Tile<3, kVectors>(a, b, b_row, depth, accumulate, c, c_row);
    case 4:
      return Tile<4, kVectors>(a, b, b_row, depth, accumulate, c, c_row);
    case 5:
      return Tile<5, kVectors>(a, b, b_row, depth, accumulate, c, c_row);
    default:
      return Tile<kTileRows, kVectors>(a, b, b_row, depth, accumulate, c, c_row);
  }
}

// C [rows, vectors] = (or +=) A [rows, depth] · B [depth, vectors]
void Product(std::int64_t rows, std::int64_t vectors, std::int64_t depth, const Broadcast& a,
             const Panels& b, bool accumulate, float* c, std::int64_t c_row) {
  for (std::int64_t v = 0; v < vectors; v += 2) {
    const float* panel = b.data + v / 2 * b.panel;
    for (std::int64_t m = 0; m < rows; m += kTileRows) {
      const std::int64_t tile_rows = std::min<std::int64_t>(kTileRows, rows - m);
      const Broadcast tile_a{a.data + m * a.row, a.row, a.col};
      float* tile_c = c + m * c_row + v * lanes();
      if (v + 1 < vectors) {
        TileOfRows<2>(tile_rows, tile_a, panel, b.row, depth, accumulate, tile_c, c_row);
      } else {
        TileOfRows<1>(tile_rows, tile_a, panel, b.row, depth, accumulate, tile_c, c_row);
      }
    }
  }
}

// to[r, c] = scale · from[r, c], padded with zeros to `to_stride` columns.
void PackRows(const float* from, std::int64_t from_stride, std::int64_t rows, std::int64_t cols,
              float scale, float* to, std::int64_t to_stride) {
  const Tag d;
  const std::int64_t n = lanes();
  for (std::int64_t r = 0; r < rows; ++r, from += from_stride, to += to_stride) {
    std::int64_t c = 0;
    for (; c + n <= cols; c += n) {
      hn::Store(hn::Mul(hn::LoadU(d, from + c), hn::Set(d, scale)), d, to + c);
    }
    for (; c < to_stride; ++c) to[c] = c < cols ? scale * from[c] : 0.0f;
  }
}

// to[r, c] = scale · from[r, c] into memory with exactly `cols` columns.
void UnpackRows(const float* from, std::int64_t from_stride, std::int64_t rows, std::int64_t cols,
                float scale, float* to, std::int64_t to_stride) {
  const Tag d;
  const std::int64_t n = lanes();
  for (std::int64_t r = 0; r < rows; ++r, from += from_stride, to += to_stride) {
    std::int64_t c = 0;
    for (; c + n <= cols; c += n) {
      hn::StoreU(hn::Mul(hn::Load(d, from + c), hn::Set(d, scale)), d, to + c);
    }
    for (; c < cols; ++c) to[c] = scale * from[c];
  }
}

// Panels of 2 vectors of tokens, channel by channel; padded tokens are zero.
void PackTransposed(const float* from, std::int64_t stride, std::int64_t tokens, std::int64_t cols,
                    float* to) {
  const std::int64_t width = 2 * lanes();
  for (std::int64_t t0 = 0; t0 < tokens; t0 += width, to += cols * width) {
    if (t0 + width > tokens) std::memset(to, 0, sizeof(float) * cols * width);
    const std::int64_t end = std::min(width, tokens - t0);
    for (std::int64_t t = 0; t < end; t += 4) {
      const float* row = from + (t0 + t) * stride;
      std::int64_t c = 0;
      if (t + 4 <= end) {
        for (; c + 4 <= cols; c += 4) {
          CopyTransposed4(row + c, row + stride + c, row + 2 * stride + c, row + 3 * stride + c,
                          1.0f, to + c * width + t, width);
        }
      }
      for (; c < cols; ++c) {
        for (std::int64_t u = t; u < std::min(t + 4, end); ++u) {
          to[c * width + u] = from[(t0 + u) * stride + c];
        }
      }
    }
  }
}

// p = 2^(p - max) over `tokens` scores; returns log2 of the sum of all 2^p, and 1 / sum.
float Softmax(float* p, std::int64_t tokens, std::int64_t vectors, float* inverse_sum) {
  const Tag d;
  for (std::int64_t j = tokens; j < vectors * lanes(); ++j) p[j] = -INFINITY;
  const Vector max = hn::MaxOfLanes(d, MaxOfRow(d, p, vectors));
  const float sum = hn::GetLane(hn::SumOfLanes(d, ExpOfRow(d, p, vectors, max)));
  *inverse_sum = 1.0f / sum;
  return hn::GetLane(max) + std::log2(sum);
}

void Multiply(const float* factors, std::int64_t n, float* p) {
  for (std::int64_t j = 0; j < n; ++j) p[j] *= factors[j];
}

struct Sizes {
  std::int64_t queries, tokens, head_size;
  std::int64_t token_vectors, head_vectors;  // rounded up
  std::int64_t padded_tokens, padded_head;
  float scale;

  template <typename Args>
  explicit Sizes(const Args& args)
      : queries(args.window.tokens),
        tokens(args.window.total),
        head_size(args.head_size),
        token_vectors((tokens + lanes() - 1) / lanes()),
        head_vectors((head_size + lanes() - 1) / lanes()),
        padded_tokens(token_vectors * lanes()),
        padded_head(head_vectors * lanes()),
        scale(1.0f / std::sqrt(static_cast<float>(head_size))) {}

  std::int64_t transposed() const { return head_size * round_up(tokens, 2 * lanes()); }
  std::int64_t block() const { return std::min(kBlockRows, queries); }
};

// Row of the dropout's random numbers of query 0.
template <typename Args>
std::uint64_t dropout_row(const Args& args, std::int64_t pair) {
  const std::int64_t head = args.state->first_row * args.heads + pair;
  return static_cast<std::uint64_t>(head * args.window.total + args.window.first);
}

void ForwardPair(const AttentionForward& args, std::int64_t pair) {
  const Sizes size(args);
  const std::int64_t d = size.head_size, image = pair / args.heads, head = pair % args.heads;
  const float* q = args.q.f32().data + image * size.queries * args.q_stride + head * d;
  const float* k = args.k.f32().data + image * size.tokens * args.kv_stride + head * d;
  const float* v = args.v.f32().data + image * size.tokens * args.kv_stride + head * d;
  float* out = args.out.f32().data + (image * size.queries * args.heads + head) * d;
  float* log_sum_exp = args.log_sum_exp ? args.log_sum_exp.data + pair * size.queries : nullptr;

  const std::int64_t head_block = scratch_size(size.block() * size.padded_head);
  float* keys = attention_scratch(scratch_size(size.transposed()) +
                                  scratch_size(size.tokens * size.padded_head) + 2 * head_block +
                                  scratch_size((size.block() + 1) * size.padded_tokens));
  float* values = keys + scratch_size(size.transposed());
  float* queries = values + scratch_size(size.tokens * size.padded_head);
  float* block_out = queries + head_block;
  float* scores = block_out + head_block;
  float* factors = scores + size.block() * size.padded_tokens;
  PackTransposed(k, args.kv_stride, size.tokens, d, keys);
  PackRows(v, args.kv_stride, size.tokens, d, 1.0f, values, size.padded_head);

  for (std::int64_t first = 0; first < size.queries; first += size.block()) {
    const std::int64_t rows = std::min(size.block(), size.queries - first);
    PackRows(q + first * args.q_stride, args.q_stride, rows, d, size.scale * kLog2E, queries,
             size.padded_head);
    Product(rows, size.token_vectors, d, {queries, size.padded_head, 1},
            {keys, 2 * lanes(), 2 * lanes() * d}, false, scores, size.padded_tokens);
    float inverse_sum[kBlockRows];
    for (std::int64_t i = 0; i < rows; ++i) {
      float* p = scores + i * size.padded_tokens;
      const float log2_sum = Softmax(p, size.tokens, size.token_vectors, &inverse_sum[i]);
      if (log_sum_exp != nullptr) log_sum_exp[first + i] = log2_sum * kLn2;
      if (args.probabilities) {
        UnpackRows(p, 0, 1, size.tokens, inverse_sum[i],
                   args.probabilities.data + (pair * size.queries + first + i) * size.tokens, 0);
      }
      if (args.dropout.probability > 0.0f) {
        attention_dropout_factors(factors, size.tokens,
                                  dropout_row(args, pair) + static_cast<std::uint64_t>(first + i),
                                  args.dropout, *args.state);
        Multiply(factors, size.tokens, p);
      }
    }
    Product(rows, size.head_vectors, size.tokens, {scores, size.padded_tokens, 1},
            {values, size.padded_head, 2 * lanes()}, false, block_out, size.padded_head);
    for (std::int64_t i = 0; i < rows; ++i) {
      UnpackRows(block_out + i * size.padded_head, 0, 1, d, inverse_sum[i],
                 out + (first + i) * args.heads * d, 0);
    }
  }
}

float DotRow(const float* a, const float* b, std::int64_t n) {
  float sum = 0.0f;
  for (std::int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

void BackwardPair(const AttentionBackward& args, std::int64_t pair) {
  const Sizes size(args);
  const std::int64_t d = size.head_size, image = pair / args.heads, head = pair % args.heads;
  const std::int64_t q_begin = image * size.queries * args.q_stride + head * d;
  const std::int64_t kv_begin = image * size.tokens * args.kv_stride + head * d;
  const std::int64_t out_begin = (image * size.queries * args.heads + head) * d;
  const std::int64_t out_stride = args.heads * d;
  const float* q = args.q.f32().data + q_begin;
  const float* k = args.k.f32().data + kv_begin;
  const float* v = args.v.f32().data + kv_begin;
  const float* out = args.out.f32().data + out_begin;
  const float* dout = args.dout.f32().data + out_begin;
  const float* log_sum_exp = args.log_sum_exp.data + pair * size.queries;

  const std::int64_t transposed = scratch_size(size.transposed());
  const std::int64_t token_rows = scratch_size(size.tokens * size.padded_head);
  const std::int64_t head_block = scratch_size(size.block() * size.padded_head);
  const std::int64_t score_block = scratch_size((size.block() + 1) * size.padded_tokens);
  float* keys_transposed =
      attention_scratch(2 * transposed + 3 * token_rows + 3 * head_block + 2 * score_block);
  float* values_transposed = keys_transposed + transposed;
  float* keys = values_transposed + transposed;
  float* dk = keys + token_rows;
  float* dv = dk + token_rows;
  float* queries = dv + token_rows;
  float* block_dout = queries + head_block;
  float* dq = block_dout + head_block;
  float* p = dq + head_block;
  float* ds = p + score_block;
  float* factors =
      args.dropout.probability > 0.0f ? ds + size.block() * size.padded_tokens : nullptr;
  PackTransposed(k, args.kv_stride, size.tokens, d, keys_transposed);
  PackTransposed(v, args.kv_stride, size.tokens, d, values_transposed);
  PackRows(k, args.kv_stride, size.tokens, d, 1.0f, keys, size.padded_head);

  const std::int64_t width = 2 * lanes();
  for (std::int64_t first = 0; first < size.queries; first += size.block()) {
    const std::int64_t rows = std::min(size.block(), size.queries - first);
    PackRows(q + first * args.q_stride, args.q_stride, rows, d, size.scale * kLog2E, queries,
             size.padded_head);
    PackRows(dout + first * out_stride, out_stride, rows, d, 1.0f, block_dout, size.padded_head);
    Product(rows, size.token_vectors, d, {queries, size.padded_head, 1},
            {keys_transposed, width, width * d}, false, p, size.padded_tokens);
    Product(rows, size.token_vectors, d, {block_dout, size.padded_head, 1},
            {values_transposed, width, width * d}, false, ds, size.padded_tokens);
    for (std::int64_t i = 0; i < rows; ++i) {
      const std::int64_t row = (first + i) * out_stride;
      float *p_row = p + i * size.padded_tokens, *ds_row = ds + i * size.padded_tokens;
      if (factors != nullptr) {
        attention_dropout_factors(factors, size.tokens,
                                  dropout_row(args, pair) + static_cast<std::uint64_t>(first + i),
                                  args.dropout, *args.state);
        Multiply(factors, size.tokens, ds_row);
      }
      GradientOfRow(Tag(), p_row, ds_row, size.token_vectors,
                    hn::Set(Tag(), log_sum_exp[first + i] * kLog2E),
                    hn::Set(Tag(), DotRow(dout + row, out + row, d)));
      if (factors != nullptr) Multiply(factors, size.tokens, p_row);
    }
    Product(rows, size.head_vectors, size.tokens, {ds, size.padded_tokens, 1},
            {keys, size.padded_head, width}, false, dq, size.padded_head);
    UnpackRows(dq, size.padded_head, rows, d, size.scale,
               args.dq.f32().data + q_begin + first * args.q_stride, args.q_stride);
    Product(size.tokens, size.head_vectors, rows, {p, 1, size.padded_tokens},
            {block_dout, size.padded_head, width}, first > 0, dv, size.padded_head);
    Product(size.tokens, size.head_vectors, rows, {ds, 1, size.padded_tokens},
            {queries, size.padded_head, width}, first > 0, dk, size.padded_head);
  }
  UnpackRows(dv, size.padded_head, size.tokens, d, 1.0f, args.dv.f32().data + kv_begin,
             args.kv_stride);
  UnpackRows(dk, size.padded_head, size.tokens, d, kLn2, args.dk.f32().data + kv_begin,
             args.kv_stride);
}

}  // namespace
// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace vitrine::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vitrine::cpu {
namespace {

HWY_EXPORT(ForwardPair);
HWY_EXPORT(BackwardPair);

}  // namespace

void attention_pair_forward(const AttentionForward& args, std::int64_t pair) {
  HWY_DYNAMIC_DISPATCH(ForwardPair)(args, pair);
}

void attention_pair_backward(const AttentionBackward& args, std::int64_t pair) {
  HWY_DYNAMIC_DISPATCH(BackwardPair)(args, pair);
}

}  // namespace vitrine::cpu
#endif  // HWY_ONCE
