// Event files: known checksums, records that an independent reader takes apart, scalars and images.
#include "io/event_file.h"

#include <gtest/gtest.h>

#include <bit>
#include <cstring>
#include <map>

#include "io/files.h"
#include "temporary_directory.h"
#include "vitrine/error.h"

namespace vitrine {
namespace {

namespace fs = std::filesystem;

std::uint64_t number(const std::string& bytes, std::size_t at, int size) {
  std::uint64_t value = 0;
  for (int i = size - 1; i >= 0; --i) {
    value = value << 8 | static_cast<unsigned char>(bytes.at(at + static_cast<std::size_t>(i)));
  }
  return value;
}

// Bit by bit, unlike the table of the code under test.
std::uint32_t slow_crc(const std::string& bytes) {
  std::uint32_t crc = 0xFFFFFFFF;
  for (const char byte : bytes) {
    crc ^= static_cast<unsigned char>(byte);
    for (int bit = 0; bit < 8; ++bit) crc = crc & 1 ? crc >> 1 ^ 0x82F63B78 : crc >> 1;
  }
  return ~crc;
}

std::uint32_t masked(std::uint32_t crc) {
  return (crc >> 15 | crc << 17) + 0xA282EAD8;
}

std::vector<std::string> records(const fs::path& path) {
  const std::string file = read_file(path);
  std::vector<std::string> found;
  for (std::size_t at = 0; at < file.size();) {
    const std::uint64_t length = number(file, at, 8);
    EXPECT_EQ(number(file, at + 8, 4), masked(slow_crc(file.substr(at, 8))));
    found.push_back(file.substr(at + 12, length));
    EXPECT_EQ(number(file, at + 12 + length, 4), masked(slow_crc(found.back())));
    at += 16 + length;
  }
  return found;
}

/// The fields of a message: varints and fixed numbers as numbers, the rest as bytes.
struct Message {
  std::multimap<int, std::uint64_t> numbers;
  std::multimap<int, std::string> bytes;

  explicit Message(const std::string& text) {
    std::size_t at = 0;
    auto varint = [&] {
      std::uint64_t value = 0;
      for (int shift = 0;; shift += 7) {
        const auto byte = static_cast<unsigned char>(text.at(at++));
        value |= static_cast<std::uint64_t>(byte & 0x7F) << shift;
        if (byte < 0x80) return value;
      }
    };
    while (at < text.size()) {
      const std::uint64_t key = varint();
      const int field = static_cast<int>(key >> 3);
      switch (key & 7) {
        case 0:
          numbers.emplace(field, varint());
          break;
        case 1:
          numbers.emplace(field, number(text, at, 8));
          at += 8;
          break;
        case 5:
          numbers.emplace(field, number(text, at, 4));
          at += 4;
          break;
        case 2: {
          const std::uint64_t length = varint();
          bytes.emplace(field, text.substr(at, length));
          at += length;
          break;
        }
        default:
          ADD_FAILURE() << "wire type " << (key & 7);
          return;
      }
    }
  }
};

fs::path only_file(const fs::path& directory) {
  fs::path found;
  for (const auto& entry : fs::directory_iterator(directory)) found = entry.path();
  return found;
}

TEST(EventFile, Crc32c) {
  EXPECT_EQ(crc32c(""), 0u);
  EXPECT_EQ(crc32c("123456789"), 0xE3069283u);            // RFC 3720's check value
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAu);  // RFC 3720, B.4
  EXPECT_EQ(crc32c(std::string(32, '\xFF')), 0x62A8AB43u);
}

TEST(EventFile, Scalars) {
  const TemporaryDirectory directory;
  EventFile file(directory.path());
  file.add(300, EventFile::Scalars{{"loss/train", 0.25}, {"lr", -1.5e-3}});
  file.flush();
  const std::vector<std::string> events = records(only_file(directory.path()));
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(Message(events[0]).bytes.find(3)->second, "brain.Event:2");
  const Message event(events[1]);
  EXPECT_EQ(event.numbers.find(2)->second, 300u);
  const double seconds = std::bit_cast<double>(event.numbers.find(1)->second);
  EXPECT_GT(seconds, 1.7e9);
  const Message summary(event.bytes.find(5)->second);
  ASSERT_EQ(summary.bytes.count(1), 2u);
  std::map<std::string, float> values;
  for (const auto& [field, text] : summary.bytes) {
    const Message value(text);
    values[value.bytes.find(1)->second] =
        std::bit_cast<float>(static_cast<std::uint32_t>(value.numbers.find(2)->second));
  }
  EXPECT_EQ(values.at("loss/train"), 0.25f);
  EXPECT_EQ(values.at("lr"), -1.5e-3f);
}

TEST(EventFile, Image) {
  const TemporaryDirectory directory;
  EventFile file(directory.path());
  const Image image{3, 2, 200, std::vector<std::uint8_t>(1200, 7)};
  file.add(1, "batch", image);
  file.flush();
  const Message event(records(only_file(directory.path())).at(1));
  const Message value(Message(event.bytes.find(5)->second).bytes.find(1)->second);
  const Message picture(value.bytes.find(4)->second);
  EXPECT_EQ(value.bytes.find(1)->second, "batch");
  EXPECT_EQ(picture.numbers.find(1)->second, 2u);
  EXPECT_EQ(picture.numbers.find(2)->second, 200u);
  EXPECT_EQ(picture.numbers.find(3)->second, 3u);
  const std::vector<std::uint8_t> png = encode_png(image);
  EXPECT_EQ(picture.bytes.find(4)->second, std::string(png.begin(), png.end()));
}

TEST(EventFile, NewNamesAndRefusals) {
  const TemporaryDirectory directory;
  const EventFile first(directory.path()), second(directory.path());
  EXPECT_EQ(std::distance(fs::directory_iterator(directory.path()), {}), 2);
  EXPECT_THROW(EventFile(directory.path() / "none"), IoError);
}

}  // namespace
}  // namespace vitrine
