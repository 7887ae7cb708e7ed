// Loss, gradient, probabilities and counts of cross-entropy against a double-precision reference,
// whose gradient is checked by central differences; both against timm's losses.
#include "reference/cross_entropy.h"

#include <gtest/gtest.h>

#include "cpu/cpu_kernels.h"
#include "reference_check.h"
#include "vitrine/safetensors.h"

namespace vitrine::cpu {
namespace {

using namespace reference::cross_entropy;

struct Results {
  std::vector<float> loss, probabilities, dlogits;
  Metrics metrics;
};

CrossEntropy arguments(Problem& p, Results& r) {
  const std::int64_t n = p.c.batch * p.c.classes;
  r = {poisoned(p.c.batch), poisoned(n), poisoned(n), {1.5, 0.25, 2, 3, 4}};
  CrossEntropy args = p.options();
  args.loss = {r.loss.data(), p.c.batch};
  args.probabilities = {r.probabilities.data(), n};
  args.dlogits = View<float>(r.dlogits.data(), n);
  args.metrics = &r.metrics;
  args.logits = View<float>(p.logits.data(), n);
  args.labels = {p.labels.data(), p.c.batch};
  if (p.c.mixed) args.mixes = {p.mixes.data(), p.c.batch};
  if (p.c.soft_targets) args.targets = {p.targets.data(), n};
  args.state = &p.state;
  return args;
}

Results run(Problem& p, int threads) {
  ThreadPool pool(threads);
  Results results;
  CpuKernels(pool).cross_entropy(arguments(p, results));
  return results;
}

TEST(CrossEntropy, AgreesWithDoublePrecision) {
  std::uint64_t seed = 100;
  for (const Case& c : kCases) {
    SCOPED_TRACE("seed " + std::to_string(++seed));
    Problem p(c, seed);
    const Results results = run(p, 2);
    const Reference<float> naive(p);
    const Reference<double> exact(p);
    expect_close(results.loss, naive.loss, exact.loss, "loss");
    expect_close(results.probabilities, naive.probabilities, exact.probabilities, "probabilities");
    expect_close(results.dlogits, naive.dlogits, exact.dlogits, "dlogits");
  }
}

TEST(CrossEntropy, ReferenceGradientIsTheSlopeOfTheLoss) {
  constexpr double kStep = 1e-5;
  std::uint64_t seed = 200;
  for (const Case& c : kCases) {
    SCOPED_TRACE("seed " + std::to_string(++seed));
    Problem p(c, seed);
    const std::vector<double> z(p.logits.begin(), p.logits.begin() + c.classes);
    const std::vector<double> gradient = row_gradient(p, 0, z);
    for (std::int64_t k = 0; k < std::min<std::int64_t>(c.classes, 20); ++k) {
      std::vector<double> up = z, down = z;
      up[k] += kStep;
      down[k] -= kStep;
      const double slope = (row_loss(p, 0, up) - row_loss(p, 0, down)) / (2.0 * kStep);
      EXPECT_NEAR(gradient[k], slope * static_cast<double>(p.state.loss_scale), 1e-8);
    }
  }
}

/// A case of tools/make_loss_values.py and its options here.
struct TimmCase {
  const char* name;
  Case c;
};
const std::vector<TimmCase> kTimmCases = {
    {"softmax_smoothed", {8, 11, 0.1f, false, false}},
    {"softmax_mixed", {8, 11, 0.0f, false, false, true}},
    {"softmax_mixed_smoothed", {8, 11, 0.1f, false, false, true}},
    {"bce_smoothed", {8, 11, 0.1f, false, false, false, LossKind::bce}},
    {"bce_mixed_smoothed", {8, 11, 0.1f, false, false, true, LossKind::bce}},
    {"bce_mixed_sum_threshold", {8, 11, 0.0f, false, false, true, LossKind::bce, 0.2f, true}},
    {"bce_mixed_threshold_0", {8, 11, 0.0f, false, false, true, LossKind::bce, 0.0f}}};

Problem timm_problem(const Case& c, const SafetensorsFile& file) {
  Problem p(c, 0);
  p.logits = file.read_f32("logits", Shape{c.batch, c.classes});
  const std::vector<float> labels = file.read_f32("labels", Shape{c.batch});
  const std::vector<float> weights = file.read_f32("weights", Shape{c.batch});
  p.labels.assign(labels.begin(), labels.end());
  p.mixes.clear();
  for (std::size_t row = 0; row < labels.size(); ++row) {
    p.mixes.push_back({.other = p.labels[labels.size() - 1 - row], .weight = weights[row]});
  }
  p.state.loss_scale = 1.0f / static_cast<float>(c.batch);
  return p;
}

TEST(CrossEntropy, IsTimms) {
  const SafetensorsFile file(std::string(VITRINE_TESTS_DIRECTORY) + "/pytorch/losses.safetensors");
  for (const TimmCase& test : kTimmCases) {
    SCOPED_TRACE(test.name);
    Problem p = timm_problem(test.c, file);
    const std::string name = test.name;
    const std::vector<float> loss = file.read_f32(name + ".loss", Shape{1});
    const std::vector<double> dlogits =
        converted<double>(file.read_f32(name + ".dlogits", Shape{test.c.batch, test.c.classes}));
    const Results results = run(p, 1);
    const Reference<float> naive(p);
    expect_close(results.dlogits, naive.dlogits, dlogits, "dlogits");
    EXPECT_FLOAT_EQ(static_cast<float>(results.metrics.batch_loss - 0.25), loss[0]);
    const Reference<double> exact(p);
    double mean = 0.0;
    for (const double row : exact.loss) mean += row / static_cast<double>(test.c.batch);
    EXPECT_FLOAT_EQ(static_cast<float>(mean), loss[0]);
    EXPECT_LE(largest_error(exact.dlogits, dlogits), allowed_error(naive.dlogits, dlogits));
  }
}

TEST(CrossEntropy, GradientMayReplaceTheLogits) {
  for (const Case& c :
       {Case{11, 10, 0.1f, true, false}, Case{11, 10, 0.1f, false, false, true, LossKind::bce}}) {
    Problem p(c, 301);
    const Results apart = run(p, 1);
    ThreadPool pool(1);
    Results results;
    CrossEntropy args = arguments(p, results);
    args.dlogits = View<float>(p.logits.data(), 110);
    CpuKernels(pool).cross_entropy(args);
    EXPECT_TRUE(same_bits(p.logits, apart.dlogits));
  }
}

// A mix with weight 1, with no other label or with the same label is none.
TEST(CrossEntropy, MixesThatMixNothingChangeNoBit) {
  for (const LossKind kind : {LossKind::softmax, LossKind::bce}) {
    Problem plain({9, 10, 0.1f, false, false, false, kind}, 307);
    const Results expected = run(plain, 1);
    Problem mixed({9, 10, 0.1f, false, false, true, kind}, 307);
    ASSERT_EQ(mixed.labels, plain.labels);
    for (std::size_t row = 0; row < 9; ++row) {
      LabelMix& mix = mixed.mixes[row];
      mix.weight = 0.25f;
      if (row % 3 == 0) mix.other = -1;
      if (row % 3 == 1) mix.other = mixed.labels[row];
      if (row % 3 == 2) mix = {.other = static_cast<std::int32_t>(row), .weight = 1.0f};
    }
    const Results found = run(mixed, 1);
    EXPECT_TRUE(same_bits(found.loss, expected.loss));
    EXPECT_TRUE(same_bits(found.dlogits, expected.dlogits));
    EXPECT_EQ(found.metrics.top1, expected.metrics.top1);
    EXPECT_EQ(found.metrics.top5, expected.metrics.top5);
  }
}

TEST(CrossEntropy, CountsAreThoseOfTheLabelOfLargerWeight) {
  for (const LossKind kind : {LossKind::softmax, LossKind::bce}) {
    Problem p({5, 7, 0.1f, false, false, true, kind}, 308);
    p.logits.clear();
    for (int row = 0; row < 5; ++row) {
      p.logits.insert(p.logits.end(), {1, 2, 9, 3, 4, 5, 6});  // 2 leads; 1 is sixth
    }
    p.labels = {2, 2, 1, 2, -1};
    p.mixes = {{1, 0.6f}, {1, 0.4f}, {2, 0.5f}, {1, 0.45f}, {2, 0.1f}};
    const Results results = run(p, 1);
    EXPECT_EQ(results.metrics.samples, 2 + 4);
    EXPECT_EQ(results.metrics.top1, 3 + 1);
    EXPECT_EQ(results.metrics.top5, 4 + 1);
  }
}

TEST(CrossEntropy, CountsWithTiesToTheLowerClass) {
  Problem p({6, 7, 0.0f, false, false}, 302);
  p.logits = {1, 2, 2, 0, -1, 3, 3,  // label 5: first of the largest
              1, 2, 2, 0, -1, 3, 3,  // label 6: second
              2, 2, 2, 2, 2,  2, 2,  // label 4: fifth
              2, 2, 2, 2, 2,  2, 2,  // label 5: sixth
              9, 2, 2, 2, 2,  2, 2,  // no label
              9, 2, 2, 2, 2,  2, 2};
  p.labels = {5, 6, 4, 5, -1, 0};
  const Results results = run(p, 1);
  EXPECT_EQ(results.metrics.samples, 2 + 5);
  EXPECT_EQ(results.metrics.top1, 3 + 2);
  EXPECT_EQ(results.metrics.top5, 4 + 4);
  double sum = 1.5, scaled = 0.25;
  for (const float loss : results.loss) {
    sum += static_cast<double>(loss);
    scaled += static_cast<double>(loss) * static_cast<double>(p.state.loss_scale);
  }
  EXPECT_EQ(results.metrics.loss, sum);
  EXPECT_EQ(results.metrics.batch_loss, scaled);
}

TEST(CrossEntropy, NotANumberIsNeverCorrectAndAlwaysSeen) {
  for (const Case& c : {Case{1, 3, 0.0f, false, false}, Case{1, 3, 0.0f, true, false},
                        Case{1, 3, 0.0f, false, false, false, LossKind::bce}}) {
    for (int at = 0; at < 3; ++at) {
      Problem p(c, 303);
      p.logits[at] = std::numeric_limits<float>::quiet_NaN();
      p.labels = {1};
      const Results results = run(p, 1);
      EXPECT_TRUE(std::isnan(results.loss[0]));
      EXPECT_TRUE(std::isnan(results.metrics.loss));
      EXPECT_EQ(results.metrics.samples, 3);
      EXPECT_EQ(results.metrics.top1, 3);
      EXPECT_EQ(results.metrics.top5, 4);
    }
  }
}

constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(CrossEntropy, LargeLogitsStayFinite) {
  Problem p({2, 3, 0.0f, false, false}, 304);
  p.logits = {3e38f, -3e38f, 1.0f, -kInfinity, 1e4f, -1e4f};
  p.labels = {0, 1};
  const Results results = run(p, 1);
  EXPECT_EQ(results.loss, (std::vector<float>{0.0f, 0.0f}));
}

// Right, then wrong: where wrong, the loss is the logit and the gradient 1.
TEST(CrossEntropy, BinaryLossOfLargeLogits) {
  Problem p({2, 4, 0.0f, false, false, false, LossKind::bce, -1.0f, true}, 309);
  p.logits = {kInfinity, -3e38f, -kInfinity, -1e4f, -1e4f, 2e4f, 0.0f, -kInfinity};
  p.labels = {0, 0};
  p.state.loss_scale = 1.0f;
  const Results results = run(p, 1);
  EXPECT_EQ(results.loss, (std::vector<float>{0.0f, 3e4f + std::log(2.0f)}));
  EXPECT_EQ(results.dlogits, (std::vector<float>{0, 0, 0, 0, -1, 1, 0.5f, 0}));
}

TEST(CrossEntropy, BitsDoNotDependOnThreads) {
  Problem p({1201, 17, 0.1f, false, false}, 305);
  const Results one = run(p, 1);
  for (const int threads : {2, 3}) {
    const Results many = run(p, threads);
    EXPECT_TRUE(same_bits(one.dlogits, many.dlogits));
    EXPECT_TRUE(same_bits(one.loss, many.loss));
    EXPECT_EQ(one.metrics.loss, many.metrics.loss);
    EXPECT_EQ(one.metrics.top1, many.metrics.top1);
  }
}

TEST(CrossEntropy, RefusesContradictions) {
  ThreadPool pool(1);
  CpuKernels kernels(pool);
  Problem p({3, 5, 0.0f, false, true}, 306);
  Results results;
  const auto refused = [&](const char* field, auto change) {
    CrossEntropy args = arguments(p, results);
    change(args);
    expect_refused([&] { kernels.cross_entropy(args); }, field);
  };
  refused("loss", [](CrossEntropy& args) { args.loss.size = 2; });
  refused("probabilities", [](CrossEntropy& args) { args.probabilities.size = 2; });
  refused("dlogits", [](CrossEntropy& args) { args.dlogits.size = 2; });
  refused("logits", [](CrossEntropy& args) { args.logits = {}; });
  refused("labels", [](CrossEntropy& args) { args.labels.size = 4; });
  refused("targets", [](CrossEntropy& args) { args.targets.size = 4; });
  refused("label_smoothing", [](CrossEntropy& args) { args.label_smoothing = 1.5f; });
  refused("state", [](CrossEntropy& args) { args.state = nullptr; });
  refused("classes", [](CrossEntropy& args) { args.classes = 0; });
  refused("target_threshold", [](CrossEntropy& args) { args.target_threshold = 0.5f; });
  refused("sum_classes", [](CrossEntropy& args) { args.sum_classes = true; });
  const std::vector<LabelMix> none(3);
  refused("mixes", [&](CrossEntropy& args) { args.mixes = {none.data(), 3}; });
  p.labels[1] = 5;
  refused("labels[1]", [](CrossEntropy&) {});
}

TEST(CrossEntropy, RefusesContradictionsOfTheBinaryLossAndMixes) {
  ThreadPool pool(1);
  CpuKernels kernels(pool);
  Problem p({3, 5, 0.0f, false, false, true, LossKind::bce}, 310);
  Results results;
  const auto refused = [&](const char* field, auto change) {
    CrossEntropy args = arguments(p, results);
    change(args);
    expect_refused([&] { kernels.cross_entropy(args); }, field);
  };
  refused("mixes", [](CrossEntropy& args) { args.mixes.size = 2; });
  refused("head_softmax", [](CrossEntropy& args) { args.head_softmax = true; });
  refused("target_threshold", [](CrossEntropy& args) { args.target_threshold = -0.5f; });
  p.mixes[2] = {.other = 5};
  refused("mixes[2].other", [](CrossEntropy&) {});
  for (const float weight : {-0.1f, 1.1f, std::numeric_limits<float>::quiet_NaN()}) {
    p.mixes[2] = {.other = 1, .weight = weight};
    refused("mixes[2].weight", [](CrossEntropy&) {});
  }
}

}  // namespace
}  // namespace vitrine::cpu
