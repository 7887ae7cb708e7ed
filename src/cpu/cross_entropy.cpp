// Softmax cross-entropy: loss, accuracy and the gradient of the logits in one pass over each row.
//
//   loss = sum_k t_k (log_sum_exp(z) - z_k),   dz = softmax(z) sum_k t_k - t
//   t = (1 - s) onehot(label) + s / K          label smoothing: Szegedy et al. 2016,
//   arXiv:1512.00567
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
        others_(args.label_smoothing / static_cast<float>(args.classes)),
        own_(1.0f - args.label_smoothing + others_) {}

  float operator[](std::int64_t k) const {
    if (soft_ != nullptr) return soft_[k];
    return k == label_ ? own_ : others_;
  }

 private:
  const float* soft_;
  std::int64_t label_;
  float others_, own_;
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

RowResult one_row(const CrossEntropy& args, std::int64_t row, Scratch& scratch) {
  const std::int64_t classes = args.classes;
  const float* logits = args.logits.f32().data + row * classes;
  float* dlogits = args.dlogits ? args.dlogits.f32().data + row * classes : nullptr;
  const std::int64_t label = args.labels[row];

  RowResult result;
  double log_sum_exp = softmax(logits, classes, scratch.p.data());
  if (args.probabilities) {
    std::copy_n(scratch.p.data(), classes, args.probabilities.data + row * classes);
  }
  if (label < 0) {
    if (dlogits != nullptr) std::fill_n(dlogits, classes, 0.0f);
    return result;
  }

  const float* z = logits;
  if (args.head_softmax) {
    z = scratch.p.data();
    log_sum_exp = softmax(z, classes, scratch.q.data());
  }
  const Target target(args, row);
  double loss = std::isnan(log_sum_exp) ? log_sum_exp : 0.0;
  double target_sum = 0.0;
  for (std::int64_t k = 0; k < classes; ++k) {
    if (target[k] == 0.0f) continue;  // a logit of -infinity costs nothing there
    target_sum += static_cast<double>(target[k]);
    loss += static_cast<double>(target[k]) * (log_sum_exp - static_cast<double>(z[k]));
  }
  result.valid = true;
  result.loss = static_cast<float>(loss);
  result.rank =
      std::isnan(loss) ? std::numeric_limits<std::int64_t>::max() : rank_of(logits, classes, label);
  if (dlogits != nullptr) {
    write_gradient(scratch, args, target, static_cast<float>(target_sum), dlogits);
  }
  return result;
}

// What check_arguments leaves: the labels lie in this device's memory.
void check_labels(const CrossEntropy& args) {
  for (std::int64_t row = 0; row < args.batch; ++row) {
    VITRINE_CHECK(args.labels[row] >= -1 && args.labels[row] < args.classes, "cross_entropy",
                  "labels[" + std::to_string(row) + "] is " + std::to_string(args.labels[row]) +
                      ", expected -1 to " + std::to_string(args.classes - 1));
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
