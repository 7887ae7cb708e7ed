// What a device reaches: copies of rising size, and a large matrix product.
//
//   floor = max(FLOPs / product rate, bytes / copy rate of that working set)
//
// after the roofline model (Williams et al. 2009, doi:10.1145/1498765.1498785), with a copy rate
// for each level of the memory in the place of one for all. Each rate is the best of several runs.
#include <algorithm>
#include <cmath>
#include <utility>

#include "vitrine/conversion.h"
#include "vitrine/profile.h"
#include "vitrine/random.h"

namespace vitrine {
namespace {

constexpr double kSecondsPerRate = 0.02;  // of work that is timed at once
constexpr int kRuns = 5;
constexpr std::int64_t kDrawn = std::int64_t{1} << 18;  // random numbers; more are these again

/// The least seconds of one call, by calling it as often as fills some time.
template <typename Work>
double best_seconds(Device& device, const Work& work) {
  const std::unique_ptr<Stopwatch> stopwatch = device.make_stopwatch(1);
  const auto seconds_of = [&](std::int64_t calls) {
    stopwatch->start();
    for (std::int64_t i = 0; i < calls; ++i) work();
    stopwatch->mark(0);
    return stopwatch->seconds()[0];
  };
  work();
  const double once = std::max(seconds_of(3) / 3, 1e-9);
  const auto calls = static_cast<std::int64_t>(std::clamp(kSecondsPerRate / once, 1.0, 1e5));
  double best = once;
  for (int run = 0; run < kRuns; ++run) {
    best = std::min(best, seconds_of(calls) / static_cast<double>(calls));
  }
  return best;
}

void fill_random(Device& device, const Buffer& buffer, DType dtype) {
  RandomStream random(1, 0);
  std::vector<float> numbers(static_cast<std::size_t>(kDrawn));
  for (float& number : numbers) number = static_cast<float>(random.normal());
  const std::vector<char> bytes = converted(numbers, dtype);
  for (std::size_t at = 0; at < buffer.bytes(); at += bytes.size()) {
    device.upload(buffer.as<char>() + at, bytes.data(),
                  std::min(bytes.size(), buffer.bytes() - at));
  }
}

// Each worker copies its own half of the working set to the other half.
Roof::Copy copy_rate(Device& device, std::size_t working_set) {
  const auto workers = static_cast<std::size_t>(device.workers());
  const std::size_t half = working_set / 2;
  const Buffer memory = device.allocate(workers * working_set, "roof: copy");
  fill_random(device, memory, DType::f32);
  // A piece is so much that handing it to a worker does not count.
  const auto repeats = static_cast<std::int64_t>(
      device.traits().asynchronous ? 1 : std::max<std::size_t>((std::size_t{4} << 20) / half, 1));
  const double seconds = best_seconds(device, [&] {
    device.for_each(device.workers(), [&](int, std::int64_t piece) {
      char* from = memory.as<char>() + static_cast<std::size_t>(piece) * working_set;
      for (std::int64_t i = 0; i < repeats; ++i) device.copy(from + half, from, half);
    });
  });
  const double bytes = static_cast<double>(workers * 2 * half) * static_cast<double>(repeats);
  return {.working_set = static_cast<double>(working_set), .bytes_per_second = bytes / seconds};
}

// Each worker multiplies its own matrices.
double product_rate(Device& device, Precision precision) {
  const DType type = working_type(precision);
  const std::int64_t n = device.traits().asynchronous ? 8192 : 768;
  const std::int64_t bytes = n * n * size_of(type);
  const std::int64_t workers = device.workers();
  const Buffer memory =
      device.allocate(static_cast<std::size_t>(3 * bytes * workers), "roof: product");
  fill_random(device, memory, type);
  const double seconds = best_seconds(device, [&] {
    device.for_each(workers, [&](int, std::int64_t piece) {
      char* at = memory.as<char>() + 3 * bytes * piece;
      Matmul args;
      args.out = {at, n * n, type};
      args.a = {at + bytes, n * n, type};
      args.b = {at + 2 * bytes, n * n, type};
      args.m = args.n = args.k = n;
      args.transpose_b = true;
      args.tf32 = precision == Precision::tf32;
      device.kernels().matmul(args);
    });
  });
  return 2.0 * std::pow(static_cast<double>(n), 3) * static_cast<double>(workers) / seconds;
}

struct Datasheet {
  const char* name;
  double bf16, tf32, fp32;  // TFLOP/s, dense; fp32 outside the tensor cores
  double bytes;             // TB/s
};

// NVIDIA's data sheets. A name that is part of another comes after it.
constexpr Datasheet kDatasheets[] = {{"H200 NVL", 835, 417, 60, 4.8},
                                     {"H200", 989, 494, 67, 4.8},
                                     {"H100 NVL", 835, 417, 60, 3.9},
                                     {"H100 PCIe", 756, 378, 51, 2.0},
                                     {"H100", 989, 494, 67, 3.35},
                                     {"B200", 2250, 1125, 80, 8.0},
                                     {"A100-PCIE-40GB", 312, 156, 19.5, 1.555},
                                     {"A100-SXM4-40GB", 312, 156, 19.5, 1.555},
                                     {"A100", 312, 156, 19.5, 2.039},
                                     {"L40S", 362, 183, 91.6, 0.864},
                                     {"L4", 121, 60, 30.3, 0.3},
                                     {"RTX 4090", 165.2, 82.6, 82.6, 1.008},
                                     {"RTX 3090", 71, 35.6, 35.6, 0.936},
                                     {"A10", 125, 62.5, 31.2, 0.6}};

void add_datasheet(Roof& roof, const std::string& description, Precision precision) {
  for (const Datasheet& sheet : kDatasheets) {
    if (description.find(sheet.name) == std::string::npos) continue;
    const double teraflops = precision == Precision::bf16   ? sheet.bf16
                             : precision == Precision::tf32 ? sheet.tf32
                                                            : sheet.fp32;
    roof.datasheet = sheet.name;
    roof.datasheet_flops = teraflops * 1e12;
    roof.datasheet_bytes = sheet.bytes * 1e12;
    return;
  }
}

}  // namespace

double Roof::bytes_per_second(double working_set) const {
  if (copies.empty()) return 0;
  const auto above = std::find_if(copies.begin(), copies.end(), [&](const Copy& copy) {
    return copy.working_set >= working_set;
  });
  if (above == copies.end()) return copies.back().bytes_per_second;
  if (above == copies.begin()) return copies.front().bytes_per_second;
  const Copy& below = *(above - 1);
  const double share =
      std::log(working_set / below.working_set) / std::log(above->working_set / below.working_set);
  return below.bytes_per_second + share * (above->bytes_per_second - below.bytes_per_second);
}

double Roof::floor_seconds(double flops, double bytes, int side_by_side) const {
  const double pieces = side_by_side;
  const double computing = flops_per_second > 0 ? flops * pieces / flops_per_second : 0;
  const double rate = bytes_per_second(bytes * pieces / workers);
  return std::max(computing, rate > 0 ? bytes * pieces / rate : 0);
}

Roof measure_roof(Device& device, Precision precision) {
  Roof roof;
  roof.workers = device.workers();
  const bool gpu = device.traits().asynchronous;
  const int smallest = gpu ? 18 : 14, largest = gpu ? 30 : 28;
  for (int power = smallest; power <= largest; power += 2) {
    const std::size_t working_set = std::size_t{1} << power;
    const auto needed = static_cast<std::int64_t>(working_set) * device.workers();
    if (4 * needed > device.traits().memory) break;
    roof.copies.push_back(copy_rate(device, working_set));
  }
  roof.flops_per_second = product_rate(device, precision);
  add_datasheet(roof, device.traits().description, precision);
  return roof;
}

}  // namespace vitrine
