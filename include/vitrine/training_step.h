// One optimiser step: what a training repeats, a benchmark times and a profile takes apart.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "vitrine/batch_images.h"
#include "vitrine/dataset.h"
#include "vitrine/device.h"
#include "vitrine/executor.h"
#include "vitrine/optimizer.h"
#include "vitrine/profile.h"
#include "vitrine/recipe.h"

namespace vitrine {

/// Hands the executor the rows of the coming batch; those beyond them are empty (image −1, label
/// −1) and add nothing to losses, counts and gradients. `mixes`: one a row where the plan reads
/// "mixes" (VitOptions::label_mixes); without them no row is mixed.
void set_rows(Executor& executor, std::span<const BatchRow> rows,
              std::span<const std::int32_t> labels, std::span<const LabelMix> mixes = {});

/// Where a step stands in a training.
struct StepPosition {
  std::int64_t step = 0;         ///< optimiser steps before it
  std::int64_t epoch = 0;        ///< from 0
  std::int64_t first_image = 0;  ///< place of its first image in the order of the epoch
  double learning_rate = 0;
};

/// The update's operations over all parameters: sum_parts (without cost where nothing is summed),
/// gradient_norm, adamw. `ema`: weights are averaged.
std::vector<StepOperation> update_operations(const Plan& plan, bool ema = false);

/// What a step measures of itself. Where the device works beside the host, a step that measures
/// anything is waited for.
enum class Timing : std::uint8_t {
  none,
  step,       ///< from its first operation to its last
  operations  ///< and each operation
};

/// Forward, backward (once a micro-batch, adding gradients), the lanes' sum, the update. The work
/// is the same every time, so a device may record it; nothing waits for it.
class TrainingStep {
 public:
  /// Allocates what it needs. References are kept. `resident`: all images lie on the device.
  TrainingStep(Device& device, const Plan& plan, const RunConfig& config, const Dataset& data,
               bool resident);

  TrainingStep(const TrainingStep&) = delete;
  TrainingStep& operator=(const TrainingStep&) = delete;

  /// Before the first step of an epoch, or of what is left of one: see BatchImages.
  void begin_epoch(std::vector<std::int64_t> order, std::int64_t epoch, std::int64_t position) {
    images_->begin(std::move(order), epoch, position);
  }
  /// Submits the step for these images of the data set: at most batch_size · grad_accum_steps.
  void run(std::span<const std::int64_t> images, const StepPosition& position);

  Executor& executor() { return executor_; }
  const Executor& executor() const { return executor_; }
  Optimizer& optimizer() { return optimizer_; }
  const Optimizer& optimizer() const { return optimizer_; }

  void set_timing(Timing timing) { timing_ = timing; }
  /// Of the timed steps since the last reset.
  const StepTimes& times() const { return times_; }
  void reset_times();
  /// Of the last step, by Timing::step or Timing::operations: the device's seconds.
  double step_seconds() const { return step_seconds_; }
  /// The host's seconds for choosing, cutting out and sending the images, over all steps since the
  /// last reset, timed or not.
  double data_seconds() const { return data_seconds_; }
  void reset_data_seconds() { data_seconds_ = 0; }
  const BatchImages& images() const { return *images_; }

 private:
  /// The whole step; or, with micro-batches, its three parts.
  struct Programs {
    std::unique_ptr<Program> step, first, next, update;
  };
  Programs make_programs();
  void run_micro_batch(std::span<const std::int64_t> images, const StepPosition& position,
                       StepState state, Program& program);
  void run_program(Program& program, bool has_run, bool has_update);
  void gradients(bool accumulate);
  void update();
  void mark(std::int64_t point);
  bool times_operations() const { return timing_ == Timing::operations; }
  void collect(bool has_run, bool has_update);

  Device& device_;
  const Plan& plan_;
  const RunConfig& config_;
  Executor executor_;
  Optimizer optimizer_;
  std::unique_ptr<BatchImages> images_;
  std::int64_t valid_rows_ = 0;  // read when a program runs; where it is recorded, by its recording
  Timing timing_;                // at first of operations where that costs next to nothing
  std::unique_ptr<Stopwatch> stopwatch_;
  Programs plain_, timed_;  // recorded without and with the points of operations
  StepTimes times_;
  double step_seconds_ = 0;
  double data_seconds_ = 0;
};

}  // namespace vitrine
