// What a run's report says.
#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <span>

#include "io/format.h"
#include "io/json_fields.h"
#include "train/image_pass.h"
#include "train/report_pictures.h"
#include "vitrine/error.h"
#include "vitrine/trainer.h"

namespace vitrine {
namespace {

// "5,526,346", or "1,930 of 5,526,346" where the others are frozen.
std::string trained_of_all(const Graph& graph) {
  const std::int64_t trained = graph.trained_parameter_count(), all = graph.parameter_count();
  return (trained < all ? format_count(trained) + " of " : "") + format_count(all);
}

// A page has 600 KB for these; base64 makes four bytes of three.
constexpr std::size_t kAttentionBytes = 300'000, kPositionBytes = 130'000;
constexpr std::size_t kAugmentationBytes = 600'000;
constexpr std::size_t kMostLooks = 8;  // forward passes

/// Of as many classes as are wanted the first image that is recognised, and where too few classes
/// have one, the first image of others.
std::vector<std::int64_t> images_to_show(const Dataset& test, const EvaluationResult& result) {
  std::vector<std::int64_t> shown(result.recognised.size(), -1);
  std::size_t count = 0;
  for (std::size_t k = 0; k < shown.size() && count < kMostLooks; ++k) {
    shown[k] = result.recognised[k];
    if (shown[k] >= 0) ++count;
  }
  for (std::int64_t i = 0; i < test.size() && count < kMostLooks; ++i) {
    std::int64_t& image =
        shown.at(static_cast<std::size_t>(test.labels[static_cast<std::size_t>(i)]));
    if (image >= 0) continue;
    image = i;
    ++count;
  }
  shown.erase(std::remove(shown.begin(), shown.end(), -1), shown.end());
  return shown;
}

/// "true 7 · predicted 7 (93 %)"
std::string caption_of(const Dataset& test, std::int64_t image,
                       const std::vector<float>& probabilities) {
  const auto name = [&](std::int64_t k) {
    const auto index = static_cast<std::size_t>(k);
    return index < test.class_names.size() ? test.class_names[index] : std::to_string(k);
  };
  const auto best = std::max_element(probabilities.begin(), probabilities.end());
  return "true " + name(test.labels[static_cast<std::size_t>(image)]) + " · predicted " +
         name(best - probabilities.begin()) + " (" +
         format_double("%.0f", 100.0 * static_cast<double>(*best)) + " %)";
}

void add_attention(Report& report, Device& device, const RunConfig& config, const void* weights,
                   const Dataset& test, const EvaluationResult& result) {
  const bool interrupted = !result.complete;
  if (interrupted || config.model.num_hidden_layers == 0) return;
  std::vector<Picture> pictures;
  ImagePass pass(device, config, /*attention=*/true);
  for (const std::int64_t i : images_to_show(test, result)) {
    const Image image = evaluation_image(config, test, i);
    const AttentionMaps maps = pass.run(weights, image);
    const auto over = [&](const std::vector<float>& map) {
      return attention_overlay(image, patch_attention(config.model, map.data()), config.model);
    };
    const std::array<Image, 3> tiles = {display_image(image),
                                        over(mean_over_heads(maps, maps.layers - 1)),
                                        over(attention_rollout(maps))};
    pictures.push_back({contact_sheet(tiles, static_cast<std::int64_t>(tiles.size()), 0),
                        caption_of(test, i, maps.class_probabilities)});
  }
  fit_pictures(pictures, kAttentionBytes);
  report.attention = std::move(pictures);
}

void add_positions(Report& report, const VitConfig& model, const std::vector<float>& positions) {
  if (positions.empty()) return;
  const std::vector<float> similarities = cosine_similarities(positions, model.hidden_size);
  float least = 1.0f;
  for (const float cosine : similarities) least = std::min(least, cosine);  // NaN is never less
  const auto [low, high] = std::minmax_element(positions.begin(), positions.end());
  const auto text = [](float number) {
    return (number < 0 ? "−" : "") + format_double("%.3g", std::abs(static_cast<double>(number)));
  };
  const std::string origin = model.position == Position::learned
                                 ? "The learned table"
                                 : "The fixed table of sines and cosines";
  report.positions = {
      {position_similarity(model, positions),
       "Each small grid compares the position of one patch with those of all patches: yellow is "
       "the same direction, the darkest the least alike (cosine " +
           text(least) + ")."},
      {position_table(positions, model.hidden_size),
       origin + ", a row a patch and a column a dimension: black is " + text(*low) + ", white " +
           text(*high) + "."}};
  fit_pictures(report.positions, kPositionBytes);
}

void add_pictures(Report& report, Device& device, const RunConfig& config, const Trainer& trainer,
                  const Dataset& test, const EvaluationResult& result) {
  const Buffer weights = trainer.weights();
  const auto elements = static_cast<std::size_t>(trainer.plan().parameter_elements());
  add_positions(report, config.model,
                patch_positions(config.model, trainer.plan(),
                                std::span<const float>(weights.as<float>(), elements)));
  add_attention(report, device, config, trainer.device_weights(), test, result);
  if (std::optional<Picture> picture = augmentation_picture(device, config, trainer.data())) {
    report.augmentation = {std::move(*picture)};
    fit_pictures(report.augmentation, kAugmentationBytes);
  }
}

}  // namespace

Report make_report(Device& device, const RunConfig& config, const Trainer& trainer,
                   const Dataset& test, const EvaluationResult& result, TrainObserver& observer) {
  Report report;
  const TrainerState& state = trainer.state();
  report.title = (config.preset.empty() ? "vit" : config.preset) + " on " + test.name;
  double seconds = state.epoch_seconds;  // of an epoch that was not finished
  for (const EpochRecord& record : state.epochs) seconds += record.seconds;
  const Chunking& chunking = trainer.plan().chunking();
  report.facts = {
      {"device", device.traits().name},
      {"parameters", trained_of_all(trainer.plan().graph())},
      {"optimiser steps", format_count(state.step)},
      {"skipped steps", format_count(state.epochs.empty() ? state.optimizer.skipped_steps
                                                          : state.epochs.back().skipped_steps)},
      {"training time", format_duration(seconds)},
      {"batch", std::to_string(chunking.batch) + " in " + std::to_string(chunking.count) +
                    " chunks of " + std::to_string(chunking.rows)},
      {"planned memory", format_bytes(static_cast<double>(trainer.planned_bytes()))},
      {"seed", std::to_string(config.recipe.seed)}};
  report.config = json_text(to_json(config), 2);
  report.epochs = state.epochs;
  report.steps = state.steps;
  report.class_names = test.class_names;
  if (static_cast<std::int64_t>(test.class_names.size()) == config.model.num_classes) {
    report.confusion = result.confusion;
  }
  report.misclassified = result.misclassified;
  report.profile = trainer.profile();
  try {
    add_pictures(report, device, config, trainer, test, result);
  } catch (const Error& error) {
    observer.on_notice(std::string("no attention maps in the report: ") + error.what());
    report.facts.emplace_back("attention maps", std::string("none: ") + error.what());
  }
  return report;
}

}  // namespace vitrine
