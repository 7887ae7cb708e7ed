// Forward passes over a data set.
#include <algorithm>
#include <chrono>
#include <numeric>

#include "train/footprint.h"
#include "vitrine/trainer.h"

namespace vitrine {
namespace {

constexpr std::size_t kMostMistakes = 40;
constexpr std::int64_t kLargestMistake = 80;  // pixels

}  // namespace

Evaluator::Evaluator(Device& device, const RunConfig& config, const Dataset& data,
                     std::optional<bool> resident)
    : device_(device),
      config_(config),
      data_(data),
      resident_(resident.value_or(evaluation_resident(config, data, device.traits()))),
      plan_(plan_vit(config.model, evaluation_options(config, data, resident_),
                     evaluation_batch(config, data), device.traits())),
      executor_(device, plan_),
      images_(make_batch_images(device, config, data, evaluation_images(config, data, resident_))) {
}

void Evaluator::run_batch(std::int64_t begin, std::int64_t end) {
  std::vector<std::int64_t> images(static_cast<std::size_t>(end - begin));
  std::iota(images.begin(), images.end(), begin);
  const BatchRows batch = images_->load(images, {});
  set_rows(executor_, batch.rows, batch.labels);
  labels_ = batch.labels;
  StepState state;
  state.loss_scale = 1.0f / static_cast<float>(end - begin);
  valid_rows_ = end - begin;
  executor_.set_state(state);
  forward_->run();
  images_->submitted();
}

EvaluationResult Evaluator::run(const void* weights, bool details, bool keep_logits,
                                const Observer& observer) {
  const auto start = std::chrono::steady_clock::now();
  const std::int64_t batch = plan_.chunking().batch;
  const auto classes = static_cast<std::size_t>(config_.model.num_classes);
  EvaluationResult result;
  if (details) {
    result.confusion.assign(classes * classes, 0);
    result.recognised.assign(classes, -1);
  }
  std::vector<Mistake> mistakes;
  executor_.reset_metrics();
  const Range range(device_, "evaluation");
  if (forward_ == nullptr || weights != weights_) {
    weights_ = weights;
    forward_ = device_.program("evaluation", [this] {
      executor_.run({.weights = weights_, .inputs = {images_->data()}, .valid_rows = valid_rows_});
    });
  }
  std::vector<std::int64_t> order(static_cast<std::size_t>(data_.size()));
  std::iota(order.begin(), order.end(), 0);
  images_->begin(std::move(order), /*epoch=*/0, /*position=*/0);
  std::int64_t batches = 0;
  for (std::int64_t begin = 0; begin < data_.size(); begin += batch, ++batches) {
    const std::int64_t end = std::min(begin + batch, data_.size());
    run_batch(begin, end);
    const auto count = static_cast<std::size_t>(end - begin);
    if (details) collect(begin, count, result, mistakes);
    if (keep_logits) {
      const std::vector<float> logits = executor_.output(plan_.graph().find("logits"));
      result.logits.insert(result.logits.end(), logits.begin(),
                           logits.begin() + static_cast<std::ptrdiff_t>(count * classes));
    }
    if (observer && !observer(end)) {
      result.complete = end == data_.size();
      if (result.complete) continue;
      result.confusion.clear();
      result.recognised.clear();
      return result;
    }
  }
  for (const Mistake& mistake : mistakes) {
    result.misclassified.push_back(
        {.image = shrink(evaluation_image(config_, data_, mistake.image), kLargestMistake),
         .label = mistake.label,
         .predicted = mistake.predicted,
         .probability = mistake.probability});
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

// Confusion counts, the first right answers and the most confident mistakes of one batch.
void Evaluator::collect(std::int64_t begin, std::size_t count, EvaluationResult& result,
                        std::vector<Mistake>& mistakes) const {
  const std::vector<float> probabilities = executor_.output(plan_.graph().find("probabilities"));
  const auto classes = static_cast<std::size_t>(config_.model.num_classes);
  for (std::size_t i = 0; i < count; ++i) {
    const float* row = probabilities.data() + i * classes;
    const std::int64_t predicted = std::max_element(row, row + classes) - row;
    const std::int64_t image = begin + static_cast<std::int64_t>(i);
    const std::int64_t label = labels_[i];
    if (label < 0) continue;  // a picture that could not be read
    ++result.confusion[static_cast<std::size_t>(label) * classes +
                       static_cast<std::size_t>(predicted)];
    if (predicted == label) {
      std::int64_t& first = result.recognised[static_cast<std::size_t>(label)];
      if (first < 0) first = image;
      continue;
    }
    mistakes.push_back({image, label, predicted, row[predicted]});
  }
  std::stable_sort(mistakes.begin(), mistakes.end(), [](const Mistake& a, const Mistake& b) {
    return a.probability > b.probability;
  });
  if (mistakes.size() > kMostMistakes) mistakes.resize(kMostMistakes);
}

}  // namespace vitrine
