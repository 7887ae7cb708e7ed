// Affine maps with samples between pixels: Image.transform(AFFINE) of Pillow, BILINEAR and BICUBIC,
// to the bit, as vitrine/pixel_sampling.h defines them.
//
// Lanes are neighbouring pixels of an output row. The four columns that a pixel samples lie in one
// word of a row, gathered at an offset that keeps the word inside the row; columns beyond an edge
// are the edge's by the number of bits the word is shifted. All sums are in double, as Pillow's
// are, and no product is fused with a sum. A vector in which no lane lies between rows reads one
// row, and one in which none lies between columns takes values as they are: shears and shifts
// along an axis are such throughout. For nearest maps: the offsets of a row's sources.
#include <algorithm>
#include <cstring>

#include "cpu/augment_images.h"
#include "vitrine/pixel_sampling.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/augment_affine.cpp"
#include "hwy/foreach_target.h"
// clang-format off: the line above decides what the next one compiles for
#include "hwy/highway.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace vitrine::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Positions = hn::ScalableTag<double>;
using Words = hn::Rebind<std::int32_t, Positions>;
using Bytes = hn::Rebind<std::uint8_t, Positions>;
using Position = hn::Vec<Positions>;
using Word = hn::Vec<Words>;
using Inside = hn::Mask<Positions>;

constexpr int kColumns = 4;  // that a bicubic sample reads; bilinear reads the middle two
constexpr int kRows = 4;
constexpr int kMostChannels = 3;

// What the channels of a vector's pixels have in common.
struct Sampling {
  bool near_edge;         // columns beyond an edge are among those sampled
  Word shifts[kColumns];  // of the words, to the sampled columns, where that is so
  Word offsets[kRows];    // of the words in the plane, by sampled row
  Word inside;            // −1 where a lane is inside, 0 elsewhere
  Position dx, dy;
  bool between_columns, between_rows;
};

HWY_INLINE Word clamped(Word v, int low, int high) {
  const Words d;
  return hn::Min(hn::Max(v, hn::Set(d, low)), hn::Set(d, high));
}

HWY_INLINE bool any_but_zero(Position v) {
  const Positions d;
  return !hn::AllTrue(d, hn::Eq(v, hn::Zero(d)));
}

// Position of the lanes' pixels along one axis of the source; v are the map's three numbers.
HWY_INLINE Position position(const double* v, Position centre_x, double centre_y) {
  const Positions d;
  const Position along_x = hn::Mul(hn::Set(d, v[0]), centre_x);
  return hn::Add(hn::Add(along_x, hn::Set(d, v[1] * centre_y)), hn::Set(d, v[2]));
}

HWY_INLINE Inside is_inside(Position position, int size) {
  const Positions d;
  return hn::And(hn::Ge(position, hn::Zero(d)), hn::Lt(position, hn::Set(d, size)));
}

// Positions of lanes that are not inside may be any, and are not used.
HWY_INLINE Sampling sampling(Inside inside, Position x, Position y, int height, int width) {
  const Positions d;
  const Words words;
  const Position half = hn::Set(d, 0.5);
  x = hn::Sub(hn::IfThenElse(inside, x, half), half);
  y = hn::Sub(hn::IfThenElse(inside, y, half), half);
  const Position low_x = hn::Floor(x), low_y = hn::Floor(y);
  const Word first_column = hn::Sub(hn::DemoteTo(words, low_x), hn::Set(words, 1));
  const Word first_row = hn::Sub(hn::DemoteTo(words, low_y), hn::Set(words, 1));
  Sampling at;
  at.inside = hn::DemoteTo(words, hn::IfThenElseZero(inside, hn::Set(d, -1.0)));
  at.dx = hn::Sub(x, low_x);
  at.dy = hn::Sub(y, low_y);
  at.between_columns = any_but_zero(at.dx);
  at.between_rows = any_but_zero(at.dy);
  const Word word_begin = clamped(first_column, 0, width - kColumns);
  at.near_edge = !hn::AllTrue(words, hn::Eq(first_column, word_begin));
  for (int i = 0; at.near_edge && i < kColumns; ++i) {
    const Word column = clamped(hn::Add(first_column, hn::Set(words, i)), 0, width - 1);
    at.shifts[i] = hn::ShiftLeft<3>(hn::Sub(column, word_begin));
  }
  for (int i = 0; i < kRows; ++i) {
    const Word row = clamped(hn::Add(first_row, hn::Set(words, i)), 0, height - 1);
    at.offsets[i] = hn::Add(hn::Mul(row, hn::Set(words, width)), word_begin);
  }
  return at;
}

#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2
// By a mask: what gathers all lanes is compiled to an instruction that waits for whatever its
// register held before.
HWY_INLINE hn::Vec128<std::int32_t> gathered(const int* words, __m128i offsets, __m128i lanes) {
  return {_mm_mask_i32gather_epi32(_mm_setzero_si128(), words, offsets, lanes, 1)};
}
HWY_INLINE hn::Vec256<std::int32_t> gathered(const int* words, __m256i offsets, __m256i lanes) {
  return {_mm256_mask_i32gather_epi32(_mm256_setzero_si256(), words, offsets, lanes, 1)};
}
HWY_INLINE Word gathered_row(const std::uint8_t* plane, const Sampling& at, int row) {
  return gathered(reinterpret_cast<const int*>(plane), at.offsets[row].raw, at.inside.raw);
}
#else
HWY_INLINE Word gathered_row(const std::uint8_t* plane, const Sampling& at, int row) {
  const Words d;
  HWY_ALIGN std::int32_t words[HWY_MAX_BYTES / sizeof(double)];
  hn::Store(at.offsets[row], d, words);
  for (std::size_t lane = 0; lane < hn::Lanes(d); ++lane) {
    std::memcpy(words + lane, plane + words[lane], sizeof(std::int32_t));
  }
  return hn::Load(d, words);
}
#endif

template <int kColumn, bool kNearEdge>
HWY_INLINE Word level(Word word, const Sampling& at) {
  const Word shifted =
      kNearEdge ? hn::Shr(word, at.shifts[kColumn]) : hn::ShiftRight<8 * kColumn>(word);
  return hn::And(shifted, hn::Set(Words(), 0xFF));
}

// b + t · (first + t · (second + t · third)), as pixel::cubic.
HWY_INLINE Position cubic(Position b, Position first, Position second, Position third, Position t) {
  const Position square = hn::Add(second, hn::Mul(t, third));
  return hn::Add(b, hn::Mul(t, hn::Add(first, hn::Mul(t, square))));
}

HWY_INLINE Position cubic_along_y(const Position* rows, Position t) {
  const Position a = rows[0], b = rows[1], c = rows[2], d = rows[3];
  const Position difference = hn::Sub(a, b);
  const Position second = hn::Sub(hn::Add(hn::Add(difference, difference), c), d);
  const Position third = hn::Add(hn::Sub(hn::Sub(b, a), c), d);
  return cubic(b, hn::Sub(c, a), second, third, t);
}

template <ResampleFilter kFilter, bool kNearEdge>
HWY_INLINE Position sample_row(const std::uint8_t* plane, const Sampling& at, int row) {
  const Positions d;
  const Word word = gathered_row(plane, at, row);
  const Word b = level<1, kNearEdge>(word, at);
  if (!at.between_columns) return hn::PromoteTo(d, b);
  const Word c = level<2, kNearEdge>(word, at);
  if constexpr (kFilter == ResampleFilter::bilinear) {
    return hn::Add(hn::PromoteTo(d, b), hn::Mul(hn::PromoteTo(d, hn::Sub(c, b)), at.dx));
  }
  const Word a = level<0, kNearEdge>(word, at), last = level<3, kNearEdge>(word, at);
  const Word upwards = hn::Sub(b, a), third = hn::Add(hn::Sub(upwards, c), last);
  const Word second = hn::Sub(hn::Sub(hn::Zero(Words()), upwards), third);
  return cubic(hn::PromoteTo(d, b), hn::PromoteTo(d, hn::Sub(c, a)), hn::PromoteTo(d, second),
               hn::PromoteTo(d, third), at.dx);
}

template <ResampleFilter kFilter, bool kNearEdge>
HWY_INLINE Position sample(const std::uint8_t* plane, const Sampling& at) {
  if (!at.between_rows) return sample_row<kFilter, kNearEdge>(plane, at, 1);
  if constexpr (kFilter == ResampleFilter::bilinear) {
    const Position upper = sample_row<kFilter, kNearEdge>(plane, at, 1);
    const Position lower = sample_row<kFilter, kNearEdge>(plane, at, 2);
    return hn::Add(upper, hn::Mul(hn::Sub(lower, upper), at.dy));
  }
  Position rows[kRows];
  for (int i = 0; i < kRows; ++i) rows[i] = sample_row<kFilter, kNearEdge>(plane, at, i);
  return cubic_along_y(rows, at.dy);
}

HWY_INLINE void store_levels(Position values, std::uint8_t* to, int n) {
  const Positions d;
  const auto bytes = hn::DemoteTo(Bytes(), hn::DemoteTo(Words(), values));  // saturates
  if (n == static_cast<int>(hn::Lanes(d))) return hn::StoreU(bytes, Bytes(), to);
  std::uint8_t part[HWY_MAX_BYTES / sizeof(double)];
  hn::StoreU(bytes, Bytes(), part);
  std::copy_n(part, n, to);
}

template <ResampleFilter kFilter>
void transform_row(const SmoothTransform& args, int y) {
  const Positions d;
  const auto [channels, height, width] = args.shape;
  const int lanes = static_cast<int>(hn::Lanes(d)), plane = args.shape.plane();
  double fill[kMostChannels] = {};
  std::copy_n(args.fill, channels, fill);
  for (int x = 0; x < width; x += lanes) {
    const int n = width - x < lanes ? width - x : lanes;
    const Position centre_x = hn::Add(hn::Iota(d, x), hn::Set(d, 0.5));
    const Position from_x = position(args.value, centre_x, y + 0.5);
    const Position from_y = position(args.value + 3, centre_x, y + 0.5);
    const Inside inside = hn::And(is_inside(from_x, width), is_inside(from_y, height));
    std::uint8_t* to = args.to + y * width + x;
    if (hn::AllFalse(d, inside)) {
      for (int c = 0; c < channels; ++c) std::memset(to + c * plane, args.fill[c], n);
      continue;
    }
    const Sampling at = sampling(inside, from_x, from_y, height, width);
    for (int c = 0; c < channels; ++c) {
      const std::uint8_t* from = args.from + c * plane;
      const Position values =
          at.near_edge ? sample<kFilter, true>(from, at) : sample<kFilter, false>(from, at);
      store_levels(hn::IfThenElse(inside, values, hn::Set(d, fill[c])), to + c * plane, n);
    }
  }
}

void offsets_of_row(const FixedPointRow& row, std::int32_t* offsets) {
  const hn::CappedTag<std::int32_t, kSpareOffsets> d;
  const int lanes = static_cast<int>(hn::Lanes(d));
  const auto along = [&](std::uint32_t start, std::uint32_t step, int x) {
    const auto begin = static_cast<std::int32_t>(start + step * static_cast<std::uint32_t>(x));
    const auto steps = hn::Mul(hn::Iota(d, 0), hn::Set(d, static_cast<std::int32_t>(step)));
    return hn::ShiftRight<16>(hn::Add(hn::Set(d, begin), steps));
  };
  const auto outside = [&](auto v, int size) {
    return hn::Or(hn::Lt(v, hn::Zero(d)), hn::Gt(v, hn::Set(d, size - 1)));
  };
  for (int x = 0; x < row.width; x += lanes) {
    const auto column = along(row.x, row.step_x, x), line = along(row.y, row.step_y, x);
    const auto offset = hn::Add(hn::Mul(line, hn::Set(d, row.width)), column);
    const auto none = hn::Or(outside(column, row.width), outside(line, row.height));
    hn::StoreU(hn::IfThenElse(none, hn::Set(d, -1), offset), d, offsets + x);
  }
}

// Of images that are narrower than a word, and where vectors are of one lane.
void transform_pixels(const SmoothTransform& args) {
  const auto [channels, height, width] = args.shape;
  const int plane = args.shape.plane();
  std::uint8_t* to = args.to;
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x, ++to) {
      const pixel::SamplePoint at = pixel::sample_point(args.value, x, y, height, width);
      for (int c = 0; c < channels; ++c) {
        const std::uint8_t* from = args.from + c * plane;
        to[c * plane] = !at.inside ? args.fill[c]
                        : args.filter == ResampleFilter::bicubic
                            ? pixel::bicubic(from, height, width, at)
                            : pixel::bilinear(from, height, width, at);
      }
    }
  }
}

void transform_rows(const SmoothTransform& args) {
  if (HWY_TARGET == HWY_SCALAR || args.shape.width < kColumns) return transform_pixels(args);
  for (int y = 0; y < args.shape.height; ++y) {
    if (args.filter == ResampleFilter::bicubic) {
      transform_row<ResampleFilter::bicubic>(args, y);
    } else {
      transform_row<ResampleFilter::bilinear>(args, y);
    }
  }
}

}  // namespace vitrine::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vitrine::cpu {

HWY_EXPORT(transform_rows);
HWY_EXPORT(offsets_of_row);

void transform_smooth(const SmoothTransform& args) {
  HWY_DYNAMIC_DISPATCH(transform_rows)(args);
}

void fixed_point_offsets(const FixedPointRow& row, std::int32_t* offsets) {
  HWY_DYNAMIC_DISPATCH(offsets_of_row)(row, offsets);
}

}  // namespace vitrine::cpu
#endif  // HWY_ONCE
