// Loading IDX and CIFAR files, whole and damaged; random views and orders.

#include "vitrine/dataset.h"

#include <gtest/gtest.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <set>

#include "io/files.h"
#include "temporary_directory.h"

namespace vitrine {
namespace {

std::string be32(std::uint32_t v) {
  return {static_cast<char>(v >> 24), static_cast<char>(v >> 16), static_cast<char>(v >> 8),
          static_cast<char>(v)};
}

std::string random_bytes(std::size_t count, std::uint64_t seed) {
  RandomStream random(seed, 0);
  std::string bytes;
  for (std::size_t i = 0; i < count; ++i) bytes += static_cast<char>(random.below(256));
  return bytes;
}

std::string gzipped(const std::filesystem::path& scratch, const std::string& bytes) {
  gzFile file = gzopen(scratch.c_str(), "wb");
  EXPECT_EQ(gzwrite(file, bytes.data(), static_cast<unsigned>(bytes.size())),
            static_cast<int>(bytes.size()));
  EXPECT_EQ(gzclose(file), Z_OK);
  const std::string packed = read_file(scratch);
  std::filesystem::remove(scratch);
  return packed;
}

class DatasetTest : public testing::Test {
 protected:
  std::string error_of(const std::string& name, Split split = Split::train) {
    try {
      load_dataset(name, directory_.path(), split);
    } catch (const BadInput& error) {
      const std::string message = error.what();
      EXPECT_EQ(message.find('\n'), std::string::npos) << message;
      return message;
    }
    return "";
  }
  void expect_error(const std::string& name, const std::string& part) {
    const std::string message = error_of(name);
    EXPECT_NE(message.find(part), std::string::npos) << message << "\nexpected " << part;
  }
  void put(const std::string& name, const std::string& bytes) {
    write_file(directory_ / name, bytes);
  }

  const std::string pixels_ = random_bytes(3 * 5 * 7, 21);
  const std::string images_ = be32(0x803) + be32(3) + be32(5) + be32(7) + pixels_;
  const std::string labels_ = be32(0x801) + be32(3) + std::string("\x09\x00\x04", 3);
  TemporaryDirectory directory_;
};

TEST_F(DatasetTest, IdxUnderEveryName) {
  for (const bool packed : {false, true}) {
    for (const std::string separator : {"-", "."}) {
      for (const std::string folder : {"", "FashionMNIST/raw/"}) {
        SCOPED_TRACE(folder + separator + (packed ? "gz" : ""));
        std::filesystem::create_directories(directory_ / "FashionMNIST/raw");
        const auto write = [&](const std::string& stem, const std::string& bytes) {
          const std::string content = packed ? gzipped(directory_ / "scratch", bytes) : bytes;
          put(folder + stem + (packed ? ".gz" : ""), content);
        };
        write("t10k-images" + separator + "idx3-ubyte", images_);
        write("t10k-labels" + separator + "idx1-ubyte", labels_);
        const Dataset data = load_dataset("fashion-mnist", directory_.path(), Split::test);
        EXPECT_EQ(data.name, "fashion-mnist");
        EXPECT_EQ(data.size(), 3);
        EXPECT_EQ(data.channels, 1);
        EXPECT_EQ(data.height, 5);
        EXPECT_EQ(data.width, 7);
        EXPECT_EQ(std::string(data.images.begin(), data.images.end()), pixels_);
        EXPECT_EQ(data.labels, (std::vector<std::int32_t>{9, 0, 4}));
        EXPECT_EQ(data.class_names.at(9), "Ankle boot");
        std::filesystem::remove_all(directory_ / "FashionMNIST");
        for (const auto& file : std::filesystem::directory_iterator(directory_.path())) {
          std::filesystem::remove(file);
        }
      }
    }
  }
}

TEST_F(DatasetTest, DamagedIdxIsRefused) {
  const std::string images = "train-images-idx3-ubyte", labels = "train-labels-idx1-ubyte";
  expect_error("mnist", "no such file in it or its folder MNIST/raw: train-images-idx3-ubyte");
  put(images, images_);
  expect_error("mnist", "train-labels.idx1-ubyte.gz");
  put(labels, labels_);
  EXPECT_EQ(error_of("mnist"), "");

  put(images, labels_);
  expect_error("mnist", images + ": magic number 2049, expected 2051 (images)");
  put(images, "\x08");
  expect_error("mnist", images + ": short file: the header is incomplete");
  put(images, images_.substr(0, images_.size() - 1));
  expect_error("mnist", images + ": short file: 104 bytes after the header, expected 105");
  put(images, images_ + "x");
  expect_error("mnist", images + ": trailing bytes: expected 105");
  put(images, be32(0x803) + be32(0) + be32(5) + be32(7));
  expect_error("mnist", "0 images of 5 x 7");
  put(images, be32(0x803) + be32(3) + be32(70000) + be32(7) + pixels_);
  expect_error("mnist", "3 images of 70000 x 7");
  put(images, be32(0x803) + be32(0xFFFFFFFF) + be32(65535) + be32(65535) + pixels_);
  expect_error("mnist", "short file: 105 bytes after the header");

  put(images, images_);
  put(labels, be32(0x801) + be32(2) + std::string("\x01\x02", 2));
  expect_error("mnist", labels + ": 2 labels, expected 3 as there are images");
  put(labels, be32(0x801) + be32(3) + std::string("\x01\x0A\x02", 3));
  expect_error("mnist", labels + ": label 10 of image 1, expected 0 to 9");
  put(labels, labels_ + "x");
  expect_error("mnist", labels + ": trailing bytes");
}

TEST_F(DatasetTest, DamagedGzipIsRefused) {
  put("train-labels-idx1-ubyte", labels_);
  const std::string packed = gzipped(directory_ / "scratch", images_);
  const std::string file = "train-images-idx3-ubyte.gz";
  put(file, packed.substr(0, packed.size() - 20));
  expect_error("mnist", file + ": short file");
  std::string damaged = packed;
  damaged[damaged.size() - 6] ^= 1;  // the checksum
  put(file, damaged);
  expect_error("mnist", file + ": damaged compressed data: ");
}

TEST_F(DatasetTest, WrittenIdxIsReadHereAndByHand) {
  const Dataset digits = make_digits(123, 8);
  for (Split split : {Split::train, Split::test}) {
    const std::string prefix = split == Split::train ? "train" : "t10k";
    const auto folder = directory_ / "new/folder";
    write_idx(digits, folder, split);
    const Dataset back = load_dataset("mnist", folder, split);
    EXPECT_EQ(back.images, digits.images);
    EXPECT_EQ(back.labels, digits.labels);
    const std::string images = read_file(folder / (prefix + "-images-idx3-ubyte"));
    EXPECT_EQ(images.substr(0, 16), be32(2051) + be32(123) + be32(28) + be32(28));
    EXPECT_EQ(images.substr(16), std::string(digits.images.begin(), digits.images.end()));
    const std::string labels = read_file(folder / (prefix + "-labels-idx1-ubyte"));
    EXPECT_EQ(labels.substr(0, 8), be32(2049) + be32(123));
    EXPECT_EQ(labels.substr(8), std::string(digits.labels.begin(), digits.labels.end()));
  }
  Dataset colour = digits;
  colour.channels = 3;
  EXPECT_THROW(write_idx(colour, directory_.path(), Split::train), BadInput);
}

TEST_F(DatasetTest, Cifar10) {
  const std::string first = random_bytes(3072, 1), second = random_bytes(3072, 2);
  std::filesystem::create_directories(directory_ / "cifar-10-batches-bin");
  const std::string folder = "cifar-10-batches-bin/";
  expect_error("cifar10",
               "no such file in it or its folder cifar-10-batches-bin: data_batch_1.bin");
  for (char i = 1; i <= 5; ++i) {
    expect_error("cifar10", "data_batch_" + std::to_string(i) + ".bin");
    put(folder + "data_batch_" + std::to_string(i) + ".bin",
        std::string(1, i) + first + std::string(1, '\x09') + second);
  }
  Dataset data = load_dataset("cifar10", directory_.path(), Split::train);
  EXPECT_EQ(data.size(), 10);
  EXPECT_EQ(data.image_bytes(), 3072);
  EXPECT_EQ(data.labels, (std::vector<std::int32_t>{1, 9, 2, 9, 3, 9, 4, 9, 5, 9}));
  EXPECT_EQ(std::string(data.image(5), data.image(6)), second);
  EXPECT_EQ(data.class_names.at(6), "frog");

  put(folder + "batches.meta.txt", "a\nb\nc\nd\ne\nf\ng\r\nh\ni\nj\n\n");
  data = load_dataset("cifar10", directory_.path(), Split::train);
  EXPECT_EQ(data.class_names.at(6), "g");
  put(folder + "batches.meta.txt", "a\nb\n");
  expect_error("cifar10", "batches.meta.txt: 2 class names, expected 10");
  std::filesystem::remove(directory_ / (folder + "batches.meta.txt"));

  const std::string file = folder + "data_batch_3.bin";
  for (const std::string& bytes : {std::string(), "\1" + first + "x", first}) {
    put(file, bytes);
    expect_error("cifar10", "data_batch_3.bin: " + std::to_string(bytes.size()) +
                                " bytes, expected a multiple of 3073");
  }
  put(file, "\x0A" + first);
  expect_error("cifar10", "data_batch_3.bin: label 10 of image 0, expected 0 to 9");
}

TEST_F(DatasetTest, Cifar100TakesTheFineLabel) {
  const std::string image = random_bytes(3072, 3);
  put("test.bin", std::string("\x07\x63", 2) + image + std::string("\xFF\x00", 2) + image);
  const Dataset data = load_dataset("cifar100", directory_.path(), Split::test);
  EXPECT_EQ(data.labels, (std::vector<std::int32_t>{99, 0}));
  EXPECT_EQ(data.num_classes(), 100);
  EXPECT_EQ(data.class_names.at(42), "class 42");
  EXPECT_EQ(std::string(data.image(1), data.image(1) + 3072), image);
  put("train.bin", std::string("\x07\x64", 2) + image);
  expect_error("cifar100", "train.bin: label 100 of image 0, expected 0 to 99");
}

TEST_F(DatasetTest, UnknownNamesSuggestTheNearest) {
  expect_error("cifar-10", "the nearest known one is \"cifar10\"");
  expect_error("minst", "the nearest known one is \"mnist\"");
  expect_error("fasion-mnist\n", "the nearest known one is \"fashion-mnist\"");
}

Dataset blank(std::int64_t height, std::int64_t width) {
  Dataset data;
  data.channels = 1;
  data.height = height;
  data.width = width;
  return data;
}

TEST(RandomView, WithoutCropIsTheWholeImage) {
  const Dataset data = blank(13, 29);
  Transform transform;
  for (std::int64_t i = 0; i < 100; ++i) {
    const BatchRow row = random_view(data, i, transform, 5, 1, i);
    const BatchRow whole = whole_image(data, i);
    EXPECT_EQ(row.image, i);
    EXPECT_EQ(row.flip, 0);
    EXPECT_EQ(row.crop_x + row.crop_y, 0.0f);
    EXPECT_EQ(row.crop_width, whole.crop_width);
    EXPECT_EQ(row.crop_height, whole.crop_height);
    EXPECT_EQ(whole.crop_width, 29.0f);
    EXPECT_EQ(whole.crop_height, 13.0f);
  }
}

TEST(RandomView, CropsHaveTheirAreaAspectAndBounds) {
  const Dataset data = blank(100, 120);
  Transform transform;
  transform.hflip = 0.3f;
  transform.scale = {0.2f, 0.6f};
  constexpr int kViews = 20000;
  double area = 0, flips = 0, log_aspect = 0, left = 0, right = 0;
  for (int i = 0; i < kViews; ++i) {
    const BatchRow row = random_view(data, 0, transform, 77, 3, i);
    ASSERT_GE(row.crop_x, 0);
    ASSERT_GE(row.crop_y, 0);
    ASSERT_LE(row.crop_x + row.crop_width, 120);
    ASSERT_LE(row.crop_y + row.crop_height, 100);
    const double relative = row.crop_width * row.crop_height / 12000.0;
    ASSERT_GT(relative, 0.18);
    ASSERT_LT(relative, 0.62);
    area += relative / kViews;
    log_aspect += std::log(row.crop_width / row.crop_height) / kViews;
    flips += row.flip / static_cast<double>(kViews);
    left += row.crop_x / kViews;
    right += (120 - row.crop_x - row.crop_width) / kViews;
  }
  EXPECT_NEAR(area, 0.4, 0.005);
  EXPECT_NEAR(log_aspect, 0.0, 0.01);
  EXPECT_NEAR(flips, 0.3, 0.015);
  EXPECT_NEAR(left, right, 0.8);
}

TEST(RandomView, IsAFunctionOfSeedEpochAndPosition) {
  const Dataset data = blank(1000, 1000);
  Transform transform;
  transform.scale = {0.1f, 1.0f};
  const auto key = [&](std::uint64_t seed, std::int64_t epoch, std::int64_t position) {
    const BatchRow row = random_view(data, 0, transform, seed, epoch, position);
    return std::array<float, 4>{row.crop_x, row.crop_y, row.crop_width, row.crop_height};
  };
  EXPECT_EQ(key(1, 2, 3), key(1, 2, 3));
  const std::set<std::array<float, 4>> views = {key(1, 2, 3), key(2, 2, 3), key(1, 3, 3),
                                                key(1, 2, 4), key(1, 3, 2), key(1, 0, 0)};
  EXPECT_EQ(views.size(), 6u);
}

TEST(RandomView, FallsBackToTheCentre) {
  Transform transform;
  transform.scale = {0.9f, 0.95f};
  const BatchRow wide = random_view(blank(30, 301), 0, transform, 1, 0, 0);
  EXPECT_EQ(wide.crop_height, 30.0f);
  EXPECT_EQ(wide.crop_width, 40.0f);
  EXPECT_EQ(wide.crop_x, 130.0f);
  const BatchRow tall = random_view(blank(301, 30), 0, transform, 1, 0, 0);
  EXPECT_EQ(tall.crop_width, 30.0f);
  EXPECT_EQ(tall.crop_height, 40.0f);
  EXPECT_EQ(tall.crop_y, 130.0f);
}

TEST(Shuffled, IsAPermutationOfSeedAndEpoch) {
  for (std::int64_t n : {0, 1, 2, 1003}) {
    std::vector<std::int64_t> order = shuffled(n, 5, 1);
    EXPECT_EQ(order, shuffled(n, 5, 1));
    if (n > 100) {
      EXPECT_NE(order, shuffled(n, 5, 2));
      EXPECT_NE(order, shuffled(n, 6, 1));
    }
    std::sort(order.begin(), order.end());
    std::vector<std::int64_t> expected(static_cast<std::size_t>(n));
    std::iota(expected.begin(), expected.end(), std::int64_t{0});
    EXPECT_EQ(order, expected);
  }
}

TEST(Shuffled, EveryPlaceIsEquallyLikely) {
  constexpr int kEpochs = 10000, kItems = 5;
  std::array<std::array<int, kItems>, kItems> seen{};
  for (int epoch = 0; epoch < kEpochs; ++epoch) {
    const std::vector<std::int64_t> order = shuffled(kItems, 9, epoch);
    for (std::size_t i = 0; i < kItems; ++i) ++seen[i][static_cast<std::size_t>(order[i])];
  }
  for (const auto& row : seen) {
    for (int count : row) EXPECT_NEAR(count, kEpochs / kItems, 200);  // five standard deviations
  }
}

}  // namespace
}  // namespace vitrine
