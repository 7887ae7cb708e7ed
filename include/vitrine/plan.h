// A plan: when everything runs and where everything lives, known before anything is allocated.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "vitrine/device.h"
#include "vitrine/graph.h"

namespace vitrine {

/// How a batch is cut. Images do not touch each other before the loss, so `count` chunks of `rows`
/// images run through one small graph, and `lanes` runs of neighbouring chunks, each with its own
/// gradient buffer, may run side by side. Depends on model and batch alone, never on threads.
struct Chunking {
  std::int64_t batch = 0;
  std::int64_t rows = 0;
  std::int64_t count = 1;
  std::int64_t lanes = 1;
  bool operator==(const Chunking&) const = default;
};

/// Chooses the chunks of a batch from what one image needs.
Chunking choose_chunking(std::int64_t batch, std::int64_t activation_bytes_per_image,
                         std::int64_t parameter_count, const DeviceTraits& traits);

/// Where a value is found.
enum class Place : std::uint8_t {
  none,
  weights,
  gradients,
  inputs,
  rows,
  constants,
  arena,
  outputs
};
struct Location {
  Place place = Place::none;
  std::int64_t offset = 0;  ///< bytes; for inputs the index into Plan::inputs; rows: of the batch
};

/// One node with what the plan decided for it.
struct PlanStep {
  int node = -1;
  std::int64_t workspace_offset = 0;  ///< bytes into the arena
  std::int64_t workspace_floats = 0;
  bool copy_addend = false;  ///< the addend lives on and is copied to output 0 first
};

/// Bytes by what they are for; `total` is what a run allocates.
struct MemoryReport {
  std::int64_t weights = 0;      ///< master weights, and the working copy where it is another type
  std::int64_t gradients = 0;    ///< all lanes
  std::int64_t moments = 0;      ///< Adam's two
  std::int64_t average = 0;      ///< of the weights, where the recipe asks for one
  std::int64_t activations = 0;  ///< arenas of all workers
  std::int64_t outputs = 0;      ///< kept values, constants, and what changes each step
  std::int64_t evaluation = 0;   ///< beside a training, on the same weights
  std::int64_t runtime = 0;      ///< the device's libraries
  std::int64_t total() const {
    return weights + gradients + moments + average + activations + outputs + evaluation + runtime;
  }
};

class Plan {
 public:
  /// `graph` is for `chunking.rows` images and complete (backward included).
  Plan(Graph graph, const DeviceTraits& traits, const Chunking& chunking);

  const Graph& graph() const { return graph_; }
  const Chunking& chunking() const { return chunking_; }
  const std::vector<PlanStep>& steps() const { return steps_; }
  const Location& location(ValueId value) const { return locations_.at(value); }
  bool has_backward() const { return has_backward_; }
  /// The device's, with one piece an operation where chunks already run side by side.
  const DeviceTraits& traits() const { return traits_; }

  /// Elements of the flat parameter buffers; tensors start at multiples of 64 elements (256 bytes).
  std::int64_t parameter_elements() const { return parameter_elements_; }
  std::int64_t parameter_offset(int parameter) const { return parameter_offsets_.at(parameter); }
  std::int64_t arena_bytes() const { return arena_bytes_; }
  std::int64_t output_bytes() const { return output_bytes_; }
  std::int64_t constant_bytes() const { return constant_bytes_; }
  /// What changes from step to step and travels in one copy: a StepState a chunk, then the row
  /// inputs of the whole batch.
  std::int64_t step_bytes() const { return step_bytes_; }
  /// The values of kind `input`, which are given for each run.
  const std::vector<ValueId>& inputs() const { return inputs_; }

  MemoryReport memory(int workers) const;
  /// Of the whole batch, forward and backward.
  Cost cost() const;
  double forward_flops() const;

 private:
  struct Storage;
  void place_parameters();
  void place_arena();
  std::vector<int> last_uses() const;
  int share(const Node& node, int output, const std::vector<int>& storage_of,
            const std::vector<Storage>& storages, int step) const;

  Graph graph_;
  Chunking chunking_;
  DeviceTraits traits_;
  std::vector<PlanStep> steps_;
  std::vector<Location> locations_;
  std::vector<ValueId> inputs_;
  std::vector<std::int64_t> parameter_offsets_;
  std::int64_t parameter_elements_ = 0, arena_bytes_ = 0, output_bytes_ = 0, constant_bytes_ = 0;
  std::int64_t step_bytes_ = 0;
  bool has_backward_ = false;
};

/// Offsets in one arena for blocks that live in [first, last] (steps), greedy by size.
struct ArenaBlock {
  std::int64_t bytes = 0;
  int first = 0, last = 0;
  std::int64_t offset = 0;  ///< result
};
/// Fills the offsets (multiples of 256) and returns the arena's size.
std::int64_t place_blocks(std::vector<ArenaBlock>& blocks);

/// The largest n in [1, limit] with fits(n), 0 when there is none; fits must be monotone.
std::int64_t largest_that_fits(std::int64_t limit, const std::function<bool(std::int64_t)>& fits);

}  // namespace vitrine
