// Chunks and lanes: what they change (the order of sums, so a few epsilons) and what must keep its
// bits (threads, skipped chunks); partial batches and accumulation over micro-batches.
#include "vitrine/executor.h"

#include <gtest/gtest.h>

#include "reference/cross_entropy.h"
#include "vit_run.h"
#include "vitrine/training_step.h"

namespace vitrine {
namespace {

constexpr double kEpsilons = 64;
constexpr std::uint64_t kSeed = 20261121;

struct Result {
  std::vector<float> logits, gradients;
  Metrics metrics;
};

VitConfig dropping() {
  VitConfig c = small_vit();
  drop_everywhere(c);
  return c;
}

StepState state_for(std::int64_t valid, std::int64_t first_row = 5) {
  return {.seed = kSeed,
          .step = 2,
          .loss_scale = 1.0f / static_cast<float>(valid),
          .first_row = first_row};
}

Result result_of(VitRun& vit) {
  return {vit.output("logits"), vit.gradients(), vit.executor().metrics()};
}

/// One run over `valid` images in the given chunks.
Result run(Device& device, const Chunking& chunking, std::int64_t valid) {
  const VitConfig config = dropping();
  VitRun vit(device, config, {}, chunking, valid);
  const Batch batch(config, valid, chunking.rows * chunking.count, kSeed);
  vit.run(random_weights(vit.plan(), kSeed), batch, state_for(valid), valid);
  return result_of(vit);
}

void expect_same_numbers(const Result& a, const Result& b, std::int64_t valid) {
  const Plan plan(build_vit(dropping(), {}), {}, {.batch = 1, .rows = 1});
  const auto n = static_cast<std::size_t>(valid * dropping().num_classes);
  expect_near_norm({a.logits.begin(), a.logits.begin() + n},
                   {b.logits.begin(), b.logits.begin() + n}, kEpsilons, "logits");
  expect_gradients_near(plan, a.gradients, b.gradients, kEpsilons);
  EXPECT_NEAR(a.metrics.loss, b.metrics.loss, 1e-6 * b.metrics.loss);
  EXPECT_NEAR(a.metrics.batch_loss, b.metrics.batch_loss, 1e-6 * b.metrics.batch_loss);
  EXPECT_EQ(a.metrics.samples, b.metrics.samples);
  EXPECT_EQ(a.metrics.top1, b.metrics.top1);
  EXPECT_EQ(a.metrics.top5, b.metrics.top5);
}

void expect_same_bits(const Result& a, const Result& b) {
  EXPECT_TRUE(same_bits(a.logits, b.logits));
  EXPECT_EQ(a.gradients, b.gradients);  // 0 and −0 are equal
  EXPECT_EQ(a.metrics.loss, b.metrics.loss);
  EXPECT_EQ(a.metrics.batch_loss, b.metrics.batch_loss);
  EXPECT_EQ(a.metrics.samples, b.metrics.samples);
}

TEST(Executor, ChunksGiveTheNumbersOfOnePiece) {
  const auto device = make_cpu_device(2);
  const Result whole = run(*device, {.batch = 11, .rows = 11}, 11);
  EXPECT_EQ(whole.metrics.samples, 11);
  EXPECT_NEAR(whole.metrics.batch_loss, whole.metrics.loss / 11, 1e-6);
  const std::vector<Chunking> cuts = {{11, 11, 1, 1}, {11, 4, 3, 1}, {11, 4, 3, 2}, {11, 4, 3, 3},
                                      {11, 1, 11, 4}, {11, 2, 6, 6}, {11, 3, 4, 2}};
  for (const Chunking& cut : cuts) {
    SCOPED_TRACE(std::to_string(cut.count) + " chunks, " + std::to_string(cut.lanes) + " lanes");
    expect_same_numbers(run(*device, cut, 11), whole, 11);
  }
}

TEST(Executor, BitsDoNotDependOnThreads) {
  const std::vector<Chunking> cuts = {
      {70, 70, 1, 1}, {11, 4, 3, 1}, {11, 4, 3, 2}, {11, 4, 3, 3}, {11, 1, 11, 5}};
  for (const Chunking& cut : cuts) {
    SCOPED_TRACE(std::to_string(cut.count) + " chunks, " + std::to_string(cut.lanes) + " lanes");
    const Result one = run(*make_cpu_device(1), cut, cut.batch);
    for (int threads : {2, 3, 8}) {
      const auto device = make_cpu_device(threads);
      for (int repeat = 0; repeat < 4; ++repeat) {
        expect_same_bits(run(*device, cut, cut.batch), one);
      }
    }
  }
}

// Workers have numbers up to the pool's size also where there are fewer lanes: each lane that runs
// needs an arena of its own inside what was allocated.
TEST(Executor, ManyWorkersOnFewLanes) {
  const VitConfig config = dropping();
  const Chunking chunking{.batch = 64, .rows = 32, .count = 2, .lanes = 2};
  const Batch batch(config, 64, 64, kSeed);
  Result first;
  const auto device = make_cpu_device(8);
  VitRun vit(*device, config, {}, chunking, 64);
  const std::vector<float> weights = random_weights(vit.plan(), kSeed);
  for (int repeat = 0; repeat < 30; ++repeat) {
    vit.executor().reset_metrics();
    vit.run(weights, batch, state_for(64), 64);
    const Result result = result_of(vit);
    if (repeat == 0) {
      first = result;
    } else {
      expect_same_bits(result, first);
    }
  }
}

TEST(Executor, EmptyRowsDoNotCount) {
  const auto device = make_cpu_device(1);
  const Result small = run(*device, {.batch = 4, .rows = 4}, 4);
  EXPECT_EQ(small.metrics.samples, 4);
  for (const Chunking& cut : {Chunking{9, 9, 1, 1}, Chunking{9, 3, 3, 1}, Chunking{9, 3, 3, 3}}) {
    SCOPED_TRACE(std::to_string(cut.count) + " chunks, " + std::to_string(cut.lanes) + " lanes");
    expect_same_numbers(run(*device, cut, 4), small, 4);
  }
}

// The loss of mixed labels from the logits, by its definition; chunks read the mixes of their rows.
TEST(Executor, MixesReachTheLoss) {
  constexpr std::int64_t kValid = 5, kRows = 6;
  const auto device = make_cpu_device(2);
  const VitConfig config = small_vit();
  const Batch batch(config, kValid, kRows, kSeed);
  for (const LossKind kind : {LossKind::softmax, LossKind::bce}) {
    VitRun vit(*device, config, {.loss = kind, .label_smoothing = 0.1f, .label_mixes = true},
               {.batch = kRows, .rows = 2, .count = 3, .lanes = 2}, kValid);
    vit.run(random_weights(vit.plan(), kSeed), batch, state_for(kValid), kValid);
    reference::cross_entropy::Problem problem(
        {kValid, config.num_classes, 0.1f, false, false, true, kind}, kSeed);
    problem.logits = vit.output("logits");
    problem.labels = batch.labels;
    problem.mixes = batch.mixes;
    double expected = 0.0;
    for (const double loss : reference::cross_entropy::Reference<double>(problem).loss) {
      expected += loss;
    }
    EXPECT_NEAR(vit.executor().metrics().loss, expected, 1e-5 * expected);
  }
}

TEST(Executor, RowsComeWithMixesWhereThePlanReadsThem) {
  const auto device = make_cpu_device(1);
  const Chunking chunking{.batch = 4, .rows = 2, .count = 2};
  VitRun mixing(*device, small_vit(), {.label_mixes = true}, chunking, 4);
  const std::vector<BatchRow> rows(3);
  const std::vector<std::int32_t> labels = {1, 2, 3};
  const std::vector<LabelMix> mixes = {{4, 0.5f}, {5, 0.25f}, {6, 0.75f}};
  const auto found = [&] { return mixing.executor().row_input<LabelMix>("mixes"); };
  set_rows(mixing.executor(), rows, labels, mixes);
  ASSERT_EQ(found().size(), 4u);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(found()[i].other, mixes[i].other);
    EXPECT_EQ(found()[i].weight, mixes[i].weight);
  }
  EXPECT_EQ(found()[3].other, -1);
  set_rows(mixing.executor(), rows, labels);
  for (const LabelMix& mix : found()) EXPECT_EQ(mix.other, -1);

  VitRun plain(*device, small_vit(), {}, chunking, 4);
  EXPECT_EQ(plain.plan().graph().find("mixes"), kNone);
  set_rows(plain.executor(), rows, labels);
  expect_refused([&] { set_rows(plain.executor(), rows, labels, mixes); }, "mixes");
}

TEST(Executor, SkippedChunksHaveTheBitsOfEmptyOnes) {
  const auto device = make_cpu_device(2);
  const VitConfig config = dropping();
  for (std::int64_t lanes : {1, 2, 4}) {
    for (std::int64_t valid : {1, 3, 5}) {
      SCOPED_TRACE(std::to_string(lanes) + " lanes, " + std::to_string(valid) + " rows");
      VitRun vit(*device, config, {}, {.batch = 8, .rows = 2, .count = 4, .lanes = lanes}, 8);
      const std::vector<float> weights = random_weights(vit.plan(), kSeed);
      const Batch full(config, 8, 8, kSeed);
      const Batch partial = full.part(0, valid, 8);
      auto run_after_another = [&](std::int64_t valid_rows) {
        vit.run(weights, full, state_for(8), 8);
        vit.executor().reset_metrics();
        vit.run(weights, partial, state_for(valid), valid_rows);
        Result result = result_of(vit);
        result.logits.resize(static_cast<std::size_t>(valid * config.num_classes));
        return result;
      };
      expect_same_bits(run_after_another(valid), run_after_another(8));
    }
  }
}

TEST(Executor, AccumulatesMicroBatches) {
  const auto device = make_cpu_device(2);
  const VitConfig config = dropping();
  const Batch batch(config, 10, 10, kSeed);
  for (const Chunking& cut : {Chunking{5, 5, 1, 1}, Chunking{5, 2, 3, 2}}) {
    SCOPED_TRACE(std::to_string(cut.count) + " chunks");
    const Result whole = run(*device, {.batch = 10, .rows = 10}, 10);
    VitRun vit(*device, config, {}, cut, 10);
    const std::vector<float> weights = random_weights(vit.plan(), kSeed);
    const std::int64_t padded = cut.rows * cut.count;
    vit.run(weights, batch.part(0, 5, padded), state_for(10), 5);
    vit.run(weights, batch.part(5, 5, padded), state_for(10, 5 + 5), 5, /*accumulate=*/true);
    // The logits are those of the second micro-batch.
    Result second = whole;
    second.logits.erase(second.logits.begin(), second.logits.begin() + 5 * config.num_classes);
    expect_same_numbers(result_of(vit), second, 5);
  }
}

TEST(Executor, SumsLanesInTheirOrder) {
  const auto device = make_cpu_device(3);
  const VitConfig config = dropping();
  VitRun vit(*device, config, {}, {.batch = 10, .rows = 2, .count = 5, .lanes = 5}, 10);
  vit.run(random_weights(vit.plan(), kSeed), Batch(config, 10, 10, kSeed), state_for(10), 10);
  const std::int64_t n = vit.plan().parameter_elements();
  std::vector<float> expected(vit.executor().gradients(), vit.executor().gradients() + n);
  for (std::int64_t lane = 1; lane < 5; ++lane) {
    const float* part = vit.executor().gradients() + lane * n;
    for (std::int64_t i = 0; i < n; ++i) expected[i] += part[i];
  }
  EXPECT_TRUE(same_bits(vit.gradients(), expected));
}

TEST(Executor, GivesBackItsRunningSums) {
  const auto device = make_cpu_device(1);
  const VitConfig config = small_vit();
  VitRun vit(*device, config, {}, {.batch = 6, .rows = 2, .count = 3, .lanes = 3}, 6);
  const std::vector<float> weights = random_weights(vit.plan(), kSeed);
  const Batch batch(config, 6, 6, kSeed);
  vit.run(weights, batch, state_for(6), 6);
  const std::vector<Metrics> saved = vit.executor().chunk_metrics();
  const Metrics once = vit.executor().metrics();
  ASSERT_EQ(saved.size(), 3u);
  vit.run(weights, batch, state_for(6), 6);
  const Metrics twice = vit.executor().metrics();
  EXPECT_EQ(twice.samples, 12);
  EXPECT_NEAR(twice.loss, 2 * once.loss, 1e-12 * once.loss);
  vit.executor().reset_metrics();
  EXPECT_EQ(vit.executor().metrics().samples, 0);
  vit.executor().set_chunk_metrics(saved);
  vit.run(weights, batch, state_for(6), 6);
  EXPECT_EQ(vit.executor().metrics().loss, twice.loss);
}

TEST(Executor, MarksEveryOperationOfEveryChunk) {
  const auto device = make_cpu_device(2);
  const VitConfig config = small_vit();
  VitRun vit(*device, config, {}, {.batch = 6, .rows = 2, .count = 3, .lanes = 3}, 6);
  Executor& executor = vit.executor();
  const std::int64_t first = 5;
  const auto stopwatch = device->make_stopwatch(first + executor.points());
  executor.set_stopwatch(stopwatch.get(), first);
  stopwatch->start();
  vit.run(random_weights(vit.plan(), kSeed), Batch(config, 6, 6, kSeed), state_for(6), 6);
  const std::vector<Span> spans = executor.spans(stopwatch->seconds());
  const std::vector<StepOperation> operations = executor.timed_operations();
  ASSERT_EQ(operations.size(), vit.plan().steps().size());
  ASSERT_EQ(spans.size(), 3 * operations.size());
  double flops = 0, bytes = 0;
  for (std::size_t i = 0; i < spans.size(); ++i) {
    const Span& span = spans[i];
    EXPECT_EQ(span.operation, static_cast<int>(i % operations.size()));
    EXPECT_GT(span.begin, 0);
    EXPECT_LE(span.begin, span.end);
    EXPECT_TRUE(span.operation == 0 || span.begin == spans[i - 1].end);
    flops += operations[static_cast<std::size_t>(span.operation)].flops;
    bytes += operations[static_cast<std::size_t>(span.operation)].bytes;
  }
  EXPECT_NEAR(flops, vit.plan().cost().flops, 1e-9 * flops);
  EXPECT_NEAR(bytes, vit.plan().cost().bytes, 1e-9 * bytes);
  EXPECT_EQ(operations[0].side_by_side, 2);
  vit.run(random_weights(vit.plan(), kSeed), Batch(config, 4, 6, kSeed), state_for(4), 4);
  EXPECT_EQ(executor.spans(stopwatch->seconds()).size(), 2 * operations.size()) << "an empty chunk";
}

TEST(Executor, EvaluatesWithoutGradients) {
  const auto device = make_cpu_device(2);
  const VitConfig config = dropping();
  const Batch batch(config, 6, 6, kSeed);
  VitRun vit(*device, config, {.training = false, .probabilities = true},
             {.batch = 6, .rows = 2, .count = 3, .lanes = 3}, 6);
  vit.run(random_weights(vit.plan(), kSeed), batch, {}, 6);
  EXPECT_EQ(vit.executor().gradients(), nullptr);
  const std::vector<float> probabilities = vit.output("probabilities");
  double sum = 0;
  for (float p : probabilities) sum += p;
  EXPECT_NEAR(sum, 6.0, 1e-5);
  EXPECT_EQ(vit.executor().metrics().samples, 6);
}

TEST(Executor, NamesTheNodeThatFailed) {
  const auto device = make_cpu_device(1);
  const VitConfig config = small_vit();
  VitRun vit(*device, config, {}, {.batch = 2, .rows = 2}, 2);
  Batch batch(config, 2, 2, kSeed);
  batch.labels[1] = 7;
  const std::vector<float> weights = random_weights(vit.plan(), kSeed);
  expect_refused([&] { vit.run(weights, batch, state_for(2), 2); }, "loss: cross_entropy: labels");
}

}  // namespace
}  // namespace vitrine
