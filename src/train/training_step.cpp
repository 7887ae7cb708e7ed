// One optimiser step: fill the batch's rows, run the plan (once a micro-batch, adding gradients),
// sum the lanes, update. What a step computes is a function of (seed, step), so a resumed run
// repeats the bits of one that was not interrupted.
#include "vitrine/training_step.h"

#include <algorithm>
#include <chrono>

namespace vitrine {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Points behind those of the executor: the update's begin, the ends of its operations, and the end
// of all, which is never recorded.
enum UpdatePoint : std::int64_t { kBegin, kSummed, kNorm, kUpdated, kEnd, kUpdatePoints };

}  // namespace

// Reads and writes of f32, and the working copy's bytes.
std::vector<StepOperation> update_operations(const Plan& plan, bool ema) {
  const auto n = static_cast<double>(plan.parameter_elements());
  const auto lanes = static_cast<double>(plan.chunking().lanes);
  const DType type = plan.graph().working_type();
  const double working = type == DType::f32 ? 0 : static_cast<double>(size_of(type));
  const std::string phase = "update";
  StepOperation sum{.operation = "sum_parts", .phase = phase};
  if (plan.chunking().lanes > 1) sum.flops = lanes * n, sum.bytes = 4 * (lanes + 1) * n;
  const StepOperation norm{
      .operation = "gradient_norm", .phase = phase, .flops = 2 * n, .bytes = 4 * n};
  const StepOperation adamw{.operation = "adamw",
                            .phase = phase,
                            .flops = (ema ? 15 : 12) * n,
                            .bytes = ((ema ? 9 : 7) * 4 + working) * n};
  return {sum, norm, adamw};
}

void set_rows(Executor& executor, std::span<const BatchRow> rows,
              std::span<const std::int32_t> labels, std::span<const LabelMix> mixes) {
  const std::span<BatchRow> all_rows = executor.row_input<BatchRow>("rows");
  std::fill(std::copy(rows.begin(), rows.end(), all_rows.begin()), all_rows.end(), BatchRow{});
  const std::span<std::int32_t> all_labels = executor.row_input<std::int32_t>("labels");
  std::fill(std::copy(labels.begin(), labels.end(), all_labels.begin()), all_labels.end(), -1);
  if (mixes.empty() && !executor.has_row_input("mixes")) return;
  const std::span<LabelMix> all_mixes = executor.row_input<LabelMix>("mixes");
  std::fill(std::copy(mixes.begin(), mixes.end(), all_mixes.begin()), all_mixes.end(), LabelMix{});
}

TrainingStep::TrainingStep(Device& device, const Plan& plan, const RunConfig& config,
                           const Dataset& data, bool resident)
    : device_(device),
      plan_(plan),
      config_(config),
      executor_(device, plan),
      optimizer_(device, plan, optimizer_config(config.recipe)),
      images_(make_batch_images(
          device, config, data,
          {.batch = config.recipe.batch_size, .resident = resident, .training = true})),
      timing_(device.traits().asynchronous ? Timing::none : Timing::operations),
      stopwatch_(device.make_stopwatch(executor_.points() + kUpdatePoints)) {
  times_.operations = executor_.timed_operations();
  const std::vector<StepOperation> update = update_operations(plan, optimizer_.has_ema());
  times_.operations.insert(times_.operations.end(), update.begin(), update.end());
  times_.workers = device.workers();
  plain_ = make_programs();
  timed_ = make_programs();
  reset_times();
}

TrainingStep::Programs TrainingStep::make_programs() {
  Programs programs;
  if (config_.recipe.grad_accum_steps == 1) {
    programs.step = device_.program("step", [this] {
      gradients(false);
      update();
    });
    return programs;
  }
  programs.first = device_.program("first micro-batch", [this] { gradients(false); });
  programs.next = device_.program("micro-batch", [this] { gradients(true); });
  programs.update = device_.program("update", [this] { update(); });
  return programs;
}

void TrainingStep::gradients(bool accumulate) {
  executor_.set_stopwatch(times_operations() ? stopwatch_.get() : nullptr);
  executor_.run({.weights = optimizer_.weights(),
                 .inputs = {images_->data()},
                 .valid_rows = valid_rows_,
                 .accumulate = accumulate});
}

void TrainingStep::mark(std::int64_t point) {
  if (times_operations()) stopwatch_->mark(executor_.points() + point);
}

void TrainingStep::update() {
  const Range range(device_, "update");
  try {
    mark(kBegin);
    executor_.sum_gradients();
    mark(kSummed);
    {
      const Range operation(device_, "gradient_norm");
      optimizer_.measure_norm(executor_.gradients());
    }
    mark(kNorm);
    {
      const Range operation(device_, "adamw");
      optimizer_.apply(executor_.gradients(), executor_.state());
    }
    mark(kUpdated);
    device_.operation_done();
  } catch (const DeviceError& error) {
    throw DeviceError(std::string("update: ") + error.what());
  }
}

void TrainingStep::run_micro_batch(std::span<const std::int64_t> images,
                                   const StepPosition& position, StepState state,
                                   Program& program) {
  const auto start = Clock::now();
  const BatchRows batch = images_->load(images, {.step = position.step,
                                                 .epoch = position.epoch,
                                                 .first_image = position.first_image,
                                                 .first_row = state.first_row});
  set_rows(executor_, batch.rows, batch.labels, batch.mixes);
  data_seconds_ += seconds_since(start);
  valid_rows_ = static_cast<std::int64_t>(images.size());
  executor_.set_state(state);
  run_program(program, /*has_run=*/true, /*has_update=*/config_.recipe.grad_accum_steps == 1);
  images_->submitted();
}

void TrainingStep::run(std::span<const std::int64_t> images, const StepPosition& position) {
  const Range range(device_, "step");
  const auto batch = static_cast<std::size_t>(config_.recipe.batch_size);
  Programs& programs = times_operations() ? timed_ : plain_;
  StepState state;
  state.seed = config_.recipe.seed;
  state.step = static_cast<std::uint32_t>(position.step);
  state.learning_rate = static_cast<float>(position.learning_rate);
  state.loss_scale = 1.0f / static_cast<float>(images.size());
  state.ema_decay =
      static_cast<float>(ema_decay_at(optimizer_config(config_.recipe), position.step));
  step_seconds_ = 0;
  if (times_operations()) {
    times_.last_step.clear();
    ++times_.steps;
  }
  for (std::size_t first = 0; first < images.size(); first += batch) {
    state.first_row = static_cast<std::int64_t>(first);
    Program& program = programs.step ? *programs.step
                       : first == 0  ? *programs.first
                                     : *programs.next;
    run_micro_batch(images.subspan(first, std::min(batch, images.size() - first)), position, state,
                    program);
  }
  if (programs.update) run_program(*programs.update, /*has_run=*/false, /*has_update=*/true);
}

void TrainingStep::run_program(Program& program, bool has_run, bool has_update) {
  if (timing_ == Timing::none) return program.run();
  stopwatch_->start();
  program.run();
  stopwatch_->mark(executor_.points() + kEnd);
  collect(has_run, has_update);
}

void TrainingStep::collect(bool has_run, bool has_update) {
  const std::vector<double>& seconds = stopwatch_->seconds();
  const double* points = seconds.data() + executor_.points();
  const double before = step_seconds_;  // of the programs before it in the same step
  step_seconds_ += points[kEnd];
  if (!times_operations()) return;
  std::vector<Span> spans;
  if (has_run) spans = executor_.spans(seconds);
  if (has_update) {
    int operation = static_cast<int>(plan_.steps().size());
    for (std::int64_t point = kBegin; point < kUpdated; ++point, ++operation) {
      if (times_.operations[static_cast<std::size_t>(operation)].bytes == 0) continue;
      spans.push_back({.operation = operation, .begin = points[point], .end = points[point + 1]});
    }
  }
  for (Span& span : spans) {
    StepTimes::Sum& sum = times_.sums[static_cast<std::size_t>(span.operation)];
    sum.seconds += span.end - span.begin;
    sum.calls += 1;
    span.begin += before, span.end += before;
  }
  times_.last_step.insert(times_.last_step.end(), spans.begin(), spans.end());
}

void TrainingStep::reset_times() {
  times_.sums.assign(times_.operations.size(), {});
  times_.last_step.clear();
  times_.steps = 0;
  data_seconds_ = 0;
}

}  // namespace vitrine
