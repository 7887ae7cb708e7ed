// Training and evaluation of a Vision Transformer on a device.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "vitrine/checkpoint.h"
#include "vitrine/dataset.h"
#include "vitrine/device.h"
#include "vitrine/executor.h"
#include "vitrine/optimizer.h"
#include "vitrine/recipe.h"
#include "vitrine/report.h"

namespace vitrine {

/// Throws BadInput when images of the data set cannot be fed to the model, or have classes it
/// lacks.
void check_data(const RunConfig& config, const Dataset& data);

/// Images on a device and the rows of one batch of them.
class BatchInputs {
 public:
  /// The stored images stay where they are when the device can read them there.
  BatchInputs(Device& device, const void* images, std::size_t bytes, std::int64_t rows);

  /// Rows beyond those given are empty (image −1, label −1).
  void set(const std::vector<BatchRow>& rows, const std::vector<std::int32_t>& labels);
  /// In the order a plan asks for them.
  std::vector<const void*> bind(const Plan& plan) const;
  std::int64_t valid_rows() const { return valid_rows_; }

 private:
  Device& device_;
  Buffer images_, rows_, labels_;
  std::int64_t capacity_, valid_rows_ = 0;
};

/// Forward passes over a data set.
struct EvaluationResult {
  double loss = 0, top1 = 0, top5 = 0;  ///< loss by the recipe's average; fractions
  std::int64_t samples = 0;
  double seconds = 0;
  std::vector<std::int64_t> confusion;       ///< [K, K] label × prediction
  std::vector<Misclassified> misclassified;  ///< the most confident mistakes, at most 40
  std::vector<float> logits;                 ///< [N, K], when asked for
  bool complete = true;                      ///< false: the observer stopped it
};

class Evaluator {
 public:
  Evaluator(Device& device, const RunConfig& config, const Dataset& data);

  const Plan& plan() const { return plan_; }
  /// `details`: confusion and misclassified; `logits`: keep them all.
  /// Told after each batch how many images are done; returns false to stop.
  using Observer = std::function<bool(std::int64_t)>;
  EvaluationResult run(const float* weights, bool details, bool logits = false,
                       const Observer& observer = {});

 private:
  void collect(std::int64_t begin, std::size_t count, EvaluationResult& result) const;

  const RunConfig& config_;
  const Dataset& data_;
  Plan plan_;
  Executor executor_;
  BatchInputs inputs_;
};

/// Told what happens; all calls come from the training thread.
class TrainObserver {
 public:
  virtual ~TrainObserver() = default;
  virtual void on_epoch_begin(std::int64_t /*epoch*/, std::int64_t /*images*/) {}
  /// After a step: images done in this epoch.
  virtual void on_step(std::int64_t /*images*/) {}
  /// After a log interval: the epoch's running means so far.
  virtual void on_log(std::int64_t /*images*/, const StepRecord& /*record*/, double /*top1*/,
                      std::int64_t /*skipped*/) {}
  /// While the epoch's evaluation runs.
  virtual void on_evaluate(std::int64_t /*images*/, std::int64_t /*of*/) {}
  virtual void on_epoch_end(const EpochRecord& /*record*/, bool /*best*/) {}
};

enum class TrainOutcome : std::uint8_t { finished, step_limit, interrupted };

/// One run. Everything that decides the numbers is in `config` and the data.
class Trainer {
 public:
  /// Plans and allocates; throws OutOfMemory with the largest batch that fits.
  Trainer(Device& device, const RunConfig& config, const Dataset& train, const Dataset& test,
          const std::filesystem::path& output);

  void initialize();
  void resume(const Checkpoint& checkpoint);
  /// Trains to the end, to `max_steps`, or until `interrupt` is set (the step is finished and a
  /// checkpoint written).
  TrainOutcome run(TrainObserver& observer, const std::atomic<bool>& interrupt);

  const Plan& plan() const { return plan_; }
  const TrainerState& state() const { return state_; }
  Profile profile() const { return executor_.profile(); }
  Buffer weights() const { return optimizer_.host_weights(); }
  EvaluationResult evaluate(bool details, TrainObserver& observer,
                            const std::atomic<bool>& interrupt);
  /// Bytes the plan announced for everything this run holds, the data sets included.
  std::int64_t planned_bytes() const;

 private:
  std::int64_t steps_per_epoch() const;
  void train_step(const std::vector<std::int64_t>& order, std::int64_t step_in_epoch);
  void run_micro_batch(const std::vector<std::int64_t>& order, std::int64_t begin, std::int64_t end,
                       StepState state, bool accumulate);
  StepRecord progress() const;
  void report_progress(TrainObserver& observer);
  EpochRecord end_epoch(const EvaluationResult& test);
  void save(const std::vector<std::string>& names);
  void write_metrics();

  Device& device_;
  RunConfig config_;
  const Dataset& train_;
  const Dataset& test_;
  std::filesystem::path output_;
  Plan plan_;
  Executor executor_;
  Optimizer optimizer_;
  BatchInputs inputs_;
  Evaluator evaluator_;
  Schedule schedule_;
  Transform transform_;
  TrainerState state_;
};

/// The report of a finished or interrupted run.
Report make_report(const RunConfig& config, const Trainer& trainer, const Dataset& test,
                   const EvaluationResult& result, const DeviceTraits& device);

}  // namespace vitrine
