// augment_images on the CPU, pixel by pixel: what vectors of every instruction set make is what
// vitrine/pixel_math.h and vitrine/pixel_sampling.h say of single pixels.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "augment_batch.h"
#include "cpu/cpu_kernels.h"
#include "for_targets.h"
#include "vitrine/pixel_math.h"
#include "vitrine/pixel_sampling.h"

namespace vitrine::cpu {
namespace {

constexpr int kChannels = 3;

/// One image and one operation.
AugmentBatch drawn_image(RandomStream& random, int height, int width) {
  AugmentBatch batch;
  batch.height = height;
  batch.width = width;
  batch.operations.resize(1);
  batch.operations_per_image = 1;
  for (std::int64_t i = 0; i < batch.elements(); ++i) {
    batch.images.push_back(static_cast<std::uint8_t>(random.below(256)));
  }
  return batch;
}

int plane_of(const AugmentBatch& batch) {
  return static_cast<int>(batch.height * batch.width);
}

/// level(c, y, x) of every pixel.
template <typename Level>
std::vector<std::uint8_t> by_pixels(const AugmentBatch& batch, const Level& level) {
  std::vector<std::uint8_t> levels;
  for (int c = 0; c < kChannels; ++c) {
    for (int y = 0; y < batch.height; ++y) {
      for (int x = 0; x < batch.width; ++x) {
        levels.push_back(static_cast<std::uint8_t>(level(c, y, x)));
      }
    }
  }
  return levels;
}

void expect_levels(const AugmentBatch& batch, const std::vector<std::uint8_t>& expected) {
  for_targets([&] {
    AugmentBatch done = batch;
    ThreadPool pool(1);
    CpuKernels(pool).augment_images(done.arguments());
    const auto differs = std::ranges::mismatch(done.images, expected).in1 - done.images.begin();
    ASSERT_EQ(differs, std::ssize(expected)) << "of " << batch.height << " x " << batch.width;
  });
}

std::vector<std::uint8_t> transformed(const AugmentBatch& batch) {
  const ImageOperation& operation = batch.operations[0];
  const int height = static_cast<int>(batch.height), width = static_cast<int>(batch.width);
  const pixel::NearestMap map(operation.value, height, width);
  return by_pixels(batch, [&](int c, int y, int x) {
    const std::uint8_t* plane = batch.images.data() + c * plane_of(batch);
    if (operation.filter == ResampleFilter::nearest) {
      const pixel::NearestPixel from =
          map.separable ? pixel::NearestPixel{map.column(x, width), map.row(y, height)}
                        : map.source(x, y, height, width);
      return from.x < 0 || from.y < 0 ? batch.fill[c] : plane[from.y * width + from.x];
    }
    const pixel::SamplePoint at = pixel::sample_point(operation.value, x, y, height, width);
    if (!at.inside) return batch.fill[c];
    return operation.filter == ResampleFilter::bicubic ? pixel::bicubic(plane, height, width, at)
                                                       : pixel::bilinear(plane, height, width, at);
  });
}

TEST(AugmentVectors, AffineMapsArePixels) {
  for (std::uint64_t seed = 0; seed < 400; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    RandomStream random(seed, 0);
    const int height = 1 + static_cast<int>(random.below(40));
    const int width = 1 + static_cast<int>(random.below(70));
    AugmentBatch batch = drawn_image(random, height, width);
    batch.operations[0] = drawn_affine(random, width);
    expect_levels(batch, transformed(batch));
  }
}

// Columns or rows between which nothing lies, and whole steps.
TEST(AugmentVectors, ShearsAndShiftsArePixels) {
  const double maps[][6] = {{1, 0.27, -3, 0, 1, 0},  {1, 0, 0, -0.27, 1, 3}, {1, 0, 7, 0, 1, 0},
                            {1, 0, 0, 0, 1, -5},     {1, 0, 2.5, 0, 1, 0},   {1, 0, 0, 0, 1, 1.25},
                            {-1, 0, 45, 0, -1, 20},  {0, 1, 0, -1, 0, 20},   {1, 0, 0, 0, 1, 0},
                            {1, 0, 44.75, 0, 1, 19}, {1, 0, -45, 0, 1, 0}};
  RandomStream random(5, 0);
  for (const auto& map : maps) {
    for (int filter = 0; filter < 3; ++filter) {
      AugmentBatch batch = drawn_image(random, 20, 45);
      batch.operations[0] = {.kind = ImageOperationKind::affine,
                             .filter = static_cast<ResampleFilter>(filter)};
      std::copy_n(map, 6, batch.operations[0].value);
      expect_levels(batch, transformed(batch));
    }
  }
}

// Ten tenths, added up, are less than one: along a row, a column, and far beyond fixed point.
TEST(AugmentVectors, PositionsAreAddedUp) {
  const double maps[][6] = {{0.1, 0, -0.05, 0, 1, 0},
                            {1, 0, 0, 0, 0.1, -0.05},
                            {0.1, 40000, -20000.05, 0, 1, 0},
                            {40000, 0.1, -20000.05, 0, 1, 0}};
  RandomStream random(6, 0);
  for (const auto& map : maps) {
    AugmentBatch batch = drawn_image(random, 45, 45);
    batch.operations[0] = {.kind = ImageOperationKind::affine, .filter = ResampleFilter::nearest};
    std::copy_n(map, 6, batch.operations[0].value);
    expect_levels(batch, transformed(batch));
  }
}

TEST(AugmentVectors, SharpnessIsPixels) {
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    RandomStream random(seed, 1);
    const int width = 1 + static_cast<int>(random.below(70));
    AugmentBatch batch = drawn_image(random, 5, width);
    if (seed % 4 == 0) std::fill(batch.images.begin(), batch.images.end(), 255);
    const double factor = seed % 8 == 1 ? 1e7 : random.uniform(-1, 4);
    batch.operations[0] = {.kind = ImageOperationKind::sharpness, .value = {factor}};
    expect_levels(batch, by_pixels(batch, [&](int c, int y, int x) {
                    const std::uint8_t* plane = batch.images.data() + c * plane_of(batch);
                    const std::uint8_t centre = plane[y * width + x];
                    if (x == 0 || y == 0 || x == width - 1 || y == batch.height - 1) return centre;
                    int neighbours = -centre;
                    for (int i = -1; i <= 1; ++i) {
                      for (int j = -1; j <= 1; ++j) neighbours += plane[(y + i) * width + x + j];
                    }
                    return pixel::blend(pixel::smooth(neighbours, centre), centre,
                                        static_cast<float>(factor));
                  }));
  }
}

// 18^3 colours, among them all that have equal or extreme channels of those levels.
TEST(AugmentVectors, HueIsPixels) {
  constexpr int kSide = 18, kStep = 15;
  RandomStream random(7, 0);
  AugmentBatch batch = drawn_image(random, kSide, kSide * kSide);
  const int plane = plane_of(batch);
  for (int i = 0; i < plane; ++i) {
    batch.images[i] = static_cast<std::uint8_t>(i % kSide * kStep);
    batch.images[plane + i] = static_cast<std::uint8_t>(i / kSide % kSide * kStep);
    batch.images[2 * plane + i] = static_cast<std::uint8_t>(i / kSide / kSide * kStep);
  }
  for (const double turn : {-0.5, -0.1, 0.0, 0.004, 0.3, 0.5}) {
    SCOPED_TRACE("turn " + std::to_string(turn));
    batch.operations[0] = {.kind = ImageOperationKind::hue, .value = {turn}};
    expect_levels(batch, by_pixels(batch, [&](int c, int y, int x) {
                    const std::uint8_t* red = batch.images.data() + y * batch.width + x;
                    const pixel::Rgb color = pixel::with_hue_shifted(
                        {red[0], red[plane], red[2 * plane]}, pixel::hue_shift(turn));
                    return c == 0 ? color.r : c == 1 ? color.g : color.b;
                  }));
  }
}

// Tables that are no line: each level has a value of its own under two operations.
TEST(AugmentVectors, TonesArePixels) {
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    RandomStream random(seed, 2);
    const int width = 1 + static_cast<int>(random.below(300));
    AugmentBatch batch = drawn_image(random, 3, width);
    batch.operations = {
        {.kind = ImageOperationKind::solarize, .value = {random.uniform(0, 256)}},
        {.kind = ImageOperationKind::brightness, .value = {random.uniform(0.5, 1.5)}}};
    batch.operations_per_image = 2;
    expect_levels(batch, by_pixels(batch, [&](int c, int y, int x) {
                    const int level = batch.images[c * plane_of(batch) + y * width + x];
                    return pixel::plain_tone(batch.operations[1], 0,
                                             pixel::plain_tone(batch.operations[0], 0, level));
                  }));
  }
}

TEST(AugmentVectors, ColorAndGrayscaleArePixels) {
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    RandomStream random(seed, 3);
    AugmentBatch batch = drawn_image(random, 4, 1 + static_cast<int>(random.below(99)));
    const bool gray = seed % 4 == 0;
    const auto factor = static_cast<float>(random.uniform(-0.5, 3));
    batch.operations[0] = {.kind = gray ? ImageOperationKind::grayscale : ImageOperationKind::color,
                           .value = {factor}};
    expect_levels(batch, by_pixels(batch, [&](int c, int y, int x) {
                    const int plane = plane_of(batch);
                    const std::uint8_t* red = batch.images.data() + y * batch.width + x;
                    const int luma = pixel::luma(red[0], red[plane], red[2 * plane]);
                    return gray ? static_cast<std::uint8_t>(luma)
                                : pixel::blend(luma, red[c * plane], factor);
                  }));
  }
}

}  // namespace
}  // namespace vitrine::cpu
