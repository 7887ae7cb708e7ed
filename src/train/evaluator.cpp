// Forward passes over a data set, and the device side of a batch.
#include <algorithm>
#include <chrono>

#include "vitrine/trainer.h"

namespace vitrine {
namespace {

constexpr std::size_t kMostMistakes = 40;

VitOptions options_for(const RunConfig& config, const Dataset& data) {
  const Transform t = transform(config.recipe, config.model.num_channels);
  return {.training = false,
          .source_height = data.height,
          .source_width = data.width,
          .stored_images = data.size(),
          .mean = t.mean,
          .std = t.std,
          .probabilities = true};
}

// Means of batch means depend on the batch size, so evaluation uses the recipe's.
std::int64_t evaluation_batch(const RunConfig& config, const Dataset& data) {
  return std::clamp<std::int64_t>(data.size(), 1, config.recipe.batch_size);
}

}  // namespace

BatchInputs::BatchInputs(Device& device, const void* images, std::size_t bytes, std::int64_t rows)
    : device_(device), capacity_(rows) {
  const auto count = static_cast<std::size_t>(rows);
  images_ = device.share(images, bytes, "images");
  rows_ = device.allocate(count * sizeof(BatchRow), "batch rows");
  labels_ = device.allocate(count * sizeof(std::int32_t), "labels");
}

void BatchInputs::set(const std::vector<BatchRow>& rows, const std::vector<std::int32_t>& labels) {
  std::vector<BatchRow> all_rows(rows);
  std::vector<std::int32_t> all_labels(labels);
  all_rows.resize(static_cast<std::size_t>(capacity_));
  all_labels.resize(static_cast<std::size_t>(capacity_), -1);
  device_.upload(rows_.data(), all_rows.data(), all_rows.size() * sizeof(BatchRow));
  device_.upload(labels_.data(), all_labels.data(), all_labels.size() * sizeof(std::int32_t));
  valid_rows_ = static_cast<std::int64_t>(labels.size());
}

std::vector<const void*> BatchInputs::bind(const Plan& plan) const {
  std::vector<const void*> bound;
  for (ValueId id : plan.inputs()) {
    const std::string& name = plan.graph().value(id).name;
    bound.push_back(name == "images" ? images_.data()
                    : name == "rows" ? rows_.data()
                                     : labels_.data());
  }
  return bound;
}

Evaluator::Evaluator(Device& device, const RunConfig& config, const Dataset& data)
    : config_(config),
      data_(data),
      plan_(plan_vit(config.model, options_for(config, data), evaluation_batch(config, data),
                     device.traits())),
      executor_(device, plan_),
      inputs_(device, data.images.data(), data.images.size(),
              plan_.chunking().rows * plan_.chunking().count) {}

EvaluationResult Evaluator::run(const float* weights, bool details, bool keep_logits,
                                const Observer& observer) {
  const auto start = std::chrono::steady_clock::now();
  const std::int64_t batch = plan_.chunking().batch;
  const auto classes = static_cast<std::size_t>(config_.model.num_classes);
  EvaluationResult result;
  if (details) result.confusion.assign(classes * classes, 0);
  executor_.reset_metrics();
  std::int64_t batches = 0;
  for (std::int64_t begin = 0; begin < data_.size(); begin += batch, ++batches) {
    const std::int64_t end = std::min(begin + batch, data_.size());
    std::vector<BatchRow> rows;
    for (std::int64_t i = begin; i < end; ++i) rows.push_back(whole_image(data_, i));
    inputs_.set(rows, {data_.labels.begin() + begin, data_.labels.begin() + end});
    StepState state;
    state.loss_scale = 1.0f / static_cast<float>(end - begin);
    executor_.set_state(state);
    executor_.run(
        {.weights = weights, .inputs = inputs_.bind(plan_), .valid_rows = inputs_.valid_rows()});
    const auto count = static_cast<std::size_t>(end - begin);
    if (details) collect(begin, count, result);
    if (keep_logits) {
      const std::vector<float> logits = executor_.output(plan_.graph().find("logits"));
      result.logits.insert(result.logits.end(), logits.begin(),
                           logits.begin() + static_cast<std::ptrdiff_t>(count * classes));
    }
    if (observer && !observer(end)) {
      result.complete = end == data_.size();
      if (result.complete) continue;
      result.confusion.clear();
      result.misclassified.clear();
      return result;
    }
  }
  const Metrics sums = executor_.metrics();
  const auto n = static_cast<double>(std::max<std::int64_t>(sums.samples, 1));
  result.loss = config_.recipe.loss_average == LossAverage::samples
                    ? sums.loss / n
                    : sums.batch_loss / static_cast<double>(std::max<std::int64_t>(batches, 1));
  result.top1 = static_cast<double>(sums.top1) / n;
  result.top5 = static_cast<double>(sums.top5) / n;
  result.samples = sums.samples;
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

// Confusion counts and the most confident mistakes of one batch.
void Evaluator::collect(std::int64_t begin, std::size_t count, EvaluationResult& result) const {
  const std::vector<float> probabilities = executor_.output(plan_.graph().find("probabilities"));
  const auto classes = static_cast<std::size_t>(config_.model.num_classes);
  for (std::size_t i = 0; i < count; ++i) {
    const float* row = probabilities.data() + i * classes;
    const std::int64_t predicted = std::max_element(row, row + classes) - row;
    const std::int64_t image = begin + static_cast<std::int64_t>(i);
    const std::int64_t label = data_.labels[static_cast<std::size_t>(image)];
    ++result.confusion[static_cast<std::size_t>(label) * classes +
                       static_cast<std::size_t>(predicted)];
    if (predicted == label) continue;
    const std::uint8_t* pixels = data_.image(image);
    result.misclassified.push_back({.image = {data_.channels,
                                              data_.height,
                                              data_.width,
                                              {pixels, pixels + data_.image_bytes()}},
                                    .label = label,
                                    .predicted = predicted,
                                    .probability = row[predicted]});
  }
  std::stable_sort(
      result.misclassified.begin(), result.misclassified.end(),
      [](const Misclassified& a, const Misclassified& b) { return a.probability > b.probability; });
  if (result.misclassified.size() > kMostMistakes) result.misclassified.resize(kMostMistakes);
}

}  // namespace vitrine
