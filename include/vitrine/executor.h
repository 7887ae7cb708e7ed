// Walks a plan and calls the catalogue. Knows nothing about Vision Transformers.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "vitrine/device.h"
#include "vitrine/plan.h"
#include "vitrine/profile.h"

namespace vitrine {

/// What a run reads and writes besides the executor's own memory. All pointers are the device's.
struct RunArgs {
  const float* weights = nullptr;
  std::vector<const void*> inputs;  ///< in the order of Plan::inputs
  std::int64_t valid_rows = 0;  ///< rows from here on are empty; chunks of empty rows are skipped
  bool accumulate = false;      ///< add to the gradients of the run before
};

class Executor {
 public:
  /// Allocates arenas, gradients and outputs. The plan is kept by reference.
  Executor(Device& device, const Plan& plan);

  /// Numbers of the coming run; `state.first_row` is the batch's, chunks follow from it.
  void set_state(const StepState& state);
  void run(const RunArgs& args);
  /// Adds the lanes' gradients up; after it `gradients` holds their sum.
  void sum_gradients();

  float* gradients() const { return gradients_.as<float>(); }
  const StepState* state() const { return states_.as<StepState>(); }
  /// Sums over all runs since the last reset, added up in chunk order.
  Metrics metrics() const;
  std::vector<Metrics> chunk_metrics() const;
  void set_chunk_metrics(const std::vector<Metrics>& metrics);
  void reset_metrics();
  /// A kept value of the whole batch, [count · rows, ...], copied to the host.
  std::vector<float> output(ValueId value) const;

  /// Time by node, summed over workers.
  Profile profile() const;
  void reset_profile();

 private:
  class Bound;
  struct StepTime {
    double seconds = 0;
    std::int64_t calls = 0;
  };
  void run_chunk(const RunArgs& args, int worker, std::int64_t chunk, std::int64_t lane,
                 bool accumulate);

  Device& device_;
  const Plan& plan_;
  Buffer arenas_, gradients_, outputs_, constants_, states_, metrics_;
  std::vector<std::vector<StepTime>> times_;  // [worker][step]
};

}  // namespace vitrine
