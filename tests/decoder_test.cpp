// Decoding: what Pillow sees, and any part of it at any size.

#include "vitrine/decoder.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <sstream>

#include "encode_jpeg.h"
#include "picture_files.h"
#include "vitrine/error.h"

namespace vitrine {
namespace {

/// A line of values.txt and its pixels.
struct PillowValues {
  std::string file, change;
  std::int64_t numbers[2] = {1, 1};  ///< M of "scale", X and Y of "reduce"
  std::int64_t width = 0, height = 0;
  std::string pixels;
};

std::vector<PillowValues> pillow_values() {
  std::istringstream lines(picture_file("values.txt"));
  const std::string pixels = picture_file("values.bin");
  std::vector<PillowValues> all;
  std::size_t at = 0;
  for (PillowValues one; lines >> one.file >> one.change; all.push_back(one)) {
    if (one.change != "whole") lines >> one.numbers[0];
    if (one.change == "reduce") lines >> one.numbers[1];
    lines >> one.width >> one.height;
    one.pixels = pixels.substr(at, static_cast<std::size_t>(one.width * one.height * 3));
    at += one.pixels.size();
  }
  EXPECT_EQ(at, pixels.size());
  EXPECT_EQ(all.size(), 45u);
  return all;
}

void expect_values(const Decoded& found, const PillowValues& expected, std::int64_t channels) {
  ASSERT_EQ(found.view.height, expected.height);
  ASSERT_EQ(found.view.width, expected.width);
  const auto* pixel = reinterpret_cast<const unsigned char*>(expected.pixels.data());
  for (std::int64_t y = 0; y < expected.height; ++y) {
    for (std::int64_t x = 0; x < expected.width; ++x, pixel += 3) {
      if (channels == 1) {
        const double luma = 0.299 * pixel[0] + 0.587 * pixel[1] + 0.114 * pixel[2];
        ASSERT_NEAR(found.pixel(y, x, 0), luma, 0.51) << "y " << y << " x " << x;
      }
      for (std::int64_t c = 0; c < channels && channels == 3; ++c) {
        ASSERT_EQ(found.pixel(y, x, c), pixel[c]) << "y " << y << " x " << x << " channel " << c;
      }
    }
  }
}

TEST(Decoder, SeesWhatPillowSees) {
  Decoder decoder;
  for (const PillowValues& expected : pillow_values()) {
    SCOPED_TRACE(expected.file + " " + expected.change);
    const std::string file = picture_file(expected.file);
    const PictureInfo info = decoder.read_info(bytes_of(file), expected.file);
    DecodeRequest request = whole(info);
    double scale_x = 1, scale_y = 1;
    if (expected.change == "scale") {
      scale_x = scale_y = static_cast<double>(expected.numbers[0]) / 8;
    } else if (expected.change == "reduce") {
      scale_x = 1.0 / static_cast<double>(expected.numbers[0]);
      scale_y = 1.0 / static_cast<double>(expected.numbers[1]);
    }
    if (expected.change != "whole") {
      request.min_width = static_cast<std::int64_t>(static_cast<double>(info.width) * scale_x);
      request.min_height = static_cast<std::int64_t>(static_cast<double>(info.height) * scale_y);
    }
    const Decoded colour = decode(decoder, file, request);
    expect_values(colour, expected, 3);
    EXPECT_FLOAT_EQ(colour.view.crop_y, 0);
    EXPECT_FLOAT_EQ(colour.view.crop_x, 0);
    EXPECT_FLOAT_EQ(colour.view.crop_height, static_cast<float>(request.crop_height * scale_y));
    EXPECT_FLOAT_EQ(colour.view.crop_width, static_cast<float>(request.crop_width * scale_x));
    if (expected.change == "reduce") continue;  // the luma of a mean is not the mean of lumas
    request.channels = 1;
    expect_values(decode(decoder, file, request), expected, 1);
  }
}

TEST(ReadImage, SeesTheSame) {
  for (const PillowValues& expected : pillow_values()) {
    if (expected.change != "whole") continue;
    SCOPED_TRACE(expected.file);
    const Image image = read_image(picture_path(expected.file));
    ASSERT_EQ(image.height, expected.height);
    ASSERT_EQ(image.width, expected.width);
    const std::size_t plane = expected.pixels.size() / 3;
    ASSERT_EQ(image.pixels.size(), plane * static_cast<std::size_t>(image.channels));
    for (std::size_t i = 0; i < 3 * plane; ++i) {
      const std::size_t at = image.channels == 3 ? i % 3 * plane + i / 3 : i / 3;
      ASSERT_EQ(image.pixels[at], static_cast<unsigned char>(expected.pixels[i])) << i;
    }
  }
}

TEST(Decoder, InfoIsAsSeen) {
  Decoder decoder;
  const struct {
    const char *file, *format;
    std::int64_t height, width, channels;
    int orientation;
  } expected[] = {
      {"grey.jpg", "JPEG", 27, 37, 1, 1},          {"ycck.jpg", "JPEG", 18, 21, 4, 1},
      {"orientation_3.jpg", "JPEG", 12, 20, 3, 3}, {"orientation_7.jpg", "JPEG", 20, 12, 3, 7},
      {"orientation_6.png", "PNG", 19, 13, 3, 6},  {"palette_4.png", "PNG", 13, 19, 3, 1},
      {"grey_alpha.png", "PNG", 13, 19, 1, 1}};
  for (const auto& one : expected) {
    SCOPED_TRACE(one.file);
    const PictureInfo info = decoder.read_info(bytes_of(picture_file(one.file)), one.file);
    EXPECT_EQ(info.format, one.format);
    EXPECT_EQ(info.height, one.height);
    EXPECT_EQ(info.width, one.width);
    EXPECT_EQ(info.channels, one.channels);
    EXPECT_EQ(info.orientation, one.orientation);
  }
  EXPECT_EQ(decoder.read_info(bytes_of("P5 2 1 255 ab"), "a").format, "PGM");
  EXPECT_EQ(decoder.read_info(bytes_of("P3 2 1 255 "), "a").format, "PPM");
}

/// A box of at least `least` pixels a side, in one of three cases at the picture's edge.
DecodeRequest random_box(RandomStream& random, const PictureInfo& info, double least) {
  DecodeRequest request = whole(info);
  const auto draw = [&](double& begin, double& size) {
    const double whole = size;
    size = random.uniform(std::min(least, whole), whole);
    begin = random.below(3) == 0 ? whole - size : random.uniform(0, whole - size);
    if (random.below(3) == 0) begin = std::floor(begin), size = std::floor(size);
  };
  draw(request.crop_y, request.crop_height);
  draw(request.crop_x, request.crop_width);
  request.margin = static_cast<std::int64_t>(random.below(6));
  request.channels = random.below(4) == 0 ? 1 : 3;
  return request;
}

/// The contract: as much as is wanted around the box, as far as the picture has it.
void expect_margin(const PictureView& view, std::int64_t margin, Corner corner,
                   const PictureView& all) {
  const auto check = [&](std::int64_t begin, std::int64_t size, double crop, double crop_size,
                         std::int64_t limit) {
    const double first = static_cast<double>(begin) + crop, last = first + crop_size;
    const double slack = 1e-3;  // views are in float
    EXPECT_LE(begin, std::max(0.0, std::floor(first + slack) - static_cast<double>(margin)));
    EXPECT_GE(begin + size, std::min(static_cast<double>(limit),
                                     std::ceil(last - slack) + static_cast<double>(margin)));
    EXPECT_LE(static_cast<double>(size), crop_size + 2 * static_cast<double>(margin) + 2 + slack);
  };
  check(corner.y, view.height, view.crop_y, view.crop_height, all.height);
  check(corner.x, view.width, view.crop_x, view.crop_width, all.width);
}

constexpr JpegKind kJpegKinds[] = {{"4:4:4", 92, 1, 1},
                                   {"4:2:2", 92, 2, 1},
                                   {"4:4:0", 92, 1, 2},
                                   {"4:2:0", 92, 2, 2},
                                   {"4:1:1", 92, 4, 1},
                                   {"4:2:0 progressive", 92, 2, 2, true},
                                   {"4:2:0 with restarts", 92, 2, 2, false, 3}};

/// Boxes of this file at m eighths are the same pixels as the whole at m eighths.
void compare_boxes(Decoder& decoder, const std::string& file, std::int64_t eighths,
                   RandomStream& random) {
  const PictureInfo info = decoder.read_info(bytes_of(file), "test");
  const auto scaled = [&](double size) {
    return static_cast<std::int64_t>(size * static_cast<double>(eighths) / 8);
  };
  DecodeRequest request = whole(info);
  request.channels = 3;
  if (eighths < 8) request.min_height = scaled(request.crop_height);
  if (eighths < 8) request.min_width = scaled(request.crop_width);
  const Decoded colour = decode(decoder, file, request);
  ASSERT_EQ(colour.view.height, (info.height * eighths + 7) / 8);
  request.channels = 1;
  const Decoded grey = decode(decoder, file, request);
  for (int box = 0; box < 12; ++box) {
    request = random_box(random, info, eighths < 8 ? 24 : 1);
    if (eighths < 8) request.min_height = scaled(request.crop_height);
    if (eighths < 8) request.min_width = scaled(request.crop_width);
    const Decoded part = decode(decoder, file, request);
    const double scale = static_cast<double>(eighths) / 8;
    EXPECT_NEAR(part.view.crop_height, request.crop_height * scale, 1e-3);
    EXPECT_NEAR(part.view.crop_width, request.crop_width * scale, 1e-3);
    const Corner corner = corner_of(part.view, request, scale, scale);
    const Decoded& all = request.channels == 3 ? colour : grey;
    expect_part(part, all, corner, request.channels);
    expect_margin(part.view, request.margin, corner, all.view);
  }
}

TEST(Decoder, BoxOfJpegIsThatOfTheWhole) {
  Decoder decoder;
  const std::uint64_t seed = 71;
  RandomStream random(seed, 0);
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
  for (const auto& [height, width] : {std::pair{131, 197}, {64, 128}, {19, 35}, {3, 90}}) {
    for (std::int64_t eighths : {1, 2, 3, 4, 8}) {
      if (eighths < 8 && std::min(height, width) < 24) continue;
      SCOPED_TRACE(std::to_string(height) + " x " + std::to_string(width) + " scale " +
                   std::to_string(eighths));
      for (const JpegKind& kind : kJpegKinds) {
        SCOPED_TRACE(kind.name);
        compare_boxes(decoder, encode_jpeg(random_image(3, height, width, seed), kind), eighths,
                      random);
      }
      for (std::int64_t channels : {1, 4}) {
        SCOPED_TRACE(channels);
        compare_boxes(decoder, encode_jpeg(random_image(channels, height, width, seed)), eighths,
                      random);
      }
    }
  }
}

// The last block of a row is one to four pixels wide: too few colours for libjpeg to interpolate.
TEST(Decoder, NarrowBoxAtTheEdgeIsThatOfTheWhole) {
  Decoder decoder;
  for (const JpegKind& kind : kJpegKinds) {
    SCOPED_TRACE(kind.name);
    for (std::int64_t size = 33; size <= 36; ++size) {
      const std::string file = encode_jpeg(random_image(3, size, size, 74), kind);
      const double all_size = static_cast<double>(size);
      const Decoded all = decode(decoder, file, {.crop_height = all_size, .crop_width = all_size});
      for (std::int64_t begin = 24; begin < size; ++begin) {
        const double first = static_cast<double>(begin), rest = all_size - first;
        const auto check = [&](const DecodeRequest& box) {
          const Corner corner{static_cast<std::int64_t>(box.crop_y),
                              static_cast<std::int64_t>(box.crop_x)};
          expect_part(decode(decoder, file, box), all, corner, 3);
        };
        check({0, 0, all_size, rest, 0, 0, /*margin=*/0});
        check({0, first, all_size, rest, 0, 0, /*margin=*/0});
        check({0, 0, rest, all_size, 0, 0, /*margin=*/0});
        check({first, 0, rest, all_size, 0, 0, /*margin=*/0});
      }
    }
  }
}

TEST(Decoder, BoxOfOtherFormatsIsThatOfTheWhole) {
  Decoder decoder;
  RandomStream random(72, 0);
  for (const PillowValues& values : pillow_values()) {
    if (values.change != "whole") continue;
    SCOPED_TRACE(values.file);
    compare_boxes(decoder, picture_file(values.file), 8, random);
  }
  std::string text = "P3 7 5 98\n";
  for (int i = 0; i < 105; ++i) text += std::to_string(i * 37 % 99) + (i % 7 ? " " : "\n");
  std::string deep = "P5 9 4 1000 ";
  for (int i = 0; i < 36; ++i) deep += {static_cast<char>(i % 4), static_cast<char>(i * 3)};
  for (const std::string& file :
       {text, deep, std::string("P6 3 4 255 abcdefghijklmnopqrstuvwxyz0123456789"),
        std::string("P2 4 2 3 0 1 2 3 3 2 1 0")}) {
    SCOPED_TRACE(file.substr(0, 12));
    compare_boxes(decoder, file, 8, random);
  }
}

TEST(Decoder, BoxIsReducedOnTheGridOfThePicture) {
  Decoder decoder;
  const std::uint64_t seed = 73;
  RandomStream random(seed, 0);
  for (const char* name : {"reduced.png", "photograph.jpg"}) {
    const std::string file = picture_file(name);
    const PictureInfo info = decoder.read_info(bytes_of(file), name);
    const bool jpeg = info.format == "JPEG";
    for (int box = 0; box < 40; ++box) {
      DecodeRequest request = random_box(random, info, 20);
      request.channels = 3;
      const std::int64_t factor_y = 1 + static_cast<std::int64_t>(random.below(5));
      const std::int64_t factor_x = 2 + static_cast<std::int64_t>(random.below(5));
      const double eighth = jpeg ? 0.125 : 1;  // both factors would allow so small a JPEG
      const double scale_y = eighth / static_cast<double>(factor_y);
      const double scale_x = eighth / static_cast<double>(factor_x);
      // The largest number of pixels that these factors still leave.
      request.min_height = static_cast<std::int64_t>(request.crop_height * scale_y);
      request.min_width = static_cast<std::int64_t>(request.crop_width * scale_x);
      if (request.min_height < 1 || request.min_width < 1) continue;
      if (static_cast<std::int64_t>(request.crop_height * eighth /
                                    static_cast<double>(request.min_height)) != factor_y ||
          static_cast<std::int64_t>(request.crop_width * eighth /
                                    static_cast<double>(request.min_width)) != factor_x) {
        continue;
      }
      SCOPED_TRACE(std::string(name) + " " + std::to_string(factor_y) + " x " +
                   std::to_string(factor_x));
      const Decoded part = decode(decoder, file, request);
      EXPECT_GE(part.view.crop_height, static_cast<float>(request.min_height));
      EXPECT_LT(part.view.crop_height, 2 * static_cast<float>(request.min_height));
      DecodeRequest every = whole(info);
      if (jpeg) every.min_height = info.height / 8;
      if (jpeg) every.min_width = info.width / 8;
      const Decoded all = decode(decoder, file, every);
      const Corner corner = corner_of(part.view, request, scale_y, scale_x);
      for (std::int64_t y = 0; y < part.view.height; ++y) {
        for (std::int64_t x = 0; x < part.view.width; ++x) {
          double sum = 0, count = 0;
          const std::int64_t from_y = (corner.y + y) * factor_y, from_x = (corner.x + x) * factor_x;
          for (std::int64_t i = from_y;
               i < std::min<std::int64_t>(from_y + factor_y, all.view.height); ++i) {
            for (std::int64_t j = from_x;
                 j < std::min<std::int64_t>(from_x + factor_x, all.view.width); ++j, ++count) {
              sum += all.pixel(i, j, 1);
            }
          }
          // Pillow's integers may take an exact mean for a little less.
          ASSERT_NEAR(part.pixel(y, x, 1), sum / count, 0.7) << y << " " << x;
        }
      }
    }
  }
}

TEST(Decoder, OrientationIsAMatterOfStrides) {
  Decoder decoder;
  const std::string stored_file = picture_file("orientation_1.jpg");
  for (int orientation = 1; orientation <= 8; ++orientation) {
    SCOPED_TRACE(orientation);
    const std::string file = picture_file("orientation_" + std::to_string(orientation) + ".jpg");
    // A third of the pixels each way; the stored picture is 12 rows of 20, seen or lying.
    const bool lies = orientation >= 5;
    DecodeRequest request{.crop_y = 1, .crop_x = 2, .crop_height = 10, .crop_width = 9};
    request.min_height = request.min_width = 4;
    const Decoded seen = decode(decoder, file, request);
    DecodeRequest stored = request;
    if (lies) {
      std::swap(stored.crop_y, stored.crop_x);
      std::swap(stored.crop_height, stored.crop_width);
    }
    const bool down = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
    const bool left = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
    if (down) stored.crop_y = 12 - stored.crop_y - stored.crop_height;
    if (left) stored.crop_x = 20 - stored.crop_x - stored.crop_width;
    const Decoded plain = decode(decoder, stored_file, stored);
    EXPECT_EQ(seen.memory, plain.memory);
    const std::int64_t height = plain.view.height, width = plain.view.width;
    ASSERT_EQ(seen.view.height, lies ? width : height);
    ASSERT_EQ(seen.view.width, lies ? height : width);
    for (std::int64_t y = 0; y < height; ++y) {
      for (std::int64_t x = 0; x < width; ++x) {
        const std::int64_t i = down ? height - 1 - y : y, j = left ? width - 1 - x : x;
        ASSERT_EQ(seen.pixel(lies ? j : i, lies ? i : j, 2), plain.pixel(y, x, 2));
      }
    }
    const float y = down ? static_cast<float>(height) - plain.view.crop_y - plain.view.crop_height
                         : plain.view.crop_y;
    const float x = left ? static_cast<float>(width) - plain.view.crop_x - plain.view.crop_width
                         : plain.view.crop_x;
    EXPECT_NEAR(seen.view.crop_y, lies ? x : y, 1e-5);
    EXPECT_NEAR(seen.view.crop_x, lies ? y : x, 1e-5);
    EXPECT_FLOAT_EQ(seen.view.crop_height, lies ? plain.view.crop_width : plain.view.crop_height);
  }
}

TEST(Decoder, RequestMustFit) {
  Decoder decoder;
  const std::string file = picture_file("rgb.png");  // 13 rows of 19
  const DecodeRequest good{.crop_height = 13, .crop_width = 19};
  EXPECT_EQ(decode(decoder, file, good).view.width, 19);
  std::vector<DecodeRequest> bad(7, good);
  bad[0].crop_y = 1;
  bad[1].crop_width = 19.1;
  bad[2].crop_x = -1;
  bad[3].crop_height = 0;
  bad[4].crop_width = std::nan("");
  bad[5].channels = 4;
  bad[6].crop_y = std::numeric_limits<double>::infinity();
  for (const DecodeRequest& request : bad) EXPECT_THROW(decode(decoder, file, request), BadInput);
}

}  // namespace
}  // namespace vitrine
