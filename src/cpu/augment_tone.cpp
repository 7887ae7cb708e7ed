// Tones by tables of 256 entries a channel, and changes of colour pixel by pixel.
//
// Of a table that waits, the histogram of what it will make is the pixels' histogram sent through
// it; only the mean luma needs the pixels themselves.
#include <algorithm>
#include <cstring>
#include <numeric>

#include "cpu/augment_images.h"

namespace vitrine::cpu {
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

void shift_hue(std::uint8_t* image, int n, std::uint8_t shift) {
  for (int i = 0; i < n; ++i) {
    const pixel::Rgb color =
        pixel::with_hue_shifted({image[i], image[n + i], image[2 * n + i]}, shift);
    image[i] = color.r;
    image[n + i] = color.g;
    image[2 * n + i] = color.b;
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
    const std::uint8_t* table = table_[c];
    std::uint8_t* plane = image + c * shape.plane();
    for (int i = 0; i < shape.plane(); ++i) plane[i] = table[plane[i]];
  }
  *this = ToneTable();
}

void change_colors(const ImageOperation& operation, std::uint8_t* image, const ImageShape& shape) {
  if (shape.channels != 3) return;
  switch (operation.kind) {
    case ImageOperationKind::color:
      return blend_with_luma(image, shape.plane(), static_cast<float>(operation.value[0]));
    case ImageOperationKind::hue:
      return shift_hue(image, shape.plane(), pixel::hue_shift(operation.value[0]));
    default:
      return make_gray(image, shape.plane());
  }
}

}  // namespace vitrine::cpu
