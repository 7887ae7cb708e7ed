// The shapes of Vision Transformers that tests and benchmarks share.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <vector>

namespace vitrine::shapes {

/// Lengths of sequences as they occur: squares of patches, with and without a class token.
inline constexpr std::array<std::int64_t, 11> kTokens = {1,   5,   17,  49,  50, 65,
                                                         101, 196, 197, 257, 577};

/// Widths of the presets below, and of mnist-small.
inline constexpr std::array<std::int64_t, 7> kHiddenSizes = {8, 48, 64, 192, 384, 768, 1024};

/// What the operations of a model see.
struct Model {
  const char* preset;
  std::int64_t channels, image_size, patch_size;
  std::int64_t hidden, heads, intermediate, classes;

  constexpr std::int64_t patches() const {
    return image_size / patch_size * (image_size / patch_size);
  }
  constexpr std::int64_t tokens() const { return patches() + 1; }
  constexpr std::int64_t head_size() const { return hidden / heads; }
  /// Pixels of a patch, all channels.
  constexpr std::int64_t pixels() const { return channels * patch_size * patch_size; }
};

inline constexpr Model kMnistTutorial{"mnist-tutorial", 1, 28, 4, 8, 2, 32, 10};
inline constexpr Model kCifar10Small{"cifar10-small", 3, 32, 4, 48, 4, 192, 10};
inline constexpr Model kVitTiny{"vit_tiny_patch16_224", 3, 224, 16, 192, 3, 768, 1000};
inline constexpr Model kVitSmall{"vit_small_patch16_224", 3, 224, 16, 384, 6, 1536, 1000};
inline constexpr Model kVitBase{"vit_base_patch16_224", 3, 224, 16, 768, 12, 3072, 1000};
inline constexpr Model kVitLarge{"vit_large_patch16_224", 3, 224, 16, 1024, 16, 4096, 1000};
inline constexpr std::array kModels = {kMnistTutorial, kCifar10Small, kVitTiny,
                                       kVitSmall,      kVitBase,      kVitLarge};

/// Images that the CPU's plan of a training step takes at a time.
inline constexpr std::int64_t kMnistTutorialChunk = 32, kCifar10SmallChunk = 8, kVitTinyChunk = 8;

/// The sizes of a table and these.
inline std::vector<std::int64_t> with(std::span<const std::int64_t> table,
                                      std::initializer_list<std::int64_t> more) {
  std::vector<std::int64_t> sizes(table.begin(), table.end());
  sizes.insert(sizes.end(), more);
  return sizes;
}

}  // namespace vitrine::shapes
