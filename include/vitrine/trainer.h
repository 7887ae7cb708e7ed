// Training and evaluation of a Vision Transformer on a device.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "vitrine/checkpoint.h"
#include "vitrine/dataset.h"
#include "vitrine/device.h"
#include "vitrine/exchange.h"
#include "vitrine/executor.h"
#include "vitrine/optimizer.h"
#include "vitrine/recipe.h"
#include "vitrine/report.h"
#include "vitrine/training_step.h"

namespace vitrine {

class EventFile;

/// Throws BadInput when images of the data set cannot be fed to the model, or have classes it
/// lacks.
void check_data(const RunConfig& config, const Dataset& data);

/// What a run and its evaluation hold on a device.
struct Footprint {
  Recompute recompute;                               ///< of training
  bool train_resident = true, test_resident = true;  ///< all images lie where the device reads them
  std::int64_t bytes = 0;                            ///< that the device has to have
  std::int64_t planned = 0;  ///< the same and, where the device reads host memory, the images there
};

/// Forward passes over a data set.
struct EvaluationResult {
  double loss = 0, top1 = 0, top5 = 0;  ///< loss by the recipe's average; fractions
  std::int64_t samples = 0;
  double seconds = 0;
  std::vector<std::int64_t> confusion;       ///< [K, K] label × prediction
  std::vector<Misclassified> misclassified;  ///< the most confident mistakes, at most 40
  std::vector<std::int64_t> recognised;      ///< [K] first right image of each class; −1: none
  std::vector<float> logits;                 ///< [N, K], when asked for
  bool complete = true;                      ///< false: the observer stopped it
};

class Evaluator {
 public:
  /// `resident`: whether all images lie on the device; by default where they fit beside the rest.
  Evaluator(Device& device, const RunConfig& config, const Dataset& data,
            std::optional<bool> resident = {});

  const Plan& plan() const { return plan_; }
  const BatchImages& images() const { return *images_; }
  /// `details`: confusion and misclassified; `logits`: keep them all.
  /// Told after each batch how many images are done; returns false to stop.
  using Observer = std::function<bool(std::int64_t)>;
  EvaluationResult run(const void* weights, bool details, bool logits = false,
                       const Observer& observer = {});

 private:
  struct Mistake {
    std::int64_t image, label, predicted;
    float probability;
  };
  void collect(std::int64_t begin, std::size_t count, EvaluationResult& result,
               std::vector<Mistake>& mistakes) const;
  void run_batch(std::int64_t begin, std::int64_t end);

  Device& device_;
  const RunConfig& config_;
  const Dataset& data_;
  bool resident_;
  Plan plan_;
  Executor executor_;
  std::unique_ptr<BatchImages> images_;
  const void* weights_ = nullptr;
  std::int64_t valid_rows_ = 0;
  std::vector<std::int32_t> labels_;  // of the last batch
  std::unique_ptr<Program> forward_;
};

/// Told what happens; all calls come from the training thread.
class TrainObserver {
 public:
  virtual ~TrainObserver() = default;
  virtual void on_epoch_begin(std::int64_t /*epoch*/, std::int64_t /*images*/) {}
  /// After a step was submitted: images of this epoch so far.
  virtual void on_step(std::int64_t /*images*/) {}
  /// When the sums of a log interval have arrived, perhaps some steps later: the epoch's running
  /// means at that step, when `images` were done.
  virtual void on_log(std::int64_t /*images*/, const StepRecord& /*record*/, double /*top1*/,
                      std::int64_t /*skipped*/) {}
  /// While the epoch's evaluation runs.
  virtual void on_evaluate(std::int64_t /*images*/, std::int64_t /*of*/) {}
  virtual void on_epoch_end(const EpochRecord& /*record*/, bool /*best*/) {}
  /// Something the user should know, in one line.
  virtual void on_notice(const std::string& /*line*/) {}
};

enum class TrainOutcome : std::uint8_t { finished, step_limit, interrupted };

/// One run. Everything that decides the numbers is in `config` and the data.
class Trainer {
 public:
  /// Plans and allocates; throws OutOfMemory with the largest batch that fits.
  Trainer(Device& device, const RunConfig& config, const Dataset& train, const Dataset& test,
          const std::filesystem::path& output);
  ~Trainer();

  /// Initial weights, or those of the recipe's initial_checkpoint: the report tells what became of
  /// them. Throws BadInput.
  std::optional<WeightReport> initialize(const Adaptation& adaptation = {});
  void resume(const Checkpoint& checkpoint);
  /// Trains to the end, to `max_steps`, or until `interrupt` is set (the step is finished and a
  /// checkpoint written).
  TrainOutcome run(TrainObserver& observer, const std::atomic<bool>& interrupt);

  const Plan& plan() const { return plan_; }
  const Dataset& data() const { return train_; }
  const TrainerState& state() const { return state_; }
  /// What workers did to decode the training pictures since the start of the process.
  DataTimes data_times() const { return step_.images().times(); }
  /// By operation; empty where the device works beside the host.
  Profile profile() const;
  Buffer weights() const { return step_.optimizer().host_weights(); }
  /// What the graph reads on the device, in its working type.
  const void* device_weights() const { return step_.optimizer().weights(); }
  EvaluationResult evaluate(bool details, TrainObserver& observer,
                            const std::atomic<bool>& interrupt);
  /// Bytes the plan announced for everything this run holds, the data sets included.
  std::int64_t planned_bytes() const { return footprint_.planned; }

 private:
  std::int64_t steps_per_epoch() const;
  bool stops_early(TrainObserver& observer) const;
  std::vector<std::int64_t> begin_epoch();
  void train_step(const std::vector<std::int64_t>& order, std::int64_t step_in_epoch);
  void note_tuning(TrainObserver& observer);
  void note_broken_pictures(TrainObserver& observer);
  void read_progress(std::int64_t images);
  void report_progress(TrainObserver& observer, bool wait);
  EvaluationResult evaluate_weights(const void* weights, bool details, TrainObserver& observer,
                                    const std::atomic<bool>& interrupt);
  EpochRecord end_epoch(const EvaluationResult& test,
                        const std::optional<EvaluationResult>& average);
  void save(const std::vector<std::string>& names);
  void write_metrics();
  EventFile& events();
  void log_epoch(const EpochRecord& record);

  /// The device's sums at a log interval, on their way to the host.
  struct Progress {
    std::int64_t step, step_in_epoch, images;
    std::unique_ptr<Readback> metrics, optimizer;
  };

  Device& device_;
  RunConfig config_;
  const Dataset& train_;
  const Dataset& test_;
  std::filesystem::path output_;
  Footprint footprint_;
  Plan plan_;
  TrainingStep step_;
  Evaluator evaluator_;
  Schedule schedule_;
  TrainerState state_;
  std::optional<std::string>
      resumed_tuning_;  // of the checkpoint, until the first step is compared
  std::deque<Progress> progress_;
  std::set<std::string> noted_;  // messages of broken pictures
  std::unique_ptr<EventFile> events_;
};

/// The report of a finished or interrupted run. Where its pictures cannot be drawn, for want of
/// memory or because the device fails, the report goes without and says why, and so does a notice.
Report make_report(Device& device, const RunConfig& config, const Trainer& trainer,
                   const Dataset& test, const EvaluationResult& result, TrainObserver& observer);

}  // namespace vitrine
