// Tones by tables of 256 entries a channel, and changes of colour pixel by pixel.
//
// Of a table that waits, the histogram of what it will make is the pixels' histogram sent through
// it; only the mean luma needs the pixels themselves. Vectors of bytes go through a table in 16
// parts by the lower half of a byte, of which the upper half then chooses one; the other loops are
// left to the compiler, once for each target.
#include <algorithm>
#include <cstring>
#include <numeric>

#include "cpu/augment_images.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/augment_tone.cpp"
#include "hwy/foreach_target.h"
// clang-format off: the line above decides what the next one compiles for
#include "hwy/highway.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace vitrine::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128
void map_levels(const std::uint8_t* table, std::uint8_t* levels, int n) {
  for (int i = 0; i < n; ++i) levels[i] = table[levels[i]];
}
#else
template <class D>
HWY_INLINE hn::Vec<D> mapped(D d, const std::uint8_t* table, hn::Vec<D> levels) {
  const auto lower = hn::And(levels, hn::Set(d, 15));
  const auto bit = [&](int i) { return hn::TestBit(levels, hn::Set(d, 1 << i)); };
  const auto part = [&](int i) {
    return hn::TableLookupBytes(hn::LoadDup128(d, table + 16 * i), lower);
  };
  const auto bit4 = bit(4), bit5 = bit(5), bit6 = bit(6), bit7 = bit(7);
  const auto two = [&](int i) { return hn::IfThenElse(bit4, part(i + 1), part(i)); };
  const auto four = [&](int i) { return hn::IfThenElse(bit5, two(i + 2), two(i)); };
  const auto eight = [&](int i) { return hn::IfThenElse(bit6, four(i + 4), four(i)); };
  return hn::IfThenElse(bit7, eight(8), eight(0));
}

void map_levels(const std::uint8_t* table, std::uint8_t* levels, int n) {
  const hn::ScalableTag<std::uint8_t> d;
  const int lanes = static_cast<int>(hn::Lanes(d));
  int i = 0;
  for (; i + lanes <= n; i += lanes) {
    hn::StoreU(mapped(d, table, hn::LoadU(d, levels + i)), d, levels + i);
  }
  for (; i < n; ++i) levels[i] = table[levels[i]];
}
#endif

void blend_with_luma(std::uint8_t* image, int n, float factor) {
  std::uint8_t *red = image, *green = image + n, *blue = image + 2 * n;
  for (int i = 0; i < n; ++i) {
    const int r = red[i], g = green[i], b = blue[i];
    const int luma = pixel::luma(r, g, b);
    red[i] = pixel::blend(luma, r, factor);
    green[i] = pixel::blend(luma, g, factor);
    blue[i] = pixel::blend(luma, b, factor);
  }
}

void make_gray(std::uint8_t* image, int n) {
  for (int i = 0; i < n; ++i) {
    const int luma = pixel::luma(image[i], image[n + i], image[2 * n + i]);
    image[i] = static_cast<std::uint8_t>(luma);
  }
  std::memcpy(image + n, image, n);
  std::memcpy(image + 2 * n, image, n);
}

}  // namespace vitrine::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vitrine::cpu {

HWY_EXPORT(map_levels);
HWY_EXPORT(blend_with_luma);
HWY_EXPORT(make_gray);

namespace {

using pixel::kLevels;

/// counts[v] = pixels of value v. Four tables, because neighbours are often equal and one would
/// wait for the other.
void count_levels(const std::uint8_t* pixels, int n, std::uint32_t* counts) {
  constexpr int kTables = 4;
  std::uint32_t tables[kTables][kLevels] = {};
  int i = 0;
  for (; i + kTables <= n; i += kTables) {
    for (int table = 0; table < kTables; ++table) ++tables[table][pixels[i + table]];
  }
  for (; i < n; ++i) ++tables[0][pixels[i]];
  for (int level = 0; level < kLevels; ++level) {
    counts[level] = tables[0][level] + tables[1][level] + tables[2][level] + tables[3][level];
  }
}

}  // namespace

ToneTable::ToneTable() {
  for (auto& table : table_) std::iota(std::begin(table), std::end(table), std::uint8_t{0});
}

void ToneTable::append(const ImageOperation& operation, const std::uint8_t* image,
                       const ImageShape& shape) {
  if (pixel::reads_histogram(operation.kind)) {
    append_histogram_tone(operation.kind, image, shape);
  } else {
    const bool reads_mean = operation.kind == ImageOperationKind::contrast;
    const int mean = reads_mean ? mean_luma(image, shape) : 0;
    std::uint8_t next[kLevels];
    for (int x = 0; x < kLevels; ++x) next[x] = pixel::plain_tone(operation, mean, x);
    for (int c = 0; c < shape.channels; ++c) append_table(c, next);
  }
  identity_ = false;
}

void ToneTable::append_histogram_tone(ImageOperationKind kind, const std::uint8_t* image,
                                      const ImageShape& shape) {
  for (int c = 0; c < shape.channels; ++c) {
    std::uint32_t stored[kLevels], counts[kLevels] = {};
    count_levels(image + c * shape.plane(), shape.plane(), stored);
    for (int x = 0; x < kLevels; ++x) counts[table_[c][x]] += stored[x];
    const pixel::Histogram histogram = pixel::summary_of(counts);
    std::uint8_t next[kLevels];
    std::uint32_t below = 0;
    for (int x = 0; x < kLevels; ++x) {
      next[x] = pixel::histogram_tone(kind, histogram, below, x);
      below += counts[x];
    }
    append_table(c, next);
  }
}

int ToneTable::mean_luma(const std::uint8_t* image, const ImageShape& shape) const {
  const int n = shape.plane();
  std::uint64_t sum = 0;
  if (shape.channels == 1) {
    for (int i = 0; i < n; ++i) sum += table_[0][image[i]];
  } else if (identity_) {
    constexpr int kRun = 1 << 16;  // whose sum fits in 32 bits
    for (int begin = 0; begin < n; begin += kRun) {
      std::uint32_t part = 0;
      for (int i = begin; i < std::min(n, begin + kRun); ++i) {
        part += pixel::luma(image[i], image[n + i], image[2 * n + i]);
      }
      sum += part;
    }
  } else {
    for (int i = 0; i < n; ++i) {
      sum += pixel::luma(table_[0][image[i]], table_[1][image[n + i]], table_[2][image[2 * n + i]]);
    }
  }
  return pixel::mean_luma(sum, n);
}

void ToneTable::append_table(int channel, const std::uint8_t* next) {
  for (std::uint8_t& entry : table_[channel]) entry = next[entry];
}

void ToneTable::apply(std::uint8_t* image, const ImageShape& shape) {
  if (identity_) return;
  for (int c = 0; c < shape.channels; ++c) {
    HWY_DYNAMIC_DISPATCH(map_levels)(table_[c], image + c * shape.plane(), shape.plane());
  }
  *this = ToneTable();
}

void change_colors(const ImageOperation& operation, std::uint8_t* image, const ImageShape& shape) {
  if (shape.channels != 3) return;
  switch (operation.kind) {
    case ImageOperationKind::color:
      return HWY_DYNAMIC_DISPATCH(blend_with_luma)(image, shape.plane(),
                                                   static_cast<float>(operation.value[0]));
    case ImageOperationKind::hue:
      return shift_hue(image, shape.plane(), pixel::hue_shift(operation.value[0]));
    default:
      return HWY_DYNAMIC_DISPATCH(make_gray)(image, shape.plane());
  }
}

}  // namespace vitrine::cpu
#endif  // HWY_ONCE
