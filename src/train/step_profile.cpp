// Taking a training step apart.
//
// Steps run in a row for their rate; then steps with the times of their operations and steps
// without take turns, so that what timing costs is known and both see the same machine.
#include "vitrine/step_profile.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>

#include "io/format.h"
#include "io/process.h"
#include "model/fields.h"
#include "train/footprint.h"
#include "vitrine/error.h"
#include "vitrine/trainer.h"

namespace vitrine {
namespace {

using Clock = std::chrono::steady_clock;

// What a device beside the host is given before it is waited for.
constexpr std::int64_t kStepsInARow = 10;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Of an image. A plan of training, since drop_path_subset leaves work out that is nobody's.
double forward_flops_of_model(const RunConfig& config, const DeviceTraits& traits) {
  const Plan plan =
      plan_vit(config.model, {.prune_last_block = false}, config.recipe.batch_size, traits);
  return plan.forward_flops() / static_cast<double>(plan.chunking().rows * plan.chunking().count);
}

/// Steps one after another over the images, as an epoch has them.
class Steps {
 public:
  Steps(Device& device, const Plan& plan, const RunConfig& config, const Dataset& data,
        bool resident, std::int64_t most_steps)
      : step_(device, plan, config, data, resident),
        images_(config.recipe.batch_size * config.recipe.grad_accum_steps),
        size_(data.size()),
        learning_rate_(config.recipe.lr) {
    step_.optimizer().upload_weights(initial_weights(config.model, plan, config.recipe.seed));
    std::vector<std::int64_t> order(static_cast<std::size_t>(most_steps * images_));
    for (std::size_t i = 0; i < order.size(); ++i) {
      order[i] = static_cast<std::int64_t>(i) % size_;
    }
    step_.begin_epoch(std::move(order), /*epoch=*/0, /*position=*/0);
  }

  TrainingStep& step() { return step_; }
  std::int64_t images() const { return images_; }

  void run() {
    std::vector<std::int64_t> images;
    for (std::int64_t i = 0; i < images_; ++i) images.push_back((done_ * images_ + i) % size_);
    step_.run(images, {.step = done_, .learning_rate = learning_rate_});
    ++done_;
  }

  /// Seconds of each of `count` steps in a row, nothing measured inside them. `tell` hears between
  /// them how many are done.
  template <typename Tell>
  std::vector<double> run_in_a_row(Device& device, std::int64_t count, const Tell& tell) {
    step_.set_timing(Timing::none);
    std::vector<double> seconds;
    for (std::int64_t done = 0, together = 1; done < count; done += together) {
      tell(done);
      if (device.traits().asynchronous) together = std::min(kStepsInARow, count - done);
      const auto start = Clock::now();
      for (std::int64_t i = 0; i < together; ++i) run();
      device.synchronize();
      seconds.push_back(seconds_since(start) / static_cast<double>(together));
    }
    return seconds;
  }

  /// Steps since the times were reset last.
  std::int64_t done_since_reset() const { return done_ - reset_at_; }
  void reset() {
    step_.reset_times();
    reset_at_ = done_;
  }

  double run_timed(Timing timing) {
    step_.set_timing(timing);
    run();
    return step_.step_seconds();
  }

 private:
  TrainingStep step_;
  std::int64_t images_, size_, done_ = 0, reset_at_ = 0;
  double learning_rate_;
};

StepProfile describe(Device& device, const RunConfig& config, const Dataset& data,
                     const Plan& plan) {
  const auto micro_batches = static_cast<double>(config.recipe.grad_accum_steps);
  const std::int64_t images = config.recipe.batch_size * config.recipe.grad_accum_steps;
  StepProfile profile;
  profile.model = config.preset.empty() ? "vit" : config.preset;
  profile.device = device.traits().name;
  profile.description = device.traits().description;
  profile.precision =
      EnumNames<Precision>::names.at(static_cast<std::size_t>(config.recipe.precision));
  profile.data = data.name;
  profile.images_per_step = images;
  profile.chunking = plan.chunking();
  profile.recomputed = plan.graph().recomputed();
  profile.flops = plan.cost().flops * micro_batches;
  profile.bytes = plan.cost().bytes * micro_batches;
  profile.model_flops =
      3 * forward_flops_of_model(config, device.traits()) * static_cast<double>(images);
  profile.planned_bytes =
      static_cast<double>(training_memory(plan, config.recipe, device.workers()).total());
  return profile;
}

// Whether all images may lie on the device; throws where not even a few batches may.
bool fits_resident(Device& device, const RunConfig& config, const Dataset& data, double planned) {
  const DeviceTraits& traits = device.traits();
  const auto memory = static_cast<double>(traits.memory);
  const auto with = [&](bool resident) {
    const std::int64_t bytes = images_bytes(config, data, training_images(config, resident));
    return planned + (traits.reads_host_memory ? 0.0 : static_cast<double>(bytes));
  };
  if (with(true) <= memory) return true;
  if (!traits.reads_host_memory && with(false) <= memory) return false;
  throw OutOfMemory("out of memory: batch_size " + std::to_string(config.recipe.batch_size) +
                    " needs " + format_bytes(with(traits.reads_host_memory)) + ", free are " +
                    format_bytes(memory) + "; vitrine inspect names the largest batch that fits");
}

// A step and its neighbour see the same machine, also where others use it.
std::vector<double> differences(const StepProfile& profile) {
  std::vector<double> seconds;
  for (std::size_t i = 0; i < std::min(profile.timed_seconds.size(), profile.plain_seconds.size());
       ++i) {
    seconds.push_back(profile.timed_seconds[i] - profile.plain_seconds[i]);
  }
  return seconds;
}

// Everything that is measured while the model lies on the device; it is gone when the roof is
// measured.
void take_steps(Device& device, const Plan& plan, const RunConfig& config, const Dataset& data,
                bool resident, const StepProfileOptions& options, const ProfileObserver& observer,
                StepProfile& profile) {
  const double bytes_before = process_bytes("VmRSS");
  const std::int64_t most_steps = options.warm_up + 2 + 3 * options.steps;
  Steps steps(device, plan, config, data, resident, most_steps);
  const auto tell = [&](const char* what, std::int64_t done, std::int64_t of) {
    if (!observer(what, done * steps.images(), of * steps.images())) throw Error("interrupted");
  };
  tell("Warm-up", 0, options.warm_up);
  steps.run();
  device.synchronize();
  profile.first_step_seconds = process_age();
  for (std::int64_t i = 1; i < options.warm_up; ++i) {
    steps.run();
    tell("Warm-up", i + 1, options.warm_up);
  }
  device.synchronize();
  steps.reset();
  if (options.capture) device.begin_capture();
  profile.wall_seconds = steps.run_in_a_row(device, options.steps, [&](std::int64_t done) {
    tell("Steps in a row", done, options.steps);
  });
  if (options.capture) device.end_capture();
  const auto take_data_seconds = [&] {
    profile.data_seconds =
        steps.step().data_seconds() / static_cast<double>(steps.done_since_reset());
  };
  const auto of_device = static_cast<double>(device.peak_bytes());
  profile.peak_bytes = of_device > 0 ? of_device : process_bytes("VmHWM") - bytes_before;
  if (options.capture) return take_data_seconds();

  for (int i = 0; i < 2; ++i) steps.run_timed(Timing::operations);  // recorded by the second
  steps.reset();
  for (std::int64_t i = 0; i < options.steps; ++i) {
    profile.plain_seconds.push_back(steps.run_timed(Timing::step));
    profile.timed_seconds.push_back(steps.run_timed(Timing::operations));
    tell("Timed steps", i + 1, options.steps);
  }
  profile.times = steps.step().times();
  take_data_seconds();  // of steps that are waited for: the host is held back by none before
}

}  // namespace

StepProfile profile_step(Device& device, const RunConfig& config, const Dataset& data,
                         const StepProfileOptions& options, const ProfileObserver& observer) {
  check_data(config, data);
  const std::int64_t batch = config.recipe.batch_size;
  const DeviceTraits& traits = device.traits();
  const auto plan_for = [&](bool resident, const Recompute& how) {
    return plan_vit(config.model, training_options(config, data, resident, how), batch, traits);
  };
  const std::int64_t images =
      traits.reads_host_memory ? 0 : images_bytes(config, data, training_images(config, false));
  const Recompute recompute = choose_recompute(config, [&](const Recompute& how) {
    const MemoryReport memory =
        training_memory(plan_for(false, how), config.recipe, device.workers());
    return memory.total() + images <= traits.memory;
  });
  Plan plan = plan_for(true, recompute);
  StepProfile profile = describe(device, config, data, plan);
  const bool resident = fits_resident(device, config, data, profile.planned_bytes);
  if (!resident) plan = plan_for(false, recompute);
  if (!traits.reads_host_memory) {
    profile.planned_bytes +=
        static_cast<double>(images_bytes(config, data, training_images(config, resident)));
  }
  take_steps(device, plan, config, data, resident, options, observer, profile);
  if (!options.capture) profile.roof = measure_roof(device, config.recipe.precision, options.roof);
  return profile;
}

double mean(const std::vector<double>& values) {
  if (values.empty()) return 0;
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const std::size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : 0.5 * (values[half - 1] + values[half]);
}

double StepProfile::images_per_second() const {
  return static_cast<double>(images_per_step) / median(wall_seconds);
}

double StepProfile::timed_step_seconds() const {
  return mean(timed_seconds);
}

double StepProfile::operation_seconds() const {
  double seconds = 0;
  for (const ProfileRow& row : make_table(times, ProfileBy::operation, nullptr)) {
    seconds += row.seconds;
  }
  return seconds / static_cast<double>(std::max<std::int64_t>(times.steps, 1));
}

double StepProfile::floor_seconds() const {
  double seconds = 0;
  for (const ProfileRow& row : make_table(times, ProfileBy::operation, &roof)) {
    seconds += row.floor_seconds;
  }
  return seconds / static_cast<double>(std::max<std::int64_t>(times.steps, 1));
}

double StepProfile::overhead_seconds() const {
  return median(differences(*this));
}

// The standard error of a median is sqrt(pi / 2) sigma / sqrt(n), and sigma of the normal
// distribution 0.7413 of the distance between its quartiles, which outliers do not move. Of fewer
// than about ten steps it is a guess.
double StepProfile::overhead_noise() const {
  constexpr double kTwoErrors = 1.96 * 1.2533 * 0.7413;
  std::vector<double> sorted = differences(*this);
  if (sorted.empty()) return 0;
  std::sort(sorted.begin(), sorted.end());
  const auto quantile = [&](double share) {
    const double at = share * static_cast<double>(sorted.size() - 1);
    const auto below = static_cast<std::size_t>(at);
    const std::size_t above = std::min(below + 1, sorted.size() - 1);
    return sorted[below] + (at - std::floor(at)) * (sorted[above] - sorted[below]);
  };
  return kTwoErrors * (quantile(0.75) - quantile(0.25)) /
         std::sqrt(static_cast<double>(sorted.size()));
}

}  // namespace vitrine
