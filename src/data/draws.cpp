// Crops and Beta draws.
//
//   Gamma(a), a >= 1   d = a - 1/3, c = 1/sqrt(9 d); of x ~ N(0, 1), u ~ U(0, 1), v = (1 + c x)^3
//                      take d v where ln u < x^2/2 + d - d v + d ln v
//                      Marsaglia and Tsang 2000, doi:10.1145/358407.358414
//   Gamma(a), a < 1    Gamma(a + 1) · u^(1/a), section 6 there
//   Beta(a, a)         g / (g + h), of g, h ~ Gamma(a)
//
// Gammas are kept as logarithms: u^(1/a) leaves the range of a double where a is small.
#include "data/draws.h"

#include <algorithm>

namespace vitrine {
namespace {

Crop central_crop(std::int64_t height, std::int64_t width, const std::array<double, 2>& ratio) {
  Crop crop{0, 0, width, height};
  const double aspect = static_cast<double>(width) / static_cast<double>(height);
  if (aspect < ratio[0]) {
    crop.height = round_half_even(static_cast<double>(width) / ratio[0]);
  } else if (aspect > ratio[1]) {
    crop.width = round_half_even(static_cast<double>(height) * ratio[1]);
  }
  crop.height = std::clamp<std::int64_t>(crop.height, 1, height);
  crop.width = std::clamp<std::int64_t>(crop.width, 1, width);
  crop.y = (height - crop.height) / 2;
  crop.x = (width - crop.width) / 2;
  return crop;
}

double log_gamma_draw(double shape, RandomStream& random) {
  if (shape < 1) {
    const double larger = log_gamma_draw(shape + 1, random);
    return larger + std::log(1.0 - random.uniform()) / shape;
  }
  const double d = shape - 1.0 / 3.0, c = 1.0 / std::sqrt(9.0 * d);
  for (;;) {
    const double x = random.normal();
    const double root = 1.0 + c * x;
    const double u = 1.0 - random.uniform();
    if (root <= 0) continue;
    const double v = root * root * root;
    if (std::log(u) < 0.5 * x * x + d - d * v + d * std::log(v)) return std::log(d * v);
  }
}

}  // namespace

Crop random_resized_crop(std::int64_t height, std::int64_t width,
                         const std::array<double, 2>& scale, const std::array<double, 2>& ratio,
                         RandomStream& random) {
  constexpr int kTries = 10;
  const auto area = static_cast<double>(height * width);
  const double log_low = std::log(ratio[0]), log_high = std::log(ratio[1]);
  for (int i = 0; i < kTries; ++i) {
    const double target = area * random.uniform(scale[0], scale[1]);
    const double aspect = std::exp(random.uniform(log_low, log_high));
    const std::int64_t w = round_half_even(std::sqrt(target * aspect));
    const std::int64_t h = round_half_even(std::sqrt(target / aspect));
    if (w < 1 || h < 1 || w > width || h > height) continue;
    const auto y = static_cast<std::int64_t>(random.below(height - h + 1));
    const auto x = static_cast<std::int64_t>(random.below(width - w + 1));
    return {x, y, w, h};
  }
  return central_crop(height, width, ratio);
}

double symmetric_beta(double alpha, RandomStream& random) {
  const double g = log_gamma_draw(alpha, random);
  const double h = log_gamma_draw(alpha, random);
  return 1.0 / (1.0 + std::exp(h - g));
}

}  // namespace vitrine
