// The packed file: what is written is read, and damage of any byte is noticed.
#include "data/packed.h"

#include <gtest/gtest.h>

#include <fstream>
#include <string_view>

#include "io/xxh64.h"
#include "picture_folders.h"
#include "temporary_directory.h"

namespace vitrine {
namespace {

using Names = std::vector<std::string>;

std::uint64_t hash_of(std::string_view text) {
  return xxh64(std::as_bytes(std::span(text)));
}

TEST(Xxh64, ValuesOfTheReferenceImplementation) {
  EXPECT_EQ(hash_of(""), 0xEF46DB3751D8E999u);
  EXPECT_EQ(hash_of("a"), 0xD24EC4F1A98C6E5Bu);
  EXPECT_EQ(hash_of("abc"), 0x44BC2CF5AD770999u);
  std::string text;
  for (int i = 0; i < 100; ++i) text += static_cast<char>(33 + i * 7 % 90);
  EXPECT_EQ(hash_of(text.substr(0, 1)), 0x9EA4029FF0912CB8u);
  EXPECT_EQ(hash_of(text.substr(0, 3)), 0xF86757B2E77A69F7u);
  EXPECT_EQ(hash_of(text.substr(0, 4)), 0x02B59D8D1C968183u);
  EXPECT_EQ(hash_of(text.substr(0, 7)), 0xA56ACAB0CC471604u);
  EXPECT_EQ(hash_of(text.substr(0, 8)), 0x035888A941DC7377u);
  EXPECT_EQ(hash_of(text.substr(0, 12)), 0xF21C5D8BDE8E3243u);
  EXPECT_EQ(hash_of(text.substr(0, 31)), 0x1A24A51ED5FF4D42u);
  EXPECT_EQ(hash_of(text.substr(0, 32)), 0x4CA13653C93F6F8Eu);
  EXPECT_EQ(hash_of(text.substr(0, 33)), 0xC01D514399546F8Au);
  EXPECT_EQ(hash_of(text.substr(0, 39)), 0x19186F29131F4519u);
  EXPECT_EQ(hash_of(text.substr(0, 63)), 0x7A33F646A1368E4Eu);
  EXPECT_EQ(hash_of(text.substr(0, 64)), 0x71D60F37C1767836u);
  EXPECT_EQ(hash_of(text.substr(0, 100)), 0xF1C6ABC30A93B4CAu);
}

class PackedTest : public testing::Test {
 protected:
  PackedTest() {
    PackedWriter writer(path_, {"cat", "dog"});
    for (int i = 0; i < 3; ++i) {
      pictures_.push_back(pnm_file(2 + i, 3, static_cast<std::uint64_t>(i), i == 1 ? 1 : 3));
      const Split split = i < 2 ? Split::train : Split::test;
      writer.add(split, i % 2, "train/a\n" + std::to_string(i) + ".png",
                 std::as_bytes(std::span(pictures_.back())));
    }
    writer.commit();
    EXPECT_EQ(writer.bytes(), read_file(path_).size());
  }

  /// Opens both splits and reads all; what went wrong first.
  std::string error_of() const {
    return bad_input_of([&] {
      for (const Split split : {Split::train, Split::test}) {
        const auto source = open_packed(path_, split);
        for (std::int64_t i = 0; i < source->size(); ++i) bytes_of(*source, i);
      }
    });
  }

  /// Without the flush to the disk of write_file.
  void overwrite(std::string_view bytes) const { std::ofstream(path_, std::ios::binary) << bytes; }

  TemporaryDirectory directory_;
  const std::filesystem::path path_ = directory_ / "small.pack";
  Names pictures_;
};

TEST_F(PackedTest, WhatIsWrittenIsRead) {
  EXPECT_TRUE(is_packed(path_));
  const auto train = open_packed(path_, Split::train), val = open_packed(path_, Split::test);
  EXPECT_EQ(train->class_names(), (Names{"cat", "dog"}));
  EXPECT_EQ(train->description(), "small train");
  EXPECT_EQ(val->description(), "small val");
  ASSERT_EQ(train->size(), 2);
  ASSERT_EQ(val->size(), 1);
  EXPECT_EQ(train->label(1), 1);
  EXPECT_EQ(val->label(0), 0);
  EXPECT_EQ(train->name(1), "train/a\\x0a1.png");
  EXPECT_EQ(bytes_of(*train, 0), pictures_[0]);
  EXPECT_EQ(bytes_of(*train, 1), pictures_[1]);
  EXPECT_EQ(bytes_of(*val, 0), pictures_[2]);
}

TEST_F(PackedTest, OneByteFlippedAnywhere) {
  const std::string good = read_file(path_);
  for (std::size_t i = 0; i < good.size(); ++i) {
    std::string damaged = good;
    damaged[i] = static_cast<char>(damaged[i] ^ 1 << i % 8);
    overwrite(damaged);
    EXPECT_NE(error_of(), "") << "byte " << i << " of " << good.size();
  }
  std::string damaged = good;
  damaged[20] ^= 4;
  overwrite(damaged);
  EXPECT_EQ(error_of(),
            "train/a\\x0a0.png: damaged in " + path_.string() + ", its checksum differs");
  damaged = good;
  damaged[good.size() - 40] ^= 4;
  overwrite(damaged);
  EXPECT_EQ(error_of(), path_.string() + ": index: damaged, its checksum differs");
  damaged = good;
  damaged[8] = 9;
  overwrite(damaged);
  EXPECT_EQ(error_of(), path_.string() + ": version: found 9, expected 1");
}

TEST_F(PackedTest, CutShortAnywhere) {
  const std::string good = read_file(path_);
  for (std::size_t bytes = 0; bytes < good.size(); ++bytes) {
    overwrite(good.substr(0, bytes));
    EXPECT_EQ(error_of(), path_.string() + (bytes < 16 ? ": not a packed file: expected "
                                                         "\"VITRPACK\" and an index"
                                                       : ": cut short: found no index at its end"));
  }
  overwrite(good + "x");
  EXPECT_EQ(error_of(), path_.string() + ": cut short: found no index at its end");
}

TEST_F(PackedTest, BytesThatNobodyCounts) {
  const std::string good = read_file(path_);
  overwrite(good.substr(0, 16) + "x" + good.substr(16));
  std::size_t end = 16;
  for (const std::string& picture : pictures_) end += picture.size();
  EXPECT_EQ(error_of(), path_.string() + ": index: found pictures up to byte " +
                            std::to_string(end) + ", expected " + std::to_string(end + 1));
}

TEST_F(PackedTest, OtherFiles) {
  overwrite("P6 2 2 255\n");
  EXPECT_FALSE(is_packed(path_));
  EXPECT_FALSE(is_packed(directory_.path()));
  EXPECT_FALSE(is_packed(directory_ / "none"));
  EXPECT_EQ(error_of(), path_.string() + ": not a packed file: expected \"VITRPACK\" and an index");
  std::filesystem::remove(path_);
  EXPECT_EQ(error_of(), path_.string() + ": no such file");
}

TEST_F(PackedTest, NothingIsLeftWithoutCommit) {
  const std::string good = read_file(path_);
  {
    PackedWriter writer(path_, {"cat", "dog"});
    writer.add(Split::train, 0, "x", std::as_bytes(std::span(pictures_[0])));
  }
  EXPECT_EQ(read_file(path_), good);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(directory_.path()), {}), 1);
  EXPECT_EQ(bad_input_of([&] { PackedWriter(directory_.path(), {}); }),
            directory_.path().string() + ": found a directory, expected a file to write");
}

}  // namespace
}  // namespace vitrine
