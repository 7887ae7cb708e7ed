// Mixup and cutmix as timm's Mixup draws them: mixup.py of timm 1.0.
//
//   mixup     λ a + (1 − λ) b                             Zhang et al. 2018, arXiv:1710.09412
//   cutmix    a box of √(1 − λ) of each side around a     Yun et al. 2019, arXiv:1905.04899
//             place anywhere, clipped, shows b
#include <algorithm>
#include <cmath>

#include "data/draws.h"
#include "vitrine/augmentation.h"

namespace vitrine {
namespace {

// An image that is mixed with itself, or not at all, stays as it is.
bool is_mix(const ImageMix& mix) {
  return mix.weight < 1.0f;
}

ImageMix draw_box(double lambda, const AugmentationConfig& config, RandomStream& random) {
  const double share = std::sqrt(1.0 - lambda);
  const auto height = static_cast<std::int64_t>(static_cast<double>(config.height) * share);
  const auto width = static_cast<std::int64_t>(static_cast<double>(config.width) * share);
  const auto y = static_cast<std::int64_t>(random.below(config.height));
  const auto x = static_cast<std::int64_t>(random.below(config.width));
  const std::int64_t top = std::max<std::int64_t>(0, y - height / 2);
  const std::int64_t left = std::max<std::int64_t>(0, x - width / 2);
  const std::int64_t bottom = std::min(config.height, y + (height + 1) / 2);
  const std::int64_t right = std::min(config.width, x + (width + 1) / 2);
  const auto area = static_cast<double>((bottom - top) * (right - left));
  return {.weight = static_cast<float>(1.0 - area / double(config.height * config.width)),
          .y = static_cast<std::int32_t>(top),
          .x = static_cast<std::int32_t>(left),
          .height = static_cast<std::int32_t>(bottom - top),
          .width = static_cast<std::int32_t>(right - left)};
}

ImageMix draw_mix(const AugmentationConfig& config, RandomStream& random) {
  if (random.uniform() >= config.mixup_prob) return {};
  const bool is_cutmix =
      config.mixup <= 0 || (config.cutmix > 0 && random.uniform() < config.mixup_switch_prob);
  const double lambda = symmetric_beta(is_cutmix ? config.cutmix : config.mixup, random);
  if (is_cutmix) return draw_box(lambda, config, random);
  return {.weight = static_cast<float>(lambda)};
}

// Images `first` to `first + n` of the step; what one draw decides, timm's modes say.
void draw_micro_batch(const AugmentationConfig& config, RandomStream& random,
                      std::span<ImageMix> mixes, std::size_t first, std::size_t n) {
  ImageMix mix;
  for (std::size_t i = 0; i < n; ++i) {
    const std::size_t partner = n - 1 - i;
    if (config.mixup_mode == MixMode::pair && i > partner) {
      mix = mixes[first + partner];
    } else if (i == 0 || config.mixup_mode != MixMode::batch) {
      mix = draw_mix(config, random);
    }
    if (i == partner || !is_mix(mix)) continue;
    mixes[first + i] = mix;
    mixes[first + i].partner = static_cast<std::int32_t>(first + partner);
  }
}

}  // namespace

void draw_mixes(const AugmentationConfig& config, std::int64_t micro_batch, std::uint64_t seed,
                std::int64_t step, std::span<ImageMix> mixes) {
  std::ranges::fill(mixes, ImageMix{});
  if (!config.mixes()) return;
  const auto size = static_cast<std::size_t>(micro_batch);
  for (std::size_t first = 0; first < mixes.size(); first += size) {
    RandomStream random(seed, stream_of(Use::mix, static_cast<std::int64_t>(first / size), step));
    draw_micro_batch(config, random, mixes, first, std::min(size, mixes.size() - first));
  }
}

}  // namespace vitrine
