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

constexpr double kSecondsPerRate = 0.1;
constexpr std::int64_t kDrawn = std::int64_t{1} << 18;  // random numbers; more are these again

/// The least seconds of a call, of as many as some time has room for. A device beside the host has
/// it recorded: what the host takes to submit its parts does not count.
template <typename Work>
double best_seconds(Device& device, const Work& work) {
  const std::unique_ptr<Program> program = device.program("roof", work);
  const std::unique_ptr<Stopwatch> stopwatch = device.make_stopwatch(1);
  for (int warm_up = 0; warm_up < 2; ++warm_up) program->run();
  double best = INFINITY, total = 0;
  while (total < kSecondsPerRate) {
    stopwatch->start();
    program->run();
    stopwatch->mark(0);
    const double seconds = stopwatch->seconds()[0];
    best = std::min(best, seconds);
    total += std::max(seconds, kSecondsPerRate / 1000);
  }
  return best;
}

// Each worker fills its own piece: the pages then lie near it.
void fill_random(Device& device, const Buffer& buffer, DType dtype) {
  RandomStream random(1, 0);
  std::vector<float> numbers(static_cast<std::size_t>(kDrawn));
  for (float& number : numbers) number = static_cast<float>(random.normal());
  const std::vector<char> bytes = converted(numbers, dtype);
  const std::size_t piece = buffer.bytes() / static_cast<std::size_t>(device.workers());
  device.for_each(device.workers(), [&](int, std::int64_t worker) {
    char* begin = buffer.as<char>() + static_cast<std::size_t>(worker) * piece;
    for (std::size_t at = 0; at < piece; at += bytes.size()) {
      device.upload(begin + at, bytes.data(), std::min(bytes.size(), piece - at));
    }
  });
}

// Each worker copies its own half of the working set to the other half, again and again until that
// is worth a worker's while.
Roof::Copy copy_rate(Device& device, std::size_t working_set) {
  constexpr std::size_t kWorthwhile = std::size_t{4} << 20;
  const auto workers = static_cast<std::size_t>(device.workers());
  const std::size_t half = working_set / 2;
  const auto repeats = static_cast<std::int64_t>(std::max<std::size_t>(kWorthwhile / half, 1));
  const Buffer memory = device.allocate(workers * working_set, "roof: copy");
  fill_random(device, memory, DType::f32);
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
double product_rate(Device& device, Precision precision, std::int64_t n) {
  const DType type = working_type(precision);
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

// Whether `name` stands in the text between spaces; behind it also a dash or a comma.
bool names(const std::string& text, const std::string& name) {
  for (std::size_t at = text.find(name); at != std::string::npos; at = text.find(name, at + 1)) {
    const std::size_t end = at + name.size();
    const bool begins = at == 0 || text[at - 1] == ' ';
    if (begins && (end == text.size() || std::string(" -,").find(text[end]) != std::string::npos)) {
      return true;
    }
  }
  return false;
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

void add_datasheet(Roof& roof, const std::string& description, Precision precision) {
  if (description.find("Laptop") != std::string::npos) return;  // other chips under equal names
  for (const Datasheet& sheet : kDatasheets) {
    if (!names(description, sheet.name)) continue;
    const double teraflops = precision == Precision::bf16   ? sheet.bf16
                             : precision == Precision::tf32 ? sheet.tf32
                                                            : sheet.fp32;
    roof.datasheet = sheet.name;
    roof.datasheet_flops = teraflops * 1e12;
    roof.datasheet_bytes = sheet.bytes * 1e12;
    return;
  }
}

Roof measure_roof(Device& device, Precision precision, const RoofSizes& sizes) {
  Roof roof;
  roof.workers = device.workers();
  const bool gpu = device.traits().asynchronous;
  const std::int64_t smallest = std::int64_t{1} << (gpu ? 18 : 14);
  const std::int64_t largest = sizes.copy > 0 ? sizes.copy : std::int64_t{1} << (gpu ? 30 : 28);
  for (std::int64_t working_set = smallest; working_set <= largest; working_set *= 4) {
    if (4 * working_set * device.workers() > device.traits().memory) break;
    roof.copies.push_back(copy_rate(device, static_cast<std::size_t>(working_set)));
  }
  const std::int64_t suitable = gpu ? 8192 : 768;
  roof.flops_per_second =
      product_rate(device, precision, sizes.product > 0 ? sizes.product : suitable);
  add_datasheet(roof, device.traits().description, precision);
  return roof;
}

}  // namespace vitrine
