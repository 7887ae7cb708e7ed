// Mixup and cutmix pixel by pixel, and random problems.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "vitrine/augment.h"
#include "vitrine/random.h"

namespace vitrine::reference::mix_images {

struct Problem {
  std::int64_t channels, height, width;
  std::vector<std::uint8_t> images;
  std::vector<ImageMix> mixes;

  std::int64_t image_elements() const { return channels * height * width; }
};

inline MixImages arguments(const Problem& p, View<std::uint8_t> out, ConstView<std::uint8_t> images,
                           ConstView<ImageMix> mixes) {
  return {out, images, mixes, std::ssize(p.mixes), p.channels, p.height, p.width};
}

inline std::uint8_t mixed(std::uint8_t a, std::uint8_t b, float weight) {
  volatile const float first = static_cast<float>(a) * weight;  // rounded, as numpy rounds it
  volatile const float second = static_cast<float>(b) * (1.0f - weight);
  return static_cast<std::uint8_t>(std::nearbyint(first + second));
}

inline std::vector<std::uint8_t> out_of(const Problem& p) {
  std::vector<std::uint8_t> out;
  for (std::int64_t i = 0; i < std::ssize(p.images); ++i) {
    const ImageMix& mix = p.mixes[i / p.image_elements()];
    const std::int64_t x = i % p.width, y = i / p.width % p.height;
    if (mix.partner < 0) {
      out.push_back(p.images[i]);
      continue;
    }
    const std::uint8_t other = p.images[mix.partner * p.image_elements() + i % p.image_elements()];
    const bool in_box = y >= mix.y && y - mix.y < mix.height && x >= mix.x && x - mix.x < mix.width;
    if (mix.height > 0 && mix.width > 0) {
      out.push_back(in_box ? other : p.images[i]);
    } else {
      out.push_back(mixed(p.images[i], other, mix.weight));
    }
  }
  return out;
}

inline Problem random_problem(std::uint64_t seed, std::int64_t batch, std::int64_t channels,
                              std::int32_t height, std::int32_t width) {
  RandomStream random(seed, 0);
  const auto below = [&](std::int64_t n) { return static_cast<std::int32_t>(random.below(n)); };
  Problem p{channels, height, width, {}, {}};
  for (std::int64_t i = 0; i < batch * p.image_elements(); ++i) {
    p.images.push_back(static_cast<std::uint8_t>(random.below(256)));
  }
  for (std::int64_t b = 0; b < batch; ++b) {
    ImageMix mix{below(batch + 1) - 1, static_cast<float>(random.uniform())};
    if (below(2) == 0) {
      mix.y = below(height), mix.x = below(width);
      mix.height = below(height - mix.y + 1), mix.width = below(width - mix.x + 1);
    }
    p.mixes.push_back(mix);
  }
  return p;
}

}  // namespace vitrine::reference::mix_images
