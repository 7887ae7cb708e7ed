// Cross-entropy, softmax or binary: loss, accuracy and the gradient of the logits in one pass over
// each row.
//
//   softmax   loss = sum_k t_k (log_sum_exp(z) - z_k),   dz = softmax(z) sum_k t_k - t
//   binary    loss = mean_k [t_k softplus(-z_k) + (1 - t_k) softplus(z_k)]
//             dz = (sigmoid(z) - t) / K,   softplus(z) = max(z, 0) + log(1 + e^-|z|)
//             with `sum_classes` the sum over k in the mean's place, without the 1 / K
//   t = (1 - s) (w onehot(label) + (1 - w) onehot(other)) + s / K
//
// Smoothing s: Szegedy et al. 2016, arXiv:1512.00567; the mix w as timm's mixup_target; the binary
// loss and its threshold: Wightman et al. 2021, arXiv:2110.00476.
//
// z are the logits; with `head_softmax` z = p = softmax(logits) and dlogits = p (dz - sum_k p_k
// dz_k). A row belongs to one thread. dlogits is written (=); metrics are added to (+=) in row
// order.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "catalogue/check.h"
#include "cpu/cpu_kernels.h"
#include "vitrine/arguments.h"

namespace vitrine::cpu {
namespace {

constexpr std::int64_t kElementsPerTask = 4096;

struct RowResult {
  float loss = 0.0f;
  bool valid = false;
  std::int64_t rank = 0;  // classes ahead of the label
};

// p = softmax(z); returns log_sum_exp(z). NaN when any z is NaN. `p` may be `z`.
double softmax(const float* z, std::int64_t classes, float* p) {
  float maximum = z[0];
  for (std::int64_t k = 1; k < classes; ++k) maximum = std::max(maximum, z[k]);
  double sum = 0.0;
  for (std::int64_t k = 0; k < classes; ++k) {
    p[k] = std::exp(z[k] - maximum);
    sum += static_cast<double>(p[k]);
  }
  const auto scale = static_cast<float>(1.0 / sum);
  for (std::int64_t k = 0; k < classes; ++k) p[k] *= scale;
  return static_cast<double>(maximum) + std::log(sum);
}

// Classes whose logit is ahead of the label's; of equal logits the lower class is ahead.
std::int64_t rank_of(const float* logits, std::int64_t classes, std::int64_t label) {
  std::int64_t rank = 0;
  for (std::int64_t k = 0; k < label; ++k) rank += logits[k] >= logits[label];
  for (std::int64_t k = label + 1; k < classes; ++k) rank += logits[k] > logits[label];
  return rank;
}

// The targets of one row.
class Target {
 public:
  Target(const CrossEntropy& args, std::int64_t row)
      : soft_(args.targets ? args.targets.data + row * args.classes : nullptr),
        label_(args.labels[row]),
        threshold_(args.target_threshold) {
    const LabelMix mix = args.mixes ? args.mixes[row] : LabelMix{};
    const bool mixed = mix.other >= 0 && mix.other != label_;
    const float weight = mixed ? mix.weight : 1.0f;
    if (mixed) other_ = mix.other;
    dominant_ = weight < 0.5f ? other_ : label_;
    const float rest = args.label_smoothing / static_cast<float>(args.classes);
    rest_ = decided(rest);
    on_label_ = decided(weight * (1.0f - args.label_smoothing) + rest);
    on_other_ = decided((1.0f - weight) * (1.0f - args.label_smoothing) + rest);
  }

  float operator[](std::int64_t k) const {
    if (soft_ != nullptr) return decided(soft_[k]);
    return k == label_ ? on_label_ : k == other_ ? on_other_ : rest_;
  }
  // The label of larger weight.
  std::int64_t dominant() const { return dominant_; }

 private:
  float decided(float t) const {
    if (threshold_ < 0.0f) return t;
    return t > threshold_ ? 1.0f : 0.0f;
  }

  const float* soft_;
  std::int64_t label_, other_ = -1, dominant_;
  float threshold_, rest_, on_label_, on_other_;
};

struct Scratch {
  std::vector<float> p, q;  // softmax(logits), softmax(p)
};

void write_gradient(const Scratch& scratch, const CrossEntropy& args, const Target& target,
                    float target_sum, float* dlogits) {
  const std::int64_t classes = args.classes;
  const float scale = args.state->loss_scale;
  const float* p = scratch.p.data();
  if (!args.head_softmax) {
    for (std::int64_t k = 0; k < classes; ++k) {
      dlogits[k] = (p[k] * target_sum - target[k]) * scale;
    }
    return;
  }
  const float* q = scratch.q.data();
  double mean = 0.0;
  for (std::int64_t k = 0; k < classes; ++k) {
    dlogits[k] = q[k] * target_sum - target[k];
    mean += static_cast<double>(p[k]) * static_cast<double>(dlogits[k]);
  }
  for (std::int64_t k = 0; k < classes; ++k) {
    dlogits[k] = p[k] * (dlogits[k] - static_cast<float>(mean)) * scale;
  }
}

// What a row with a label adds to the metrics.
RowResult labelled(double loss, const float* logits, std::int64_t classes, const Target& target) {
  constexpr std::int64_t kBehindAll = std::numeric_limits<std::int64_t>::max();
  return {.loss = static_cast<float>(loss),
          .valid = true,
          .rank = std::isnan(loss) ? kBehindAll : rank_of(logits, classes, target.dominant())};
}

// `dlogits` may be null, or the logits.
RowResult binary_row(const CrossEntropy& args, const float* logits, const Target& target,
                     float* dlogits) {
  const std::int64_t classes = args.classes;
  const float share = args.sum_classes ? 1.0f : 1.0f / static_cast<float>(classes);
  double loss = 0.0;
  for (std::int64_t k = 0; k < classes; ++k) {
    const float z = logits[k], t = target[k];
    loss += static_cast<double>(std::log1p(std::exp(-std::abs(z))));
    // An infinite logit costs nothing where it is right.
    if (z < 0.0f && t != 0.0f) loss -= static_cast<double>(t) * static_cast<double>(z);
    if (z > 0.0f && t != 1.0f) loss += (1.0 - static_cast<double>(t)) * static_cast<double>(z);
  }
  loss *= static_cast<double>(share);
  const RowResult result = labelled(loss, logits, classes, target);
  if (dlogits == nullptr) return result;
  const float scale = args.state->loss_scale * share;
  for (std::int64_t k = 0; k < classes; ++k) {
    const float e = std::exp(-std::abs(logits[k])), t = target[k];
    const float tail = e / (1.0f + e);  // sigmoid(-|z|)
    dlogits[k] = (logits[k] > 0.0f ? (1.0f - t) - tail : tail - t) * scale;
  }
  return result;
}

// p = softmax(logits) is in the scratch memory.
RowResult softmax_row(const CrossEntropy& args, const float* logits, double log_sum_exp,
                      const Target& target, Scratch& scratch, float* dlogits) {
  const std::int64_t classes = args.classes;
  const float* z = logits;
  if (args.head_softmax) {
    z = scratch.p.data();
    log_sum_exp = softmax(z, classes, scratch.q.data());
  }
  double loss = std::isnan(log_sum_exp) ? log_sum_exp : 0.0;
  double target_sum = 0.0;
  for (std::int64_t k = 0; k < classes; ++k) {
    if (target[k] == 0.0f) continue;  // a logit of -infinity costs nothing there
    target_sum += static_cast<double>(target[k]);
    loss += static_cast<double>(target[k]) * (log_sum_exp - static_cast<double>(z[k]));
  }
  const RowResult result = labelled(loss, logits, classes, target);
  if (dlogits != nullptr) {
    write_gradient(scratch, args, target, static_cast<float>(target_sum), dlogits);
  }
  return result;
}

RowResult one_row(const CrossEntropy& args, std::int64_t row, Scratch& scratch) {
  const std::int64_t classes = args.classes;
  const float* logits = args.logits.f32().data + row * classes;
  float* dlogits = args.dlogits ? args.dlogits.f32().data + row * classes : nullptr;
  const bool binary = args.kind == LossKind::bce;
  double log_sum_exp = 0.0;
  if (!binary || args.probabilities) log_sum_exp = softmax(logits, classes, scratch.p.data());
  if (args.probabilities) {
    std::copy_n(scratch.p.data(), classes, args.probabilities.data + row * classes);
  }
  if (args.labels[row] < 0) {
    if (dlogits != nullptr) std::fill_n(dlogits, classes, 0.0f);
    return {};
  }
  const Target target(args, row);
  return binary ? binary_row(args, logits, target, dlogits)
                : softmax_row(args, logits, log_sum_exp, target, scratch, dlogits);
}

// What check_arguments leaves: labels and mixes lie in this device's memory.
void check_labels(const CrossEntropy& args) {
  for (std::int64_t row = 0; row < args.batch; ++row) {
    VITRINE_CHECK(args.labels[row] >= -1 && args.labels[row] < args.classes, "cross_entropy",
                  "labels[" + std::to_string(row) + "] is " + std::to_string(args.labels[row]) +
                      ", expected -1 to " + std::to_string(args.classes - 1));
    if (!args.mixes) continue;
    const LabelMix& mix = args.mixes[row];
    VITRINE_CHECK(mix.other >= -1 && mix.other < args.classes, "cross_entropy",
                  "mixes[" + std::to_string(row) + "].other is " + std::to_string(mix.other) +
                      ", expected -1 to " + std::to_string(args.classes - 1));
    VITRINE_CHECK(mix.weight >= 0.0f && mix.weight <= 1.0f, "cross_entropy",
                  "mixes[" + std::to_string(row) + "].weight is " + std::to_string(mix.weight) +
                      ", expected 0 to 1");
  }
}

}  // namespace

void CpuKernels::cross_entropy(const CrossEntropy& args) {
  check_arguments(args);
  check_labels(args);
  std::vector<RowResult> results(args.batch);
  const std::int64_t grain = (kElementsPerTask + args.classes - 1) / args.classes;
  pool_.for_ranges(args.batch, grain, [&](std::int64_t begin, std::int64_t end) {
    Scratch scratch{std::vector<float>(args.classes),
                    std::vector<float>(args.head_softmax ? args.classes : 0)};
    for (std::int64_t row = begin; row < end; ++row) {
      results[row] = one_row(args, row, scratch);
      if (args.loss) args.loss[row] = results[row].loss;
    }
  });
  if (args.metrics == nullptr) return;
  const auto scale = static_cast<double>(args.state->loss_scale);
  for (const RowResult& result : results) {
    if (!result.valid) continue;
    args.metrics->loss += static_cast<double>(result.loss);
    args.metrics->batch_loss += static_cast<double>(result.loss) * scale;
    args.metrics->samples += 1;
    args.metrics->top1 += result.rank < 1;
    args.metrics->top5 += result.rank < 5;
  }
}

}  // namespace vitrine::cpu
