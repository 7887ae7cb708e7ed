// Loss, gradient, probabilities and counts of cross-entropy against a double-precision reference,
// whose gradient is checked by central differences.
#include "reference/cross_entropy.h"

#include <gtest/gtest.h>

#include "cpu/cpu_kernels.h"
#include "reference_check.h"

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
  CrossEntropy args;
  args.loss = {r.loss.data(), p.c.batch};
  args.probabilities = {r.probabilities.data(), n};
  args.dlogits = View<float>(r.dlogits.data(), n);
  args.metrics = &r.metrics;
  args.logits = View<float>(p.logits.data(), n);
  args.labels = {p.labels.data(), p.c.batch};
  if (p.c.soft_targets) args.targets = {p.targets.data(), n};
  args.batch = p.c.batch, args.classes = p.c.classes;
  args.label_smoothing = p.c.label_smoothing;
  args.head_softmax = p.c.head_softmax;
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

TEST(CrossEntropy, GradientMayReplaceTheLogits) {
  Problem p({11, 10, 0.1f, true, false}, 301);
  const Results apart = run(p, 1);
  ThreadPool pool(1);
  Results results;
  CrossEntropy args = arguments(p, results);
  args.dlogits = View<float>(p.logits.data(), 110);
  CpuKernels(pool).cross_entropy(args);
  EXPECT_TRUE(same_bits(p.logits, apart.dlogits));
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
  for (const bool head_softmax : {false, true}) {
    for (int at = 0; at < 3; ++at) {
      Problem p({1, 3, 0.0f, head_softmax, false}, 303);
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

TEST(CrossEntropy, LargeLogitsStayFinite) {
  Problem p({2, 3, 0.0f, false, false}, 304);
  p.logits = {3e38f, -3e38f, 1.0f, -std::numeric_limits<float>::infinity(), 1e4f, -1e4f};
  p.labels = {0, 1};
  const Results results = run(p, 1);
  EXPECT_EQ(results.loss, (std::vector<float>{0.0f, 0.0f}));
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
  p.labels[1] = 5;
  refused("labels[1]", [](CrossEntropy&) {});
}

}  // namespace
}  // namespace vitrine::cpu
