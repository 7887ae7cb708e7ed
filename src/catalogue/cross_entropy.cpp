// Argument checks of cross-entropy. The labels' range is the device's to check.
#include "catalogue/check.h"
#include "vitrine/arguments.h"

namespace vitrine {

void check_arguments(const CrossEntropy& args) {
  constexpr const char* kOperation = "cross_entropy";
  VITRINE_CHECK(args.batch > 0 && args.classes > 0, kOperation,
                "batch, classes are " + std::to_string(args.batch) + ", " +
                    std::to_string(args.classes) + ", expected at least 1");
  const std::int64_t elements = args.batch * args.classes;
  check_size(kOperation, "loss", args.loss, args.batch, true);
  check_size(kOperation, "probabilities", args.probabilities, elements, true);
  check_size(kOperation, "dlogits", args.dlogits, elements, true);
  check_size(kOperation, "logits", args.logits, elements);
  check_size(kOperation, "labels", args.labels, args.batch);
  check_size(kOperation, "mixes", args.mixes, args.batch, true);
  check_size(kOperation, "targets", args.targets, elements, true);
  VITRINE_CHECK(!args.mixes || !args.targets, kOperation,
                "mixes and targets are given, expected one of them");
  VITRINE_CHECK(args.label_smoothing >= 0.0f && args.label_smoothing <= 1.0f, kOperation,
                "label_smoothing is " + std::to_string(args.label_smoothing) + ", expected 0 to 1");
  const bool binary = args.kind == LossKind::bce;
  VITRINE_CHECK(binary || args.target_threshold == -1.0f, kOperation,
                "target_threshold is " + std::to_string(args.target_threshold) +
                    " with softmax cross-entropy, expected -1");
  VITRINE_CHECK(args.target_threshold == -1.0f || args.target_threshold >= 0.0f, kOperation,
                "target_threshold is " + std::to_string(args.target_threshold) +
                    ", expected -1 or at least 0");
  VITRINE_CHECK(binary || !args.sum_classes, kOperation,
                "sum_classes is set with softmax cross-entropy, expected with bce");
  VITRINE_CHECK(!binary || !args.head_softmax, kOperation,
                "head_softmax is set with bce, expected with softmax cross-entropy");
  VITRINE_CHECK((!args.dlogits && args.metrics == nullptr) || args.state != nullptr, kOperation,
                "state is missing, expected where dlogits or metrics are asked for");
  check_dtypes(kOperation, {{"dlogits", args.dlogits}, {"logits", args.logits}});
}

}  // namespace vitrine
