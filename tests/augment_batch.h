// Batches for tests of augment_images: images in host memory, drawn images and tables of
// operations.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "vitrine/augment.h"
#include "vitrine/random.h"

namespace vitrine {

/// What the argument struct of augment_images points to, in host memory.
struct AugmentBatch {
  std::int64_t batch = 1, channels = 3, height = 0, width = 0, operations_per_image = 0;
  std::vector<std::uint8_t> images, workspace;
  std::vector<ImageOperation> operations;
  std::vector<std::uint8_t> fill{124, 116, 104};
  std::vector<float> mean{0.485f, 0.456f, 0.406f}, std{0.229f, 0.224f, 0.225f};

  std::int64_t elements() const { return channels * height * width; }

  /// Allocates what does not fit the sizes; the workspace holds what must not be read.
  AugmentImages arguments() {
    fill.resize(channels);
    mean.resize(channels);
    std.resize(channels);
    workspace.assign(images.size(), 0xA5);
    AugmentImages args;
    args.images = {images.data(), static_cast<std::int64_t>(images.size())};
    args.workspace = {workspace.data(), static_cast<std::int64_t>(workspace.size())};
    args.operations = {operations.data(), static_cast<std::int64_t>(operations.size())};
    args.fill = {fill.data(), channels};
    args.mean = {mean.data(), channels};
    args.std = {std.data(), channels};
    args.batch = batch;
    args.channels = channels;
    args.height = height;
    args.width = width;
    args.operations_per_image = operations_per_image;
    return args;
  }
};

inline ImageOperation drawn_affine(RandomStream& random, double size) {
  ImageOperation operation{.kind = ImageOperationKind::affine};
  operation.filter = static_cast<ResampleFilter>(random.below(3));
  double* v = operation.value;
  v[0] = v[4] = 1.0;
  switch (random.below(4)) {
    case 0:  // shifted and stretched
      v[0] = random.uniform(-2, 2);
      v[2] = random.uniform(-size, size);
      break;
    case 1: {  // turned about the centre
      const double angle = random.uniform(-3.2, 3.2), c = std::cos(angle), s = std::sin(angle);
      v[0] = v[4] = c;
      v[1] = s;
      v[3] = -s;
      v[2] = size / 2 * (1 - c - s);
      v[5] = size / 2 * (1 - c + s);
      break;
    }
    case 2:  // anything
      for (int i = 0; i < 6; ++i) v[i] = random.uniform(-2, 2);
      break;
    default:  // far beyond the image
      for (int i = 0; i < 6; ++i) v[i] = random.uniform(-40000, 40000);
  }
  return operation;
}

inline ImageOperation drawn_operation(RandomStream& random, double size) {
  const auto kind = static_cast<ImageOperationKind>(random.below(16));
  ImageOperation operation{.kind = kind, .random = random.next_u32()};
  double* v = operation.value;
  switch (kind) {
    case ImageOperationKind::posterize:
      v[0] = static_cast<double>(random.below(9));
      break;
    case ImageOperationKind::solarize:
    case ImageOperationKind::solarize_add:
      v[0] = static_cast<double>(random.below(257));
      v[1] = 128;
      break;
    case ImageOperationKind::hue:
      v[0] = random.uniform(-0.5, 0.5);
      break;
    case ImageOperationKind::gaussian_blur:
      v[0] = random.uniform(0.05, 3);
      break;
    case ImageOperationKind::affine:
      return drawn_affine(random, size);
    case ImageOperationKind::erase:
      for (int i = 0; i < 4; ++i) v[i] = std::floor(random.uniform(i < 2 ? -3 : 0, size));
      v[4] = static_cast<double>(random.below(3));
      break;
    default:
      v[0] = random.uniform(-0.5, 3);
  }
  return operation;
}

/// Images of waves with noise, constants among them, and up to four operations each.
inline AugmentBatch drawn_batch(std::uint64_t seed, std::int64_t largest) {
  RandomStream random(seed, 0);
  AugmentBatch batch;
  batch.batch = 1 + static_cast<std::int64_t>(random.below(4));
  batch.channels = random.below(3) == 0 ? 1 : 3;
  batch.height = 1 + static_cast<std::int64_t>(random.below(largest));
  batch.width = 1 + static_cast<std::int64_t>(random.below(largest));
  batch.operations_per_image = 1 + static_cast<std::int64_t>(random.below(4));
  for (std::int64_t image = 0; image < batch.batch; ++image) {
    const double amplitude = random.below(5) == 0 ? 0 : random.uniform(5, 150);
    const double step = random.uniform(0.01, 1);
    for (std::int64_t i = 0; i < batch.elements(); ++i) {
      const double wave = std::sin(static_cast<double>(i) * step) + random.uniform(-0.3, 0.3);
      const double level = std::fmin(std::fmax(128 + amplitude * wave, 0), 255);
      batch.images.push_back(static_cast<std::uint8_t>(level));
    }
    const auto size = static_cast<double>(batch.width);
    for (std::int64_t i = 0; i < batch.operations_per_image; ++i) {
      batch.operations.push_back(drawn_operation(random, size));
    }
  }
  return batch;
}

}  // namespace vitrine
