// How often and how strong: our draws against as many of timm's and torchvision's.

#include <algorithm>
#include <array>
#include <map>

#include "augmentation_check.h"
#include "data/rand_augment.h"

namespace vitrine {
namespace {

using Kind = ImageOperationKind;

constexpr int kDraws = 100000;

/// Which operation of timm's list it is, and the level of a rotation.
RandOperation operation_of(const ImageOperation& operation) {
  static const std::map<Kind, RandOperation> kColors = {
      {Kind::auto_contrast, RandOperation::auto_contrast},
      {Kind::equalize, RandOperation::equalize},
      {Kind::invert, RandOperation::invert},
      {Kind::posterize, RandOperation::posterize},
      {Kind::solarize, RandOperation::solarize},
      {Kind::solarize_add, RandOperation::solarize_add},
      {Kind::color, RandOperation::color},
      {Kind::contrast, RandOperation::contrast},
      {Kind::brightness, RandOperation::brightness},
      {Kind::sharpness, RandOperation::sharpness},
      {Kind::erase, RandOperation::cutout}};
  const auto color = kColors.find(operation.kind);
  if (color != kColors.end()) return color->second;
  EXPECT_EQ(operation.kind, Kind::affine);
  const double* v = operation.value;
  if (v[1] != 0 && v[3] != 0) return RandOperation::rotate;
  if (v[1] != 0) return RandOperation::shear_x;
  if (v[3] != 0) return RandOperation::shear_y;
  return v[2] != 0 ? RandOperation::translate_x : RandOperation::translate_y;
}

/// Of a rotation, shear or translation: which way it goes.
bool is_positive(const ImageOperation& operation) {
  const double* v = operation.value;
  return (v[3] != 0 ? v[3] : v[1] != 0 ? v[1] : v[2] != 0 ? v[2] : v[5]) > 0;
}

double degrees_of(const ImageOperation& rotation) {
  return std::atan2(rotation.value[3], rotation.value[0]) * 180 / 3.14159265358979323846;
}

TEST(Frequencies, RandAugment) {
  const std::uint64_t seed = fresh_seed();
  for (const auto& [text, stored] : timm_values().at("rand_augment").items()) {
    AugmentationConfig config = plain_augmentation(224, 224);
    config.auto_augment = parse_auto_augment(text, "test");
    Counts operations(kTimmOperations);
    Counts applied(static_cast<std::size_t>(config.auto_augment.num_ops) + 1);
    Histogram levels(stored.at("rotate_level"));
    Counts signs(2), enhanced(2);
    for (int i = 0; i < kDraws; ++i) {
      const DrawnAugmentation drawn = draw_augmentation(config, 300, 300, seed, 1, i);
      ++applied.at(drawn.operations.size());
      for (const ImageOperation& operation : drawn.operations) {
        const RandOperation which = operation_of(operation);
        ++operations.at(static_cast<std::size_t>(which));
        if (which == RandOperation::contrast) ++enhanced[operation.value[0] > 1];
        if (operation.kind == Kind::affine) ++signs[is_positive(operation)];
        if (which != RandOperation::rotate) continue;
        levels.add(std::round(std::abs(degrees_of(operation)) / 3 * 1e9) / 1e9);
      }
    }
    expect_same_counts(operations, stored.at("operations"), text + " operations");
    expect_same_counts(applied, stored.at("applied"), text + " applied");
    levels.expect_same(text + " level of rotations");
    expect_same_distribution(signs, {1e6, 1e6}, text + " signs");
    expect_same_distribution(enhanced, {1e6, 1e6}, text + " signs of contrasts");
  }
}

TEST(Frequencies, BigVisionRandAugment) {
  const std::uint64_t seed = fresh_seed();
  AugmentationConfig config = plain_augmentation(224, 224);
  config.auto_augment = parse_auto_augment("randaug(2,10)", "test");
  Counts operations(kBigVisionOperations), rows(7), signs(2);
  for (int i = 0; i < kDraws; ++i) {
    const DrawnAugmentation drawn = draw_augmentation(config, 300, 300, seed, 1, i);
    ASSERT_EQ(drawn.operations.size(), 2u);
    for (const ImageOperation& operation : drawn.operations) {
      const RandOperation which = operation_of(operation);
      ++operations.at(static_cast<std::size_t>(which));
      if (operation.kind == Kind::affine) ++signs[is_positive(operation)];
      if (which != RandOperation::cutout) continue;
      // The centre: the box reaches 40 above and below it, or to the image's edge.
      const double top = operation.value[0], bottom = top + operation.value[2];
      ++rows.at(static_cast<std::size_t>((top > 0 ? top + 40 : bottom - 40) / 32));
    }
  }
  expect_same_distribution(operations, Counts(kBigVisionOperations, 1e6), "operations");
  expect_same_distribution(rows, Counts(7, 1e6), "rows of cutout");
  expect_same_distribution(signs, Counts(2, 1e6), "signs");
}

TEST(Frequencies, ThreeAugment) {
  const std::uint64_t seed = fresh_seed();
  const nlohmann::json& stored = timm_values().at("three_augment");
  AugmentationConfig config = plain_augmentation(224, 224);
  config.auto_augment = parse_auto_augment("3a", "test");
  EXPECT_EQ(config.operations_per_image(), 1);
  const std::vector<Kind> kinds = {Kind::grayscale, Kind::solarize, Kind::gaussian_blur};
  Counts counts(3);
  Histogram sigmas(stored.at("sigma"));
  for (int i = 0; i < kDraws; ++i) {
    const DrawnAugmentation drawn = draw_augmentation(config, 300, 300, seed, 1, i);
    ASSERT_EQ(drawn.operations.size(), 1u);
    const ImageOperation& operation = drawn.operations[0];
    const auto kind = std::find(kinds.begin(), kinds.end(), operation.kind);
    ASSERT_NE(kind, kinds.end());
    ++counts[static_cast<std::size_t>(kind - kinds.begin())];
    if (operation.kind == Kind::gaussian_blur) {
      sigmas.add(operation.value[0]);
    } else {
      ASSERT_EQ(operation.value[0], operation.kind == Kind::solarize ? 128 : 0);
    }
  }
  expect_same_counts(counts, stored.at("kinds"), "kinds");
  sigmas.expect_same("sigma");
}

TEST(Frequencies, RandomResizedCrop) {
  const std::uint64_t seed = fresh_seed();
  for (const nlohmann::json& stored : timm_values().at("resized_crop")) {
    AugmentationConfig config = plain_augmentation(32, 32);
    config.crop_mode = CropMode::rrc;
    config.scale = stored.at("scale").get<std::array<double, 2>>();
    config.ratio = stored.at("ratio").get<std::array<double, 2>>();
    const double height = stored.at("picture")[0], width = stored.at("picture")[1];
    Histogram area(stored.at("area")), aspect(stored.at("log_aspect"));
    Histogram y(stored.at("center_y")), x(stored.at("center_x"));
    for (int i = 0; i < kDraws; ++i) {
      const DrawnAugmentation d =
          draw_augmentation(config, stored.at("picture")[0], stored.at("picture")[1], seed, 1, i);
      area.add(d.crop_height * d.crop_width / (height * width));
      aspect.add(std::log(d.crop_width / d.crop_height));
      y.add((d.crop_y + d.crop_height / 2) / height);
      x.add((d.crop_x + d.crop_width / 2) / width);
    }
    area.expect_same("area");
    aspect.expect_same("log aspect");
    y.expect_same("centre, y");
    x.expect_same("centre, x");
  }
}

TEST(Frequencies, RandomErasing) {
  const std::uint64_t seed = fresh_seed();
  for (const nlohmann::json& stored : timm_values().at("erasing")) {
    const double height = stored.at("image")[0], width = stored.at("image")[1];
    AugmentationConfig config = plain_augmentation(stored.at("image")[0], stored.at("image")[1]);
    config.reprob = stored.at("probability");
    config.recount = stored.at("count");
    Counts boxes(stored.at("boxes").size());
    Histogram area(stored.at("area")), aspect(stored.at("log_aspect"));
    Histogram y(stored.at("center_y"));
    for (int i = 0; i < kDraws; ++i) {
      const DrawnAugmentation drawn = draw_augmentation(config, 300, 300, seed, 1, i);
      ++boxes.at(drawn.operations.size());
      for (const ImageOperation& operation : drawn.operations) {
        ASSERT_EQ(operation.kind, Kind::erase);
        const double* v = operation.value;
        ASSERT_LE(v[0] + v[2], height);
        ASSERT_LE(v[1] + v[3], width);
        area.add(v[2] * v[3] / (height * width));
        aspect.add(std::log(v[2] / v[3]));
        y.add((v[0] + v[2] / 2) / height);
      }
    }
    expect_same_counts(boxes, stored.at("boxes"), "boxes");
    area.expect_same("area");
    aspect.expect_same("log aspect");
    y.expect_same("centre, y");
  }
}

TEST(Frequencies, ColorJitter) {
  const std::uint64_t seed = fresh_seed();
  const nlohmann::json& stored = timm_values().at("jitter");
  AugmentationConfig config = plain_augmentation(32, 32);
  config.color_jitter = stored.at("strength").get<std::array<double, 4>>();
  config.color_jitter_prob = 0.8;
  const std::vector<Kind> kinds = {Kind::brightness, Kind::contrast, Kind::color, Kind::hue};
  Counts first(4), last(4), applied(2);
  Histogram brightness(stored.at("brightness")), saturation(stored.at("saturation"));
  Histogram hue(stored.at("hue"));
  for (int i = 0; i < kDraws; ++i) {
    const DrawnAugmentation drawn = draw_augmentation(config, 300, 300, seed, 1, i);
    ++applied[!drawn.operations.empty()];
    if (drawn.operations.empty()) continue;
    ASSERT_EQ(drawn.operations.size(), 4u);
    auto index = [&](Kind kind) {
      return static_cast<std::size_t>(std::find(kinds.begin(), kinds.end(), kind) - kinds.begin());
    };
    ++first.at(index(drawn.operations.front().kind));
    ++last.at(index(drawn.operations.back().kind));
    for (const ImageOperation& operation : drawn.operations) {
      if (operation.kind == Kind::brightness) brightness.add(operation.value[0]);
      if (operation.kind == Kind::color) saturation.add(operation.value[0]);
      if (operation.kind == Kind::hue) hue.add(operation.value[0]);
    }
  }
  expect_same_counts(first, stored.at("first"), "the first of the four");
  expect_same_distribution(last, Counts(4, 1e6), "the last of the four");
  expect_same_distribution(applied, {2e6, 8e6}, "applied");
  brightness.expect_same("brightness");
  saturation.expect_same("saturation");
  hue.expect_same("hue");
}

TEST(Frequencies, FlipsGreyAndBlur) {
  const std::uint64_t seed = fresh_seed();
  AugmentationConfig config = plain_augmentation(32, 32);
  config.hflip = 0.5;
  config.vflip = 0.1;
  config.grayscale_prob = 0.2;
  config.gaussian_blur_prob = 0.3;
  Counts horizontal(2), vertical(2), grey(2), blur(2), neighbours(4);
  std::size_t before = 0;
  for (int i = 0; i < kDraws; ++i) {
    const DrawnAugmentation drawn = draw_augmentation(config, 300, 300, seed, 1, i);
    ++horizontal[drawn.flip_x];
    ++vertical[drawn.flip_y];
    std::array<bool, 2> seen{};
    for (const ImageOperation& operation : drawn.operations) {
      seen[operation.kind == Kind::gaussian_blur] = true;
    }
    ++grey[seen[0]];
    ++blur[seen[1]];
    ++neighbours[before * 2 + drawn.flip_x];
    before = drawn.flip_x;
  }
  expect_same_distribution(horizontal, {1e6, 1e6}, "hflip");
  expect_same_distribution(vertical, {9e6, 1e6}, "vflip");
  expect_same_distribution(grey, {8e6, 2e6}, "grey");
  expect_same_distribution(blur, {7e6, 3e6}, "blur");
  expect_same_distribution(neighbours, Counts(4, 1e6), "flips of neighbours");
}

}  // namespace
}  // namespace vitrine
