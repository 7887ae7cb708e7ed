// Scanning folders of pictures: order, labels, splits, links, and what is wrong with a folder.
#include "vitrine/image_folder.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <set>

#include "picture_folders.h"
#include "temporary_directory.h"

namespace vitrine {
namespace {

namespace fs = std::filesystem;
using Names = std::vector<std::string>;

class ImageFolderTest : public testing::Test {
 protected:
  ImageFolderTest() { put_two_classes(root_, 3, 2); }

  std::string error_of(Split split = Split::train, const FolderOptions& options = {}) const {
    return bad_input_of([&] { open_image_folder(root_, split, options); });
  }
  std::string at(const std::string& below) const { return (root_ / below).string(); }

  TemporaryDirectory directory_;
  const fs::path root_ = directory_ / "photos";
};

TEST_F(ImageFolderTest, BothSplitsInOrder) {
  put(root_ / "train/cat/b/DEEP.JPeG", "deep");
  put(root_ / "train/cat/notes.txt", "no picture");
  put(root_ / "train/cat/.hidden.png", "no picture");
  put(root_ / "train/.cache/x.png", "no class");
  put(root_ / "train/list.png", "in no class");
  const auto train = open_image_folder(root_, Split::train);
  EXPECT_EQ(train->class_names(), (Names{"cat", "dog"}));
  EXPECT_EQ(train->description(), "photos train");
  EXPECT_EQ(names_of(*train), (Names{"train/cat/100.png", "train/cat/101.png", "train/cat/102.png",
                                     "train/cat/b/DEEP.JPeG", "train/dog/100.png",
                                     "train/dog/101.png", "train/dog/102.png"}));
  for (std::int64_t i = 0; i < train->size(); ++i) {
    EXPECT_EQ(train->label(i), train->name(i).starts_with("train/cat") ? 0 : 1);
  }
  EXPECT_EQ(bytes_of(*train, 3), "deep");
  EXPECT_EQ(bytes_of(*train, 4), read_file(root_ / "train/dog/100.png"));

  const auto val = open_image_folder(root_ / "", Split::test);
  EXPECT_EQ(val->description(), "photos val");
  EXPECT_EQ(names_of(*val),
            (Names{"val/cat/100.png", "val/cat/101.png", "val/dog/100.png", "val/dog/101.png"}));
}

TEST_F(ImageFolderTest, ReadsValidationUnderItsOtherNames) {
  for (const char* name : {"validation", "test"}) {
    fs::rename(root_ / (name == std::string("test") ? "validation" : "val"), root_ / name);
    const auto val = open_image_folder(root_, Split::test);
    EXPECT_EQ(val->name(0), name + std::string("/cat/100.png"));
  }
}

TEST_F(ImageFolderTest, LabelsAreThoseOfTraining) {
  fs::remove_all(root_ / "val/cat");
  const auto val = open_image_folder(root_, Split::test);
  EXPECT_EQ(val->class_names(), (Names{"cat", "dog"}));
  EXPECT_EQ(val->size(), 2);
  EXPECT_EQ(val->label(0), 1);
}

TEST_F(ImageFolderTest, AShareOfEachClassValidates) {
  const fs::path flat = directory_ / "flat";
  const std::map<std::string, int> counts = {{"ant", 40}, {"bee", 10}, {"cow", 2}, {"doe", 1}};
  for (const auto& [name, count] : counts) {
    for (int i = 0; i < count; ++i) put(flat / name / (std::to_string(i) + ".jpg"), "x");
  }
  const auto open = [&](Split split, std::uint64_t seed) {
    return open_image_folder(flat, split, {.val_split = 0.2, .seed = seed});
  };
  const auto train = open(Split::train, 42), val = open(Split::test, 42);
  std::map<std::string, int> validating;
  for (const std::string& name : names_of(*val)) ++validating[name.substr(0, 3)];
  EXPECT_EQ(validating, (std::map<std::string, int>{{"ant", 8}, {"bee", 2}, {"cow", 1}}));
  std::set<std::string> all;
  for (const PictureSource* source : {train.get(), val.get()}) {
    const Names names = names_of(*source);
    EXPECT_TRUE(std::is_sorted(names.begin(), names.end()));
    all.insert(names.begin(), names.end());
    for (std::int64_t i = 0; i < source->size(); ++i) {
      EXPECT_EQ(source->name(i).substr(0, 3),
                source->class_names()[static_cast<std::size_t>(source->label(i))]);
    }
  }
  EXPECT_EQ(all.size(), 53u);
  EXPECT_EQ(train->size() + val->size(), 53);
  EXPECT_EQ(names_of(*open(Split::test, 42)), names_of(*val));
  EXPECT_NE(names_of(*open(Split::test, 43)), names_of(*val));
  EXPECT_NE(val->name(0) + val->name(1) + val->name(2), "ant/0.jpgant/1.jpgant/10.jpg");
}

TEST_F(ImageFolderTest, AShareOfTheTrainingFolderValidates) {
  fs::remove_all(root_ / "val");
  const FolderOptions third = {.val_split = 0.34};
  EXPECT_EQ(open_image_folder(root_, Split::train, third)->size(), 4);
  const auto val = open_image_folder(root_, Split::test, third);
  EXPECT_EQ(val->size(), 2);
  EXPECT_TRUE(val->name(0).starts_with("train/cat/"));
}

TEST_F(ImageFolderTest, BadFolders) {
  fs::create_directories(root_ / "train/eel");
  EXPECT_EQ(error_of(), at("train/eel") +
                            ": found no pictures and 0 other files, expected .jpg, .jpeg or .png");
  put(root_ / "train/eel/a.webp", "x");
  EXPECT_EQ(error_of(), at("train/eel") +
                            ": found no pictures and 1 other files, expected .jpg, .jpeg or .png");
  fs::rename(root_ / "train/eel", root_ / "val/eel");
  put(root_ / "val/eel/a.png", "x");
  EXPECT_EQ(error_of(), "");
  EXPECT_EQ(error_of(Split::test),
            at("val") + ": found class \"eel\", which " + at("train") + " lacks");
  fs::remove_all(root_ / "train/dog");
  EXPECT_EQ(error_of(), at("train") + ": found one class, \"cat\", expected at least two");
  fs::remove_all(root_ / "train/cat");
  EXPECT_EQ(error_of(), at("train") + ": found no class folders, expected one a class");
  fs::remove_all(root_ / "train");
  EXPECT_EQ(error_of(), root_.string() + ": found the folder val without the folder train");
  fs::rename(root_ / "val", root_ / "train");
  EXPECT_EQ(error_of(), root_.string() +
                            ": found no folder val, validation or test, expected one, or a "
                            "val_split between 0 and 1 (found 0)");
  EXPECT_EQ(error_of(Split::train, {.val_split = 1.0}),
            root_.string() +
                ": found no folder val, validation or test, expected one, or a "
                "val_split between 0 and 1 (found 1)");
  fs::remove_all(root_);
  EXPECT_EQ(error_of(), root_.string() + ": no such directory");
  write_file(root_, "a file");
  EXPECT_EQ(error_of(), root_.string() + ": no such directory");
}

TEST_F(ImageFolderTest, LinksAreFollowedOnce) {
  put(directory_ / "elsewhere/birds/1.png", "bird");
  put(directory_ / "elsewhere/more/2.png", "more");
  fs::create_directory_symlink(directory_ / "elsewhere/birds", root_ / "train/bird");
  fs::create_directory_symlink(directory_ / "elsewhere/more", root_ / "train/dog/a");
  fs::create_directory_symlink(directory_ / "elsewhere/more", root_ / "train/dog/b");
  fs::create_symlink(root_ / "train/cat/100.png", root_ / "train/dog/link.png");
  const auto train = open_image_folder(root_, Split::train);
  EXPECT_EQ(train->class_names(), (Names{"bird", "cat", "dog"}));
  EXPECT_EQ(names_of(*train),
            (Names{"train/bird/1.png", "train/cat/100.png", "train/cat/101.png",
                   "train/cat/102.png", "train/dog/100.png", "train/dog/101.png",
                   "train/dog/102.png", "train/dog/a/2.png", "train/dog/link.png"}));
  EXPECT_EQ(bytes_of(*train, 0), "bird");
}

TEST_F(ImageFolderTest, OneFolderInTwoClasses) {
  fs::create_directory_symlink(root_ / "train/cat", root_ / "train/dog/cats");
  EXPECT_EQ(error_of(), at("train/dog/cats") +
                            ": found the folder of class \"cat\" by a link, expected one class a "
                            "folder");
}

TEST_F(ImageFolderTest, LoopsOfLinks) {
  const auto expect_loop = [&](const fs::path& target, const std::string& link,
                               const std::string& message) {
    fs::create_directory_symlink(target, root_ / link);
    EXPECT_EQ(error_of(), at(link) + ": found a loop of symbolic links" + message);
    fs::remove(root_ / link);
  };
  fs::create_directories(root_ / "train/cat/inner");
  expect_loop("../../cat", "train/cat/inner/loop", ", back to " + at("train/cat"));
  expect_loop("..", "train/cat/up", ", back to " + fs::canonical(root_ / "train").string());
  expect_loop("/", "train/cat/top", ", back to /");
  expect_loop("self.png", "train/cat/self.png", "");
  EXPECT_EQ(error_of(), "");
}

TEST_F(ImageFolderTest, AnUnreadableFolder) {
  const fs::path folder = root_ / "train/dog";
  fs::permissions(folder, fs::perms::none);
  fs::permissions(directory_.path(), fs::perms::all);
  const bool root = ::geteuid() == 0;  // whom permissions do not stop
  ASSERT_EQ(::seteuid(root ? 65534 : ::geteuid()), 0);
  const std::string message = error_of();
  ASSERT_EQ(::seteuid(root ? 0 : ::geteuid()), 0);
  EXPECT_EQ(message, folder.string() + ": Permission denied");
  fs::permissions(folder, fs::perms::all);
}

TEST_F(ImageFolderTest, FilesThatAreEmptyOrGone) {
  fs::create_symlink("nowhere", root_ / "train/cat/dead.png");
  const auto train = open_image_folder(root_, Split::train);
  const auto message = [&](std::int64_t i) { return bad_input_of([&] { bytes_of(*train, i); }); };
  EXPECT_EQ(message(0), "");
  EXPECT_EQ(message(3), "train/cat/dead.png: no such file");
  write_file(root_ / "train/cat/100.png", "");
  EXPECT_EQ(message(0), "train/cat/100.png: found an empty file, expected a picture");
  fs::remove(root_ / "train/cat/100.png");
  EXPECT_EQ(message(0), "train/cat/100.png: no such file");
}

TEST_F(ImageFolderTest, NamesOfOneLine) {
  put(root_ / "train/cat/a\nb.png", "x");
  const auto train = open_image_folder(root_, Split::train);
  EXPECT_EQ(train->name(3), "train/cat/a\\x0ab.png");
  EXPECT_EQ(bytes_of(*train, 3), "x");
}

TEST(BrokenPictures, OnePercentIsBorne) {
  BrokenPictures broken(200);
  broken.add(70, "late: gone");
  broken.add(70, "late: gone");
  broken.add(7, "early: gone");
  EXPECT_EQ(broken.count(), 2);
  EXPECT_EQ(broken.messages(), (Names{"early: gone", "late: gone"}));
  EXPECT_EQ(bad_input_of([&] { broken.add(100, "middle: gone"); }),
            "3 of 200 pictures are broken, expected at most 1 %; the first: early: gone");
  EXPECT_EQ(broken.count(), 3);
}

TEST(BrokenPictures, OneOfAFewIsBorne) {
  BrokenPictures broken(5);
  broken.add(1, "a: gone");
  EXPECT_EQ(bad_input_of([&] { broken.add(0, "b: gone"); }),
            "2 of 5 pictures are broken, expected at most 1 %; the first: b: gone");
}

}  // namespace
}  // namespace vitrine
