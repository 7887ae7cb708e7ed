// What the random draws of the data pipeline share: streams of the run's seed, crops, Beta.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>

#include "vitrine/random.h"

namespace vitrine {

/// Uses of the run's seed.
enum class Use : std::uint64_t { view = 2, mix = 3, order = 4 };

/// Room for 2^24 epochs of 2^36 images. RandomStream owns bit 63.
constexpr std::uint64_t stream_of(Use use, std::int64_t epoch, std::int64_t position) {
  constexpr int kUseBit = 60, kEpochBit = 36;
  return static_cast<std::uint64_t>(use) << kUseBit |
         static_cast<std::uint64_t>(epoch) << kEpochBit | static_cast<std::uint64_t>(position);
}

/// Python's round: halves go to the even neighbour.
inline std::int64_t round_half_even(double value) {
  return std::llrint(value);
}

/// A crop in whole pixels.
struct Crop {
  std::int64_t x = 0, y = 0, width = 0, height = 0;
};

/// torchvision's RandomResizedCrop: ten draws of area ~ U(scale) and aspect ~ exp U(log ratio); the
/// first that fits is placed at random. When none does, the largest central crop of an allowed
/// ratio.
Crop random_resized_crop(std::int64_t height, std::int64_t width,
                         const std::array<double, 2>& scale, const std::array<double, 2>& ratio,
                         RandomStream& random);

/// Beta(alpha, alpha) as g / (g + h) of two gamma draws; alpha > 0.
double symmetric_beta(double alpha, RandomStream& random);

}  // namespace vitrine
