// Walks a plan and calls the catalogue. Knows nothing about Vision Transformers.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "vitrine/device.h"
#include "vitrine/plan.h"
#include "vitrine/profile.h"

namespace vitrine {

/// What a run reads and writes besides the executor's own memory. All pointers are the device's.
struct RunArgs {
  const void* weights = nullptr;    ///< the flat buffer in the graph's working type
  std::vector<const void*> inputs;  ///< in the order of Plan::inputs
  std::int64_t valid_rows = 0;  ///< rows from here on are empty; chunks of empty rows are skipped
  bool accumulate = false;      ///< add to the gradients of the run before
};

class Executor {
 public:
  /// Allocates arenas, gradients and outputs. The plan is kept by reference.
  Executor(Device& device, const Plan& plan);

  bool has_row_input(const std::string& name) const;
  /// A row input of the whole batch, to be filled by the caller; the next set_state sends it.
  template <typename T>
  std::span<T> row_input(const std::string& name) {
    const std::span<char> bytes = row_input_bytes(name);
    return {reinterpret_cast<T*>(bytes.data()), bytes.size() / sizeof(T)};
  }
  /// Numbers of the coming run, sent together with the row inputs in one copy; `state.first_row` is
  /// the batch's, chunks follow from it.
  void set_state(const StepState& state);
  void run(const RunArgs& args);
  /// Adds the lanes' gradients up; after it `gradients` holds their sum.
  void sum_gradients();

  float* gradients() const { return gradients_.as<float>(); }
  const StepState* state() const { return step_.as<StepState>(); }
  /// Sums over all runs since the last reset, added up in chunk order.
  Metrics metrics() const;
  /// The same as of now, for later; see Readback.
  std::unique_ptr<Readback> read_metrics() const;
  Metrics metrics(Readback& readback) const;
  std::vector<Metrics> chunk_metrics() const;
  void set_chunk_metrics(const std::vector<Metrics>& metrics);
  void reset_metrics();
  /// A kept value of the whole batch, [count · rows, ...], copied to the host as f32.
  std::vector<float> output(ValueId value) const;

  // Timing: a run marks the beginning of each chunk and the end of each of its operations.
  std::int64_t points() const;
  /// Runs mark the stopwatch's points from `first` on; nullptr: none.
  void set_stopwatch(Stopwatch* stopwatch, std::int64_t first = 0);
  /// What a stopwatch's times are those of, in the order of the plan's steps.
  std::vector<StepOperation> timed_operations() const;
  /// The operations of the run that marked the points last.
  std::vector<Span> spans(const std::vector<double>& seconds) const;

 private:
  class Bound;
  class Ranges;
  std::span<char> row_input_bytes(const std::string& name);
  void run_chunk(const RunArgs& args, int worker, std::int64_t chunk, std::int64_t lane,
                 bool accumulate);
  void run_operation(const Node& node, const Operands& operands);

  Device& device_;
  const Plan& plan_;
  Buffer arenas_, gradients_, outputs_, constants_, step_, metrics_;
  std::vector<char> host_step_;
  Stopwatch* stopwatch_ = nullptr;
  std::int64_t first_point_ = 0;
  std::vector<int> workers_of_chunks_;  // of the last run; -1: the chunk was empty
};

}  // namespace vitrine
