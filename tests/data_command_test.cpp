// vitrine data inspect and pack: what they print and write, and what they refuse.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "encode_jpeg.h"
#include "io/format.h"
#include "picture_folders.h"
#include "run_program.h"
#include "temporary_directory.h"
#include "vitrine/image.h"

namespace vitrine {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using Words = std::vector<std::string>;

/// A PPM of one colour.
std::string flat_file(std::int64_t height, std::int64_t width, int red, int green, int blue) {
  std::string file = "P6 " + std::to_string(width) + " " + std::to_string(height) + " 255\n";
  for (std::int64_t i = 0; i < height * width; ++i) {
    file += {static_cast<char>(red), static_cast<char>(green), static_cast<char>(blue)};
  }
  return file;
}

std::string truncated_jpeg() {
  const std::string whole = encode_jpeg(random_image(3, 40, 40, 1));
  return whole.substr(0, whole.size() / 2);
}

class DataCommandTest : public testing::Test {
 protected:
  DataCommandTest() : program_(fs::absolute(program_path()).string()), home_(fs::current_path()) {
    ::setenv("VITRINE_PROGRAM", program_.c_str(), 1);
    fs::current_path(directory_.path());
  }
  ~DataCommandTest() override { fs::current_path(home_); }

  static std::string output_of(const Words& words) {
    const ProgramResult result = run_program_with(words);
    EXPECT_EQ(result.code, 0) << result.err;
    EXPECT_EQ(result.err, "");
    return result.out;
  }
  static std::set<std::string> files() {
    std::set<std::string> names;
    for (const auto& entry : fs::recursive_directory_iterator(".")) {
      names.insert(entry.path().string());
    }
    return names;
  }
  /// The program ends with 2 and this one line, and writes nothing.
  static void expect_refusal(const Words& words, const std::string& line) {
    SCOPED_TRACE(testing::PrintToString(words));
    const std::set<std::string> before = files();
    const ProgramResult result = run_program_with(words);
    EXPECT_EQ(result.code, 2);
    EXPECT_EQ(result.err, "vitrine: " + line + "\n");
    EXPECT_EQ(files(), before);
  }

  TemporaryDirectory directory_;
  std::string program_;
  fs::path home_;
};

TEST_F(DataCommandTest, InspectAFolder) {
  put("photos/train/cat/a.png", flat_file(2, 3, 0, 51, 255));
  put("photos/train/cat/b.png", flat_file(20, 10, 255, 51, 255));
  put("photos/train/dog/c.jpg", encode_jpeg({1, 5, 8, std::vector<std::uint8_t>(40, 255)}));
  put("photos/train/dog/d.png", flat_file(4, 4, 0, 0, 0));
  put("photos/val/dog/e.png", flat_file(7, 7, 9, 9, 9));
  EXPECT_EQ(output_of({"data", "inspect", "photos"}),
            "photos: 2 classes, 4 training and 1 validation pictures\n"
            "\n"
            "class      train        val\n"
            "cat            2          0\n"
            "dog            2          1\n"
            "\n"
            "size          min   median      max\n"
            "width           3        7       10\n"
            "height          2        5       20\n"
            "\n"
            "JPEG            1\n"
            "PPM             4\n"
            "grey            1\n"
            "colour          4\n"
            "\n"
            "of the training pixels in [0, 1]\n"
            "mean      0.5000  0.3500  0.7500\n"
            "std       0.5000  0.3841  0.4330\n"
            "\n"
            "0 broken\n");
  const json found = json::parse(output_of({"data", "inspect", "photos", "--json", "-j", "3"}));
  EXPECT_EQ(found["train"], 4);
  EXPECT_EQ(found["val"], 1);
  EXPECT_EQ(found["classes"], json::parse(R"([{"name": "cat", "train": 2, "val": 0},
                                              {"name": "dog", "train": 2, "val": 1}])"));
  EXPECT_EQ(found["width"], json::parse(R"({"min": 3, "median": 7, "max": 10})"));
  EXPECT_EQ(found["height"], json::parse(R"({"min": 2, "median": 5, "max": 20})"));
  EXPECT_EQ(found["formats"], json::parse(R"({"JPEG": 1, "PPM": 4})"));
  EXPECT_EQ(found["channels"], json::parse(R"({"1": 1, "3": 4})"));
  EXPECT_NEAR(found["mean"][1], 0.35, 1e-12);
  EXPECT_NEAR(found["std"][0], 0.5, 1e-12);
  EXPECT_EQ(found["broken"], json::array());
}

TEST_F(DataCommandTest, InspectNamesBrokenPictures) {
  put_two_classes("photos", 100, 1);
  put("photos/train/cat/x.jpg", truncated_jpeg());
  put("photos/train/dog/x.png", "");
  const std::string out = output_of({"data", "inspect", "photos"});
  const std::string list = out.substr(out.find("\n2 broken\n"));
  EXPECT_EQ(list.substr(0, list.find(':')), "\n2 broken\n  train/cat/x.jpg");
  EXPECT_NE(list.find("\n  train/dog/x.png: found an empty file, expected a picture\n"),
            std::string::npos);
  const json headers =
      json::parse(output_of({"data", "inspect", "photos", "--json", "--headers-only"}));
  EXPECT_EQ(headers["broken"],
            json::array({"train/dog/x.png: found an empty file, expected a picture"}));
  EXPECT_EQ(headers["mean"], json::array());
  EXPECT_EQ(headers["formats"]["JPEG"], 1);

  put("photos/train/dog/y.jpeg", "GIF89a alien");
  const ProgramResult result = run_program_with({"data", "inspect", "photos", "--json"});
  EXPECT_EQ(result.code, 2);
  EXPECT_EQ(json::parse(result.out)["broken"].size(), 3u);
  EXPECT_EQ(result.err.substr(0, result.err.find(" train/cat/x.jpg: ")),
            "vitrine: photos: 3 of 203 pictures are broken, expected at most 1 %; the first:");
}

TEST_F(DataCommandTest, Sheet) {
  for (int i = 0; i < 9; ++i) {
    put("photos/train/cat/" + std::to_string(i) + ".png", flat_file(30, 50, 250, 10, 20 * i));
  }
  put("photos/train/dog/0.png", "broken");
  put("photos/train/dog/1.png", flat_file(300, 150, 7, 8, 9));
  put("photos/val/dog/1.png", flat_file(2, 2, 0, 0, 0));
  run_program_with({"data", "inspect", "photos", "--sheet", "sheet.png"});
  const Image sheet = read_image("sheet.png");
  ASSERT_EQ(sheet.channels, 3);
  ASSERT_EQ(sheet.height, 2 * 100 - 4);
  ASSERT_EQ(sheet.width, 8 * 100 - 4);
  const auto color = [&](std::int64_t y, std::int64_t x) {
    std::vector<int> channels;
    for (std::int64_t c = 0; c < 3; ++c) {
      channels.push_back(
          sheet.pixels[static_cast<std::size_t>((c * sheet.height + y) * sheet.width + x)]);
    }
    return channels;
  };
  for (int i = 0; i < 8; ++i) EXPECT_EQ(color(95, 100 * i), (std::vector<int>{250, 10, 20 * i}));
  EXPECT_EQ(color(100, 0), (std::vector<int>{7, 8, 9}));
  EXPECT_EQ(color(195, 95), (std::vector<int>{7, 8, 9}));
  EXPECT_EQ(color(100, 100), (std::vector<int>{255, 255, 255}));
  EXPECT_EQ(color(97, 97), (std::vector<int>{255, 255, 255}));
}

TEST_F(DataCommandTest, InspectANamedDataSet) {
  write_idx(make_digits(60, 5), "data", Split::train);
  write_idx(make_digits(30, 6), "data", Split::test);
  const json found = json::parse(output_of({"data", "inspect", "mnist", "--json"}));
  EXPECT_EQ(found["train"], 60);
  EXPECT_EQ(found["val"], 30);
  EXPECT_EQ(found["formats"], json::parse(R"({"PGM": 90})"));
  const Dataset digits = make_digits(60, 5);
  double sum = 0;
  for (const std::uint8_t pixel : digits.images) sum += pixel / 255.0;
  ASSERT_EQ(found["mean"].size(), 1u);
  EXPECT_NEAR(found["mean"][0], sum / static_cast<double>(digits.images.size()), 1e-9);
}

TEST_F(DataCommandTest, PackAndInspect) {
  put_two_classes("photos", 3, 2);
  put("photos/train/dog/large.png", pnm_file(60, 90, 7));
  put("photos/train/dog/grey.png", pnm_file(40, 40, 8, 1));
  const std::string said =
      output_of({"data", "pack", "photos", "small.pack", "--short-side", "20", "-j", "3"});
  EXPECT_EQ(said, "small.pack: 8 training and 4 validation pictures, " +
                      format_bytes(static_cast<double>(fs::file_size("small.pack"))) + "\n");
  const json before = json::parse(output_of({"data", "inspect", "photos", "--json"}));
  const json after = json::parse(output_of({"data", "inspect", "small.pack", "--json"}));
  EXPECT_EQ(after["classes"], before["classes"]);
  EXPECT_EQ(after["channels"], before["channels"]);
  EXPECT_EQ(after["formats"], json::parse(R"({"PGM": 1, "PPM": 11})"));
  EXPECT_EQ(after["width"]["max"], 30);
  EXPECT_EQ(after["height"]["max"], 20);

  const auto folder = open_image_folder("photos", Split::train);
  const auto packed = open_packed("small.pack", Split::train);
  EXPECT_EQ(names_of(*packed), names_of(*folder));
  for (std::int64_t i = 0; i < packed->size(); ++i) EXPECT_EQ(packed->label(i), folder->label(i));
  const std::string small = bytes_of(*folder, 0);  // "P6\n6 4\n255\n": stays as it is
  EXPECT_EQ(bytes_of(*packed, 0).substr(11), small.substr(11));

  const std::string bytes = read_file("small.pack");
  output_of({"data", "pack", "photos", "small.pack", "--short-side", "20", "-j", "1"});
  EXPECT_EQ(read_file("small.pack"), bytes);
  write_file("small.pack", bytes.substr(0, bytes.size() - 1));
  expect_refusal({"data", "inspect", "small.pack"},
                 "small.pack: cut short: found no index at its end");
  std::string flipped = bytes;
  flipped[30] ^= 1;
  write_file("small.pack", flipped);
  const ProgramResult result = run_program_with({"data", "inspect", "small.pack"});
  EXPECT_NE(result.out.find("\n1 broken\n  train/cat/100.png: damaged in small.pack, its checksum "
                            "differs\n"),
            std::string::npos)
      << result.out;
}

TEST_F(DataCommandTest, PackedPixelsArePillows) {
  std::string file = "P6 12 9 255\n";
  for (int y = 0; y < 9; ++y) {
    for (int x = 0; x < 12; ++x) {
      for (int c = 0; c < 3; ++c) file += static_cast<char>((y * 37 + x * x * 11 + c * 50) % 256);
    }
  }
  put("photos/train/a/1.png", file);
  put("photos/train/b/1.png", file);
  put("photos/val/a/1.png", file);
  output_of({"data", "pack", "photos", "small.pack", "--short-side", "4"});
  const std::string packed = bytes_of(*open_packed("small.pack", Split::test), 0);
  // Image.fromarray(the array above).resize((5, 4), Image.BICUBIC) of Pillow 13
  const std::vector<int> expected = {35,  90,  148, 130, 136, 141, 116, 122, 122, 137, 141, 103,
                                     106, 160, 177, 123, 180, 185, 162, 117, 115, 145, 116, 132,
                                     113, 115, 131, 175, 172, 90,  183, 143, 63,  117, 113, 131,
                                     146, 143, 121, 124, 123, 127, 93,  80,  109, 53,  68,  129,
                                     113, 133, 155, 122, 130, 132, 152, 149, 102, 86,  141, 169};
  ASSERT_EQ(packed.substr(0, 11), "P6 5 4 255\n");
  ASSERT_EQ(packed.size(), 11 + expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(static_cast<std::uint8_t>(packed[11 + i]), expected[i]) << i;
  }
}

TEST_F(DataCommandTest, PackLeavesBrokenPicturesOut) {
  put_two_classes("photos", 60, 1);
  put("photos/train/cat/1.jpg", truncated_jpeg());
  const ProgramResult result = run_program_with({"data", "pack", "photos", "small.pack"});
  EXPECT_EQ(result.code, 0);
  EXPECT_EQ(result.err.substr(0, 35), "vitrine: left out: train/cat/1.jpg:");
  const auto packed = open_packed("small.pack", Split::train);
  EXPECT_EQ(packed->size(), 120);
  EXPECT_EQ(packed->name(0), "train/cat/100.png");
  fs::remove("small.pack");
  put("photos/train/dog/1.png", "");
  write_file("photos/train/cat/1.jpg", "");
  expect_refusal({"data", "pack", "photos", "small.pack"},
                 "2 of 122 pictures are broken, expected at most 1 %; the first: train/cat/1.jpg: "
                 "found an empty file, expected a picture");
}

TEST_F(DataCommandTest, Refusals) {
  put_two_classes("photos", 2, 1);
  expect_refusal({"data", "pack", "photos", "photos"},
                 "photos: found a directory, expected a file to write");
  expect_refusal({"data", "pack", "photos", "small.pack", "--short-side", "0"},
                 "short_side: found 0, expected at least 1");
  expect_refusal({"data", "inspect", "nowhere"},
                 "nowhere: found nothing there, expected a folder, a packed file or one of digits, "
                 "mnist, fashion-mnist, cifar10, cifar100");
  write_file("file", "text");
  expect_refusal({"data", "inspect", "file"},
                 "file: not a packed file: expected \"VITRPACK\" and an index");
  fs::create_directory("photos/train/eel");
  expect_refusal({"data", "pack", "photos", "small.pack"},
                 "photos/train/eel: found no pictures and 0 other files, expected .jpg, .jpeg or "
                 ".png");
  fs::remove("photos/train/eel");
  fs::create_directory_symlink("../..", "photos/train/dog/loop");
  expect_refusal({"data", "inspect", "photos"},
                 "photos/train/dog/loop: found a loop of symbolic links, back to " +
                     fs::canonical("photos").string());
}

TEST_F(DataCommandTest, CtrlCLeavesNothingHalfWritten) {
  put("photos/train/cat/0.png", pnm_file(700, 700, 1));
  put("photos/train/dog/0.png", pnm_file(5, 5, 2));
  put("photos/val/dog/0.png", pnm_file(5, 5, 3));
  for (int i = 1; i < 4000; ++i) {
    fs::create_symlink("0.png", "photos/train/cat/" + std::to_string(i) + ".png");
  }
  const std::set<std::string> before = files();
  const pid_t process = ::fork();
  if (process == 0) {
    ::execl(program_.c_str(), program_.c_str(), "data", "pack", "photos", "small.pack",
            static_cast<char*>(nullptr));
    ::_exit(127);
  }
  while (files() == before) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  ::kill(process, SIGINT);
  int status = 0;
  ASSERT_EQ(::waitpid(process, &status, 0), process);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 130);
  EXPECT_EQ(files(), before);
}

}  // namespace
}  // namespace vitrine
