// Arithmetic of single pixels for `augment_images`: the same bits on host and device, and Pillow's.
//
//   tones        ImageOps.{autocontrast, equalize, invert, posterize, solarize}, Image.blend
//   colours      luma, conversion to HSV and back
//   blur         weights of a Gaussian in 16 bits
//   noise        standard normal numbers from Philox (Box and Muller 1958)
//
// Positions and samples between pixels are in pixel_sampling.h.
//
// Pillow rounds each product before it adds, so a fused multiply-add would change results that lie
// next to a grey level. Products that are not exact go through `unfused_product`; files that
// include this header are compiled for the host with -ffp-contract=off. No function of a
// mathematical library is used but those that IEEE 754 defines to the last bit.
#pragma once

#include <cmath>
#include <cstdint>

#include "vitrine/augment.h"
#include "vitrine/random.h"
#include "vitrine/unfused.h"

namespace vitrine::pixel {

constexpr int kLevels = 256;  ///< of a channel

VITRINE_HOST_DEVICE constexpr int clamped(int value, int low, int high) {
  return value < low ? low : value > high ? high : value;
}

/// The whole part, inside [low, high]; NaN becomes `low`.
VITRINE_HOST_DEVICE constexpr int whole(double value, int low, int high) {
  return value > low ? value < high ? static_cast<int>(value) : high : low;
}
VITRINE_HOST_DEVICE constexpr std::uint8_t to_level(int value) {
  return static_cast<std::uint8_t>(clamped(value, 0, kLevels - 1));
}
VITRINE_HOST_DEVICE constexpr std::uint8_t to_level(float value) {
  const float positive = value > 0.0f ? value : 0.0f;
  return static_cast<std::uint8_t>(static_cast<int>(positive < 255.0f ? positive : 255.0f));
}
VITRINE_HOST_DEVICE constexpr std::uint8_t to_level(double value) {
  return static_cast<std::uint8_t>(whole(value, 0, kLevels - 1));
}

// Tones ------------------------------------------------------------------------------------------

/// Image.blend: from a towards b, and beyond where alpha > 1.
VITRINE_HOST_DEVICE inline std::uint8_t blend(int a, int b, float alpha) {
  return to_level(static_cast<float>(a) + unfused_product(alpha, static_cast<float>(b - a)));
}

VITRINE_HOST_DEVICE constexpr int luma(int r, int g, int b) {
  return (19595 * r + 38470 * g + 7471 * b + 32768) >> 16;
}

/// The mean of `count` lumas, rounded half up.
VITRINE_HOST_DEVICE constexpr int mean_luma(std::uint64_t sum, std::uint64_t count) {
  return static_cast<int>((2 * sum + count) / (2 * count));
}

VITRINE_HOST_DEVICE constexpr bool reads_histogram(ImageOperationKind kind) {
  return kind == ImageOperationKind::auto_contrast || kind == ImageOperationKind::equalize;
}

/// Whether the operation maps each value of a channel by itself, once statistics are known.
VITRINE_HOST_DEVICE constexpr bool is_tone(ImageOperationKind kind) {
  return kind >= ImageOperationKind::auto_contrast && kind <= ImageOperationKind::contrast;
}

/// What auto_contrast and equalize need to know of a channel.
struct Histogram {
  int darkest, brightest;
  std::uint32_t step;  ///< pixels a level of an equalized channel; 0: leave it alone
};

VITRINE_HOST_DEVICE inline Histogram summary_of(const std::uint32_t* counts) {
  Histogram summary{kLevels - 1, 0, 0};
  std::uint32_t total = 0;
  for (int level = kLevels - 1; level >= 0; --level) {
    if (counts[level] != 0) summary.darkest = level;
  }
  for (int level = 0; level < kLevels; ++level) {
    if (counts[level] != 0) summary.brightest = level;
    total += counts[level];
  }
  summary.step = (total - counts[summary.brightest]) / (kLevels - 1);
  return summary;
}

/// What becomes of value x under auto_contrast, or under equalize with `below` pixels darker than
/// x.
VITRINE_HOST_DEVICE inline std::uint8_t histogram_tone(ImageOperationKind kind,
                                                       const Histogram& histogram,
                                                       std::uint32_t below, int x) {
  if (kind == ImageOperationKind::equalize) {
    if (histogram.step == 0) return to_level(x);
    const std::uint32_t level = (histogram.step / 2 + below) / histogram.step;
    return static_cast<std::uint8_t>(level < kLevels ? level : kLevels - 1);
  }
  const int range = histogram.brightest - histogram.darkest;
  if (range <= 0) return to_level(x);
  const double scale = 255.0 / range;
  const double offset = unfused_product(-static_cast<double>(histogram.darkest), scale);
  return to_level(unfused_product(static_cast<double>(x), scale) + offset);
}

/// What becomes of value x; `mean` is the mean luma, for contrast.
VITRINE_HOST_DEVICE inline std::uint8_t plain_tone(const ImageOperation& operation, int mean,
                                                   int x) {
  const double first = operation.value[0];
  switch (operation.kind) {
    case ImageOperationKind::invert:
      return to_level(255 - x);
    case ImageOperationKind::posterize:
      return to_level(x & ~((1 << (8 - whole(first, 0, 8))) - 1));
    case ImageOperationKind::solarize:
      return to_level(x < first ? x : 255 - x);
    case ImageOperationKind::solarize_add:
      return to_level(x < operation.value[1] ? x + whole(first, -255, 255) : x);
    case ImageOperationKind::brightness:
      return blend(0, x, static_cast<float>(first));
    case ImageOperationKind::contrast:
      return blend(mean, x, static_cast<float>(first));
    default:
      return to_level(x);
  }
}

// Colours ----------------------------------------------------------------------------------------

struct Rgb {
  std::uint8_t r, g, b;
};
struct Hsv {
  std::uint8_t h, s, v;
};

/// Image.convert("HSV"): hue and saturation cut to a whole number of 255ths. Without branches, as
/// neither processors nor compilers like this many of them; gray has hue and saturation 0.
VITRINE_HOST_DEVICE inline Hsv to_hsv(Rgb c) {
  const int larger = c.g > c.b ? c.g : c.b, smaller = c.g < c.b ? c.g : c.b;
  const int high = c.r > larger ? c.r : larger, low = c.r < smaller ? c.r : smaller;
  const auto chroma = static_cast<float>(high > low ? high - low : 1);
  const bool red = c.r == high, green = c.g == high;
  const int after = red ? c.b : green ? c.r : c.g, before = red ? c.g : green ? c.b : c.r;
  const double base = red ? 0.0 : green ? 2.0 : 4.0;
  const float plus = static_cast<float>(high - after) / chroma;
  const float minus = static_cast<float>(high - before) / chroma;
  const auto sector = static_cast<float>(base + plus - minus);
  const double turn = sector / 6.0 + 1.0;  // in [5/6, 2)
  const auto hue = static_cast<float>(turn < 1.0 ? turn : turn - 1.0);
  const float saturation = static_cast<float>(high - low) / static_cast<float>(high > 0 ? high : 1);
  return {static_cast<std::uint8_t>(static_cast<int>(hue * 255.0)),
          static_cast<std::uint8_t>(static_cast<int>(saturation * 255.0)),
          static_cast<std::uint8_t>(high)};
}

/// v · (1 − reduced), rounded half up.
VITRINE_HOST_DEVICE inline int reduced_value(int v, double reduced) {
  const double value = unfused_product(static_cast<double>(v), 1.0 - reduced);
  const int cut = static_cast<int>(value);
  return cut + (value - cut >= 0.5 ? 1 : 0);
}

/// Image.convert("RGB").
VITRINE_HOST_DEVICE inline Rgb to_rgb(Hsv c) {
  const double position = c.h * 6.0 / 255.0;
  const int sector = static_cast<int>(position);  // 0 … 6, the last the same as the first
  const auto fraction = static_cast<float>(position - sector);
  const auto saturation = static_cast<float>(c.s / 255.0);
  const int v = c.v;
  const int p = reduced_value(v, saturation);
  const int q = reduced_value(v, unfused_product(saturation, fraction));
  const int t = reduced_value(v, unfused_product(static_cast<double>(saturation), 1.0 - fraction));
  const int r = sector == 1 ? q : sector == 2 || sector == 3 ? p : sector == 4 ? t : v;
  const int g = sector == 3                  ? q
                : sector == 4 || sector == 5 ? p
                : sector == 1 || sector == 2 ? v
                                             : t;
  const int b = sector == 5 ? q : sector == 3 || sector == 4 ? v : sector == 2 ? t : p;
  return {static_cast<std::uint8_t>(r), static_cast<std::uint8_t>(g), static_cast<std::uint8_t>(b)};
}

/// What is added to the hue, modulo 256, for a part of a whole turn.
VITRINE_HOST_DEVICE inline std::uint8_t hue_shift(double turn) {
  constexpr int kLimit = 1 << 24;
  return static_cast<std::uint8_t>(whole(unfused_product(turn, 255.0), -kLimit, kLimit) & 255);
}

VITRINE_HOST_DEVICE inline Rgb with_hue_shifted(Rgb color, std::uint8_t shift) {
  Hsv hsv = to_hsv(color);
  hsv.h = static_cast<std::uint8_t>(hsv.h + shift);
  return to_rgb(hsv);
}

// Filters ----------------------------------------------------------------------------------------

/// ImageFilter.SMOOTH of a pixel, given the sum of its eight neighbours: 1/13 of each, 5/13 of
/// itself, rounded. The sum is never half a level from a whole one, so floats give this as well.
VITRINE_HOST_DEVICE constexpr int smooth(int neighbours, int centre) {
  return static_cast<int>(static_cast<unsigned>(2 * (neighbours + 5 * centre) + 13) / 26u);
}

constexpr int kLargestBlurRadius = 96;
constexpr double kSmallestBlurSigma = 1e-3, kLargestBlurSigma = kLargestBlurRadius / 3.0;
constexpr int kBlurBits = 16;  ///< of the weights, which add up to 1 << kBlurBits

VITRINE_HOST_DEVICE inline double blur_sigma(const ImageOperation& operation) {
  const double sigma = operation.value[0];
  if (!(sigma > kSmallestBlurSigma)) return kSmallestBlurSigma;
  return sigma < kLargestBlurSigma ? sigma : kLargestBlurSigma;
}
VITRINE_HOST_DEVICE inline int blur_radius(double sigma) {
  const double extent = 3.0 * sigma;
  const int cut = whole(extent, 0, kLargestBlurRadius);
  return clamped(extent > cut ? cut + 1 : cut, 1, kLargestBlurRadius);
}

/// e^x for x ≤ 0, to 1e-13 of it.
VITRINE_HOST_DEVICE inline double exponential(double x) {
  constexpr double kLog2E = 1.4426950408889634, kLn2 = 0.6931471805599453;
  constexpr int kTerms = 14, kSmallest = -1020;
  const double doublings = std::floor(unfused_product(x, kLog2E) + 0.5);
  if (!(doublings > kSmallest)) return 0.0;
  const double rest = x - unfused_product(doublings, kLn2);
  double sum = 1.0;
  for (int term = kTerms; term > 0; --term) sum = 1.0 + unfused_product(rest, sum) / term;
  return std::ldexp(sum, static_cast<int>(doublings));
}

/// The Gaussian at distance i, not normalised.
VITRINE_HOST_DEVICE inline double gaussian(int i, double sigma) {
  const double distance = i / sigma;
  return exponential(unfused_product(unfused_product(-0.5, distance), distance));
}

/// Weights of the distances 1 … radius, and of the centre what remains: flat areas stay as they
/// are. `gaussians` holds those of the distances 0 … radius.
VITRINE_HOST_DEVICE inline void blur_weights(const double* gaussians, int radius,
                                             std::uint32_t* weights) {
  double sum = 0.0;
  for (int i = radius; i > 0; --i) sum += gaussians[i];
  sum = gaussians[0] + 2.0 * sum;
  std::uint32_t rest = 1u << kBlurBits;
  for (int i = radius; i > 0; --i) {
    weights[i] = static_cast<std::uint32_t>(
        unfused_product(gaussians[i], static_cast<double>(1 << kBlurBits)) / sum + 0.5);
    rest -= 2 * weights[i];
  }
  weights[0] = rest;
}

/// A sum of weighted levels to 8 bits after the point: the column's part of a blur.
VITRINE_HOST_DEVICE constexpr std::uint32_t blurred_column(std::uint32_t sum) {
  return (sum + (1u << (kBlurBits - 9))) >> (kBlurBits - 8);
}
/// A sum of weighted columns to a level: the row's part.
VITRINE_HOST_DEVICE constexpr std::uint8_t blurred_level(std::uint32_t sum) {
  return static_cast<std::uint8_t>((sum + (1u << (kBlurBits + 7))) >> (kBlurBits + 8));
}

/// Index i of an axis of n pixels, mirrored at its first and last pixel as often as it takes.
VITRINE_HOST_DEVICE constexpr int mirrored(int i, int n) {
  if (i >= 0 && i < n) return i;
  if (n == 1) return 0;
  const int period = 2 * (n - 1);
  i %= period;
  if (i < 0) i += period;
  return i < n ? i : period - i;
}

// Erasing ----------------------------------------------------------------------------------------

struct Box {
  int top, left, bottom, right;
};

/// The part of the box of `erase` that lies in the image.
VITRINE_HOST_DEVICE inline Box erased_box(const ImageOperation& operation, int height, int width) {
  const double* v = operation.value;
  return {whole(v[0], 0, height), whole(v[1], 0, width), whole(v[0] + v[2], 0, height),
          whole(v[1] + v[3], 0, width)};
}

/// ln(n / 2^24) of a whole number 0 < n < 2^24, to 1e-7 of it.
VITRINE_HOST_DEVICE inline float log_of_24_bits(std::uint32_t n) {
  constexpr float kLn2 = 0.69314718f, kSqrtHalf = 0.70710678f;
  int exponent;
  float mantissa = std::frexp(static_cast<float>(n), &exponent);
  exponent -= 24;
  if (mantissa < kSqrtHalf) {
    mantissa *= 2.0f;
    --exponent;
  }
  const float s = (mantissa - 1.0f) / (mantissa + 1.0f);
  const float square = unfused_product(s, s);
  float series = 2.0f / 9;  // 2 artanh(s), |s| < 0.172
  for (int term = 7; term > 0; term -= 2) {
    series = 2.0f / static_cast<float>(term) + unfused_product(square, series);
  }
  return unfused_product(static_cast<float>(exponent), kLn2) + unfused_product(s, series);
}

struct NoiseQuad {
  float value[4];
};

/// Radius √(−2 ln u) and angle of two normal numbers; an eighth of a turn more or less is as good
/// an angle, so that quadrants lie around the axes.
VITRINE_HOST_DEVICE inline void normal_pair(std::uint32_t radius_word, std::uint32_t angle_word,
                                            float* pair) {
  constexpr float kAngleUnit = 1.5707963f / (1 << 30);
  const float radius =
      std::sqrt(unfused_product(-2.0f, log_of_24_bits(radius_word >> 9 << 1 | 1u)));
  const int centred = static_cast<int>(angle_word & 0x3fffffffu) - (1 << 29);
  const float angle = unfused_product(static_cast<float>(centred), kAngleUnit);
  const float square = unfused_product(angle, angle);
  float cosine = 1.0f, sine = 1.0f;
  for (int term = 9; term > 0; term -= 2) {
    cosine = 1.0f - unfused_product(square, cosine) / static_cast<float>(term * (term + 1));
    sine = 1.0f - unfused_product(square, sine) / static_cast<float>((term + 1) * (term + 2));
  }
  sine = unfused_product(angle, sine);
  const std::uint32_t quadrant = angle_word >> 30;
  const float first = quadrant % 2 == 0 ? cosine : sine;
  const float second = quadrant % 2 == 0 ? sine : cosine;
  pair[0] = unfused_product(quadrant == 1 || quadrant == 2 ? -radius : radius, first);
  pair[1] = unfused_product(quadrant >= 2 ? -radius : radius, second);
}

/// Standard normal numbers 4 · quad … 4 · quad + 3 of the stream.
VITRINE_HOST_DEVICE inline NoiseQuad erase_noise_quad(std::uint64_t random, std::uint64_t quad) {
  const PhiloxWords words = philox4x32(
      {{static_cast<std::uint32_t>(quad), static_cast<std::uint32_t>(quad >> 32), 0, 0}}, random);
  NoiseQuad noise;
  normal_pair(words.word[0], words.word[1], noise.value);
  normal_pair(words.word[2], words.word[3], noise.value + 2);
  return noise;
}

/// Standard normal number `index` of the stream. Index is that of the pixel in the image [C,
/// height, width], or the channel where the box gets one colour.
VITRINE_HOST_DEVICE inline float erase_noise(std::uint64_t random, std::uint64_t index) {
  return erase_noise_quad(random, index / 4).value[index % 4];
}

/// mean + std · noise in levels, rounded.
VITRINE_HOST_DEVICE inline std::uint8_t noise_level(float mean, float std, float noise) {
  constexpr float kBrightest = 255.0f;
  const float level =
      unfused_product(mean, kBrightest) + unfused_product(unfused_product(std, kBrightest), noise);
  return to_level(level + 0.5f);
}

}  // namespace vitrine::pixel
