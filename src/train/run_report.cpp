// What a run's report says.
#include <nlohmann/json.hpp>

#include "io/format.h"
#include "vitrine/trainer.h"

namespace vitrine {
namespace {

// "5,526,346", or "1,930 of 5,526,346" where the others are frozen.
std::string trained_of_all(const Graph& graph) {
  const std::int64_t trained = graph.trained_parameter_count(), all = graph.parameter_count();
  return (trained < all ? format_count(trained) + " of " : "") + format_count(all);
}

}  // namespace

Report make_report(const RunConfig& config, const Trainer& trainer, const Dataset& test,
                   const EvaluationResult& result, const DeviceTraits& device) {
  Report report;
  const TrainerState& state = trainer.state();
  report.title = (config.preset.empty() ? "vit" : config.preset) + " on " + test.name;
  double seconds = 0;
  for (const EpochRecord& record : state.epochs) seconds += record.seconds;
  const Chunking& chunking = trainer.plan().chunking();
  report.facts = {
      {"device", device.name},
      {"parameters", trained_of_all(trainer.plan().graph())},
      {"optimiser steps", format_count(state.step)},
      {"skipped steps", format_count(state.epochs.empty() ? state.optimizer.skipped_steps
                                                          : state.epochs.back().skipped_steps)},
      {"training time", format_duration(seconds)},
      {"batch", std::to_string(chunking.batch) + " in " + std::to_string(chunking.count) +
                    " chunks of " + std::to_string(chunking.rows)},
      {"planned memory", format_bytes(static_cast<double>(trainer.planned_bytes()))},
      {"seed", std::to_string(config.recipe.seed)}};
  report.config = to_json(config).dump(2);
  report.epochs = state.epochs;
  report.steps = state.steps;
  report.class_names = test.class_names;
  if (static_cast<std::int64_t>(test.class_names.size()) == config.model.num_classes) {
    report.confusion = result.confusion;
  }
  report.misclassified = result.misclassified;
  report.profile = trainer.profile();
  return report;
}

}  // namespace vitrine
