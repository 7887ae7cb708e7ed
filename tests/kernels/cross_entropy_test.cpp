// Loss, gradient, probabilities and counts of cross-entropy in CUDA against their definitions.
#include "reference/cross_entropy.h"

#include "kernels/kernel_device.h"

namespace vitrine::cuda {
namespace {

using namespace reference::cross_entropy;

constexpr Metrics kMetricsBefore{1.5, 0.25, 2, 3, 4};

/// Besides the common cases: one class, both sides of the limit between a warp and a block a row,
/// more rows than one grid of blocks, the classes of ImageNet-21k.
std::vector<Case> cases() {
  std::vector<Case> all = kCases;
  all.push_back({3, 1, 0.0f, false, false});
  all.push_back({5, 3, 0.1f, true, false});
  all.push_back({9, 100, 0.1f, false, false});
  all.push_back({9, 24, 0.0f, false, true});
  all.push_back({3, 1024, 0.1f, true, false});
  all.push_back({3, 1025, 0.1f, false, false});
  all.push_back({2, 1032, 0.1f, true, true});
  all.push_back({4, 1000, 0.0f, true, true});
  all.push_back({3, 1001, 0.0f, false, false});
  all.push_back({4, 1024, 0.1f, false, false, true});
  all.push_back({4, 1031, 0.1f, false, false, true, LossKind::bce});
  all.push_back({3, 1032, 0.0f, false, true, false, LossKind::bce, 0.5f, true});
  all.push_back({3, 1, 0.1f, false, false, true, LossKind::bce});
  if (!kReduced) all.push_back({2, 21841, 0.1f, false, false});
  return all;
}

/// A problem on the device, the logits rounded to the type, and where its results go.
struct OnDevice {
  Problem host;
  DeviceTensor logits, dlogits;
  DeviceArray<float> targets, loss, probabilities;
  DeviceArray<std::int32_t> labels;
  DeviceArray<LabelMix> mixes;
  DeviceArray<Metrics> metrics;
  DeviceArray<StepState> state;

  OnDevice(const Problem& p, DType dtype)
      : host(rounded(p, dtype)),
        logits(dtype, host.logits),
        dlogits(dtype, std::ssize(host.logits)),
        targets(host.c.soft_targets ? host.targets : std::vector<float>{0.0f}),
        loss(host.c.batch),
        probabilities(std::ssize(host.logits)),
        labels(host.labels),
        mixes(host.c.mixed ? host.mixes : std::vector<LabelMix>(1)),
        metrics(kMetricsBefore),
        state(host.state) {}

  static Problem rounded(Problem p, DType dtype) {
    p.logits = rounded_to(dtype, p.logits);
    return p;
  }
  CrossEntropy arguments() const {
    CrossEntropy args = host.options();
    args.loss = loss.view();
    args.probabilities = probabilities.view();
    args.dlogits = dlogits.view();
    args.metrics = metrics.data();
    args.logits = logits.view();
    args.labels = {labels.data(), host.c.batch};
    if (host.c.mixed) args.mixes = mixes.view();
    if (host.c.soft_targets) args.targets = targets.view();
    args.state = state.data();
    return args;
  }
};

/// The counts by their definition and the losses summed in double.
Metrics expected_metrics(const Problem& p, const std::vector<float>& loss) {
  Metrics expected = kMetricsBefore;
  for (std::int64_t row = 0; row < p.c.batch; ++row) {
    const std::int32_t label = counted_label(p, row);
    if (label < 0) continue;
    const float* z = p.logits.data() + row * p.c.classes;
    std::int64_t ahead = 0;
    for (std::int64_t k = 0; k < p.c.classes; ++k) {
      ahead += z[k] > z[label] || (z[k] == z[label] && k < label);
    }
    expected.loss += static_cast<double>(loss[row]);
    expected.batch_loss += static_cast<double>(loss[row]) * static_cast<double>(p.state.loss_scale);
    expected.samples += 1;
    expected.top1 += ahead < 1;
    expected.top5 += ahead < 5;
  }
  return expected;
}

void expect_metrics(const Metrics& metrics, const Metrics& expected) {
  constexpr double kSumOfDoubles = 1e-12;
  EXPECT_NEAR(metrics.loss, expected.loss, kSumOfDoubles * (1.0 + std::abs(expected.loss)));
  EXPECT_NEAR(metrics.batch_loss, expected.batch_loss,
              kSumOfDoubles * (1.0 + std::abs(expected.batch_loss)));
  EXPECT_EQ(metrics.samples, expected.samples);
  EXPECT_EQ(metrics.top1, expected.top1);
  EXPECT_EQ(metrics.top5, expected.top5);
}

class CrossEntropyKernel : public KernelTest {
 protected:
  /// Runs under two schedules and expects the same bits.
  void run(const OnDevice& p, const OnDevice& again) {
    kernels().cross_entropy(p.arguments());
    in_another_order([&] { kernels().cross_entropy(again.arguments()); });
    EXPECT_TRUE(same_bits(p.loss.values(), again.loss.values()));
    EXPECT_TRUE(same_bits(p.dlogits.values(), again.dlogits.values()));
    EXPECT_TRUE(same_bits(p.probabilities.values(), again.probabilities.values()));
    const Metrics one = p.metrics.values()[0], two = again.metrics.values()[0];
    EXPECT_EQ(std::memcmp(&one, &two, sizeof(Metrics)), 0);
  }
  OnDevice run(const Problem& problem, DType dtype) {
    OnDevice p(problem, dtype);
    run(p, OnDevice(problem, dtype));
    return p;
  }
};

TEST_F(CrossEntropyKernel, MatchesReference) {
  std::uint64_t seed = 100;
  for (const Case& c : cases()) {
    const Problem problem(c, ++seed);
    for (const DType dtype : kFloatTypes) {
      SCOPED_TRACE("type " + std::string(to_string(dtype)) + " classes " +
                   std::to_string(c.classes) + " seed " + std::to_string(seed));
      const OnDevice p = run(problem, dtype);
      const Reference<float> naive(p.host);
      const Reference<double> exact(p.host);
      expect_close(p.loss.values(), naive.loss, exact.loss, "loss");
      expect_close(p.probabilities.values(), naive.probabilities, exact.probabilities,
                   "probabilities");
      expect_close(p.dlogits.values(), rounded_to(dtype, naive.dlogits), exact.dlogits, "dlogits");
      expect_metrics(p.metrics.values()[0], expected_metrics(p.host, p.loss.values()));
    }
  }
}

// More rows than the scratch memory has blocks: a warp a row, then a block a row.
TEST_F(CrossEntropyKernel, LoopsOverManyRows) {
  constexpr std::int64_t kBlocks = kReduced ? 40 : ScratchMemory::kMaxBlocks;
  for (const Case& c : {Case{8 * kBlocks + 13, 4, 0.1f, false, false},
                        Case{kBlocks + 3, 1025, 0.0f, false, false}}) {
    SCOPED_TRACE("rows " + std::to_string(c.batch));
    const OnDevice p = run(Problem(c, 150), DType::f32);
    expect_close(p.loss.values(), Reference<float>(p.host).loss, Reference<double>(p.host).loss,
                 "loss");
    expect_metrics(p.metrics.values()[0], expected_metrics(p.host, p.loss.values()));
  }
}

TEST_F(CrossEntropyKernel, GradientMayReplaceTheLogits) {
  for (const DType dtype : kFloatTypes) {
    for (const Case& c :
         {Case{11, 10, 0.1f, true, false}, Case{3, 1000, 0.1f, false, false},
          Case{3, 1031, 0.0f, true, true}, Case{9, 10, 0.1f, false, false, true, LossKind::bce},
          Case{3, 1200, 0.1f, false, false, true, LossKind::bce}}) {
      const OnDevice apart = run(Problem(c, 301), dtype);
      CrossEntropy args = apart.arguments();
      args.dlogits = apart.logits.view();
      kernels().cross_entropy(args);
      EXPECT_TRUE(same_bits(apart.logits.values(), apart.dlogits.values()));
    }
  }
}

// Without metrics no scratch memory is touched, without dlogits and metrics no state.
TEST_F(CrossEntropyKernel, WritesWhatIsAskedFor) {
  for (const Case& c : {Case{5, 10, 0.1f, false, false}, Case{5, 1200, 0.1f, false, false},
                        Case{5, 10, 0.1f, false, false, true, LossKind::bce},
                        Case{5, 1200, 0.1f, false, false, true, LossKind::bce}}) {
    const std::int64_t classes = c.classes;
    const Problem problem(c, 302);
    const OnDevice all = run(problem, DType::bf16), some(problem, DType::bf16);
    CrossEntropy args = some.arguments();
    args.dlogits = {}, args.probabilities = {};
    args.metrics = nullptr, args.state = nullptr;
    CudaKernels(nullptr, {}, nullptr).cross_entropy(args);
    EXPECT_TRUE(same_bits(some.loss.values(), all.loss.values()));

    args = some.arguments();
    args.loss = {}, args.probabilities = {};
    kernels().cross_entropy(args);
    EXPECT_TRUE(same_bits(some.dlogits.values(), all.dlogits.values()));
    EXPECT_TRUE(same_bits(some.probabilities.values(), poisoned(5 * classes)));
    EXPECT_EQ(some.metrics.values()[0].loss, all.metrics.values()[0].loss);
  }
}

TEST_F(CrossEntropyKernel, CountsWithTiesToTheLowerClass) {
  Problem problem({6, 7, 0.0f, false, false}, 303);
  problem.logits = {1, 2, 2, 0, -1, 3, 3,  // label 5: first of the largest
                    1, 2, 2, 0, -1, 3, 3,  // label 6: second
                    2, 2, 2, 2, 2,  2, 2,  // label 4: fifth
                    2, 2, 2, 2, 2,  2, 2,  // label 5: sixth
                    9, 2, 2, 2, 2,  2, 2,  // no label
                    9, 2, 2, 2, 2,  2, 2};
  problem.labels = {5, 6, 4, 5, -1, 0};
  const Metrics metrics = run(problem, DType::bf16).metrics.values()[0];
  EXPECT_EQ(metrics.samples, 2 + 5);
  EXPECT_EQ(metrics.top1, 3 + 2);
  EXPECT_EQ(metrics.top5, 4 + 4);
}

// No launcher can look at the labels: one that names no class is no label.
TEST_F(CrossEntropyKernel, LabelsOutsideTheClassesAreNone) {
  for (const std::int64_t classes : {3, 1300}) {
    Problem problem({5, classes, 0.1f, false, false}, 304);
    problem.labels = {static_cast<std::int32_t>(classes), 1, -1,
                      std::numeric_limits<std::int32_t>::max(),
                      std::numeric_limits<std::int32_t>::min()};
    const OnDevice p = run(problem, DType::f32);
    const std::vector<float> loss = p.loss.values(), dlogits = p.dlogits.values();
    EXPECT_EQ(p.metrics.values()[0].samples, kMetricsBefore.samples + 1);
    for (std::int64_t i = 0; i < std::ssize(dlogits); ++i) {
      const bool labelled = i / classes == 1;
      EXPECT_EQ(loss[i / classes] != 0.0f, labelled);
      EXPECT_EQ(dlogits[i] != 0.0f, labelled);
    }
  }
}

TEST_F(CrossEntropyKernel, NotANumberIsNeverCorrectAndAlwaysSeen) {
  for (Case c : {Case{1, 3, 0.0f, false, false}, Case{1, 3, 0.0f, true, false},
                 Case{1, 3, 0.0f, false, false, false, LossKind::bce}}) {
    for (const std::int64_t classes : {3, 1100}) {
      c.classes = classes;
      for (int at = 0; at < 3; ++at) {
        Problem problem(c, 305);
        problem.logits[at] = std::numeric_limits<float>::quiet_NaN();
        problem.labels = {1};
        const OnDevice p(problem, DType::f32);
        kernels().cross_entropy(p.arguments());
        const Metrics metrics = p.metrics.values()[0];
        EXPECT_TRUE(std::isnan(p.loss.values()[0]));
        EXPECT_TRUE(std::isnan(metrics.loss));
        EXPECT_EQ(metrics.samples, 3);
        EXPECT_EQ(metrics.top1, 3);
        EXPECT_EQ(metrics.top5, 4);
      }
    }
  }
}

TEST_F(CrossEntropyKernel, LargeLogitsStayFinite) {
  Problem problem({2, 3, 0.0f, false, false}, 306);
  problem.logits = {3e38f, -3e38f, 1.0f, -std::numeric_limits<float>::infinity(), 1e4f, -1e4f};
  problem.labels = {0, 1};
  for (const DType dtype : {DType::f32, DType::bf16}) {
    EXPECT_EQ(run(problem, dtype).loss.values(), (std::vector<float>{0.0f, 0.0f}));
  }
}

// Right, then wrong: where wrong, the loss is the logit and the gradient 1.
TEST_F(CrossEntropyKernel, BinaryLossOfLargeLogits) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  Problem problem({2, 4, 0.0f, false, false, false, LossKind::bce, -1.0f, true}, 308);
  problem.logits = {kInfinity, -3e38f,   -kInfinity, -16384.0f,
                    -16384.0f, 32768.0f, -1024.0f,   -kInfinity};
  problem.labels = {0, 0};
  problem.state.loss_scale = 1.0f;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const OnDevice p = run(problem, dtype);
    EXPECT_EQ(p.loss.values(), (std::vector<float>{0.0f, 49152.0f}));
    EXPECT_EQ(p.dlogits.values(), (std::vector<float>{0, 0, 0, 0, -1, 1, 0, 0}));
  }
}

// A mix with weight 1, with the same label or with one outside the classes is none.
TEST_F(CrossEntropyKernel, MixesThatMixNothingChangeNoBit) {
  for (const LossKind kind : {LossKind::softmax, LossKind::bce}) {
    for (const std::int64_t classes : {10, 1300}) {
      const OnDevice expected =
          run(Problem({8, classes, 0.1f, false, false, false, kind}, 309), DType::f32);
      Problem problem({8, classes, 0.1f, false, false, true, kind}, 309);
      for (std::size_t row = 0; row < 8; ++row) {
        LabelMix& mix = problem.mixes[row];
        mix.weight = 0.25f;
        if (row % 4 == 0) mix.other = -7;
        if (row % 4 == 1) mix.other = problem.labels[row];
        if (row % 4 == 2) mix = {.other = static_cast<std::int32_t>(row), .weight = 1.0f};
        if (row % 4 == 3) mix.other = static_cast<std::int32_t>(classes);
      }
      const OnDevice found = run(problem, DType::f32);
      EXPECT_TRUE(same_bits(found.loss.values(), expected.loss.values()));
      EXPECT_TRUE(same_bits(found.dlogits.values(), expected.dlogits.values()));
      EXPECT_EQ(found.metrics.values()[0].top5, expected.metrics.values()[0].top5);
    }
  }
}

TEST_F(CrossEntropyKernel, RefusesContradictions) {
  const OnDevice p(Problem({3, 5, 0.0f, false, true}, 307), DType::bf16);
  const DeviceTensor other(DType::f16, 15);
  const auto refused = [&](const char* field, auto change) {
    CrossEntropy args = p.arguments();
    change(args);
    expect_refused([&] { kernels().cross_entropy(args); }, field);
  };
  refused("loss", [](CrossEntropy& args) { args.loss.size = 2; });
  refused("probabilities", [](CrossEntropy& args) { args.probabilities.size = 2; });
  refused("logits", [&](CrossEntropy& args) { args.dlogits = other.view(); });
  refused("labels", [](CrossEntropy& args) { args.labels.size = 4; });
  refused("targets", [](CrossEntropy& args) { args.targets.size = 4; });
  refused("label_smoothing", [](CrossEntropy& args) { args.label_smoothing = 1.5f; });
  refused("state", [](CrossEntropy& args) { args.state = nullptr; });
  refused("target_threshold", [](CrossEntropy& args) { args.target_threshold = 0.5f; });
  refused("sum_classes", [](CrossEntropy& args) { args.sum_classes = true; });
  refused("mixes", [&](CrossEntropy& args) { args.mixes = {p.mixes.data(), 3}; });
}

}  // namespace
}  // namespace vitrine::cuda
