// Every planted bug is noticed by each build that can notice it, under at least one schedule; and
// the same kernel without the bug passes under all of them.
#include "simt/planted_bugs.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>
#include <string>

#include "simt/emulator_test.h"
#include "simt/error.h"

namespace simt {
namespace {

class PlantedBugs : public ::testing::TestWithParam<PlantedBug> {};

const char* report_of_this_build(const PlantedBug& bug) {
  switch (kBuild) {
    case Build::address:
      return bug.address;
    case Build::thread:
      return bug.thread;
    default:
      return bug.plain;
  }
}

/// Runs the bug under all schedules. Ends the process: with 1 if one of them showed it. A
/// sanitizer's report ends it by itself.
[[noreturn]] void notice(const PlantedBug& bug) {
  bool noticed = false;
  under_all_schedules([&] {
    try {
      if (bug.run(true)) return;
      std::cerr << "wrong result under " << to_string(current_schedule()) << '\n';
    } catch (const Error& error) {
      std::cerr << error.what() << '\n';
    }
    noticed = true;
  });
  std::exit(noticed ? 1 : 0);
}

bool failed(int status) {
  return status != 0;
}

TEST_P(PlantedBugs, Noticed) {
  const char* report = report_of_this_build(GetParam());
  if (report == nullptr) GTEST_SKIP() << "this build cannot notice it";
  ::testing::GTEST_FLAG(death_test_style) = "threadsafe";
  EXPECT_EXIT(notice(GetParam()), failed, report);
}

TEST_P(PlantedBugs, CorrectTwinPasses) {
  under_all_schedules([] { EXPECT_TRUE(GetParam().run(false)); });
}

INSTANTIATE_TEST_SUITE_P(All, PlantedBugs, ::testing::ValuesIn(planted_bugs()),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace simt
