// vitrine profile as a user runs it: exit codes, tables, JSON that adds up, the page.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "html_check.h"
#include "io/files.h"
#include "run_program.h"
#include "temporary_directory.h"

namespace vitrine {
namespace {

using nlohmann::json;
using Words = std::vector<std::string>;

ProgramResult profile(Words more, const std::string& preset = "mnist-tutorial") {
  Words words{"profile",      "--preset", preset,    "--device", "cpu",       "--threads", "2",
              "--batch-size", "24",       "--steps", "3",        "--warm-up", "3"};
  words.insert(words.end(), more.begin(), more.end());
  return run_program_with(words);
}

void expect_refused(const Words& words, const std::string& part) {
  const ProgramResult result = profile(words);
  EXPECT_EQ(result.code, 2) << result.err;
  EXPECT_EQ(result.out, "");
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  EXPECT_TRUE(contains(result.err, part)) << result.err;
}

TEST(ProfileProgram, PrintsATable) {
  const ProgramResult result = profile({});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(result.err, "");
  for (const char* part : {"model             mnist-tutorial", "2 threads", "24 images", "matmul",
                           "attention_backward", "of roof", "\nsum ", "step, timed", "timing adds",
                           "images/s", "first step"}) {
    EXPECT_TRUE(contains(result.out, part)) << part << "\nin:\n" << result.out;
  }
}

TEST(ProfileProgram, OtherRows) {
  const std::string layers = profile({"--by", "layer"}).out;
  EXPECT_LT(layers.find("\npatch_embed "), layers.find("\nblocks.0 "));
  EXPECT_LT(layers.find("\nblocks.0 "), layers.find("\nblocks.1 "));
  EXPECT_NE(layers.find("\nupdate "), std::string::npos);
  const std::string places = profile({"--by", "place"}).out;
  EXPECT_TRUE(contains(places, "\nblocks.0.mlp.fc1 matmul (forward) ")) << places;
  EXPECT_TRUE(contains(places, "\nblocks.0.mlp.fc1 matmul (backward) "));
}

TEST(ProfileProgram, QuickRoof) {
  const ProgramResult result = profile({"--json", "--quick-roof"});
  ASSERT_EQ(result.code, 0) << result.err;
  const json roof = json::parse(result.out).at("roof");
  EXPECT_GT(roof.at("flops_per_second"), 0) << roof;
  EXPECT_EQ(roof.at("copies").back().at("working_set"), 1 << 20) << roof;
}

TEST(ProfileProgram, JsonAddsUp) {
  const ProgramResult result = profile({"--json", "--grad-accum-steps", "2"});
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(result.err, "");
  const json found = json::parse(result.out);
  EXPECT_EQ(found.at("model"), "mnist-tutorial");
  EXPECT_EQ(found.at("images_per_step"), 48);
  EXPECT_EQ(found.at("batch_size"), 24);
  EXPECT_EQ(found.at("timed_seconds").size(), 3u);
  const auto number = [&](const char* key) { return found.at(key).get<double>(); };
  double steps = 0;
  for (const double seconds : found.at("timed_seconds")) steps += seconds / 3;
  EXPECT_NEAR(number("timed_step_seconds"), steps, 1e-9);
  EXPECT_NEAR(number("operation_seconds") + number("rest_seconds"), steps, 1e-9);
  EXPECT_GE(number("rest_seconds"), 0);
  for (const char* table : {"by_operation", "by_layer", "by_place"}) {
    double seconds = 0, floor = 0, flops = 0;
    for (const json& row : found.at(table)) {
      seconds += row.at("seconds").get<double>();
      floor += row.at("floor_seconds").get<double>();
      if (!row.at("name").get<std::string>().starts_with("update")) {
        flops += row.at("flops").get<double>();
      }
    }
    EXPECT_NEAR(seconds, number("operation_seconds"), 1e-9) << table;
    EXPECT_NEAR(floor, number("floor_seconds"), 1e-9) << table;
    if (std::string(table) != "by_operation") {
      EXPECT_NEAR(flops, number("flops"), 1e-6 * flops) << table;
    }
  }
}

TEST(ProfileProgram, WritesAPage) {
  const TemporaryDirectory directory;
  const std::string path = directory / "page.html";
  const ProgramResult result = profile({"--html", path});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_TRUE(contains(result.out, "page: " + path + "\n"));
  const std::string page = read_file(path);
  EXPECT_EQ(unbalanced(page), "");
  EXPECT_TRUE(contains(page, "<svg class=\"timeline\""));
  EXPECT_TRUE(contains(page, "<svg class=\"roofline\""));
  EXPECT_LT(page.size(), std::size_t{2} << 20);
  const ProgramResult both = profile({"--json", "--html", path});
  EXPECT_EQ(both.code, 0) << both.err;
  EXPECT_FALSE(json::parse(both.out).empty()) << "JSON alone on standard output";
  EXPECT_TRUE(contains(both.err, path));
}

TEST(ProfileProgram, APlaceThatCannotBeWrittenIsToldFirst) {
  const TemporaryDirectory directory;
  const ProgramResult result = profile({"--html", directory / "absent/page.html"});
  EXPECT_NE(result.code, 0);
  EXPECT_EQ(result.out, "") << "nothing was measured";
  EXPECT_TRUE(contains(result.err, "absent")) << result.err;
  expect_refused({"--html", directory / "page.html", "--lr", "fast"}, "lr");
  EXPECT_TRUE(std::filesystem::is_empty(directory.path())) << "nothing is left behind";
}

TEST(ProfileProgram, Captures) {
  const ProgramResult result = profile({"--capture"});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_TRUE(contains(result.out, "images/s"));
  EXPECT_FALSE(contains(result.out, "of roof"));
  expect_refused({"--capture", "--html", "page.html"}, "--capture");
}

TEST(ProfileProgram, RefusesBadFlags) {
  expect_refused({"--by", "colour"}, "--by");
  expect_refused({"--steps", "0"}, "--steps");
  expect_refused({"--warm-up", "2"}, "--warm-up");
  expect_refused({"--stepz", "3"}, "--steps");
  expect_refused({"--preset", "vit_huge"}, "preset");
  const ProgramResult result = run_program_with({"profile"});
  EXPECT_EQ(result.code, 2);
  EXPECT_TRUE(contains(result.err, "--preset")) << result.err;
}

}  // namespace
}  // namespace vitrine
