// The numbers of each operation against timm's, views of evaluation against torchvision's, crops
// with padding by what they show, and what a draw depends on.

#include <algorithm>
#include <array>
#include <map>
#include <set>

#include "augmentation_check.h"
#include "data/draws.h"
#include "data/rand_augment.h"
#include "vitrine/dataset.h"
#include "vitrine/error.h"

namespace vitrine {
namespace {

using Kind = ImageOperationKind;

const std::array<const char*, 16> kKindNames = {
    "none",         "auto_contrast", "equalize", "invert", "posterize", "solarize",
    "solarize_add", "brightness",    "contrast", "color",  "sharpness", "hue",
    "grayscale",    "gaussian_blur", "affine",   "erase"};

std::string name_of(Kind kind) {
  return kKindNames.at(static_cast<std::size_t>(kind));
}

void expect_values(const ImageOperation& operation, const std::vector<double>& expected) {
  for (std::size_t i = 0; i < 6; ++i) {
    const double value = i < expected.size() ? expected[i] : 0.0;
    EXPECT_NEAR(operation.value[i], value, 1e-12 * (1 + std::abs(value))) << "value " << i;
  }
}

TEST(Severities, AreTimms) {
  const nlohmann::json& rows = timm_values().at("severities");
  ASSERT_EQ(rows.size(), 2u * kTimmOperations * 7 * 2 * 2);
  for (const nlohmann::json& row : rows) {
    SCOPED_TRACE(row.dump());
    const auto operation = static_cast<RandOperation>(row[1].get<int>());
    const ImageSize size{row[4].get<std::int64_t>(), row[5].get<std::int64_t>()};
    const ImageOperation ours =
        timm_operation(operation, row[2].get<double>(), row[3].get<double>(), row[0].get<bool>(),
                       size, ResampleFilter::bilinear);
    EXPECT_EQ(name_of(ours.kind), row[6].get<std::string>());
    EXPECT_EQ(ours.filter, ResampleFilter::bilinear);
    expect_values(ours, row[7].get<std::vector<double>>());
  }
}

TEST(Severities, QuarterTurnsAreExact) {
  const ImageOperation turn =
      timm_operation(RandOperation::rotate, 30, 1, true, {224, 224}, ResampleFilter::bicubic);
  const std::array<double, 6> expected = {0, -1, 224, 1, 0, 0};
  for (std::size_t i = 0; i < 6; ++i) EXPECT_EQ(turn.value[i], expected[i]) << i;
}

// big_vision's pp/archive/autoaugment.py, worked out by hand.
TEST(Severities, AreBigVisions) {
  const ImageSize size{224, 160};
  auto check = [&](RandOperation operation, double level, const std::vector<double>& values) {
    SCOPED_TRACE(static_cast<int>(operation));
    const ImageOperation ours = big_vision_operation(operation, level, 1, size);
    expect_values(ours, values);
    EXPECT_EQ(ours.filter,
              ours.kind == Kind::affine ? ResampleFilter::nearest : ImageOperation{}.filter);
  };
  check(RandOperation::posterize, 10, {4});
  check(RandOperation::posterize, 15, {6});
  check(RandOperation::posterize, 40, {8});
  check(RandOperation::solarize, 10, {256});
  check(RandOperation::solarize, 5, {128});
  check(RandOperation::solarize_add, 10, {110, 128});
  check(RandOperation::solarize_add, 20, {220, 128});
  check(RandOperation::color, 10, {1.9});
  check(RandOperation::sharpness, 15, {2.8});
  check(RandOperation::translate_x, 10, {1, 0, 100, 0, 1, 0});
  check(RandOperation::translate_y, 15, {1, 0, 0, 0, 1, 150});
  const double half = std::sqrt(0.75);  // 30 degrees about (80, 112)
  check(RandOperation::rotate, 10,
        {half, -0.5, 80 - half * 80 + 56, 0.5, half, 112 - 40 - half * 112});
  // Pixel (x, y) takes pixel x + 0.3 y, counted from 0.
  check(RandOperation::shear_x, 10, {1, 0.3, -0.15, 0, 1, 0});
  check(RandOperation::shear_y, 10, {1, 0, 0, 0.3, 1, -0.15});

  const ImageOperation inside = big_vision_cutout(10, 100, 80, size);
  EXPECT_EQ(inside.kind, Kind::erase);
  expect_values(inside, {60, 40, 80, 80, 0});
  expect_values(big_vision_cutout(10, 10, 159, size), {0, 119, 50, 41, 0});
  EXPECT_EQ(big_vision_cutout(0, 100, 80, size).kind, Kind::none);
}

TEST(AutoAugmentText, IsReadAsTimmReadsIt) {
  using AutoKind = AutoAugment::Kind;
  auto parse = [](const std::string& text) { return parse_auto_augment(text, "file"); };
  const AutoAugment deit = parse("rand-m9-mstd0.5-inc1");
  EXPECT_EQ(deit, (AutoAugment{AutoKind::rand, "rand-m9-mstd0.5-inc1", 9, 10, 0.5, 2, 0.5, true}));
  EXPECT_EQ(parse("rand"), (AutoAugment{AutoKind::rand, "rand", 10, 10, 0, 2, 0.5, false}));
  EXPECT_EQ(parse("rand-inc0-n3-p0.25-mmax15-m12"),
            (AutoAugment{AutoKind::rand, "rand-inc0-n3-p0.25-mmax15-m12", 12, 15, 0, 3, 0.25}));
  EXPECT_EQ(parse("rand-mstd100").magnitude_std, 100);
  EXPECT_TRUE(std::isinf(parse("rand-mstd101").magnitude_std));
  const AutoAugment big_vision = parse("randaug(3,15)");
  EXPECT_EQ(big_vision.kind, AutoKind::big_vision);
  EXPECT_EQ(big_vision.num_ops, 3);
  EXPECT_EQ(big_vision.magnitude, 15);
  EXPECT_EQ(parse("randaug(2, 10)").magnitude, 10);
  EXPECT_EQ(parse("3a").kind, AutoKind::three);
  EXPECT_EQ(parse("").kind, AutoKind::none);
  for (const char* text :
       {"rand-",   "rand-m",    "rand-m9.5",  "rand-q3",      "rand-m9--inc1", "randm9",
        "rand-n0", "rand-p2",   "rand-inc2",  "rand-mmax0",   "rand-m-3",      "rand-tweights",
        "randaug", "randaug()", "randaug(2)", "randaug(2,10", "randaug(0,10)", "randaug(2,x)",
        "3A",      "augmix-m5", "v0"}) {
    try {
      parse(text);
      ADD_FAILURE() << text << " was accepted";
    } catch (const BadInput& error) {
      EXPECT_EQ(std::string(error.what()),
                "file: aa: found \"" + std::string(text) +
                    "\", expected \"3a\", \"randaug(2,10)\" or \"rand\" with any of -m9, -n2, "
                    "-p0.5, -mstd0.5, -mmax10, -inc1");
    }
  }
}

TEST(EvaluationView, IsTorchvisionsResizeAndCenterCrop) {
  const nlohmann::json& rows = timm_values().at("boxes");
  ASSERT_GT(rows.size(), 1000u);
  for (const nlohmann::json& row : rows) {
    SCOPED_TRACE(row.dump());
    AugmentationConfig config = plain_augmentation(row[2], row[3]);
    config.crop_pct = row[4];
    config.crop_mode_eval = row[5];
    const double height = row[0], width = row[1];
    const DrawnAugmentation view = evaluation_view(config, row[0], row[1]);
    // In pixels of the resized picture the box is where torchvision crops.
    const double down = row[6].get<double>() / height, across = row[7].get<double>() / width;
    EXPECT_NEAR(view.crop_y * down, row[8].get<double>(), 1e-9);
    EXPECT_NEAR(view.crop_x * across, row[9].get<double>(), 1e-9);
    EXPECT_NEAR(view.crop_height * down, static_cast<double>(config.height), 1e-9);
    EXPECT_NEAR(view.crop_width * across, static_cast<double>(config.width), 1e-9);
    EXPECT_LE(view.crop_y + view.crop_height, height);
    EXPECT_LE(view.crop_x + view.crop_width, width);
    EXPECT_FALSE(view.flip_x || view.flip_y);
    EXPECT_TRUE(view.operations.empty());
  }
  AugmentationConfig config = plain_augmentation(32, 32);
  auto filter = [&](const char* name) {
    config.interpolation = name;
    return evaluation_view(config, 40, 40).filter;
  };
  EXPECT_EQ(filter("bilinear"), ResampleFilter::bilinear);
  EXPECT_EQ(filter("bicubic"), ResampleFilter::bicubic);
  EXPECT_EQ(filter("random"), ResampleFilter::bicubic);
}

TEST(DrawAugmentation, PlainIsTheWholePicture) {
  const std::uint64_t seed = fresh_seed();
  AugmentationConfig config = plain_augmentation(8, 8);
  for (const CropMode mode : {CropMode::none, CropMode::rrc}) {
    config.crop_mode = mode;
    config.scale = {1, 1};
    const DrawnAugmentation drawn = draw_augmentation(config, 13, 29, seed, 1, 2);
    EXPECT_EQ(drawn.crop_y, 0);
    EXPECT_EQ(drawn.crop_x, 0);
    EXPECT_EQ(drawn.crop_height, 13);
    EXPECT_EQ(drawn.crop_width, 29);
    EXPECT_FALSE(drawn.flip_x || drawn.flip_y);
    EXPECT_TRUE(drawn.operations.empty());
    EXPECT_EQ(config.operations_per_image(), 0);
  }
}

TEST(DrawAugmentation, FlipsAndBoxesAreThoseOfRandomView) {
  const std::uint64_t seed = fresh_seed();
  Dataset data;
  data.channels = 1;
  data.height = 90;
  data.width = 120;
  const Transform transform{.hflip = 0.5f, .scale = {0.25f, 1.0f}, .ratio = {0.75f, 1.25f}};
  AugmentationConfig config = plain_augmentation(32, 32);
  config.crop_mode = CropMode::rrc;
  config.scale = {0.25, 1.0};
  config.ratio = {0.75, 1.25};
  config.hflip = 0.5;
  config.auto_augment = parse_auto_augment("rand-m9", "test");
  config.reprob = 0.5;
  for (std::int64_t i = 0; i < 500; ++i) {
    const BatchRow row = random_view(data, 0, transform, seed, 3, i);
    const DrawnAugmentation drawn = draw_augmentation(config, 90, 120, seed, 3, i);
    ASSERT_EQ(drawn.flip_x, row.flip == 1);
    ASSERT_EQ(static_cast<float>(drawn.crop_y), row.crop_y);
    ASSERT_EQ(static_cast<float>(drawn.crop_x), row.crop_x);
    ASSERT_EQ(static_cast<float>(drawn.crop_height), row.crop_height);
    ASSERT_EQ(static_cast<float>(drawn.crop_width), row.crop_width);
  }
  // The streams of runs that were begun before there was a third use of a seed.
  EXPECT_EQ(stream_of(Use::view, 3, 5), std::uint64_t{1} << 61 | std::uint64_t{3} << 36 | 5u);
  EXPECT_EQ(stream_of(Use::order, 3, 0), std::uint64_t{2} << 61 | std::uint64_t{3} << 36);
}

AugmentationConfig everything() {
  AugmentationConfig config = plain_augmentation(64, 48);
  config.crop_mode = CropMode::src;
  config.crop_padding = 4;
  config.interpolation = "random";
  config.hflip = config.vflip = 0.5;
  config.auto_augment = parse_auto_augment("rand-m9-n3-p1-mstd0.5-inc1", "test");
  config.color_jitter = {0.4, 0.3, 0.2, 0.1};
  config.grayscale_prob = config.gaussian_blur_prob = config.reprob = 0.7;
  config.recount = 3;
  config.remode = EraseMode::pixel;
  return config;
}

std::vector<double> numbers_of(const DrawnAugmentation& drawn) {
  std::vector<double> numbers = {drawn.crop_y,        drawn.crop_x,         drawn.crop_height,
                                 drawn.crop_width,    double(drawn.filter), double(drawn.flip_x),
                                 double(drawn.flip_y)};
  for (const ImageOperation& operation : drawn.operations) {
    numbers.push_back(static_cast<double>(operation.kind));
    numbers.push_back(static_cast<double>(operation.filter));
    numbers.insert(numbers.end(), operation.value, operation.value + 6);
    numbers.push_back(static_cast<double>(operation.random));
  }
  return numbers;
}

TEST(DrawAugmentation, DependsOnSeedEpochAndPositionAlone) {
  const std::uint64_t seed = fresh_seed();
  const AugmentationConfig config = everything();
  auto draw = [&](std::uint64_t s, std::int64_t epoch, std::int64_t position) {
    return numbers_of(draw_augmentation(config, 300, 200, s, epoch, position));
  };
  std::vector<std::vector<double>> forward, backward;
  for (int i = 0; i < 50; ++i) forward.push_back(draw(seed, 2, i));
  for (int i = 49; i >= 0; --i) backward.push_back(draw(seed, 2, i));
  std::reverse(backward.begin(), backward.end());
  EXPECT_EQ(forward, backward);
  const std::set<std::vector<double>> different = {
      draw(seed, 2, 3), draw(seed + 1, 2, 3), draw(seed, 3, 3), draw(seed, 2, 4), draw(seed, 3, 2)};
  EXPECT_EQ(different.size(), 5u);
}

TEST(DrawAugmentation, OperationsComeInTimmsOrderAndFitTheTable) {
  const std::uint64_t seed = fresh_seed();
  const AugmentationConfig config = everything();
  EXPECT_EQ(config.operations_per_image(), 1 + 3 + 4 + 1 + 1 + 3);
  std::size_t most = 0;
  std::set<std::uint64_t> streams;
  std::size_t erased = 0;
  for (int i = 0; i < 4000; ++i) {
    const DrawnAugmentation drawn = draw_augmentation(config, 300, 200, seed, 0, i);
    most = std::max(most, drawn.operations.size());
    // From the end: erasing, blur, grey; each at most as often as it can be.
    auto at = drawn.operations.rbegin();
    auto skip = [&](Kind kind, int times) {
      for (; times > 0 && at != drawn.operations.rend() && at->kind == kind; --times) ++at;
    };
    for (const ImageOperation& operation : drawn.operations) {
      if (operation.kind != Kind::erase) continue;
      streams.insert(operation.random);
      ++erased;
      ASSERT_EQ(operation.value[4], 2.0);
    }
    skip(Kind::erase, 3);
    skip(Kind::gaussian_blur, 1);
    skip(Kind::grayscale, 1);
    std::set<Kind> jitter;
    for (int k = 0; k < 4; ++k, ++at) jitter.insert(at->kind);
    ASSERT_EQ(jitter, (std::set<Kind>{Kind::brightness, Kind::contrast, Kind::color, Kind::hue}));
    ASSERT_GE(drawn.operations.rend() - at, 3);
    ASSERT_LE(drawn.operations.rend() - at, 4);
  }
  EXPECT_EQ(static_cast<std::int64_t>(most), config.operations_per_image());
  EXPECT_EQ(streams.size(), erased);
}

TEST(DrawAugmentation, FiltersFollowTheInterpolation) {
  const std::uint64_t seed = fresh_seed();
  AugmentationConfig config = everything();
  config.auto_augment = parse_auto_augment("rand-p1", "test");
  for (const char* name : {"bilinear", "bicubic", "random"}) {
    config.interpolation = name;
    std::array<int, 3> crops{}, operations{};
    for (int i = 0; i < 4000; ++i) {
      const DrawnAugmentation drawn = draw_augmentation(config, 50, 50, seed, 0, i);
      ++crops[static_cast<std::size_t>(drawn.filter)];
      for (const ImageOperation& operation : drawn.operations) {
        const bool is_padding = operation.value[0] == 1 && operation.value[1] == 0 &&
                                operation.filter == ResampleFilter::nearest;
        if (operation.kind != Kind::affine || is_padding) continue;
        ++operations[static_cast<std::size_t>(operation.filter)];
      }
    }
    for (const auto& counts : {crops, operations}) {
      const int total = counts[0] + counts[1] + counts[2];
      const double share = std::string(name) == "bilinear"  ? 1
                           : std::string(name) == "bicubic" ? 0
                                                            : 0.5;
      EXPECT_GT(total, 1000);
      EXPECT_NEAR(counts[1], share * total, share == 0.5 ? 3 * std::sqrt(total) : 0) << name;
      EXPECT_EQ(counts[0], 0);
    }
  }
}

// Crops with padding, by what they show -----------------------------------------------------------

constexpr int kFill = -1;
using Pixels = std::vector<int>;

/// What the box, the flips and the translation make of a picture of numbered pixels that is resized
/// by 1.
Pixels shown(const DrawnAugmentation& drawn, std::int64_t width, const ImageSize& size) {
  auto whole = [](double value) {
    const auto number = static_cast<std::int64_t>(value);
    EXPECT_EQ(static_cast<double>(number), value);
    return number;
  };
  std::int64_t down = 0, across = 0;
  if (!drawn.operations.empty()) {
    EXPECT_EQ(drawn.operations.size(), 1u);
    EXPECT_EQ(drawn.operations[0].kind, Kind::affine);
    across = whole(drawn.operations[0].value[2]);
    down = whole(drawn.operations[0].value[5]);
  }
  EXPECT_EQ(whole(drawn.crop_height), size.height);
  EXPECT_EQ(whole(drawn.crop_width), size.width);
  Pixels image;
  for (std::int64_t y = 0; y < size.height; ++y) {
    for (std::int64_t x = 0; x < size.width; ++x) {
      std::int64_t row = y + down, column = x + across;
      if (row < 0 || row >= size.height || column < 0 || column >= size.width) {
        image.push_back(kFill);
        continue;
      }
      if (drawn.flip_y) row = size.height - 1 - row;
      if (drawn.flip_x) column = size.width - 1 - column;
      image.push_back(
          static_cast<int>((row + whole(drawn.crop_y)) * width + column + whole(drawn.crop_x)));
    }
  }
  return image;
}

/// A crop of the padded picture, then flipped.
Pixels expected_crop(const ImageSize& picture, const ImageSize& size, std::int64_t top,
                     std::int64_t left, bool flip_y, bool flip_x) {
  Pixels image;
  for (std::int64_t y = 0; y < size.height; ++y) {
    for (std::int64_t x = 0; x < size.width; ++x) {
      const std::int64_t row = top + (flip_y ? size.height - 1 - y : y);
      const std::int64_t column = left + (flip_x ? size.width - 1 - x : x);
      const bool inside = row >= 0 && row < picture.height && column >= 0 && column < picture.width;
      image.push_back(inside ? static_cast<int>(row * picture.width + column) : kFill);
    }
  }
  return image;
}

// Every place that torchvision's RandomCrop(padding) can take, equally often.
void expect_random_crop(CropMode mode, const ImageSize& picture, const ImageSize& size) {
  constexpr std::int64_t kPadding = 2;
  constexpr int kDraws = 20000;
  const std::uint64_t seed = fresh_seed();
  AugmentationConfig config = plain_augmentation(size.height, size.width);
  config.crop_mode = mode;
  config.crop_padding = kPadding;
  config.hflip = config.vflip = 0.5;
  EXPECT_EQ(config.operations_per_image(), 1);
  std::map<Pixels, std::size_t> places;
  for (std::int64_t top = -kPadding; top <= picture.height - size.height + kPadding; ++top) {
    for (std::int64_t left = -kPadding; left <= picture.width - size.width + kPadding; ++left) {
      for (const bool flip_y : {false, true}) {
        for (const bool flip_x : {false, true}) {
          places.emplace(expected_crop(picture, size, top, left, flip_y, flip_x), places.size());
        }
      }
    }
  }
  Counts counts(places.size());
  for (int i = 0; i < kDraws; ++i) {
    const DrawnAugmentation drawn =
        draw_augmentation(config, picture.height, picture.width, seed, 0, i);
    const auto place = places.find(shown(drawn, picture.width, size));
    ASSERT_NE(place, places.end()) << "no crop of the padded picture";
    ++counts[place->second];
  }
  expect_same_distribution(counts, Counts(places.size(), 1e6), "places");
}

TEST(PaddedCrop, ShowsEveryPlaceOfThePaddedPicture) {
  expect_random_crop(CropMode::pad, {6, 5}, {6, 5});
}

TEST(SimpleRandomCrop, MovesAlongTheLongSideAndThroughThePadding) {
  expect_random_crop(CropMode::src, {9, 4}, {4, 4});
  expect_random_crop(CropMode::src, {4, 7}, {4, 4});
}

TEST(SimpleRandomCrop, TakesTheShortSideWithoutPadding) {
  const std::uint64_t seed = fresh_seed();
  AugmentationConfig config = plain_augmentation(224, 224);
  config.crop_mode = CropMode::src;
  std::set<double> places;
  for (int i = 0; i < 2000; ++i) {
    const DrawnAugmentation drawn = draw_augmentation(config, 400, 300, seed, 0, i);
    EXPECT_TRUE(drawn.operations.empty());
    EXPECT_EQ(drawn.crop_x, 0);
    EXPECT_EQ(drawn.crop_width, 300);
    EXPECT_NEAR(drawn.crop_height, 224.0 * 400 / 298, 1e-9);  // int(224 · 400 / 300) rows
    places.insert(drawn.crop_y);
  }
  EXPECT_EQ(places.size(), 298u - 224 + 1);
}

TEST(RepeatedOrder, RepeatsNeighbours) {
  const std::uint64_t seed = fresh_seed();
  for (const std::int64_t n : {0, 1, 10, 300}) {
    const std::vector<std::int64_t> once = shuffled(n, seed, 4);
    EXPECT_EQ(repeated_order(n, 0, seed, 4), once);
    EXPECT_EQ(repeated_order(n, 1, seed, 4), once);
    const std::vector<std::int64_t> order = repeated_order(n, 3, seed, 4);
    ASSERT_EQ(order.size(), once.size());
    for (std::size_t i = 0; i < order.size(); ++i) EXPECT_EQ(order[i], once[i / 3]) << i;
  }
}

}  // namespace
}  // namespace vitrine
