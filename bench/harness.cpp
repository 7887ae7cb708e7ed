#include "harness.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <set>

#include "reference/inputs.h"
#include "vitrine/conversion.h"

namespace vitrine::bench {
namespace {

constexpr std::size_t kFlushedBytes = std::size_t{256} << 20;  // more than any cache holds
constexpr double kWarmSeconds = 1e-3;  // of calls in a row, so that the clock does not count

bool failed = false;

std::string environment(const char* name, const std::string& otherwise) {
  const char* text = std::getenv(name);
  return text != nullptr ? text : otherwise;
}

DeviceOptions device_options() {
  DeviceOptions options;
  options.name = environment("VITRINE_DEVICE", "cpu");
  options.threads = std::atoi(environment("VITRINE_THREADS", "0").c_str());
  options.tune = environment("VITRINE_TUNE", "");
  return options;
}

bool cold() {
  return on_gpu() || environment("VITRINE_BENCH_COLD", "0") == "1";
}

const char* suffix(Precision precision) {
  return precision == Precision::bf16 ? "bf16" : precision == Precision::tf32 ? "tf32" : "f32";
}

/// Writes over all caches. On a GPU it also gives the host time to submit what is timed.
class Flush {
 public:
  explicit Flush(Device& device)
      : device_(device),
        bytes_(quick() ? kFlushedBytes / 256 : kFlushedBytes),
        memory_(device.allocate(bytes_, "flush of the caches")) {}

  void run() {
    const std::size_t part = bytes_ / static_cast<std::size_t>(device_.workers());
    device_.for_each(device_.workers(), [&](int, std::int64_t i) {
      device_.fill_zero(memory_.as<char>() + static_cast<std::size_t>(i) * part, part);
    });
  }

 private:
  Device& device_;
  std::size_t bytes_;
  Buffer memory_;
};

/// What is timed: one case, or one for each worker.
class Work {
 public:
  Work(Device& device, const MakeCase& make, int side_by_side) : device_(device) {
    for (int i = 0; i < side_by_side; ++i) cases_.push_back(make(device));
  }

  int side_by_side() const { return static_cast<int>(cases_.size()); }
  Cost cost() const { return cases_[0]->cost(); }
  void run(std::int64_t calls) {
    device_.for_each(std::ssize(cases_), [&](int, std::int64_t i) {
      for (std::int64_t call = 0; call < calls; ++call) cases_[static_cast<std::size_t>(i)]->run();
    });
  }
  std::string error() const {
    for (const std::unique_ptr<Case>& one : cases_) {
      const std::string error = one->error();
      if (!error.empty()) return error;
    }
    return "";
  }

 private:
  Device& device_;
  std::vector<std::unique_ptr<Case>> cases_;
};

/// Of `calls` calls together.
double seconds_of(Stopwatch& stopwatch, Work& work, std::int64_t calls) {
  stopwatch.start();
  work.run(calls);
  stopwatch.mark(0);
  return stopwatch.seconds()[0];
}

/// Seconds a call, on average over the benchmark's iterations.
double time_work(benchmark::State& state, Device& device, Work& work) {
  const std::unique_ptr<Stopwatch> stopwatch = device.make_stopwatch(1);
  std::unique_ptr<Flush> flush;
  std::int64_t calls = 1;
  if (cold()) {
    flush = std::make_unique<Flush>(device);
  } else if (!quick()) {
    const double once = std::max(seconds_of(*stopwatch, work, 1), 1e-9);
    const double of_ten = once < kWarmSeconds ? seconds_of(*stopwatch, work, 10) / 10 : once;
    calls = static_cast<std::int64_t>(std::clamp(kWarmSeconds / of_ten, 1.0, 1e4));
    // Repetitions must have equal numbers of iterations, so windows have to fill them.
    const auto iterations = static_cast<std::int64_t>(state.max_iterations);
    calls = std::min(calls, iterations);
    while (iterations % calls != 0) --calls;
  }
  double seconds = 0;
  while (state.KeepRunningBatch(calls)) {
    if (flush) flush->run();
    const double window = seconds_of(*stopwatch, work, calls);
    state.SetIterationTime(window);
    seconds += window;
  }
  return seconds / static_cast<double>(state.iterations());
}

/// The rates that hold for the case: with cold caches those of the memory alone.
Roof roof_of_case(Precision precision) {
  Roof rates = roof(precision);
  if (cold() && !rates.copies.empty()) rates.copies = {rates.copies.back()};
  return rates;
}

}  // namespace

bool on_gpu() {
  return environment("VITRINE_DEVICE", "cpu").starts_with("cuda");
}

bool quick() {
  return environment("VITRINE_BENCH_QUICK", "0") == "1";
}

Device& device() {
  static const std::unique_ptr<Device> device = make_device(device_options());
  return *device;
}

const Roof& roof(Precision precision) {
  static const Roof none;
  static std::map<Precision, Roof> roofs;
  if (quick()) return none;
  const auto found = roofs.find(precision);
  if (found != roofs.end()) return found->second;
  return roofs[precision] = measure_roof(device(), precision);
}

std::vector<Precision> precisions() {
  if (!on_gpu()) return {Precision::fp32};
  return {Precision::bf16, Precision::fp32};
}

std::vector<Images> images(Precision precision) {
  if (quick()) {
    const shapes::Model tiny{"tiny", 3, 8, 4, 16, 2, 32, 10};
    if (on_gpu()) return {{tiny, 3}};
    return {{tiny, 3}, {tiny, 2, /*chunk=*/true}};
  }
  if (!on_gpu()) {
    return {{shapes::kMnistTutorial, shapes::kMnistTutorialChunk, /*chunk=*/true},
            {shapes::kCifar10Small, shapes::kCifar10SmallChunk, /*chunk=*/true},
            {shapes::kVitTiny, shapes::kVitTinyChunk}};
  }
  std::vector<Images> batches = {{shapes::kMnistTutorial, 128},
                                 {shapes::kCifar10Small, 256},
                                 {shapes::kVitTiny, 256},
                                 {shapes::kVitBase, 64}};
  if (precision == Precision::bf16) {
    batches.insert(batches.end(),
                   {{shapes::kVitSmall, 256}, {shapes::kVitBase, 256}, {shapes::kVitLarge, 64}});
  }
  return batches;
}

std::vector<std::int64_t> sample(std::int64_t n, std::int64_t most) {
  std::set<std::int64_t> chosen;
  for (std::int64_t i = 0; i < most; ++i) {
    chosen.insert(most == 1 ? 0 : i * (n - 1) / (most - 1));
  }
  return {chosen.begin(), chosen.end()};
}

float as_working(DType dtype, float number) {
  return dtype == DType::bf16 ? bf16_to_f32(f32_to_bf16(number)) : number;
}

void Comparison::add(const std::vector<float>& values, const std::vector<float>& naive,
                     const std::vector<double>& exact) {
  const std::vector<float> rounded = as_floats(converted(naive, dtype_), dtype_);
  values_.insert(values_.end(), values.begin(), values.end());
  naive_.insert(naive_.end(), rounded.begin(), rounded.end());
  exact_.insert(exact_.end(), exact.begin(), exact.end());
}

std::string Comparison::error() const {
  if (values_.size() != exact_.size() || naive_.size() != exact_.size() || exact_.empty()) {
    return what_ + ": found " + std::to_string(values_.size()) + " elements, expected " +
           std::to_string(exact_.size());
  }
  const double found = largest_error(values_, exact_), allowed = allowed_error(naive_, exact_);
  if (found <= allowed) return "";
  char text[96];
  std::snprintf(text, sizeof text, ": the error is %.3g, allowed is %.3g", found, allowed);
  return what_ + text;
}

std::string first_error(const std::vector<Comparison>& comparisons) {
  for (const Comparison& comparison : comparisons) {
    const std::string error = comparison.error();
    if (!error.empty()) return error;
  }
  return "";
}

void fail(benchmark::State& state, const std::string& message) {
  failed = true;
  std::fprintf(stderr, "%s\n", message.c_str());
  state.SkipWithError(message.c_str());
}

bool any_failed() {
  return failed;
}

void set_counters(benchmark::State& state, const Cost& cost, int side_by_side, const Roof& roof,
                  double seconds) {
  using benchmark::Counter;
  state.counters["side_by_side"] = side_by_side;
  state.counters["bytes_per_second"] =
      Counter(cost.bytes * side_by_side, Counter::kIsIterationInvariantRate, Counter::kIs1024);
  if (cost.flops > 0) {
    state.counters["FLOP/s"] =
        Counter(cost.flops * side_by_side, Counter::kIsIterationInvariantRate);
  }
  const double floor = roof.floor_seconds(cost.flops, cost.bytes, side_by_side);
  if (floor == 0) return;
  state.counters["floor_us"] = floor * 1e6;
  state.counters["roof"] = 100 * floor / seconds;
}

void run_case(benchmark::State& state, const Title& title, const MakeCase& make) {
  try {
    const Roof rates = roof_of_case(title.precision);
    Work work(device(), make, title.chunk ? device().workers() : 1);
    work.run(1);
    device().synchronize();
    const std::string wrong = work.error();
    if (!wrong.empty()) return fail(state, "wrong result: " + wrong);
    const double seconds = time_work(state, device(), work);
    set_counters(state, work.cost(), work.side_by_side(), rates, seconds);
    state.SetLabel(device().traits().description + (cold() ? ", cold caches" : ", warm caches") +
                   (title.chunk ? ", one for each worker" : ""));
  } catch (const std::exception& error) {
    fail(state, error.what());
  }
}

std::string Title::text() const {
  return name + "/" + suffix(precision) + (peer.empty() ? "" : "/peer:" + peer);
}

void add(const Title& title, const MakeCase& make) {
  auto* const registered = benchmark::RegisterBenchmark(title.text().c_str(), run_case, title, make)
                               ->UseManualTime()
                               ->Unit(benchmark::kMicrosecond);
  // A flush takes so much longer than most calls that their time alone would never be enough.
  constexpr double kSecondsOfCalls = 0.005;
  if (quick()) {
    registered->Iterations(1);
  } else if (cold()) {
    registered->MinTime(kSecondsOfCalls);
  }
}

}  // namespace vitrine::bench
