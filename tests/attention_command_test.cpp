// vitrine attention: what it writes, what it prints, and that bad input leaves nothing behind.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "io/files.h"
#include "run_program.h"
#include "temporary_directory.h"
#include "vitrine/dataset.h"
#include "vitrine/picture.h"
#include "vitrine/safetensors.h"

namespace vitrine {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using Words = std::vector<std::string>;

constexpr const char* kConfig = R"({
  "image_size": 28, "patch_size": 14, "num_channels": 1, "hidden_size": 8, "num_hidden_layers": 2,
  "num_attention_heads": 2, "intermediate_size": 12, "num_classes": 10, "dataset": "mnist",
  "batch_size": 16, "epochs": 0})";

Image picture(std::int64_t channels, std::int64_t height, std::int64_t width) {
  Image image{channels, height, width, {}};
  for (std::int64_t i = 0; i < channels * height * width; ++i) {
    image.pixels.push_back(static_cast<std::uint8_t>(i * i % 251));
  }
  return image;
}

class AttentionCommand : public testing::Test {
 protected:
  AttentionCommand() : program_(fs::absolute(program_path()).string()), home_(fs::current_path()) {
    ::setenv("VITRINE_PROGRAM", program_.c_str(), 1);
    fs::current_path(directory_.path());
    write_file("small.json", kConfig);
    write_idx(make_digits(12, 5), "data", Split::train);
    write_idx(make_digits(12, 6), "data", Split::test);
    write_file("text.png", "no image");
    fs::create_directory("more");
    write_png("a.png", picture(1, 28, 28));
    write_png("more/a.png", picture(3, 300, 40));
    run_program_with({"train", "--config", "small.json", "--output", "run"});
  }
  ~AttentionCommand() override { fs::current_path(home_); }

  /// All files below `directory`, and those of the test's own where it is ".".
  static std::set<std::string> files(const std::string& directory) {
    std::set<std::string> names;
    for (const auto& entry : fs::recursive_directory_iterator(directory)) {
      if (!entry.is_directory()) names.insert(entry.path().string());
    }
    return names;
  }
  static std::string output_of(const Words& words) {
    const ProgramResult result = run_program_with(words);
    EXPECT_EQ(result.code, 0) << result.err;
    EXPECT_EQ(result.err, "");
    return result.out;
  }
  static void expect_failure(int code, const Words& words, const Words& parts) {
    SCOPED_TRACE(testing::PrintToString(words));
    const std::set<std::string> before = files(".");
    const ProgramResult result = run_program_with(words);
    EXPECT_EQ(result.code, code) << result.err;
    EXPECT_EQ(result.out, "");
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    for (const std::string& part : parts) {
      EXPECT_NE(result.err.find(part), std::string::npos) << part << "\nin: " << result.err;
    }
    EXPECT_EQ(files("."), before);
    EXPECT_FALSE(fs::is_directory("out"));
  }

  TemporaryDirectory directory_;
  std::string program_;
  fs::path home_;
};

TEST_F(AttentionCommand, WritesPictures) {
  const std::string printed = output_of({"attention", "run", "a.png", "more/a.png", "-o", "out",
                                         "--dump", "maps", "-k", "3", "--device", "cpu"});
  std::set<std::string> expected = {"out/positions.png", "out/position-similarity.png"};
  for (const std::string name : {"out/a/", "out/a-2/"}) {
    for (const char* file : {"sheet", "rollout", "mean", "layer-01-head-01", "layer-01-head-02",
                             "layer-02-head-01", "layer-02-head-02"}) {
      expected.insert(name + file + ".png");
    }
  }
  EXPECT_EQ(files("out"), expected);
  const Image sheet = read_image("out/a/sheet.png"), tall = read_image("out/a-2/mean.png");
  EXPECT_EQ(sheet.width, 4 * 168 + 3 * 4);
  EXPECT_EQ(sheet.height, 2 * 168 + 4);
  EXPECT_EQ(tall.height, 300);
  EXPECT_EQ(tall.width, 40);
  for (const char* part :
       {"layers 1 to 2", "heads 1 to 2", "a.png\n", "more/a.png\n", " %  ",
        "Sheet: out/a/sheet.png", "Sheet: out/a-2/sheet.png", "out/position-similarity.png"}) {
    EXPECT_NE(printed.find(part), std::string::npos) << part << "\nin: " << printed;
  }
  EXPECT_EQ(std::count(printed.begin(), printed.end(), '%'), 6);

  const SafetensorsFile maps("maps");
  EXPECT_EQ(maps.entries().size(), 6u);
  for (const std::string name : {"a", "a-2"}) {
    const std::vector<float> attention = maps.read_f32(name + ".attention", Shape{2, 2, 5, 5});
    for (int row = 0; row < 20; ++row) {
      float sum = 0;
      for (int i = 0; i < 5; ++i) sum += attention[row * 5 + i];
      EXPECT_NEAR(sum, 1.0f, 1e-5);
    }
    EXPECT_EQ(maps.read_f32(name + ".rollout", Shape{5, 5}).size(), 25u);
    float sum = 0;
    for (const float p : maps.read_f32(name + ".probabilities", Shape{10})) sum += p;
    EXPECT_NEAR(sum, 1.0f, 1e-5);
  }
}

TEST_F(AttentionCommand, SaysTheSameAsPredict) {
  const json seen = json::parse(output_of({"attention", "run", "a.png", "more/a.png", "-o", "out",
                                           "--json", "-k", "10", "--device", "cpu"}));
  const Words predict = {"predict", "--checkpoint", "run", "--json", "-k", "10", "--device", "cpu"};
  Words both = predict;
  both.insert(both.end(), {"a.png", "more/a.png"});
  const json predicted = json::parse(output_of(both));
  std::set<std::string> listed;
  for (std::size_t i = 0; i < 2; ++i) {
    const json& image = seen.at("images").at(i);
    EXPECT_EQ(image.at("image"), predicted.at(i).at("file"));
    std::vector<double> probabilities(10);
    for (const json& p : predicted.at(i).at("predictions")) {
      probabilities.at(p.at("class")) = p.at("probability");
    }
    for (const json& p : image.at("predictions")) {
      EXPECT_NEAR(p.at("probability"), probabilities.at(p.at("class")), 1e-6);
    }
    EXPECT_FALSE(image.contains("true_class"));
    for (const json& file : image.at("files")) listed.insert(file);
    Words alone = predict;
    alone.push_back(predicted.at(i).at("file"));
    EXPECT_EQ(json::parse(output_of(alone)).at(0), predicted.at(i));
  }
  for (const json& file : seen.at("files")) listed.insert(file);
  EXPECT_EQ(listed, files("out"));
}

TEST_F(AttentionCommand, TestImages) {
  const Dataset test = load_dataset("mnist", "data", Split::test);
  const std::string printed =
      output_of({"attention", "run", "--test-images", "0,7", "--only-sheet", "-o", "out"});
  EXPECT_EQ(files("out"), (std::set<std::string>{"out/positions.png", "out/position-similarity.png",
                                                 "out/test-0/sheet.png", "out/test-7/sheet.png"}));
  for (const std::size_t i : {0u, 7u}) {
    const std::string title =
        "test image " + std::to_string(i) + " (true " + test.class_names[test.labels[i]] + ")\n";
    EXPECT_NE(printed.find(title), std::string::npos) << title << "\nin: " << printed;
  }
  const json seen = json::parse(
      output_of({"attention", "run", "--test-images", "7", "a.png", "--json", "-o", "out"}));
  EXPECT_EQ(seen.at("images").at(0).at("image"), "a.png");
  EXPECT_EQ(seen.at("images").at(1).at("true_class"), test.class_names[test.labels[7]]);
}

TEST_F(AttentionCommand, BadInputLeavesNothingBehind) {
  const Words out = {"-o", "out", "--dump", "maps"};
  const auto with = [&](Words words) {
    words.insert(words.begin(), "attention");
    words.insert(words.end(), out.begin(), out.end());
    return words;
  };
  expect_failure(2, with({"run"}), {"no image", "--test-images"});
  expect_failure(2, with({"nowhere", "a.png"}), {"nowhere"});
  expect_failure(2, with({"run", "a.png", "text.png"}), {"text.png", "not an image"});
  expect_failure(2, with({"run", "a.png", "none.png"}), {"none.png", "no such file"});
  for (const char* numbers : {"0,x", "1.5", "-1", "12", "0,,1"}) {
    expect_failure(2, with({"run", "a.png", "--test-images", numbers}),
                   {"--test-images", "numbers from 0 to 11"});
  }
  expect_failure(2, with({"run", "a.png", "--precision", "bf16", "--device", "cpu"}),
                 {"precision: found bf16"});
  expect_failure(2, with({"run", "--test-images", "0", "--data-dir", "none"}), {"none"});
  write_file("out", "a file");
  expect_failure(2, with({"run", "a.png"}), {"--output", "out", "a directory"});
  fs::remove("out");
  fs::create_directory("there");
  write_file("there/a-2", "a file");
  expect_failure(2, {"attention", "run", "a.png", "more/a.png", "-o", "there"},
                 {"there/a-2", "a directory"});
  run_program_with({"train", "--config", "small.json", "--num-hidden-layers", "0", "-o", "flat"});
  expect_failure(2, with({"flat", "a.png"}), {"flat: num_hidden_layers: found 0"});
}

TEST_F(AttentionCommand, NamesStayInTheirDirectory) {
  fs::create_directories("x/y");
  for (const char* name : {"...", "positions.png.png", "a-2.png"}) {
    write_png(name, picture(1, 28, 28));
  }
  output_of({"attention", "run", "a-2.png", "a.png", "more/a.png", "...", "positions.png.png",
             "--only-sheet", "-o", "x/y/out"});
  EXPECT_EQ(files("x"), (std::set<std::string>{
                            "x/y/out/positions.png", "x/y/out/position-similarity.png",
                            "x/y/out/a/sheet.png", "x/y/out/a-2/sheet.png", "x/y/out/a-3/sheet.png",
                            "x/y/out/image/sheet.png", "x/y/out/positions.png-2/sheet.png"}));
}

TEST_F(AttentionCommand, ADivergedModelIsSaidToBeOne) {
  const ProgramResult trained =
      run_program_with({"train", "--config", "small.json", "--epochs", "1", "--max-steps", "3",
                        "--lr", "1e30", "-b", "4", "--output", "diverged"});
  ASSERT_EQ(trained.code, 0) << trained.err;
  const Words look = {"attention", "diverged", "a.png", "-o", "maps"};
  expect_failure(2, look, {"weights: found logits that are not finite"});
  expect_failure(2, {"predict", "--checkpoint", "diverged", "a.png"},
                 {"logits that are not finite"});
}

TEST_F(AttentionCommand, OutputsThatCannotBeWritten) {
  expect_failure(2, {"attention", "run", "a.png", "-o", "a.png/maps"},
                 {"--output: found the file"});
  expect_failure(2, {"attention", "run", "a.png", "-o", ""}, {"--output: found an empty name"});
  expect_failure(2, {"attention", "run", "a.png", "-o", "maps", "--dump", "maps/positions.png"},
                 {"--dump: found maps/positions.png, which is one of the pictures"});
  expect_failure(2, {"attention", "run", "a.png", "-o", "maps", "-k", "0"}, {"--top-k"});
  fs::create_directories("taken/a/rollout.png");
  expect_failure(2, {"attention", "run", "a.png", "-o", "taken"}, {"taken/a/rollout.png"});
}

TEST_F(AttentionCommand, MapsOfAnotherModelGo) {
  fs::create_directories("maps/a");
  write_file("maps/a/layer-09-head-01.png", "old");
  output_of({"attention", "run", "a.png", "-o", "maps"});
  EXPECT_FALSE(fs::exists("maps/a/layer-09-head-01.png"));
  EXPECT_TRUE(fs::exists("maps/a/layer-02-head-02.png"));
}

}  // namespace
}  // namespace vitrine
