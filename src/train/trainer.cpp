// The training loop.
//
// The loop submits steps and waits for none of them before the epoch ends.
#include "vitrine/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "io/event_file.h"
#include "io/format.h"
#include "train/footprint.h"

namespace vitrine {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

void check_batch(const Recipe& recipe, const Dataset& train) {
  if (recipe.batch_size * recipe.grad_accum_steps <= train.size()) return;
  throw BadInput("batch_size: found " + std::to_string(recipe.batch_size) + " x " +
                 std::to_string(recipe.grad_accum_steps) +
                 " grad_accum_steps, expected at most the " + std::to_string(train.size()) +
                 " images of " + train.name);
}

// " (other processes hold 70.0 GiB)"
std::string held_by_others(const DeviceTraits& traits) {
  if (traits.held_by_others == 0) return "";
  return " (other processes hold " + format_bytes(static_cast<double>(traits.held_by_others)) + ")";
}

// "; the largest batch that fits is 96"
std::string largest_batch_hint(RunConfig config, const Dataset& train, const Dataset& test,
                               Device& device) {
  const std::int64_t batch = largest_that_fits(config.recipe.batch_size, [&](std::int64_t size) {
    config.recipe.batch_size = size;
    return footprint(config, train, test, device.traits(), device.workers()).bytes <=
           device.traits().memory;
  });
  return batch > 0 ? "; the largest batch that fits is " + std::to_string(batch)
                   : "; not even a batch of 1 fits";
}

Footprint checked_footprint(const RunConfig& config, const Dataset& train, const Dataset& test,
                            Device& device) {
  check_data(config, train);
  check_data(config, test);
  check_batch(config.recipe, train);
  const Footprint found = footprint(config, train, test, device.traits(), device.workers());
  if (found.bytes <= device.traits().memory) return found;
  throw OutOfMemory("out of memory: batch_size " + std::to_string(config.recipe.batch_size) +
                    " needs " + format_bytes(static_cast<double>(found.bytes)) + ", free are " +
                    format_bytes(static_cast<double>(device.traits().memory)) +
                    held_by_others(device.traits()) +
                    largest_batch_hint(config, train, test, device));
}

// A position inside an epoch means the same images only while the batches stay as they were.
void check_position(const Checkpoint& checkpoint, const Recipe& recipe, std::int64_t steps,
                    std::int64_t chunks) {
  const TrainerState& state = checkpoint.state;
  const std::string source = (checkpoint.directory / "trainer_state.json").string();
  auto fail = [&](const char* key, std::int64_t found, const std::string& expected) {
    throw BadInput(source + ": " + key + ": found " + std::to_string(found) + ", expected " +
                   expected);
  };
  if (state.step < 0) fail("step", state.step, "at least 0");
  if (state.epoch < 0) fail("epoch", state.epoch, "at least 0");
  if (state.step_in_epoch == 0) return;
  const Recipe& before = checkpoint.config.recipe;
  if (before.batch_size != recipe.batch_size ||
      before.grad_accum_steps != recipe.grad_accum_steps) {
    auto batches = [](const Recipe& r) {
      return std::to_string(r.batch_size) + " x " + std::to_string(r.grad_accum_steps) +
             " grad_accum_steps";
    };
    throw BadInput("batch_size: found " + batches(recipe) + ", expected " + batches(before) +
                   " until the epoch is done in which " + source + " stopped");
  }
  if (before.freeze != recipe.freeze) {  // the plan may cut batches otherwise
    throw BadInput("freeze: found " + nlohmann::json(recipe.freeze).dump() + ", expected " +
                   nlohmann::json(before.freeze).dump() + " until the epoch is done in which " +
                   source + " stopped");
  }
  // All steps done: the evaluation that ends the epoch was interrupted.
  if (state.step_in_epoch < 0 || state.step_in_epoch > steps) {
    fail("step_in_epoch", state.step_in_epoch, "0 to " + std::to_string(steps));
  }
  const auto found = static_cast<std::int64_t>(state.metrics.size());
  if (found != chunks) fail("metrics", found, std::to_string(chunks) + " entries");
}

// The number of the first of the best epochs.
std::int64_t best_of(const std::vector<EpochRecord>& epochs, EvalMetric metric) {
  const auto quality = [&](const EpochRecord& r) {
    switch (metric) {
      case EvalMetric::top1:
        return r.has_ema() ? r.ema_top1 : r.test_top1;
      case EvalMetric::top5:
        return r.has_ema() ? r.ema_top5 : r.test_top5;
      case EvalMetric::loss:
        break;
    }
    const double loss = r.has_ema() ? r.ema_loss : r.test_loss;
    return std::isnan(loss) ? -std::numeric_limits<double>::infinity() : -loss;
  };
  const auto best = std::max_element(
      epochs.begin(), epochs.end(),
      [&](const EpochRecord& a, const EpochRecord& b) { return quality(a) < quality(b); });
  return best->epoch;
}

}  // namespace

void check_data(const RunConfig& config, const Dataset& data) {
  const VitConfig& model = config.model;
  if (data.channels != model.num_channels) {
    throw BadInput(data.name + ": num_channels: found " + std::to_string(data.channels) +
                   ", expected the model's " + std::to_string(model.num_channels));
  }
  if (data.num_classes() > model.num_classes) {
    throw BadInput(data.name + ": num_classes: found " + std::to_string(data.num_classes()) +
                   ", expected at most the model's " + std::to_string(model.num_classes));
  }
}

Trainer::Trainer(Device& device, const RunConfig& config, const Dataset& train, const Dataset& test,
                 const std::filesystem::path& output)
    : device_(device),
      config_(config),
      train_(train),
      test_(test),
      output_(output),
      footprint_(checked_footprint(config, train, test, device)),
      plan_(
          plan_vit(config.model,
                   training_options(config, train, footprint_.train_resident, footprint_.recompute),
                   config.recipe.batch_size, device.traits())),
      step_(device, plan_, config_, train, footprint_.train_resident),
      evaluator_(device, config_, test, footprint_.test_resident) {
  const auto per_epoch = static_cast<double>(steps_per_epoch());
  const Recipe& recipe = config.recipe;
  schedule_ = {.kind = recipe.sched,
               .lr = recipe.lr,
               .min_lr = recipe.min_lr,
               .warmup_lr = recipe.warmup_lr,
               .warmup_steps = recipe.warmup_steps > 0
                                   ? recipe.warmup_steps
                                   : std::llround(recipe.warmup_epochs * per_epoch),
               .total_steps = std::llround(static_cast<double>(recipe.epochs) * per_epoch)};
}

Trainer::~Trainer() = default;

std::int64_t Trainer::steps_per_epoch() const {
  const std::int64_t images = config_.recipe.batch_size * config_.recipe.grad_accum_steps;
  return config_.recipe.drop_last ? train_.size() / images : (train_.size() + images - 1) / images;
}

std::optional<WeightReport> Trainer::initialize(const Adaptation& adaptation) {
  std::optional<WeightReport> report;
  step_.optimizer().upload_weights(start_weights(config_, plan_, adaptation, report));
  return report;
}

void Trainer::resume(const Checkpoint& checkpoint) {
  check_same_model(checkpoint, config_);
  check_position(checkpoint, config_.recipe, steps_per_epoch(), plan_.chunking().count);
  const Tensors tensors = load_tensors(checkpoint, plan_);
  state_ = checkpoint.state;
  resumed_tuning_ = state_.tuning;
  step_.optimizer().upload_weights(tensors.weights);
  if (step_.optimizer().has_ema() && !tensors.ema.empty()) {
    step_.optimizer().upload_ema(tensors.ema);
  }
  step_.optimizer().upload_moments(tensors.first_moment, tensors.second_moment, state_.optimizer);
  if (state_.step_in_epoch > 0) step_.executor().set_chunk_metrics(state_.metrics);
}

// Asked before an epoch, so that a run that is resumed after its end has ended still.
bool Trainer::stops_early(TrainObserver& observer) const {
  const std::int64_t patience = config_.recipe.early_stopping;
  if (patience == 0 || state_.epochs.empty() || state_.step_in_epoch > 0) return false;
  const std::int64_t best = best_of(state_.epochs, config_.recipe.eval_metric);
  if (state_.epoch - best < patience) return false;
  observer.on_notice("early stopping: no epoch was better than epoch " + std::to_string(best));
  return true;
}

// The epoch's images in order, the rest of which is under way from now on.
std::vector<std::int64_t> Trainer::begin_epoch() {
  const Recipe& recipe = config_.recipe;
  std::vector<std::int64_t> order =
      repeated_order(train_.size(), recipe.aug_repeats, recipe.seed, state_.epoch);
  const std::int64_t images = recipe.batch_size * recipe.grad_accum_steps;
  const std::int64_t begin = state_.step_in_epoch * images;
  const std::int64_t end = std::min(steps_per_epoch() * images, train_.size());
  step_.begin_epoch({order.begin() + std::min(begin, end), order.begin() + end}, state_.epoch,
                    begin);
  return order;
}

void Trainer::train_step(const std::vector<std::int64_t>& order, std::int64_t step_in_epoch) {
  const std::int64_t images = config_.recipe.batch_size * config_.recipe.grad_accum_steps;
  const std::int64_t begin = step_in_epoch * images;
  const std::int64_t end = std::min(begin + images, train_.size());
  step_.run(std::span(order).subspan(static_cast<std::size_t>(begin),
                                     static_cast<std::size_t>(end - begin)),
            {.step = state_.step,
             .epoch = state_.epoch,
             .first_image = begin,
             .learning_rate = schedule_.at(state_.step)});
  ++state_.step;
}

Profile Trainer::profile() const {
  return step_.times().steps == 0 ? Profile{}
                                  : make_table(step_.times(), ProfileBy::operation, nullptr);
}

// The choices of a tuning file that a training step makes are known once one has been submitted.
void Trainer::note_tuning(TrainObserver& observer) {
  if (state_.tuning.empty() || resumed_tuning_) state_.tuning = device_.traits().tuning;
  if (resumed_tuning_ && *resumed_tuning_ != state_.tuning) {
    observer.on_notice(
        "matrix products are tuned otherwise than where the run stopped: it goes on "
        "with other bits than it would have had");
  }
  resumed_tuning_.reset();
}

// Names the pictures that turned out to be broken since the last time.
void Trainer::note_broken_pictures(TrainObserver& observer) {
  std::vector<std::string> broken = step_.images().broken();
  const std::vector<std::string> of_test = evaluator_.images().broken();
  broken.insert(broken.end(), of_test.begin(), of_test.end());
  for (const std::string& message : broken) {
    if (noted_.insert(message).second) observer.on_notice("left out: " + message);
  }
}

// The device's sums as of now, on their way to the host.
void Trainer::read_progress(std::int64_t images) {
  progress_.push_back({.step = state_.step,
                       .step_in_epoch = state_.step_in_epoch,
                       .images = images,
                       .metrics = step_.executor().read_metrics(),
                       .optimizer = step_.optimizer().read_state()});
}

// Tells of the sums that have arrived, or waits for all of them.
void Trainer::report_progress(TrainObserver& observer, bool wait) {
  const bool by_sample = config_.recipe.loss_average == LossAverage::samples;
  for (; !progress_.empty(); progress_.pop_front()) {
    Progress& progress = progress_.front();
    if (!wait && !(progress.metrics->ready() && progress.optimizer->ready())) return;
    const Metrics sums = step_.executor().metrics(*progress.metrics);
    const std::int64_t count = by_sample ? sums.samples : progress.step_in_epoch;
    const StepRecord record{.step = progress.step,
                            .loss = (by_sample ? sums.loss : sums.batch_loss) /
                                    static_cast<double>(std::max<std::int64_t>(count, 1)),
                            .learning_rate = schedule_.at(progress.step - 1)};
    state_.steps.push_back(record);
    if (!output_.empty()) {
      events().add(record.step, {{"loss/train", record.loss}, {"lr", record.learning_rate}});
    }
    const auto* optimizer = static_cast<const OptimizerState*>(progress.optimizer->wait());
    const auto samples = static_cast<double>(std::max<std::int64_t>(sums.samples, 1));
    observer.on_log(progress.images, record, static_cast<double>(sums.top1) / samples,
                    optimizer->skipped_steps);
  }
}

EpochRecord Trainer::end_epoch(const EvaluationResult& test,
                               const std::optional<EvaluationResult>& average) {
  const StepRecord last = state_.steps.back();  // of the epoch's last step
  const Metrics sums = step_.executor().metrics();
  ++state_.epoch;
  EpochRecord record{.epoch = state_.epoch,
                     .step = state_.step,
                     .train_loss = last.loss,
                     .train_top1 = static_cast<double>(sums.top1) /
                                   static_cast<double>(std::max<std::int64_t>(sums.samples, 1)),
                     .test_loss = test.loss,
                     .test_top1 = test.top1,
                     .test_top5 = test.top5,
                     .learning_rate = last.learning_rate,
                     .seconds = state_.epoch_seconds,
                     .images_per_second = static_cast<double>(sums.samples) / state_.epoch_seconds,
                     .skipped_steps = step_.optimizer().state().skipped_steps,
                     .data_seconds = state_.epoch_data_seconds};
  if (average) {
    record.ema_loss = average->loss;
    record.ema_top1 = average->top1;
    record.ema_top5 = average->top5;
  }
  state_.step_in_epoch = 0;
  state_.epoch_seconds = state_.epoch_data_seconds = 0;
  step_.executor().reset_metrics();
  state_.epochs.push_back(record);
  return record;
}

EvaluationResult Trainer::evaluate(bool details, TrainObserver& observer,
                                   const std::atomic<bool>& interrupt) {
  return evaluate_weights(step_.optimizer().weights(), details, observer, interrupt);
}

EvaluationResult Trainer::evaluate_weights(const void* weights, bool details,
                                           TrainObserver& observer,
                                           const std::atomic<bool>& interrupt) {
  return evaluator_.run(weights, details, /*logits=*/false, [&](std::int64_t done) {
    observer.on_evaluate(done, test_.size());
    return !interrupt;
  });
}

TrainOutcome Trainer::run(TrainObserver& observer, const std::atomic<bool>& interrupt) {
  const Recipe& recipe = config_.recipe;
  const std::int64_t steps = steps_per_epoch();
  const std::int64_t images = recipe.batch_size * recipe.grad_accum_steps;
  auto stop = [&] { return recipe.max_steps > 0 && state_.step >= recipe.max_steps; };
  if (recipe.epochs == 0) save({"last"});
  while (state_.epoch < recipe.epochs) {
    if (stops_early(observer)) return TrainOutcome::finished;
    if (stop()) return TrainOutcome::step_limit;
    const std::vector<std::int64_t> order = begin_epoch();
    observer.on_epoch_begin(state_.epoch + 1, train_.size());
    std::optional<Range> range(std::in_place, device_, "epoch " + std::to_string(state_.epoch + 1));
    const auto start = Clock::now();
    const double before = state_.epoch_seconds, data_before = state_.epoch_data_seconds;
    step_.reset_data_seconds();
    while (state_.step_in_epoch < steps) {
      train_step(order, state_.step_in_epoch);
      note_tuning(observer);
      ++state_.step_in_epoch;
      const bool ends = state_.step_in_epoch == steps;
      const std::int64_t done = std::min(state_.step_in_epoch * images, train_.size());
      observer.on_step(done);
      if (ends || state_.step % recipe.log_interval == 0) read_progress(done);
      const bool due =
          recipe.checkpoint_interval > 0 && state_.step % recipe.checkpoint_interval == 0;
      const bool stops = interrupt;  // asked once: what is not saved now is not left either
      const bool saves = !ends && (stops || stop() || due);
      report_progress(observer, /*wait=*/ends || saves);
      state_.epoch_seconds = before + seconds_since(start);
      state_.epoch_data_seconds = data_before + step_.data_seconds();
      if (ends) break;
      if (saves) save({"last"});
      if (stops) return TrainOutcome::interrupted;
      if (stop()) return TrainOutcome::step_limit;
    }
    if (state_.steps.empty() || state_.steps.back().step != state_.step) {
      read_progress(train_.size());  // resumed where no step was left
      report_progress(observer, /*wait=*/true);
    }
    range.reset();
    const EvaluationResult test_result = evaluate(/*details=*/false, observer, interrupt);
    std::optional<EvaluationResult> average;
    if (step_.optimizer().has_ema() && test_result.complete) {
      average = evaluate_weights(step_.optimizer().average(), false, observer, interrupt);
    }
    if (!test_result.complete || (average && !average->complete)) {
      save({"last"});  // the epoch's steps are done; resuming begins with its evaluation
      return TrainOutcome::interrupted;
    }
    note_broken_pictures(observer);
    const EpochRecord record = end_epoch(test_result, average);
    const bool best = best_of(state_.epochs, recipe.eval_metric) == record.epoch;
    write_metrics();
    save(best ? std::vector<std::string>{"last", "best"} : std::vector<std::string>{"last"});
    observer.on_epoch_end(record, best);
    if (interrupt) return TrainOutcome::interrupted;
  }
  return TrainOutcome::finished;
}

}  // namespace vitrine
