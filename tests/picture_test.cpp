// Numbers as colours, and images enlarged, shrunk, blended and laid side by side.
#include "vitrine/picture.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <iostream>
#include <limits>
#include <random>

#include "io/color_maps.h"
#include "temporary_directory.h"
#include "vitrine/error.h"

namespace vitrine {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

Image grey(std::int64_t height, std::int64_t width, std::vector<std::uint8_t> pixels) {
  return {1, height, width, std::move(pixels)};
}

Image random_image(std::mt19937& generator, std::int64_t channels, std::int64_t height,
                   std::int64_t width) {
  Image image{channels, height, width, {}};
  for (std::int64_t i = 0; i < channels * height * width; ++i) {
    image.pixels.push_back(static_cast<std::uint8_t>(generator() & 255));
  }
  return image;
}

Color pixel(const Image& image, std::int64_t y, std::int64_t x) {
  const std::int64_t plane = image.height * image.width, at = y * image.width + x;
  return {image.pixels[at], image.pixels[plane + at], image.pixels[2 * plane + at]};
}

void expect_image(const Image& image, const Image& expected) {
  EXPECT_EQ(image.channels, expected.channels);
  EXPECT_EQ(image.height, expected.height);
  EXPECT_EQ(image.width, expected.width);
  EXPECT_EQ(image.pixels, expected.pixels);
}

void expect_refused(const std::function<void()>& call, const std::string& part) {
  try {
    call();
    ADD_FAILURE() << "accepted, expected a message with: " << part;
  } catch (const BadInput& error) {
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

// (255 * numpy.array(matplotlib.colormaps[name](t))).round() with matplotlib 3.11, whose tables
// have 256 colours: steps of up to 3 where `hot` is steepest.
TEST(ColorMaps, MatchMatplotlib) {
  constexpr int kStep = 3;
  const auto expect_near = [](ColorMap map, float t, const Color& expected) {
    const Color color = color_of(map, t);
    for (std::size_t c = 0; c < 3; ++c) EXPECT_NEAR(color[c], expected[c], kStep) << t << " " << c;
  };
  EXPECT_EQ(color_of(ColorMap::viridis, 0.0f), (Color{68, 1, 84}));
  expect_near(ColorMap::viridis, 0.25f, {59, 82, 139});
  expect_near(ColorMap::viridis, 0.5f, {33, 145, 140});
  EXPECT_EQ(color_of(ColorMap::viridis, 1.0f), (Color{253, 231, 37}));
  EXPECT_EQ(color_of(ColorMap::hot, 0.0f), (Color{11, 0, 0}));
  expect_near(ColorMap::hot, 0.1f, {76, 0, 0});
  expect_near(ColorMap::hot, 0.5f, {255, 92, 0});
  expect_near(ColorMap::hot, 0.9f, {255, 255, 157});
  EXPECT_EQ(color_of(ColorMap::hot, 1.0f), (Color{255, 255, 255}));
}

TEST(ColorMaps, BetweenAnchorsColoursAreInterpolated) {
  const Color a = color_of(ColorMap::viridis, 24.0f / 32),
              b = color_of(ColorMap::viridis, 25.0f / 32);
  const Color between = color_of(ColorMap::viridis, 24.75f / 32);
  for (std::size_t c = 0; c < 3; ++c) {
    EXPECT_NEAR(between[c], 0.25 * a[c] + 0.75 * b[c], 0.51) << c;
  }
}

TEST(ColorMaps, WhatLiesOutsideIsTheFirstOrTheLast) {
  for (const ColorMap map : {ColorMap::viridis, ColorMap::hot}) {
    for (const float t : {-1e30f, -std::numeric_limits<float>::infinity()}) {
      EXPECT_EQ(color_of(map, t), color_of(map, 0.0f));
    }
    for (const float t : {1e30f, std::numeric_limits<float>::infinity()}) {
      EXPECT_EQ(color_of(map, t), color_of(map, 1.0f));
    }
    EXPECT_EQ(color_of(map, kNan), (Color{128, 128, 128}));
  }
}

TEST(Picture, NumbersAsColours) {
  const std::vector<float> numbers = {-3, -1, 0, 1, 5, kNan};
  const Image image = colorize(numbers, 2, 3, ColorMap::hot, -1, 1);
  EXPECT_EQ(image.channels, 3);
  EXPECT_EQ(pixel(image, 0, 0), color_of(ColorMap::hot, 0));
  EXPECT_EQ(pixel(image, 0, 1), color_of(ColorMap::hot, 0));
  EXPECT_EQ(pixel(image, 0, 2), color_of(ColorMap::hot, 0.5f));
  EXPECT_EQ(pixel(image, 1, 0), color_of(ColorMap::hot, 1));
  EXPECT_EQ(pixel(image, 1, 1), color_of(ColorMap::hot, 1));
  EXPECT_EQ(pixel(image, 1, 2), color_of(ColorMap::hot, kNan));
  const Image flat = colorize(numbers, 2, 3, ColorMap::viridis, 0, 0);
  EXPECT_EQ(pixel(flat, 0, 2), color_of(ColorMap::viridis, 0));
  EXPECT_EQ(pixel(flat, 1, 0), color_of(ColorMap::viridis, 1));
  EXPECT_EQ(pixel(flat, 1, 2), color_of(ColorMap::viridis, kNan));
  expect_refused([&] { colorize(numbers, 2, 2, ColorMap::hot, 0, 1); }, "6 numbers");
  expect_refused([&] { colorize({}, 0, 0, ColorMap::hot, 0, 1); }, "0 numbers");
}

TEST(Picture, EnlargesByWholeFactors) {
  expect_image(enlarge({3, 1, 2, {1, 2, 3, 4, 5, 6}}, 2),
               {3, 2, 4, {1, 1, 2, 2, 1, 1, 2, 2, 3, 3, 4, 4, 3, 3, 4, 4, 5, 5, 6, 6, 5, 5, 6, 6}});
  const Image image = grey(2, 1, {7, 9});
  expect_image(enlarge(image, 1), image);
  expect_refused([&] { enlarge(image, 0); }, "factor");
}

TEST(Picture, ShrinksToMeans) {
  const Image image = grey(2, 4, {0, 10, 100, 200, 20, 33, 0, 1});
  expect_image(shrink(image, 2), grey(1, 2, {16, 75}));  // 63 / 4 and 301 / 4, rounded
  expect_image(shrink(image, 4), image);
  expect_image(shrink(image, 99), image);
  expect_image(shrink(grey(1, 5, {10, 20, 30, 40, 50}), 2), grey(1, 2, {15, 40}));
  expect_image(shrink({3, 1, 2, {0, 2, 4, 6, 8, 10}}, 1), {3, 1, 1, {1, 5, 9}});
  expect_refused([&] { shrink(image, 0); }, "pixel");
}

// torch.nn.functional.interpolate(mode="bilinear", align_corners=False): the centre of pixel i of n
// lies at (i + 1/2) m / n − 1/2.
TEST(Picture, BilinearAgainstHandValues) {
  const std::vector<float> line = {0, 8};
  EXPECT_EQ(resize_bilinear(line, 1, 2, 1, 4), (std::vector<float>{0, 2, 6, 8}));
  EXPECT_EQ(resize_bilinear(line, 2, 1, 4, 1), (std::vector<float>{0, 2, 6, 8}));
  EXPECT_EQ(resize_bilinear(line, 1, 2, 2, 1), (std::vector<float>{4, 4}));
  const std::vector<float> square = {0, 4, 8, 16};
  EXPECT_EQ(resize_bilinear(square, 2, 2, 2, 2), square);
  EXPECT_EQ(
      resize_bilinear(square, 2, 2, 4, 4),
      (std::vector<float>{0, 1, 3, 4, 2, 3.25f, 5.75f, 7, 6, 7.75f, 11.25f, 13, 8, 10, 14, 16}));
  expect_refused([&] { resize_bilinear(square, 2, 3, 4, 4); }, "4 numbers");
  expect_refused([&] { resize_bilinear(square, 2, 2, 0, 4); }, "0 x 4");
}

TEST(Picture, Blends) {
  const Image below{3, 1, 1, {0, 100, 200}}, above{3, 1, 1, {255, 0, 201}};
  expect_image(blend(below, above, 0.0f), below);
  expect_image(blend(below, above, 1.0f), above);
  expect_image(blend(below, above, 0.25f), {3, 1, 1, {64, 75, 200}});
  expect_refused([&] { blend(below, {3, 1, 2, {0, 0, 0, 0, 0, 0}}, 0.5f); }, "one size");
  expect_refused([&] { blend(grey(1, 1, {0}), grey(1, 1, {0}), 0.5f); }, "colour");
}

TEST(Picture, SheetsHaveGapsOfWhite) {
  const std::vector<Image> images = {grey(1, 2, {1, 2}), grey(1, 2, {3, 4}), grey(1, 2, {5, 6})};
  expect_image(contact_sheet(images, 2, 1),
               grey(3, 5, {1, 2, 255, 3, 4, 255, 255, 255, 255, 255, 5, 6, 255, 255, 255}));
  expect_image(contact_sheet(images, 1, 0), grey(3, 2, {1, 2, 3, 4, 5, 6}));
  expect_image(contact_sheet(images, 3, 0), grey(1, 6, {1, 2, 3, 4, 5, 6}));
  const std::vector<Image> colours = {{3, 1, 1, {1, 2, 3}}, {3, 1, 1, {4, 5, 6}}};
  expect_image(contact_sheet(colours, 2, 2),
               {3, 1, 4, {1, 255, 255, 4, 2, 255, 255, 5, 3, 255, 255, 6}});
  expect_refused([&] { contact_sheet({}, 2, 1); }, "0 images");
  expect_refused([&] { contact_sheet(images, 0, 1); }, "0 columns");
  const std::vector<Image> unequal = {grey(1, 2, {1, 2}), grey(2, 1, {3, 4})};
  expect_refused([&] { contact_sheet(unequal, 2, 1); }, "[1, 2, 1]");
}

TEST(Picture, PngRoundTrip) {
  const unsigned seed = std::random_device{}();
  std::cout << "seed " << seed << '\n';
  std::mt19937 generator(seed);
  const TemporaryDirectory directory;
  for (const std::int64_t channels : {1, 3}) {
    const Image image = random_image(generator, channels, 13, 7);
    write_png(directory / "a.png", image);
    expect_image(read_image(directory / "a.png"), image);
  }
  EXPECT_THROW(write_png(directory / "none" / "a.png", grey(1, 1, {3})), IoError);
  EXPECT_THROW(write_png(directory / "b.png", Image{}), BadInput);
  EXPECT_FALSE(std::filesystem::exists(directory / "b.png"));
}

}  // namespace
}  // namespace vitrine
