// A training step taken apart: what each operation takes, and what the device could do.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "vitrine/plan.h"
#include "vitrine/profile.h"
#include "vitrine/recipe.h"

namespace vitrine {

struct StepProfileOptions {
  std::int64_t warm_up = 5;
  std::int64_t steps = 20;  ///< of each kind
  bool capture = false;     ///< for another profiler: measures nothing but the steps' rate
  RoofSizes roof;
};

/// Seconds are those of whole steps.
struct StepProfile {
  std::string model, device, description, precision, data;
  std::int64_t images_per_step = 0;
  Chunking chunking;
  Recompute recomputed;

  double first_step_seconds = 0;     ///< from the start of the process to the end of the first step
  std::vector<double> wall_seconds;  ///< of steps in a row, nothing measured inside
  std::vector<double> plain_seconds,
      timed_seconds;        ///< without and with times of operations, in turn
  double data_seconds = 0;  ///< of the host for a batch: choosing, cutting out, sending
  StepTimes times;
  Roof roof;

  double flops = 0, bytes = 0;  ///< of a step as it is planned
  double model_flops = 0;       ///< of a step by the model alone: 3 × forward, nothing pruned
  double planned_bytes = 0, peak_bytes = 0;  ///< of memory

  double images_per_second() const;
  /// Of the same steps, means: timed_step = operations + rest, where operations that run side by
  /// side share the device, and the rest starts work and waits for the last piece of it.
  double timed_step_seconds() const;
  double operation_seconds() const;
  double rest_seconds() const { return timed_step_seconds() - operation_seconds(); }
  /// The least that the operations of a step could take.
  double floor_seconds() const;
  /// What timing operations adds to a step: the median of the differences between neighbours.
  double overhead_seconds() const;
  /// Nineteen times in twenty that median lies so near the true one, were steps drawn at random.
  double overhead_noise() const;
};

/// Told how many images of how many are done; returns false to stop.
using ProfileObserver = std::function<bool(const char* what, std::int64_t images, std::int64_t of)>;

/// Trains on images of `data`, and leaves nothing. Throws OutOfMemory where the step does not fit,
/// Error when the observer stops it.
StepProfile profile_step(Device& device, const RunConfig& config, const Dataset& data,
                         const StepProfileOptions& options, const ProfileObserver& observer);

/// What a person reads: the rows of the table, the sums they are reconciled with, what to do next.
std::string to_text(const StepProfile& profile, ProfileBy by);
nlohmann::ordered_json to_json(const StepProfile& profile);
/// One page that needs nothing else: key figures, table, the last step as a timeline, roofline
/// plot.
std::string to_html(const StepProfile& profile);

double mean(const std::vector<double>& values);
/// The mean of the two in the middle where the number is even.
double median(std::vector<double> values);

}  // namespace vitrine
