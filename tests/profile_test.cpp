// Tables of what was timed, and floors by a roof made by hand.
#include "vitrine/profile.h"

#include <gtest/gtest.h>

#include <cmath>

#include "vitrine/device.h"

namespace vitrine {
namespace {

constexpr double kTolerance = 1e-12;

StepOperation operation(const std::string& name, const std::string& place, const std::string& phase,
                        double flops, double bytes, int side_by_side = 1) {
  return {name, place, phase, flops, bytes, side_by_side};
}

/// Two steps over two chunks side by side, and an update.
StepTimes sample() {
  StepTimes times;
  times.operations = {operation("matmul", "patch_embed.proj", "forward", 100, 10, 2),
                      operation("matmul", "blocks.0.mlp.fc1", "forward", 200, 20, 2),
                      operation("attention_forward", "blocks.0.attn", "forward", 50, 40, 2),
                      operation("residual_forward", "blocks.0.attn", "forward", 1, 8, 2),
                      operation("matmul", "blocks.10.mlp.fc1", "forward", 200, 20, 2),
                      operation("matmul", "blocks.0.mlp.fc1", "backward", 400, 60, 2),
                      operation("sum_parts", "", "update", 0, 0),
                      operation("adamw", "", "update", 12, 28)};
  times.sums = {{4, 1.0}, {4, 2.0}, {4, 6.0}, {4, 0.5}, {4, 2.5}, {4, 4.0}, {0, 0}, {2, 1.5}};
  times.steps = 2;
  times.workers = 2;
  return times;
}

const ProfileRow& row(const Profile& table, const std::string& name) {
  for (const ProfileRow& found : table) {
    if (found.name == name) return found;
  }
  ADD_FAILURE() << "no row " << name;
  static const ProfileRow kNone;
  return kNone;
}

std::vector<std::string> names(const Profile& table) {
  std::vector<std::string> found;
  for (const ProfileRow& entry : table) found.push_back(entry.name);
  return found;
}

TEST(Profile, ByOperationSumsCallsAndSharesTheDevice) {
  const Profile table = make_table(sample(), ProfileBy::operation, nullptr);
  EXPECT_EQ(names(table),
            (std::vector<std::string>{"matmul", "attention_forward", "adamw", "residual_forward"}))
      << "by falling time, without what was never called";
  const ProfileRow& matmul = row(table, "matmul");
  EXPECT_EQ(matmul.calls, 16);
  EXPECT_DOUBLE_EQ(matmul.seconds, (1.0 + 2.0 + 2.5 + 4.0) / 2) << "two pieces side by side";
  EXPECT_DOUBLE_EQ(matmul.flops, 4 * (100 + 200 + 200 + 400));
  EXPECT_DOUBLE_EQ(matmul.bytes, 4 * (10 + 20 + 20 + 60));
  EXPECT_EQ(matmul.floor_seconds, 0) << "no roof";
  EXPECT_DOUBLE_EQ(row(table, "adamw").seconds, 1.5) << "alone on the device";
}

TEST(Profile, ByLayerStandsInTheModelsOrder) {
  const Profile table = make_table(sample(), ProfileBy::layer, nullptr);
  EXPECT_EQ(names(table),
            (std::vector<std::string>{"patch_embed", "blocks.0", "blocks.10", "update"}));
  EXPECT_DOUBLE_EQ(row(table, "blocks.0").seconds, (2.0 + 6.0 + 0.5 + 4.0) / 2);
  EXPECT_EQ(row(table, "blocks.0").calls, 16);
}

TEST(Profile, ByPlaceKeepsThePhasesApart) {
  const Profile table = make_table(sample(), ProfileBy::place, nullptr);
  EXPECT_EQ(table.size(), 7u);
  EXPECT_DOUBLE_EQ(row(table, "blocks.0.mlp.fc1 matmul (forward)").seconds, 1.0);
  EXPECT_DOUBLE_EQ(row(table, "blocks.0.mlp.fc1 matmul (backward)").seconds, 2.0);
  EXPECT_DOUBLE_EQ(row(table, "blocks.0.attn attention_forward").seconds, 3.0);
  EXPECT_DOUBLE_EQ(row(table, "update adamw").seconds, 1.5);
}

TEST(Profile, EveryTableHasTheSameSums) {
  const Roof roof{.copies = {{1, 100}}, .flops_per_second = 1000, .workers = 2};
  std::vector<ProfileRow> sums;
  for (const ProfileBy by : {ProfileBy::operation, ProfileBy::layer, ProfileBy::place}) {
    ProfileRow sum;
    for (const ProfileRow& entry : make_table(sample(), by, &roof)) {
      sum.calls += entry.calls;
      sum.seconds += entry.seconds;
      sum.flops += entry.flops;
      sum.bytes += entry.bytes;
      sum.floor_seconds += entry.floor_seconds;
    }
    sums.push_back(sum);
  }
  EXPECT_EQ(sums[0].calls, 26);
  EXPECT_NEAR(sums[0].seconds, 9.5, kTolerance);
  for (const ProfileRow& sum : sums) {
    EXPECT_EQ(sum.calls, sums[0].calls);
    EXPECT_NEAR(sum.seconds, sums[0].seconds, kTolerance);
    EXPECT_NEAR(sum.flops, sums[0].flops, kTolerance);
    EXPECT_NEAR(sum.bytes, sums[0].bytes, kTolerance);
    EXPECT_NEAR(sum.floor_seconds, sums[0].floor_seconds, kTolerance);
  }
}

TEST(Roof, CopiesBetweenPointsLieOnALogarithmicLine) {
  const Roof roof{.copies = {{1024, 400}, {4096, 200}, {16384, 100}}};
  EXPECT_EQ(roof.bytes_per_second(1024), 400);
  EXPECT_EQ(roof.bytes_per_second(4096), 200);
  EXPECT_EQ(roof.bytes_per_second(16384), 100);
  EXPECT_NEAR(roof.bytes_per_second(2048), 300, 1e-9) << "half way by factors";
  EXPECT_NEAR(roof.bytes_per_second(8192), 150, 1e-9);
  EXPECT_EQ(roof.bytes_per_second(1), 400) << "below the smallest";
  EXPECT_EQ(roof.bytes_per_second(1e12), 100) << "beyond the largest";
  EXPECT_EQ(Roof{}.bytes_per_second(1024), 0);
}

TEST(Roof, TheFloorIsTheLongerOfComputingAndMoving) {
  const Roof roof{.copies = {{1024, 100}}, .flops_per_second = 1000, .workers = 1};
  EXPECT_DOUBLE_EQ(roof.floor_seconds(5000, 100, 1), 5) << "computing";
  EXPECT_DOUBLE_EQ(roof.floor_seconds(50, 700, 1), 7) << "moving";
  EXPECT_EQ(Roof{}.floor_seconds(50, 700, 1), 0);
}

// Of two pieces side by side each has half of the device, and of two workers each half of the
// bytes: the working set that counts is a worker's.
TEST(Roof, PiecesShareTheDevice) {
  const Roof roof{.copies = {{1024, 200}, {4096, 100}}, .flops_per_second = 1000, .workers = 2};
  EXPECT_DOUBLE_EQ(roof.floor_seconds(5000, 0, 1), 5);
  EXPECT_DOUBLE_EQ(roof.floor_seconds(5000, 0, 2), 10);
  EXPECT_DOUBLE_EQ(roof.floor_seconds(0, 4096, 2), 4096 * 2 / 100.0) << "a worker moves 4096";
  EXPECT_NEAR(roof.floor_seconds(0, 4096, 1), 4096 / 150.0, 1e-9) << "a worker moves 2048";
}

// Two pieces of 5 s side by side occupy the device for 5 s, and so do their floors.
TEST(Roof, FloorsOfATableAreOfTheDevice) {
  const Roof roof{.copies = {{1, 1e9}}, .flops_per_second = 1000, .workers = 2};
  StepTimes times;
  times.operations = {operation("matmul", "a", "forward", 2500, 1, 2)};
  times.sums = {{2, 10.0}};
  times.steps = 1;
  const Profile table = make_table(times, ProfileBy::operation, &roof);
  EXPECT_DOUBLE_EQ(table[0].seconds, 5.0);
  EXPECT_DOUBLE_EQ(table[0].floor_seconds, 5.0);
}

TEST(Profile, TextIsOfOneStepAndAddsUp) {
  const Roof roof{.copies = {{1, 100}}, .flops_per_second = 1000, .workers = 2};
  const std::string text = to_text(make_table(sample(), ProfileBy::operation, &roof), 2);
  const auto line = [&](const std::string& name) {
    const std::size_t at = text.find("\n" + name + " ") + 1;
    return text.substr(at, text.find('\n', at) - at);
  };
  EXPECT_NE(text.find("to gain, ms"), std::string::npos);
  EXPECT_NE(line("matmul").find("        8   2375.000  50.0%"), std::string::npos) << text;
  EXPECT_NE(line("sum").find("       13   4750.000 100.0%"), std::string::npos) << text;
  const std::string bare = to_text(make_table(sample(), ProfileBy::operation, nullptr), 2);
  EXPECT_EQ(bare.find("roof"), std::string::npos);
}

TEST(Roof, IsMeasuredOnTheCpu) {
  const auto device = make_cpu_device(1);
  const Roof roof = measure_roof(*device, Precision::fp32);
  EXPECT_EQ(roof.workers, 1);
  ASSERT_GE(roof.copies.size(), 2u);
  for (std::size_t i = 0; i < roof.copies.size(); ++i) {
    EXPECT_GT(roof.copies[i].bytes_per_second, 1e8);
    EXPECT_TRUE(i == 0 || roof.copies[i].working_set > roof.copies[i - 1].working_set);
  }
  EXPECT_GT(roof.flops_per_second, 1e8);
  EXPECT_EQ(roof.datasheet, "");
}

TEST(Roof, KnowsADataSheetByTheWholeName) {
  const auto sheet = [](const std::string& description) {
    Roof roof;
    add_datasheet(roof, description, Precision::bf16);
    EXPECT_EQ(roof.datasheet_flops > 0, !roof.datasheet.empty());
    return roof.datasheet;
  };
  EXPECT_EQ(sheet("NVIDIA H100 80GB HBM3, 132 multiprocessors"), "H100");
  EXPECT_EQ(sheet("NVIDIA H100 PCIe, 114 multiprocessors"), "H100 PCIe");
  EXPECT_EQ(sheet("NVIDIA H200, 132 multiprocessors"), "H200");
  EXPECT_EQ(sheet("NVIDIA A100-SXM4-80GB, 108 multiprocessors"), "A100");
  EXPECT_EQ(sheet("NVIDIA GeForce RTX 4090, 128 multiprocessors"), "RTX 4090");
  for (const char* other :
       {"NVIDIA L40, 142", "NVIDIA A10G, 80", "NVIDIA GH200 480GB, 132", "NVIDIA GB200, 148",
        "NVIDIA GeForce RTX 4090 Laptop GPU, 76", "2 threads", ""}) {
    EXPECT_EQ(sheet(other), "") << other;
  }
}

}  // namespace
}  // namespace vitrine
