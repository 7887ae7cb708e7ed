// The loader: the same bits whatever the workers do, broken pictures, errors at their place.
#include "vitrine/loader.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <set>
#include <stdexcept>
#include <thread>

#include "data/ordered_work.h"
#include "picture_folders.h"
#include "temporary_directory.h"

namespace vitrine {
namespace {

/// Pictures in memory: number i has label 10 + i. Reading takes a while that changes from picture
/// to picture.
class MemoryPictures : public PictureSource {
 public:
  explicit MemoryPictures(std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) {
      const auto seed = static_cast<std::uint64_t>(i);
      files_.push_back(pnm_file(8 + i % 7, 8 + i % 5, seed, i % 4 == 3 ? 1 : 3));
    }
  }
  std::int64_t size() const override { return static_cast<std::int64_t>(files_.size()); }
  std::int32_t label(std::int64_t i) const override { return static_cast<std::int32_t>(10 + i); }
  std::string name(std::int64_t i) const override { return "picture " + std::to_string(i); }
  std::span<const std::byte> read(std::int64_t i, std::vector<std::byte>&) const override {
    ++reads_;
    if (slow_) std::this_thread::sleep_for(std::chrono::microseconds(i * 7919 % 13 * 100));
    if (i == failing_) throw std::runtime_error("the machine failed");
    if (broken_.contains(i)) throw BadInput(name(i) + ": gone");
    return std::as_bytes(std::span(files_[static_cast<std::size_t>(i)]));
  }

  const std::string& file(std::int64_t i) const { return files_[static_cast<std::size_t>(i)]; }

  bool slow_ = false;
  std::int64_t failing_ = -1;
  std::set<std::int64_t> broken_;
  mutable std::atomic<std::int64_t> reads_{0};

 private:
  std::vector<std::string> files_;
};

AugmentationConfig small_config() {
  AugmentationConfig config{.height = 16, .width = 16};
  config.vflip = 0.5;
  config.color_jitter[0] = 0.4;
  config.fill = {128, 128, 128};
  return config;
}

template <typename T>
void append(std::string& text, const std::vector<T>& values) {
  text.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
  text += '|';
}

/// All that a batch holds.
std::string bits_of(const LoadedBatch& batch) {
  static_assert(sizeof(PictureView) == 72 && sizeof(ImageOperation) == 64, "no padding");
  std::string bits;
  append(bits, batch.pixels);
  append(bits, batch.views);
  append(bits, batch.operations);
  append(bits, batch.labels);
  append(bits, batch.pictures);
  return bits;
}

class LoaderTest : public testing::Test {
 protected:
  /// The bits of each batch; "error: …" in place of one that throws.
  std::vector<std::string> epoch(Loader& loader, std::vector<std::int64_t> order,
                                 std::int64_t number = 1, std::int64_t position = 0) {
    loader.start(std::move(order), number, position);
    return rest(loader);
  }
  static std::vector<std::string> rest(Loader& loader) {
    std::vector<std::string> batches;
    while (true) {
      try {
        const LoadedBatch* batch = loader.next();
        if (batch == nullptr) return batches;
        batches.push_back(bits_of(*batch));
      } catch (const std::exception& error) {
        batches.push_back(std::string("error: ") + error.what());
      }
    }
  }
  std::vector<std::string> whole_epoch(const LoaderOptions& options, std::int64_t number = 1) {
    BrokenPictures broken(source_.size());
    Loader loader(source_, config_, options, broken);
    return epoch(loader, order_, number);
  }

  MemoryPictures source_{50};
  AugmentationConfig config_ = small_config();
  std::vector<std::int64_t> order_ = shuffled(50, 7, 1);
};

TEST_F(LoaderTest, TheSameBitsWhateverTheWorkers) {
  source_.slow_ = true;
  const auto expected = whole_epoch({.workers = 1, .batch = 8});
  EXPECT_EQ(expected.size(), 7u);
  for (const int workers : {0, 2, 5}) {
    for (const int ahead : {1, 3, 9}) {
      EXPECT_EQ(whole_epoch({.workers = workers, .batch = 8, .batches_ahead = ahead}), expected)
          << workers << " workers, " << ahead << " batches ahead";
    }
  }
  EXPECT_NE(whole_epoch({.workers = 2, .batch = 8}, 2), expected);
  EXPECT_NE(whole_epoch({.workers = 2, .batch = 8, .seed = 43}), expected);
}

TEST_F(LoaderTest, RowsAreThePicturesOfTheOrder) {
  BrokenPictures broken(source_.size());
  Loader loader(source_, config_, {.workers = 3, .batch = 8}, broken);
  loader.start(order_, 4, 100);
  std::size_t i = 0;
  while (const LoadedBatch* batch = loader.next()) {
    ASSERT_EQ(batch->views.size(), std::min<std::size_t>(8, order_.size() - i));
    ASSERT_EQ(batch->labels.size(), batch->views.size());
    ASSERT_EQ(batch->pictures.size(), batch->views.size());
    const auto operations = static_cast<std::size_t>(config_.operations_per_image());
    ASSERT_EQ(batch->operations.size(), batch->views.size() * operations);
    for (std::size_t row = 0; row < batch->views.size(); ++row, ++i) {
      const std::int64_t picture = order_[i];
      EXPECT_EQ(batch->pictures[row], picture);
      EXPECT_EQ(batch->labels[row], source_.label(picture));
      const std::int64_t height = 8 + picture % 7, width = 8 + picture % 5;
      const DrawnAugmentation drawn =
          draw_augmentation(config_, height, width, 42, 4, 100 + static_cast<std::int64_t>(i));
      const PictureView& view = batch->views[row];
      EXPECT_EQ(view.flip_x, drawn.flip_x);
      EXPECT_EQ(view.flip_y, drawn.flip_y);
      EXPECT_EQ(view.filter, drawn.filter);
      // The crop is all that the filters see.
      EXPECT_EQ(view.crop_y, 0.0f);
      EXPECT_EQ(view.crop_x, 0.0f);
      EXPECT_EQ(view.height, drawn.crop_height);
      EXPECT_EQ(view.width, drawn.crop_width);
      EXPECT_EQ(view.crop_height, static_cast<float>(drawn.crop_height));
      EXPECT_EQ(view.crop_width, static_cast<float>(drawn.crop_width));
      for (std::size_t k = 0; k < drawn.operations.size(); ++k) {
        EXPECT_EQ(std::memcmp(&batch->operations[row * operations + k], &drawn.operations[k],
                              sizeof(ImageOperation)),
                  0);
      }
      // Small pictures are not reduced: the corner of the box is a pixel of the file.
      const std::string& file = source_.file(picture);
      const bool color = file[1] == '6';
      const auto pixels = static_cast<std::size_t>(height * width * (color ? 3 : 1));
      const auto at =
          static_cast<std::int64_t>(drawn.crop_y) * width + static_cast<std::int64_t>(drawn.crop_x);
      for (std::int64_t c = 0; c < 3; ++c) {
        const std::int64_t from =
            view.offset + static_cast<std::int64_t>(view.crop_y) * view.stride_y +
            static_cast<std::int64_t>(view.crop_x) * view.stride_x + c * view.stride_c;
        ASSERT_LT(static_cast<std::size_t>(from), batch->pixels.size());
        EXPECT_EQ(
            batch->pixels[static_cast<std::size_t>(from)],
            static_cast<std::uint8_t>(
                file[file.size() - pixels + static_cast<std::size_t>(color ? 3 * at + c : at)]))
            << "picture " << picture << " channel " << c;
      }
    }
  }
  EXPECT_EQ(i, order_.size());
  EXPECT_EQ(loader.next(), nullptr);
}

TEST_F(LoaderTest, TheRestOfAnEpochIsThatOfTheWhole) {
  const auto whole = whole_epoch({.workers = 2, .batch = 10});
  BrokenPictures broken(source_.size());
  Loader loader(source_, config_, {.workers = 2, .batch = 10}, broken);
  const std::vector<std::int64_t> rest(order_.begin() + 30, order_.end());
  EXPECT_EQ(epoch(loader, rest, 1, 30), std::vector<std::string>(whole.begin() + 3, whole.end()));
}

TEST_F(LoaderTest, StartDropsWhatIsUnderWay) {
  source_.slow_ = true;
  const auto expected = whole_epoch({.workers = 3, .batch = 8});
  BrokenPictures broken(source_.size());
  Loader loader(source_, config_, {.workers = 3, .batch = 8}, broken);
  for (int taken = 0; taken < 5; ++taken) {
    loader.start(shuffled(50, 9, taken), 9, 3);
    for (int i = 0; i < taken; ++i) ASSERT_NE(loader.next(), nullptr);
    EXPECT_EQ(epoch(loader, order_), expected) << "after " << taken;
  }
  loader.start({}, 1, 0);
  EXPECT_EQ(loader.next(), nullptr);
}

TEST_F(LoaderTest, EndsInTheMidstOfWork) {
  source_.slow_ = true;
  for (int taken = 0; taken < 4; ++taken) {
    BrokenPictures broken(source_.size());
    Loader loader(source_, config_, {.workers = 4, .batch = 4}, broken);
    loader.start(order_, 1, 0);
    for (int i = 0; i < taken; ++i) ASSERT_NE(loader.next(), nullptr);
  }
  BrokenPictures broken(source_.size());
  const Loader never_started(source_, config_, {.workers = 2, .batch = 4}, broken);
}

TEST_F(LoaderTest, WorkersRunAheadByTheRing) {
  BrokenPictures broken(source_.size());
  Loader loader(source_, config_, {.workers = 4, .batch = 5, .batches_ahead = 2}, broken);
  loader.start(order_, 1, 0);
  ASSERT_NE(loader.next(), nullptr);
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_LE(source_.reads_, 10);
  ASSERT_NE(loader.next(), nullptr);
  ASSERT_NE(loader.next(), nullptr);
  EXPECT_GE(source_.reads_, 15);
}

TEST_F(LoaderTest, AnErrorComesAtItsBatch) {
  source_.slow_ = true;
  const auto expected = whole_epoch({.workers = 1, .batch = 8});
  source_.failing_ = order_[19];
  for (const int workers : {1, 4}) {
    const auto batches = whole_epoch({.workers = workers, .batch = 8});
    ASSERT_EQ(batches.size(), 7u);
    for (std::size_t i = 0; i < 7; ++i) {
      EXPECT_EQ(batches[i], i == 2 ? "error: the machine failed" : expected[i]) << i;
    }
  }
}

TEST_F(LoaderTest, TheNextPictureTakesTheRowOfABrokenOne) {
  MemoryPictures source(300);
  source.broken_ = {20, 21, 299};
  BrokenPictures broken(300);
  Loader loader(source, config_, {.workers = 3, .batch = 4}, broken);
  for (int number = 0; number < 2; ++number) {
    const std::int64_t reads = source.reads_;
    loader.start({5, 20, 299, 21}, number, 0);
    const LoadedBatch* batch = loader.next();
    ASSERT_NE(batch, nullptr);
    EXPECT_EQ(batch->pictures, (std::vector<std::int64_t>{5, 22, 0, 22}));
    EXPECT_EQ(batch->labels, (std::vector<std::int32_t>{15, 32, 10, 32}));
    for (const PictureView& view : batch->views) EXPECT_GE(view.offset, 0);
    EXPECT_EQ(loader.next(), nullptr);
    if (number == 1) {
      EXPECT_EQ(source.reads_ - reads, 4);  // broken ones are not tried again
    }
    EXPECT_EQ(broken.messages(), (std::vector<std::string>{"picture 20: gone", "picture 21: gone",
                                                           "picture 299: gone"}));
  }
}

TEST_F(LoaderTest, TheRowOfABrokenPictureStaysEmptyInEvaluation) {
  source_.broken_ = {3};
  BrokenPictures broken(source_.size());
  Loader loader(source_, config_, {.workers = 2, .batch = 4, .training = false}, broken);
  loader.start({2, 3, 4}, 0, 0);
  const LoadedBatch* batch = loader.next();
  ASSERT_NE(batch, nullptr);
  EXPECT_EQ(batch->pictures, (std::vector<std::int64_t>{2, 3, 4}));
  EXPECT_EQ(batch->labels, (std::vector<std::int32_t>{12, -1, 14}));
  EXPECT_GE(batch->views[0].offset, 0);
  EXPECT_EQ(batch->views[1].offset, -1);
  EXPECT_GT(batch->views[2].offset, batch->views[0].offset);
  EXPECT_TRUE(batch->operations.empty());
  EXPECT_EQ(broken.count(), 1);
}

TEST_F(LoaderTest, TooManyBrokenPicturesAreAnErrorAtTheirPlace) {
  source_.slow_ = true;
  source_.broken_ = {order_[12], order_[35]};
  const std::string first = "picture " + std::to_string(std::min(order_[12], order_[35]));
  const std::string message =
      "error: 2 of 50 pictures are broken, expected at most 1 %; the first: " + first + ": gone";
  for (const int workers : {1, 5}) {
    const auto batches = whole_epoch({.workers = workers, .batch = 10});
    ASSERT_EQ(batches.size(), 5u);
    for (std::size_t i = 0; i < 5; ++i) EXPECT_EQ(batches[i] == message, i == 3) << i;
  }
}

TEST_F(LoaderTest, NothingButBrokenPictures) {
  for (std::int64_t i = 0; i < source_.size(); ++i) source_.broken_.insert(i);
  const auto batches = whole_epoch({.workers = 3, .batch = 10});
  EXPECT_EQ(batches[0].substr(0, 60),
            "error: 2 of 50 pictures are broken, expected at most 1 %; th");
  EXPECT_LE(source_.reads_, 50 * 3);  // nobody tries all for each row
}

TEST_F(LoaderTest, AFileThatVanishesOrIsDamagedDuringTheEpoch) {
  const TemporaryDirectory directory;
  put_two_classes(directory.path(), 110, 1);
  const auto train = open_image_folder(directory.path(), Split::train);
  BrokenPictures broken(train->size());
  Loader loader(*train, config_, {.workers = 2, .batch = 55, .batches_ahead = 1}, broken);
  std::vector<std::int64_t> order(220);
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::int64_t>(i);
  loader.start(order, 0, 0);
  ASSERT_NE(loader.next(), nullptr);
  std::filesystem::remove(directory / "train/dog/100.png");
  write_file(directory / "train/dog/105.png", "");
  std::int64_t rows = 55;
  while (const LoadedBatch* batch = loader.next()) {
    for (std::size_t i = 0; i < batch->labels.size(); ++i, ++rows) {
      EXPECT_EQ(batch->labels[i], train->label(batch->pictures[i]));
      EXPECT_EQ(batch->pictures[i], rows == 110 || rows == 115 ? rows + 1 : rows);
    }
  }
  EXPECT_EQ(rows, 220);
  EXPECT_EQ(broken.messages(), (std::vector<std::string>{
                                   "train/dog/100.png: no such file",
                                   "train/dog/105.png: found an empty file, expected a picture"}));
}

TEST_F(LoaderTest, TimesAreThoseOfTheWorkers) {
  source_.slow_ = true;
  BrokenPictures broken(source_.size());
  Loader loader(source_, config_, {.workers = 2, .batch = 8}, broken);
  EXPECT_EQ(loader.times().pictures, 0);
  epoch(loader, order_);
  const LoaderTimes times = loader.times();
  EXPECT_EQ(times.pictures, 50);
  double slept = 0;
  for (int i = 0; i < 50; ++i) slept += i * 7919 % 13 * 100e-6;
  EXPECT_GE(times.read, slept);
  EXPECT_GT(times.decode, 0);
  EXPECT_GT(times.draw, 0);
  EXPECT_GT(times.waited, slept / 4);  // two workers; half for what was ready
}

TEST(OrderedWork, TheErrorOfTheFirstItemOfAGroupIsThrown) {
  OrderedWork work(4, 2, 4,
                   {.make =
                        [](int, std::int64_t, std::int64_t place, std::int64_t item) {
                          std::this_thread::sleep_for(std::chrono::milliseconds(4 - place));
                          if (place > 0) throw BadInput(std::to_string(item));
                        },
                    .finish = [](std::int64_t, std::int64_t) { FAIL() << "items are missing"; }});
  work.start(8);
  EXPECT_EQ(bad_input_of([&] { work.next(); }), "1");
  EXPECT_EQ(bad_input_of([&] { work.next(); }), "5");
  EXPECT_EQ(work.next(), std::nullopt);
}

}  // namespace
}  // namespace vitrine
