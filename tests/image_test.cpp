// Images: what is encoded is decoded, every format and depth, and what is damaged is refused.

#include "vitrine/image.h"

#include <gtest/gtest.h>
#include <png.h>

#include <cmath>

#include "encode_jpeg.h"
#include "io/files.h"
#include "temporary_directory.h"
#include "vitrine/error.h"

namespace vitrine {
namespace {

/// Slow in x and y, so that JPEG hardly changes it.
Image smooth_image(std::int64_t channels, std::int64_t height, std::int64_t width) {
  Image image{channels, height, width, {}};
  for (std::int64_t c = 0; c < channels; ++c) {
    for (std::int64_t y = 0; y < height; ++y) {
      for (std::int64_t x = 0; x < width; ++x) {
        image.pixels.push_back(static_cast<std::uint8_t>(60 + 40 * c + 2 * y + x));
      }
    }
  }
  return image;
}

std::string as_text(const std::vector<std::uint8_t>& bytes) {
  return {bytes.begin(), bytes.end()};
}

class ImageTest : public testing::Test {
 protected:
  Image read(const std::string& bytes) {
    write_file(path_, bytes);
    return read_image(path_);
  }
  std::string error_of(const std::string& bytes) {
    try {
      read(bytes);
    } catch (const BadInput& error) {
      const std::string message = error.what();
      EXPECT_EQ(message.find(path_.string() + ": "), 0u) << message;
      EXPECT_EQ(message.find('\n'), std::string::npos) << message;
      return message;
    }
    return "";
  }
  void expect_error(const std::string& bytes, const std::string& part) {
    SCOPED_TRACE(bytes.substr(0, 40));
    const std::string message = error_of(bytes);
    EXPECT_NE(message.find(part), std::string::npos) << message;
  }

  TemporaryDirectory directory_;
  std::filesystem::path path_ = directory_ / "image";
};

/// A PNG of these rows through libpng's simplified writer.
std::string write_png(std::uint32_t format, std::uint32_t width, std::uint32_t height,
                      const void* pixels, const void* palette = nullptr, int colours = 0) {
  png_image png{};
  png.version = PNG_IMAGE_VERSION;
  png.width = width;
  png.height = height;
  png.format = format;
  png.colormap_entries = static_cast<std::uint32_t>(colours);
  png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(png);
  std::string bytes(size, '\0');
  EXPECT_TRUE(png_image_write_to_memory(&png, bytes.data(), &size, 0, pixels, 0, palette));
  bytes.resize(size);
  return bytes;
}

void expect_near(const Image& found, const Image& expected, int difference) {
  ASSERT_EQ(found.channels, expected.channels);
  ASSERT_EQ(found.height, expected.height);
  ASSERT_EQ(found.width, expected.width);
  for (std::size_t i = 0; i < expected.pixels.size(); ++i) {
    ASSERT_NEAR(found.pixels[i], expected.pixels[i], difference) << i;
  }
}

TEST_F(ImageTest, PngIsLossless) {
  for (std::uint64_t seed : {1, 2, 3}) {
    SCOPED_TRACE(seed);
    for (std::int64_t channels : {1, 3}) {
      const Image image = random_image(channels, 5 + static_cast<std::int64_t>(seed), 13, seed);
      expect_near(read(as_text(encode_png(image))), image, 0);
    }
  }
  EXPECT_THROW(encode_png(Image{2, 3, 5, std::vector<std::uint8_t>(30)}), BadInput);
  EXPECT_THROW(encode_png(Image{1, 3, 5, std::vector<std::uint8_t>(14)}), BadInput);
  EXPECT_THROW(encode_png(Image{1, 0, 5, {}}), BadInput);
}

TEST_F(ImageTest, PngAlphaLiesOnWhite) {
  const std::uint8_t rgba[] = {10, 20, 30, 255, 10, 20, 30, 0, 10, 20, 30, 102};
  const Image colour = read(write_png(PNG_FORMAT_RGBA, 3, 1, rgba));
  EXPECT_EQ(colour.channels, 3);
  EXPECT_EQ(colour.pixels, (std::vector<std::uint8_t>{10, 255, 157, 20, 255, 161, 30, 255, 165}));
  const std::uint8_t grey_alpha[] = {100, 255, 100, 0};
  const Image grey = read(write_png(PNG_FORMAT_GA, 2, 1, grey_alpha));
  EXPECT_EQ(grey.channels, 1);
  EXPECT_EQ(grey.pixels, (std::vector<std::uint8_t>{100, 255}));
}

TEST_F(ImageTest, PngPaletteIsExpanded) {
  const std::uint8_t palette[] = {1, 2, 3, 250, 251, 252, 70, 80, 90};
  const std::uint8_t indices[] = {2, 0, 1};
  const Image image =
      read(write_png(PNG_FORMAT_RGB | PNG_FORMAT_FLAG_COLORMAP, 3, 1, indices, palette, 3));
  EXPECT_EQ(image.channels, 3);
  EXPECT_EQ(image.pixels, (std::vector<std::uint8_t>{70, 1, 250, 80, 2, 251, 90, 3, 252}));
}

TEST_F(ImageTest, Png16BitIsScaled) {
  const std::uint16_t grey[] = {0, 65535, 32768, 257 * 77, 128};
  const Image image = read(write_png(PNG_FORMAT_LINEAR_Y, 5, 1, grey));
  ASSERT_EQ(image.pixels.size(), 5u);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(image.pixels[i], std::lround(grey[i] / 257.0)) << i;
}

TEST_F(ImageTest, DamagedPngIsRefused) {
  const std::string whole = as_text(encode_png(random_image(3, 9, 7, 4)));
  for (std::size_t bytes = 4; bytes < whole.size(); ++bytes) {
    EXPECT_NE(error_of(whole.substr(0, bytes)), "") << bytes;
  }
  expect_error(whole.substr(0, 50), "damaged PNG: the file ends early");
  std::string damaged = whole;
  damaged[whole.size() / 2] ^= 0x55;
  expect_error(damaged, "damaged PNG: ");
  std::string huge = whole;
  huge[16] = 0x7F;  // width, and its CRC no longer fits
  expect_error(huge, "damaged PNG: ");
}

TEST_F(ImageTest, JpegIsClose) {
  expect_near(read(encode_jpeg(smooth_image(1, 17, 23))), smooth_image(1, 17, 23), 2);
  expect_near(read(encode_jpeg(smooth_image(3, 17, 23))), smooth_image(3, 17, 23), 5);
}

TEST_F(ImageTest, CmykJpegBecomesColour) {
  Image cmyk = smooth_image(4, 16, 16);
  const std::size_t plane = 256;
  for (std::size_t i = 3 * plane; i < 4 * plane; ++i) cmyk.pixels[i] = 200;
  Image expected{3, 16, 16, std::vector<std::uint8_t>(3 * plane)};
  for (std::size_t i = 0; i < 3 * plane; ++i) {  // libjpeg writes Adobe's marker: inverted ink
    expected.pixels[i] = static_cast<std::uint8_t>(std::lround(cmyk.pixels[i] * 200 / 255.0));
  }
  expect_near(read(encode_jpeg(cmyk)), expected, 3);
}

TEST_F(ImageTest, DamagedJpegIsRefused) {
  const std::string whole = encode_jpeg(random_image(3, 24, 24, 6));
  for (std::size_t bytes = 3; bytes + 2 < whole.size(); bytes += 7) {
    EXPECT_NE(error_of(whole.substr(0, bytes)), "") << bytes;
  }
  expect_error(whole.substr(0, whole.size() / 2), "damaged JPEG: Premature end of JPEG file");
  expect_error("\xFF\xD8\xFF\xD9", "damaged JPEG: ");
}

TEST_F(ImageTest, PnmInAllKinds) {
  const std::vector<std::uint8_t> grey = {0, 127, 255, 64, 1, 200};
  EXPECT_EQ(read("P2 # comment\n3 2\n255\n0 127 255\n64 1 200\n").pixels, grey);
  EXPECT_EQ(read(std::string("P5\n3 2\n#c\n255\n\0\x7F\xFF\x40\x01\xC8", 20)).pixels, grey);
  EXPECT_EQ(read("P3\n2 1\n255\n1 2 3  4 5 6").pixels,
            (std::vector<std::uint8_t>{1, 4, 2, 5, 3, 6}));
  EXPECT_EQ(read("P6 2 1 255 abcdef").pixels,
            (std::vector<std::uint8_t>{'a', 'd', 'b', 'e', 'c', 'f'}));
  EXPECT_EQ(read("P2 3 1 3 0 1 3").pixels, (std::vector<std::uint8_t>{0, 85, 255}));
  EXPECT_EQ(read(std::string("P5 2 1 65535 \x80\0\xFF\xFF", 17)).pixels,
            (std::vector<std::uint8_t>{128, 255}));
}

TEST_F(ImageTest, DamagedPnmIsRefused) {
  expect_error("P5", "ends before width");
  expect_error("P5 3", "ends before height");
  expect_error("P5 3 2 ", "ends before maxval");
  expect_error("P5 # no end", "ends before width");
  expect_error("P5 x 2 255 ", "width is not a number at byte 3");
  expect_error("P5 -3 2 255 ", "width is not a number");
  expect_error("P5 0 2 255 ", "0 x 2 pixels");
  expect_error("P5 99999999999999999999 2 255 ", "width is above");
  expect_error("P6 100000 100000 255 abc", "100000 x 100000 pixels, expected 1 to");
  expect_error("P5 3 2 0 abcdef", "maxval is 0");
  expect_error("P5 3 2 65536 abcdef", "maxval is above 65535");
  expect_error("P5 3 2 255", "no white space after maxval");
  expect_error("P5 3 2 255 abcde", "5 bytes of samples, expected 6");
  expect_error("P5 3 2 255 abcdefg", "7 bytes of samples, expected 6");
  expect_error("P5 3 1 98 abc", "sample is above 98");
  expect_error("P2 3 1 98 1 2 99", "sample is above 98");
  expect_error("P2 3 1 98 1 2 ?", "sample is not a number");
  expect_error("P2 3 1 98 10 200", "above 98");
  expect_error("P2 3 1 98 10 20", "ends before sample");
  expect_error("P2 3 1 98 1 2 3 4", "1 trailing bytes");
  expect_error("P2 1000 1000 98 1 2 3", "bytes of samples, expected at least 1999999");
}

TEST_F(ImageTest, OtherFilesAreRefused) {
  for (const char* bytes : {"", "P", "P7 1 1 255 a", "P1 1 1 0", "GIF89a", "\xFF\xD8", "text"}) {
    expect_error(bytes, "not an image: expected PNG, JPEG, PGM or PPM");
  }
  EXPECT_THROW(read_image(directory_ / "missing"), BadInput);
}

TEST(ConvertChannels, LumaAndRepetition) {
  const Image colour = random_image(3, 7, 11, 9);
  const Image grey = convert_channels(colour, 1);
  ASSERT_EQ(grey.pixels.size(), 77u);
  for (std::size_t i = 0; i < 77; ++i) {
    const double luma =
        0.299 * colour.pixels[i] + 0.587 * colour.pixels[77 + i] + 0.114 * colour.pixels[154 + i];
    EXPECT_NEAR(grey.pixels[i], luma, 0.51) << i;
  }
  const Image back = convert_channels(grey, 3);
  ASSERT_EQ(back.pixels.size(), 231u);
  for (std::size_t i = 0; i < 231; ++i) EXPECT_EQ(back.pixels[i], grey.pixels[i % 77]);
  EXPECT_EQ(convert_channels(back, 1).pixels, grey.pixels);
  EXPECT_EQ(convert_channels(colour, 3).pixels, colour.pixels);
  EXPECT_THROW(convert_channels(colour, 2), BadInput);
}

}  // namespace
}  // namespace vitrine
