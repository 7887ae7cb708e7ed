// Position embeddings for another grid of patches, as timm's resample_abs_pos_embed has them.
//
//   y[i] = Σ_j w((j + 1/2 − c) / max(s, 1)) x[j] / Σ_j w(…),   s = from / to,  c = s (i + 1/2)
//
// with the bicubic kernel w of a = −1/2 (Keys 1981, doi:10.1109/TASSP.1981.1163711), which is
// stretched where the grid shrinks and cut off at the borders. Columns first, then rows, in float:
// ATen/native/cpu/UpSampleKernel.cpp, _compute_weights_aa.
#include <algorithm>
#include <cmath>

#include "vitrine/exchange.h"

namespace vitrine {
namespace {

float cubic(float x) {
  constexpr float a = -0.5f;
  x = std::abs(x);
  if (x < 1.0f) return ((a + 2.0f) * x - (a + 3.0f)) * x * x + 1.0f;
  if (x < 2.0f) return (((x - 5.0f) * x + 8.0f) * x - 4.0f) * a;
  return 0.0f;
}

/// What an element of the new line is made of: elements first, first + 1, … of the old one.
struct Taps {
  std::int64_t first = 0;
  std::vector<float> weights;
};

std::vector<Taps> taps_of(std::int64_t from, std::int64_t to) {
  const float scale = static_cast<float>(from) / static_cast<float>(to);
  const float stretch = std::max(scale, 1.0f);
  const float support = 2.0f * stretch;
  std::vector<Taps> taps(static_cast<std::size_t>(to));
  for (std::int64_t i = 0; i < to; ++i) {
    Taps& line = taps[static_cast<std::size_t>(i)];
    const float center = scale * (static_cast<float>(i) + 0.5f);
    line.first = std::max<std::int64_t>(static_cast<std::int64_t>(center - support + 0.5f), 0);
    const std::int64_t end = std::min(static_cast<std::int64_t>(center + support + 0.5f), from);
    float sum = 0.0f;
    for (std::int64_t j = line.first; j < end; ++j) {
      line.weights.push_back(cubic((static_cast<float>(j) - center + 0.5f) / stretch));
      sum += line.weights.back();
    }
    for (float& weight : line.weights) weight /= sum;
  }
  return taps;
}

/// [outer, from, inner] to [outer, to, inner].
std::vector<float> resample(std::span<const float> x, std::int64_t outer, std::int64_t from,
                            std::int64_t to, std::int64_t inner) {
  if (from == to) return {x.begin(), x.end()};
  std::vector<float> y(static_cast<std::size_t>(outer * to * inner), 0.0f);
  const std::vector<Taps> taps = taps_of(from, to);
  for (std::int64_t o = 0; o < outer; ++o) {
    for (std::int64_t i = 0; i < to; ++i) {
      float* out = y.data() + (o * to + i) * inner;
      const Taps& line = taps[static_cast<std::size_t>(i)];
      const float* in = x.data() + (o * from + line.first) * inner;
      for (const float weight : line.weights) {
        for (std::int64_t k = 0; k < inner; ++k) out[k] += weight * in[k];
        in += inner;
      }
    }
  }
  return y;
}

}  // namespace

std::vector<float> resample_positions(std::span<const float> positions, PatchGrid from,
                                      PatchGrid to, std::int64_t hidden) {
  const std::vector<float> wide = resample(positions, from.rows, from.columns, to.columns, hidden);
  return resample(wide, 1, from.rows, to.rows, to.columns * hidden);
}

}  // namespace vitrine
