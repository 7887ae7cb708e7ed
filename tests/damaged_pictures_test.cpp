// Damaged, truncated and alien pictures: each is refused by name, none does harm.

#include <gtest/gtest.h>
#include <zlib.h>

#include "encode_jpeg.h"
#include "picture_files.h"
#include "vitrine/error.h"

namespace vitrine {
namespace {

/// The message that a whole decode ends with; "" where it works.
std::string error_of(Decoder& decoder, const std::string& file, const DecodeRequest* box = nullptr,
                     Decoded* decoded = nullptr) {
  std::vector<std::uint8_t> pixels(3);
  try {
    const DecodeRequest request =
        box != nullptr ? *box : whole(decoder.read_info(bytes_of(file), "a\nfile"));
    const PictureView view = decoder.decode(bytes_of(file), "a\nfile", request, pixels);
    if (decoded != nullptr) *decoded = {view, pixels};
    return "";
  } catch (const BadInput& error) {
    const std::string message = error.what();
    EXPECT_EQ(message.rfind("a\\x0afile: ", 0), 0u) << message;
    for (char c : message) EXPECT_TRUE(c >= 0x20 && c < 0x7F) << message;
    EXPECT_EQ(pixels.size(), 3u) << "pixels of a damaged file were left";
    return message;
  }
}

void expect_error(const std::string& file, const std::string& part) {
  Decoder decoder;
  const std::string message = error_of(decoder, file);
  EXPECT_NE(message.find(part), std::string::npos) << "found: " << message;
}

TEST(DamagedPictures, AlienFilesAreNamed) {
  expect_error("", "not an image: expected PNG, JPEG, PGM or PPM, found an empty file");
  expect_error("abc", "found \"abc\"");
  expect_error("\xFF\xD8\n", "found \"\\xff\\xd8\\x0a\"");
  expect_error("GIF89a and more", "found \"GIF89a a\"");
  expect_error(std::string(3, '\0'), "found \"\\x00\\x00\\x00\"");
  expect_error("\x89PNG text that goes on", "damaged PNG: ");
  expect_error("\xFF\xD8\xFF text that goes on", "damaged JPEG: ");
}

TEST(DamagedPictures, EveryTruncationIsNoticed) {
  Decoder decoder;
  for (const char* name : {"420.jpg", "progressive.jpg", "restart.jpg", "rgb.png",
                           "rgb_interlaced.png", "orientation_6.png"}) {
    SCOPED_TRACE(name);
    const std::string file = picture_file(name);
    const DecodeRequest top{.crop_height = 3, .crop_width = 7};
    const Decoded expected = decode(decoder, file, top);
    int used = 0;
    for (std::size_t bytes = 0; bytes < file.size(); ++bytes) {
      SCOPED_TRACE(bytes);
      const std::string part = file.substr(0, bytes);
      EXPECT_NE(error_of(decoder, part), "");
      Decoded decoded;
      if (!error_of(decoder, part, &top, &decoded).empty()) continue;
      ++used;  // the box lies in what is there
      expect_part(decoded, expected, {0, 0}, 3);
    }
    const bool streams = std::string(name) == "420.jpg" || std::string(name) == "rgb.png";
    if (streams) {
      EXPECT_GT(used, 0);
    }
    EXPECT_EQ(error_of(decoder, file), "");
  }
}

TEST(DamagedPictures, NoChangedByteDoesHarm) {
  const std::uint64_t seed = 81;
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
  RandomStream random(seed, 0);
  Decoder decoder;
  for (const char* name : {"420.jpg", "progressive.jpg", "cmyk.jpg", "orientation_6.jpg",
                           "palette_transparent.png", "rgb_interlaced.png", "orientation_6.png"}) {
    SCOPED_TRACE(name);
    const std::string whole = picture_file(name);
    const DecodeRequest box{.crop_y = 2, .crop_x = 5, .crop_height = 9, .crop_width = 7};
    int refused = 0;
    for (std::size_t i = 0; i < whole.size(); ++i) {
      std::string file = whole;
      file[i] = static_cast<char>(file[i] ^ (1 + random.below(255)));
      refused += !error_of(decoder, file).empty();
      error_of(decoder, file, &box);
    }
    EXPECT_GT(refused, 0);
    EXPECT_EQ(error_of(decoder, whole), "");
  }
}

TEST(DamagedPictures, DamagedExifIsNoOrientation) {
  Decoder decoder;
  const std::string whole = picture_file("orientation_6.jpg");
  const std::size_t begin = whole.find("Exif"), end = whole.find("\xFF\xDB");
  ASSERT_LT(begin, end);
  EXPECT_EQ(decoder.read_info(bytes_of(whole), "whole").orientation, 6);
  for (char filling : {'\0', '\x55', '\xFF'}) {
    for (std::size_t i = begin; i < end; ++i) {  // all that follows is lost
      std::string file = whole;
      std::fill(file.begin() + static_cast<std::ptrdiff_t>(i),
                file.begin() + static_cast<std::ptrdiff_t>(end), filling);
      const int orientation = decoder.read_info(bytes_of(file), "damaged").orientation;
      EXPECT_TRUE(orientation == 1 || orientation == 6) << i << ": " << orientation;
      if (i < begin + 14) {
        EXPECT_EQ(orientation, 1) << i;
      }
    }
  }
  std::string file = whole;
  for (char alien : {'\0', '\x09'}) {  // both bytes: whichever order they have
    file = whole;
    const std::size_t entry = file.find(std::string("\x01\x12\0\x03\0\0\0\x01\0\x06", 10), begin);
    ASSERT_NE(entry, std::string::npos);
    file[entry + 9] = alien;
    EXPECT_EQ(decoder.read_info(bytes_of(file), "alien").orientation, 1);
  }
}

std::string big_endian(std::uint32_t number) {
  std::string bytes;
  for (int shift = 24; shift >= 0; shift -= 8) bytes += static_cast<char>(number >> shift);
  return bytes;
}

TEST(DamagedPictures, AbsurdSizesAreRefused) {
  std::string jpeg = picture_file("444.jpg");
  const std::size_t frame = jpeg.find("\xFF\xC0");
  jpeg.replace(frame + 5, 4, "\xFF\xDC\xFF\xDC");
  expect_error(jpeg, "65500 x 65500 pixels, expected 1 to 134217728 in all");
  jpeg.replace(frame + 5, 4, std::string("\0\x20\0\0", 4));
  expect_error(jpeg, "damaged JPEG: ");
  jpeg.replace(frame + 5, 4, "\x20\x20\x20\x20");  // believable, but the file is too short
  expect_error(jpeg, "damaged JPEG: ");

  const auto png = [](std::uint32_t width, std::uint32_t height) {
    std::string file = picture_file("rgb.png");
    const std::string chunk =
        file.substr(12, 4) + big_endian(width) + big_endian(height) + file.substr(24, 5);
    const auto* bytes = reinterpret_cast<const unsigned char*>(chunk.data());
    return file.replace(12, 21,
                        chunk + big_endian(static_cast<std::uint32_t>(
                                    crc32(0, bytes, static_cast<uInt>(chunk.size())))));
  };
  Decoder decoder;
  EXPECT_EQ(error_of(decoder, png(19, 13)), "");
  expect_error(png(0x7FFFFFFF, 0x7FFFFFFF), "2147483647 x 2147483647 pixels, expected 1 to");
  expect_error(png(20000, 20000), "20000 x 20000 pixels, expected 1 to");
  expect_error(png(0, 13), "damaged PNG: ");
  expect_error(png(0xFFFFFFFF, 13), "damaged PNG: ");
  expect_error(png(5000, 5000), "damaged PNG: ");
  expect_error("P6 1000000 1000000 255 a", "1000000 x 1000000 pixels, expected 1 to");
}

TEST(DamagedPictures, DamagedHuffmanDataIsRefused) {
  std::string file = picture_file("420.jpg");
  for (std::size_t i = file.size() - 402; i + 2 < file.size(); i += 2) {
    file[i] = '\xFF';  // ones only: no code is that
    file[i + 1] = '\0';
  }
  expect_error(file, "damaged JPEG: Corrupt JPEG data: bad Huffman code");

  file = encode_jpeg(random_image(3, 48, 64, 5));
  file.replace(file.size() / 2, 2, "\xFF\xD9");
  expect_error(file, "damaged JPEG: Corrupt JPEG data: premature end of data segment");

  file = encode_jpeg(random_image(3, 48, 64, 5), {.restart_interval = 2});
  const std::size_t restart = file.find("\xFF\xD3");
  ASSERT_NE(restart, std::string::npos);
  file[restart + 1] = '\xD6';
  expect_error(file, "damaged JPEG: Corrupt JPEG data: found marker 0xd6 instead of RST3");
}

}  // namespace
}  // namespace vitrine
