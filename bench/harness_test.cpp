// The runner of the benchmarks itself: what it times, what it counts, and that a wrong result has
// no time.
#include "harness.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <thread>

#include "graph_case.h"
#include "reference/inputs.h"

namespace vitrine::bench {
namespace {

/// Keeps what the benchmarks report.
class Recorder : public benchmark::BenchmarkReporter {
 public:
  bool ReportContext(const Context&) override { return true; }
  void ReportRuns(const std::vector<Run>& reported) override {
    runs.insert(runs.end(), reported.begin(), reported.end());
  }
  std::vector<Run> runs;
};

/// The one run of a benchmark of that name.
benchmark::BenchmarkReporter::Run run_registered(const std::string& name) {
  Recorder recorder;
  benchmark::RunSpecifiedBenchmarks(&recorder, "^" + name + "(/.*)?$");
  EXPECT_EQ(recorder.runs.size(), 1u) << name;
  return recorder.runs.empty() ? benchmark::BenchmarkReporter::Run() : recorder.runs[0];
}

/// out = a + b, whose reference is off by `off`.
GraphWork sum_of(float off) {
  Graph graph = new_graph(Precision::fp32);
  const ValueId a = random_input(graph, "a", Shape{33, 7}), b = random_input(graph, "b", {33, 7});
  const ValueId out = add(graph, "sum", a, b);
  return {.graph = std::move(graph), .timed = {0}, .error = [=](const GraphCase& c) {
            std::vector<float> naive = c.drawn(a);
            std::vector<double> exact = converted<double>(naive);
            const std::vector<float> added = c.drawn(b);
            for (std::size_t i = 0; i < added.size(); ++i) {
              const float error = i == 100 ? off : 0.0f;
              naive[i] += added[i] + error;
              exact[i] += static_cast<double>(added[i]) + static_cast<double>(error);
            }
            Comparison comparison("out", DType::f32);
            comparison.add(c.read(out), naive, exact);
            return comparison.error();
          }};
}

TEST(BenchHarness, TimesWhatIsRight) {
  add_graph(
      {"right"}, [](const DeviceTraits&) { return sum_of(0); }, false);
  const auto run = run_registered("right/f32");
  EXPECT_FALSE(run.error_occurred) << run.error_message;
  EXPECT_GT(run.GetAdjustedRealTime(), 0);
  EXPECT_GT(run.counters.at("bytes_per_second").value, 0);
  EXPECT_GT(run.counters.at("FLOP/s").value, 0);
  EXPECT_FALSE(any_failed());
}

TEST(BenchHarness, TakesAsManyBytesForACopy) {
  add_graph(
      {"copied"}, [](const DeviceTraits&) { return sum_of(0); }, true);
  const auto run = run_registered("copied/f32/peer:copy");
  EXPECT_FALSE(run.error_occurred) << run.error_message;
  const double seconds = run.real_accumulated_time / static_cast<double>(run.iterations);
  EXPECT_NEAR(run.counters.at("bytes_per_second").value * seconds, 3 * 33 * 7 * 4, 1);
}

TEST(BenchHarness, RefusesToTimeAWrongKernel) {
  add_graph(
      {"wrong"}, [](const DeviceTraits&) { return sum_of(1e-4f); }, false);
  const auto run = run_registered("wrong/f32");
  EXPECT_TRUE(run.error_occurred);
  EXPECT_NE(run.error_message.find("out: the error is"), std::string::npos) << run.error_message;
  EXPECT_TRUE(any_failed());
}

TEST(BenchHarness, SaysWhatCannotRun) {
  bench::add({"impossible"}, [](Device&) -> std::unique_ptr<Case> {
    throw OutOfMemory("out of memory: everything");
  });
  const auto run = run_registered("impossible/f32");
  EXPECT_TRUE(run.error_occurred);
  EXPECT_EQ(run.error_message, "out of memory: everything");
}

/// Sleeps, so that its time is known.
class Sleep final : public Case {
 public:
  void run() override { std::this_thread::sleep_for(std::chrono::milliseconds(3)); }
  std::string error() const override { return ""; }
  Cost cost() const override { return {.flops = 6e6, .bytes = 3e6}; }
};

TEST(BenchHarness, CountsTheTimeOfTheCallAlone) {
  bench::add({"sleep"}, [](Device&) { return std::make_unique<Sleep>(); });
  const auto run = run_registered("sleep/f32");
  const double seconds = run.real_accumulated_time / static_cast<double>(run.iterations);
  EXPECT_GE(seconds, 3e-3);
  EXPECT_LT(seconds, 30e-3);
  EXPECT_NEAR(run.counters.at("FLOP/s").value, 6e6 / seconds, 1);
  EXPECT_NEAR(run.counters.at("bytes_per_second").value, 3e6 / seconds, 1);
  EXPECT_EQ(run.counters.at("side_by_side").value, 1);
}

// Writing over 256 MiB takes longer than ten milliseconds.
TEST(BenchHarness, FlushesTheCachesOutsideTheTime) {
  setenv("VITRINE_BENCH_QUICK", "0", 1);
  setenv("VITRINE_BENCH_COLD", "1", 1);
  bench::add({"cold"}, [](Device&) { return std::make_unique<Sleep>(); });
  bench::roof(Precision::fp32);  // measured before, so that the time is that of calls and flushes
  const auto start = std::chrono::steady_clock::now();
  const auto run = run_registered("cold/f32");
  const std::chrono::duration<double> wall = std::chrono::steady_clock::now() - start;
  setenv("VITRINE_BENCH_QUICK", "1", 1);
  unsetenv("VITRINE_BENCH_COLD");
  const auto iterations = static_cast<double>(run.iterations);
  EXPECT_LT(run.real_accumulated_time / iterations, 10e-3);
  EXPECT_GT(wall.count() / iterations, 10e-3);
  EXPECT_NE(run.report_label.find("cold caches"), std::string::npos) << run.report_label;
  EXPECT_GT(run.counters.at("roof").value, 0);
}

TEST(BenchHarness, RunsAChunkOnEachWorker) {
  bench::add({.name = "chunks", .chunk = true}, [](Device&) { return std::make_unique<Sleep>(); });
  const auto run = run_registered("chunks/f32");
  const double seconds = run.real_accumulated_time / static_cast<double>(run.iterations);
  EXPECT_GE(seconds, 3e-3);
  EXPECT_NEAR(run.counters.at("FLOP/s").value, 6e6 * device().workers() / seconds, 1);
  EXPECT_EQ(run.counters.at("side_by_side").value, device().workers());
}

TEST(BenchHarness, HoldsTheTimeAgainstTheRoof) {
  const Roof roof{.copies = {{.working_set = 1e9, .bytes_per_second = 1e9}},
                  .flops_per_second = 1e10};
  const auto counted = [&](const Cost& cost, double seconds) {
    benchmark::UserCounters counters;
    const auto* const registered = benchmark::RegisterBenchmark(
        ("roof/" + std::to_string(seconds)).c_str(), [&](benchmark::State& state) {
          for (auto _ : state) state.SetIterationTime(seconds);
          set_counters(state, cost, 1, roof, seconds);
        });
    const_cast<benchmark::internal::Benchmark*>(registered)->UseManualTime()->Iterations(1);
    return run_registered("roof/" + std::to_string(seconds)).counters;
  };
  auto moves = counted({.flops = 1e6, .bytes = 2e6}, 4e-3);  // 2 ms to move, 0.1 ms to compute
  EXPECT_NEAR(moves.at("floor_us").value, 2000, 1e-6);
  EXPECT_NEAR(moves.at("roof").value, 50, 1e-6);
  auto computes = counted({.flops = 1e8, .bytes = 2e6}, 40e-3);
  EXPECT_NEAR(computes.at("roof").value, 25, 1e-6);
}

TEST(BenchHarness, SamplesBothEnds) {
  EXPECT_EQ(sample(1, 5), (std::vector<std::int64_t>{0}));
  EXPECT_EQ(sample(100, 3), (std::vector<std::int64_t>{0, 49, 99}));
  EXPECT_EQ(sample(3, 64), (std::vector<std::int64_t>{0, 1, 2}));
}

TEST(Comparison, RefusesNumbersThatAreMissing) {
  Comparison nothing("y", DType::f32), fewer("y", DType::f32), poison("y", DType::f32);
  EXPECT_NE(nothing.error(), "");
  fewer.add({1}, {1, 2}, {1, 2});
  EXPECT_NE(fewer.error(), "");
  poison.add({1, std::nanf("")}, {1, 2}, {1, 2});
  EXPECT_NE(poison.error(), "");
}

const bool quick_for_all = [] {
  char program[] = "bench_harness_test", seconds[] = "--benchmark_min_time=0.01";
  char* arguments[] = {program, seconds, nullptr};
  int count = 2;
  benchmark::Initialize(&count, arguments);
  return setenv("VITRINE_BENCH_QUICK", "1", 1) == 0;
}();

}  // namespace
}  // namespace vitrine::bench
