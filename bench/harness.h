// What the benchmarks of kernels share: a device, a roof, and one way to check and to time.
//
// A case is checked against its reference before it is timed; one that is wrong has no time. Large
// results are checked in a sample: some rows, heads or images, the first and the last among them.
// Each time is the device's own (CUDA events on a GPU, the host's clock on the CPU). On a GPU the
// caches are flushed before every call, outside the time; on the CPU they are warm, as within a
// chunk of a plan, unless VITRINE_BENCH_COLD=1.
//
//   VITRINE_DEVICE        cpu, cuda or cuda:N [cpu]
//   VITRINE_THREADS       threads of the CPU device [one per processor]
//   VITRINE_TUNE          file of matmul algorithms, as `vitrine train --tune`
//   VITRINE_BENCH_COLD    1: flush the caches on the CPU too
//   VITRINE_BENCH_QUICK   1: the smallest shape of each kind, once, without a roof: a test
//
// Counters: bytes_per_second and FLOP/s by what the graph counts of the operation, every operand
// passing once; floor_us, the least time for that by the rates measured in the same process; roof,
// the percentage of it that is reached; side_by_side, the calls that run at a time, one a worker,
// all of which the rates count. A peer has the counters of the operation it stands beside; a plain
// copy those of its bytes.
#pragma once

#include <benchmark/benchmark.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "shapes.h"
#include "vitrine/device.h"
#include "vitrine/graph.h"
#include "vitrine/profile.h"

namespace vitrine::bench {

/// Something that is checked and timed.
class Case {
 public:
  virtual ~Case() = default;
  /// Submits the work.
  virtual void run() = 0;
  /// What is wrong with the results of one run; "" when nothing is.
  virtual std::string error() const = 0;
  virtual Cost cost() const = 0;
};

using MakeCase = std::function<std::unique_ptr<Case>(Device&)>;

/// One benchmark: "OPERATION/KEY:value/…/f32", "…/tf32" or "…/bf16"; of a peer "…/bf16/peer:NAME".
struct Title {
  std::string name;  ///< up to the precision
  Precision precision = Precision::fp32;
  bool chunk = false;  ///< each of the device's workers runs one, as the chunks of a plan do
  std::string peer = {};

  std::string text() const;
  Title with_peer(const std::string& its_name) const { return {name, precision, chunk, its_name}; }
};

void add(const Title& title, const MakeCase& make);

/// Has `add_all` called when the program starts.
struct Registration {
  explicit Registration(void (*add_all)());
};

/// The work of every benchmark. One that cannot run, out of memory for example, leaves the others
/// their turn.
void run_case(benchmark::State& state, const Title& title, const MakeCase& make);
/// Ends a benchmark; the program's exit status will be 1.
void fail(benchmark::State& state, const std::string& message);
bool any_failed();

/// Calls of that cost, `side_by_side` at a time in `seconds`, against the roof.
void set_counters(benchmark::State& state, const Cost& cost, int side_by_side, const Roof& roof,
                  double seconds);

/// Whether the benchmarks are of a GPU, by VITRINE_DEVICE; opens no device.
bool on_gpu();
bool quick();
/// The device of the program.
Device& device();
/// Of the device, measured when first asked for; empty when quick.
const Roof& roof(Precision precision);

/// In what the device offers: fp32 on the CPU, bf16 and fp32 on a GPU.
std::vector<Precision> precisions();

/// Some images of a model.
struct Images {
  shapes::Model model;
  std::int64_t batch;
  bool chunk = false;  ///< of a larger batch

  std::int64_t rows() const { return batch * model.tokens(); }
};
/// What the device is given at a time: chunks of the small presets and ViT-Ti on the CPU, whole
/// batches on a GPU, of all sizes in bf16 and of some in the other precisions.
std::vector<Images> images(Precision precision);

/// Evenly spread over [0, n), first and last among them; at most `most`.
std::vector<std::int64_t> sample(std::int64_t n, std::int64_t most);

/// The number after a trip through memory of that type.
float as_working(DType dtype, float number);

/// An output, or pieces of it, held to the error rule of the tests.
class Comparison {
 public:
  Comparison(std::string what, DType dtype) : what_(std::move(what)), dtype_(dtype) {}

  /// `naive` as an implementation in float computes it; it is rounded to the type here.
  void add(const std::vector<float>& values, const std::vector<float>& naive,
           const std::vector<double>& exact);
  /// "" or what differs by how much, and how much is allowed.
  std::string error() const;

 private:
  std::string what_;
  DType dtype_;
  std::vector<float> values_, naive_;
  std::vector<double> exact_;
};

/// The first that is not empty.
std::string first_error(const std::vector<Comparison>& comparisons);

}  // namespace vitrine::bench
