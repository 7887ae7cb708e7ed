// augment_images on the CPU against Pillow's, timm's and torchvision's results (tests/augment, by
// tools/make_augment_values.py), and the noise of `erase` against its definition.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "augment_batch.h"
#include "cpu/cpu_kernels.h"
#include "for_targets.h"
#include "reference_check.h"
#include "vitrine/pixel_math.h"
#include "vitrine/safetensors.h"

namespace vitrine::cpu {
namespace {

const std::map<std::string, ImageOperationKind> kKinds = {
    {"none", ImageOperationKind::none},
    {"auto_contrast", ImageOperationKind::auto_contrast},
    {"equalize", ImageOperationKind::equalize},
    {"invert", ImageOperationKind::invert},
    {"posterize", ImageOperationKind::posterize},
    {"solarize", ImageOperationKind::solarize},
    {"solarize_add", ImageOperationKind::solarize_add},
    {"brightness", ImageOperationKind::brightness},
    {"contrast", ImageOperationKind::contrast},
    {"color", ImageOperationKind::color},
    {"sharpness", ImageOperationKind::sharpness},
    {"hue", ImageOperationKind::hue},
    {"grayscale", ImageOperationKind::grayscale},
    {"gaussian_blur", ImageOperationKind::gaussian_blur},
    {"affine", ImageOperationKind::affine}};
const std::map<std::string, ResampleFilter> kFilters = {{"nearest", ResampleFilter::nearest},
                                                        {"bilinear", ResampleFilter::bilinear},
                                                        {"bicubic", ResampleFilter::bicubic}};

/// "KIND FILTER VALUE VALUE …"
ImageOperation parsed(const std::string& text) {
  std::istringstream words(text);
  std::string kind, filter, value;
  words >> kind >> filter;
  ImageOperation operation{.kind = kKinds.at(kind)};
  if (!filter.empty()) operation.filter = kFilters.at(filter);
  for (int i = 0; words >> value; ++i) operation.value[i] = std::strtod(value.c_str(), nullptr);
  return operation;
}

std::vector<std::uint8_t> bytes_of(const SafetensorsEntry& entry) {
  const auto* data = reinterpret_cast<const std::uint8_t*>(entry.data);
  return {data, data + entry.bytes};
}

void run(AugmentBatch& batch, int threads = 1) {
  ThreadPool pool(threads);
  CpuKernels(pool).augment_images(batch.arguments());
}

/// A batch of one image without operations.
AugmentBatch flat_batch(std::int64_t channels, std::int64_t height, std::int64_t width,
                        std::uint8_t level) {
  AugmentBatch batch;
  batch.channels = channels;
  batch.height = height;
  batch.width = width;
  batch.images.assign(batch.elements(), level);
  return batch;
}

void expect_pillows_levels() {
  const SafetensorsFile file(std::string(VITRINE_TESTS_DIRECTORY) +
                             "/augment/operations.safetensors");
  int cases = 0;
  for (const auto& [name, text] : file.metadata()) {
    SCOPED_TRACE(text);
    std::istringstream fields(text);
    std::string image, operation;
    std::getline(fields, image, '|');
    const SafetensorsEntry& start = *file.find("image." + image);
    AugmentBatch batch = flat_batch(start.shape[0], start.shape[1], start.shape[2], 0);
    batch.images = bytes_of(start);
    while (std::getline(fields, operation, '|')) batch.operations.push_back(parsed(operation));
    batch.operations_per_image = static_cast<std::int64_t>(batch.operations.size());
    run(batch);
    const std::vector<std::uint8_t> expected = bytes_of(*file.find(name));
    ASSERT_EQ(batch.images.size(), expected.size());
    int largest = 0, different = 0;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const int error = std::abs(int{batch.images[i]} - int{expected[i]});
      largest = std::max(largest, error);
      different += error != 0;
    }
    const bool blurred = text.find("gaussian_blur") != std::string::npos;
    EXPECT_LE(largest, blurred ? 1 : 0);
    EXPECT_LE(different, blurred ? static_cast<int>(expected.size()) / 50 : 0);
    ++cases;
  }
  EXPECT_GT(cases, 200);
}

TEST(AugmentImages, MatchesPillow) {
  for_targets(expect_pillows_levels);
}

TEST(AugmentImages, LeavesImagesWithoutOperationsAlone) {
  for (const std::uint64_t seed : {11, 12, 13}) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    AugmentBatch batch = drawn_batch(seed, 40);
    const auto before = batch.images;
    for (ImageOperation& operation : batch.operations) operation.kind = ImageOperationKind::none;
    run(batch);
    EXPECT_EQ(batch.images, before);
    batch.operations.clear();
    batch.operations_per_image = 0;
    run(batch);
    EXPECT_EQ(batch.images, before);
  }
}

// Tables, neighbours and threads do not mix images up.
TEST(AugmentImages, AnImageOfABatchIsTheImageAlone) {
  for (std::uint64_t seed = 100; seed < 160; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const AugmentBatch drawn = drawn_batch(seed, 50);
    AugmentBatch together = drawn, on_threads = drawn;
    run(together);
    run(on_threads, 3);
    EXPECT_EQ(together.images, on_threads.images);
    for (std::int64_t image = 0; image < drawn.batch; ++image) {
      AugmentBatch alone = drawn;
      const auto at = [&](const auto& values, std::int64_t n) {
        return std::vector(values.begin() + image * n, values.begin() + (image + 1) * n);
      };
      alone.batch = 1;
      alone.images = at(drawn.images, drawn.elements());
      alone.operations = at(drawn.operations, drawn.operations_per_image);
      run(alone);
      EXPECT_EQ(alone.images, at(together.images, drawn.elements())) << image;
    }
  }
}

ImageOperation erasure(double y, double x, double height, double width, double mode) {
  return {.kind = ImageOperationKind::erase, .value = {y, x, height, width, mode}, .random = 77};
}

TEST(AugmentImages, ErasesTheBoxAndNothingElse) {
  const std::vector<ImageOperation> erasures = {erasure(2, 3, 4, 5, 0), erasure(-2, 30, 99, 99, 1),
                                                erasure(5, 0, 1, 41, 2), erasure(9, 9, 0, 4, 2)};
  for (const ImageOperation& operation : erasures) {
    AugmentBatch batch = flat_batch(3, 17, 41, 1);
    batch.std = {0.01f, 0.01f, 0.01f};  // noise stays far from the level 1
    batch.operations = {operation};
    batch.operations_per_image = 1;
    run(batch);
    const double *v = operation.value, mode = v[4];
    SCOPED_TRACE("mode " + std::to_string(mode));
    for (std::int64_t i = 0; i < batch.elements(); ++i) {
      const auto c = i / (17 * 41), y = i / 41 % 17, x = i % 41;
      const bool inside = y >= v[0] && y < v[0] + v[2] && x >= v[1] && x < v[1] + v[3];
      const float noise = pixel::erase_noise(operation.random, mode == 2 ? i : c);
      const float level = 255 * (batch.mean[c] + batch.std[c] * noise);
      const float expected = !inside ? 1 : mode == 0 ? batch.fill[c] : level;
      ASSERT_NEAR(batch.images[i], expected, inside && mode != 0 ? 0.5001f : 0) << i;
    }
  }
}

// Box and Muller by the functions of the standard library, on the same words of Philox.
TEST(AugmentImages, NoiseIsItsDefinition) {
  constexpr double kPi = 3.141592653589793;
  for (const std::uint64_t random : {std::uint64_t{1}, std::uint64_t{0xFEDCBA9876543210}}) {
    for (std::uint64_t index = 0; index < 4000; index += 2) {
      const PhiloxWords words =
          philox4x32({{static_cast<std::uint32_t>(index / 4), 0, 0, 0}}, random);
      const std::uint32_t* pair = words.word + index % 4;
      const double u = (2.0 * (pair[0] >> 9) + 1) / (1 << 24);
      const double angle = 2 * kPi * (pair[1] / 4294967296.0 - 0.125);
      const double radius = std::sqrt(-2 * std::log(u));
      EXPECT_NEAR(pixel::erase_noise(random, index), radius * std::cos(angle), 4e-6);
      EXPECT_NEAR(pixel::erase_noise(random, index + 1), radius * std::sin(angle), 4e-6);
    }
  }
}

// Kolmogorov's distance from the normal distribution, moments, and no link between neighbours.
TEST(AugmentImages, NoiseIsStandardNormal) {
  constexpr int kCount = 200000;
  std::vector<double> noise(kCount);
  for (int i = 0; i < kCount; ++i) noise[i] = pixel::erase_noise(20240607, i);
  double mean = 0, square = 0, fourth = 0, product = 0;
  for (int i = 0; i < kCount; ++i) {
    mean += noise[i] / kCount;
    square += noise[i] * noise[i] / kCount;
    fourth += std::pow(noise[i], 4) / kCount;
    product += noise[i] * noise[(i + 1) % kCount] / kCount;
  }
  const double sigma = 1 / std::sqrt(kCount);
  EXPECT_NEAR(mean, 0, 4 * sigma);
  EXPECT_NEAR(square, 1, 4 * std::sqrt(2.0) * sigma);
  EXPECT_NEAR(fourth, 3, 4 * std::sqrt(96.0) * sigma);
  EXPECT_NEAR(product, 0, 4 * sigma);
  std::sort(noise.begin(), noise.end());
  double distance = 0;
  for (int i = 0; i < kCount; ++i) {
    const double below = std::erfc(-noise[i] / std::sqrt(2.0)) / 2;
    distance = std::max(distance, std::abs(below - (i + 0.5) / kCount));
  }
  EXPECT_LT(distance, 1.95 * sigma);  // one in a thousand
}

TEST(AugmentImages, RefusesContradictions) {
  ThreadPool pool(1);
  CpuKernels kernels(pool);
  const auto refuse = [&](const std::string& message,
                          const std::function<void(AugmentImages&)>& change) {
    AugmentBatch batch = flat_batch(3, 4, 5, 9);
    batch.operations.resize(1);
    batch.operations_per_image = 1;
    AugmentImages args = batch.arguments();
    change(args);
    expect_refused([&] { kernels.augment_images(args); }, message);
    EXPECT_EQ(batch.images, std::vector<std::uint8_t>(60, 9));
  };
  refuse("batch", [](auto& a) { a.batch = 0; });
  refuse("height", [](auto& a) { a.height = -4; });
  refuse("channels is 2", [](auto& a) { a.channels = 2; });
  refuse("less than 2^31", [](auto& a) { a.height = a.width = 40000; });
  refuse("operations_per_image is -1", [](auto& a) { a.operations_per_image = -1; });
  refuse("images has 59", [](auto& a) { a.images.size = 59; });
  refuse("workspace has 0", [](auto& a) { a.workspace = {}; });
  refuse("workspace is images", [](auto& a) { a.workspace = a.images; });
  refuse("operations has 1", [](auto& a) { a.operations_per_image = 2; });
  refuse("fill has 2", [](auto& a) { a.fill.size = 2; });
  refuse("mean has 1", [](auto& a) { a.mean.size = 1; });
  refuse("std has 0", [](auto& a) { a.std = {}; });
}

TEST(AugmentImages, RefusesOperationsThatCannotBe) {
  const auto refuse = [&](const std::string& message, const ImageOperation& operation) {
    AugmentBatch batch = flat_batch(1, 4, 5, 9);
    batch.operations = {{}, operation};
    batch.operations_per_image = 2;
    expect_refused([&] { run(batch); }, "operations[1]: " + message);
  };
  refuse("kind is 16", {.kind = static_cast<ImageOperationKind>(16)});
  refuse("filter is 3",
         {.kind = ImageOperationKind::affine, .filter = static_cast<ResampleFilter>(3)});
  refuse("a value is not a finite number",
         {.kind = ImageOperationKind::affine, .value = {1, 0, 0, 0, 1, std::nan("")}});
  refuse("posterize's bits is 9", {.kind = ImageOperationKind::posterize, .value = {9}});
  refuse("gaussian_blur's sigma is 0", {.kind = ImageOperationKind::gaussian_blur});
  refuse("gaussian_blur's sigma is 33", {.kind = ImageOperationKind::gaussian_blur, .value = {33}});
}

}  // namespace
}  // namespace vitrine::cpu
