// Whole models whose branches run on the rows that drop-path keeps alone: what they compute against
// the mask over all rows, what passes and threads must keep, and that work is saved. Gradients by
// differences, and CPU against CUDA: the cases of vit_cases.h.
#include <gtest/gtest.h>

#include <functional>
#include <iostream>
#include <nlohmann/json.hpp>

#include "graph/operations.h"
#include "io/files.h"
#include "temporary_directory.h"
#include "vit_cases.h"
#include "vit_run.h"
#include "vitrine/random.h"
#include "vitrine/trainer.h"

namespace vitrine {
namespace {

constexpr std::int64_t kRows = 4, kChunks = 2, kImages = kRows * kChunks;
constexpr Chunking kInChunks{.batch = kImages, .rows = kRows, .count = kChunks, .lanes = 2};
constexpr double kEpsilons = 16;

/// All norm orders, class token and mean pool; and what else a branch may have. With three blocks
/// two have drop-path, 1/4 and 1/2 of the rows, with two blocks one has, 1/2.
std::vector<std::pair<std::string, VitConfig>> models(std::int64_t blocks) {
  std::vector<std::pair<std::string, VitConfig>> list;
  for (const NormOrder order : {NormOrder::pre, NormOrder::post, NormOrder::d2l}) {
    for (const Pool pool : {Pool::token, Pool::mean}) {
      VitConfig c = small_vit();
      c.num_hidden_layers = blocks;
      c.norm_order = order;
      c.pool = pool;
      c.class_token = order == NormOrder::d2l ? ClassToken::last : ClassToken::first;
      c.drop_path_rate = 0.5;
      c.drop_path_subset = true;
      list.emplace_back("order " + std::to_string(static_cast<int>(order)) +
                            (pool == Pool::mean ? ", mean" : ", token"),
                        c);
    }
  }
  VitConfig rest = list.front().second;
  rest.qk_norm = true;
  rest.init_values = 0.1;
  rest.reg_tokens = 2;
  list.emplace_back("pre, token, qk norm, layer scale, registers", rest);
  return list;
}

struct Result {
  std::vector<float> logits, gradients;
  double loss = 0;
};

Result run(Device& device, const VitConfig& config, const StepState& state,
           const VitOptions& options = {}, const Chunking& chunking = kInChunks,
           std::int64_t valid = kImages) {
  VitRun vit(device, config, options, chunking, kImages);
  const Batch batch(config, kImages, chunking.rows * chunking.count, 51);
  StepState step = state;
  step.loss_scale = 1.0f / static_cast<float>(valid);
  vit.executor().reset_metrics();
  vit.run(random_weights(vit.plan(), 52), batch, step, valid);
  return {vit.output("logits"), vit.gradients(), vit.executor().metrics().loss};
}

void expect_same(const Result& a, const Result& b) {
  EXPECT_TRUE(same_bits(a.logits, b.logits));
  EXPECT_TRUE(same_bits(a.gradients, b.gradients));
  EXPECT_EQ(a.loss, b.loss);
}

std::vector<const ChooseSamplesOperation*> subsets(const Graph& graph) {
  std::vector<const ChooseSamplesOperation*> list;
  for (const Node& node : graph.nodes()) {
    const auto* choose = dynamic_cast<const ChooseSamplesOperation*>(node.operation.get());
    if (choose != nullptr) list.push_back(choose);
  }
  return list;
}

/// Whether the mask keeps, in each chunk, as many rows as each subset has.
bool mask_keeps_as_many(const Graph& graph, const StepState& state) {
  for (const ChooseSamplesOperation* choose : subsets(graph)) {
    const float rate = 1.0f - static_cast<float>(choose->count) / static_cast<float>(kRows);
    for (std::int64_t chunk = 0; chunk < kChunks; ++chunk) {
      std::int64_t kept = 0;
      for (std::int64_t row = 0; row < kRows; ++row) {
        kept += keep_element(state.seed, state.step, choose->operation,
                             static_cast<std::uint64_t>(state.first_row + chunk * kRows + row),
                             drop_threshold(rate));
      }
      if (kept != choose->count) return false;
    }
  }
  return true;
}

// Rates and rows are such that 1 / (1 - rate) is rows / k. Attention and MLP of a block have
// subsets of their own, and so have chunks, as masks do.
TEST(DropPathSubset, IsTheMaskThatKeepsAsManyRows) {
  const auto device = make_cpu_device(1);
  for (const std::int64_t blocks : {2, 3}) {
    for (auto& [name, config] : models(blocks)) {
      VitOptions options;
      options.rows = kRows;
      const Graph graph = build_vit(config, options);
      ASSERT_EQ(std::ssize(subsets(graph)), 2 * (blocks - 1));
      StepState state{.seed = 1, .step = 9, .first_row = 5};
      for (int found = 0; found < 2; ++state.seed) {
        ASSERT_LT(state.seed, 200000u);
        if (!mask_keeps_as_many(graph, state)) continue;
        ++found;
        SCOPED_TRACE(name + ", " + std::to_string(blocks) + " blocks, seed " +
                     std::to_string(state.seed));
        VitConfig masked = config;
        masked.drop_path_subset = false;
        const Result subset = run(*device, config, state), mask = run(*device, masked, state);
        expect_near_norm(subset.logits, mask.logits, kEpsilons, "logits");
        const Plan plan(build_vit(config, {}), device->traits(), {.batch = 1, .rows = 1});
        expect_gradients_near(plan, subset.gradients, mask.gradients, 4 * kEpsilons);
        EXPECT_NEAR(subset.loss, mask.loss, 1e-5 * mask.loss);
      }
    }
  }
}

TEST(DropPathSubset, WithoutARateIsNothing) {
  const auto device = make_cpu_device(1);
  for (auto& [name, config] : models(3)) {
    SCOPED_TRACE(name);
    config.drop_path_rate = 0;
    VitConfig off = config;
    off.drop_path_subset = false;
    expect_same(run(*device, config, {.seed = 3}), run(*device, off, {.seed = 3}));
    config.drop_path_rate = off.drop_path_rate = 0.1;  // all four rows, by the mask
    expect_same(run(*device, config, {.seed = 3}), run(*device, off, {.seed = 3}));
  }
}

TEST(DropPathSubset, OfAnEvaluationIsNothing) {
  for (const auto& [name, config] : models(3)) {
    EXPECT_TRUE(subsets(build_vit(config, {.rows = kRows, .training = false})).empty()) << name;
  }
}

// k is rounded, at least 1, and the scale is rows / k whatever the rate.
TEST(DropPathSubset, CountsAndScales) {
  struct Expected {
    std::int64_t rows;
    double rate;
    std::int64_t count;  ///< 0: by the mask
  };
  for (const auto& [rows, rate, count] : {Expected{4, 0.3, 3},
                                          {5, 0.4, 3},
                                          {16, 0.05, 15},
                                          {8, 0.05, 0},
                                          {3, 0.95, 1},
                                          {1, 0.95, 0},
                                          {2, 0.6, 1}}) {
    SCOPED_TRACE(std::to_string(rows) + " rows, rate " + std::to_string(rate));
    VitConfig config = small_vit();
    config.drop_path_rate = rate;
    config.drop_path_subset = true;
    VitOptions options;
    options.rows = rows;
    const Graph graph = build_vit(config, options);
    const auto list = subsets(graph);
    ASSERT_EQ(std::ssize(list), count == 0 ? 0 : 2);
    if (count == 0) continue;
    EXPECT_NE(list[0]->operation, list[1]->operation);
    for (const ChooseSamplesOperation* choose : list) EXPECT_EQ(choose->count, count);
    int added = 0;
    for (const Node& node : graph.nodes()) {
      const auto* add = dynamic_cast<const AddSamplesOperation*>(node.operation.get());
      if (add == nullptr || node.phase == Phase::backward) continue;
      EXPECT_FLOAT_EQ(add->scale, static_cast<float>(rows) / static_cast<float>(count));
      ++added;
    }
    EXPECT_EQ(added, 2);
  }
}

TEST(DropPathSubset, PassesKeepTheNumbers) {
  const auto device = make_cpu_device(1);
  for (auto& [name, config] : models(3)) {
    config.attention_probs_dropout_prob = 0.15;
    config.activation_dropout_prob = 0.25;
    for (const std::uint64_t seed : {61, 62}) {
      SCOPED_TRACE(name + ", seed " + std::to_string(seed));
      const StepState state{.seed = seed, .step = 2, .first_row = 3};
      const Result plain =
          run(*device, config, state, {.fuse_residual_norm = false, .prune_last_block = false});
      expect_same(run(*device, config, state, {.prune_last_block = false}), plain);
      for (const bool fuse : {false, true}) {
        const Result pruned = run(*device, config, state, {.fuse_residual_norm = fuse});
        expect_near_norm(pruned.logits, plain.logits, kEpsilons, "logits");
        const Plan plan(build_vit(config, {}), device->traits(), {.batch = 1, .rows = 1});
        expect_gradients_near(plan, pruned.gradients, plain.gradients, 4 * kEpsilons);
      }
    }
  }
}

// With a class token the last block's MLP is of one token, and its samples too.
TEST(DropPathSubset, LastBlockIsPruned) {
  for (const auto& [name, config] : models(2)) {
    if (config.pool == Pool::mean || config.norm_order == NormOrder::post) continue;
    SCOPED_TRACE(name);
    VitOptions options;
    options.rows = kRows;
    const Graph graph = build_vit(config, options);
    const std::int64_t d = config.hidden_size;
    EXPECT_EQ(graph.shape(graph.find("blocks.1.attn.taken")), Shape({2, config.tokens(), d}));
    EXPECT_EQ(graph.shape(graph.find("blocks.1.attn.residual")), Shape({kRows, d}));
    EXPECT_EQ(graph.shape(graph.find("blocks.1.mlp.taken")), Shape({2, d}));
    EXPECT_EQ(graph.shape(graph.find("blocks.1.mlp.residual")), Shape({kRows, d}));
  }
}

double flops_of(const Graph& graph, const std::string& place) {
  double flops = 0;
  for (const Node& node : graph.nodes()) {
    const std::string name = node.operation->name();
    const bool counted = name == "matmul" || name.starts_with("attention");
    if (counted && node.name.starts_with(place)) flops += graph.cost(node).flops;
  }
  return flops;
}

// Products and attention of a block cost k / rows of what they cost; the stream is added to where
// it is.
TEST(DropPathSubset, SavesWork) {
  for (auto& [name, config] : models(2)) {
    SCOPED_TRACE(name);
    VitConfig masked = config;
    masked.drop_path_subset = false;
    VitOptions options{.prune_last_block = false};
    options.rows = kRows;
    const Graph graph = build_vit(config, options), mask = build_vit(masked, options);
    EXPECT_EQ(flops_of(graph, "blocks.0."), flops_of(mask, "blocks.0."));
    EXPECT_EQ(2 * flops_of(graph, "blocks.1."), flops_of(mask, "blocks.1."));
    const Plan plan(graph, make_cpu_device(1)->traits(), {.batch = kRows, .rows = kRows});
    int added = 0;
    for (const Node& node : plan.graph().nodes()) {
      if (node.operation->name() != "add_samples") continue;
      ++added;
      ASSERT_NE(node.inputs[0], kNone);
      EXPECT_EQ(plan.location(node.outputs[0]).offset, plan.location(node.inputs[0]).offset)
          << node.name;
    }
    EXPECT_EQ(added, 4);
  }
}

// An empty row may be chosen; it adds nothing to any gradient and no number of it is read.
TEST(DropPathSubset, EmptyRowsOfALastBatchCountAsOthersDo) {
  const auto device = make_cpu_device(1);
  for (const auto& [name, config] : models(3)) {
    SCOPED_TRACE(name);
    const StepState state{.seed = 71, .step = 1};
    constexpr std::int64_t kValid = kImages - 3;
    VitRun vit(*device, config, {}, kInChunks, kImages);
    std::vector<float> gradients;
    for (const std::uint64_t filler : {1, 2}) {  // what the rows beyond are does not matter
      Batch batch(config, kImages, kImages, 51);
      for (std::int64_t i = kValid; i < kImages; ++i) {
        batch.labels[i] = -1;
        batch.rows[i] = filler == 1 ? BatchRow{} : batch.rows[0];
      }
      StepState step = state;
      step.loss_scale = 1.0f / kValid;
      vit.run(random_weights(vit.plan(), 52), batch, step, kValid);
      const std::vector<float> found = vit.gradients();
      if (!gradients.empty()) {
        EXPECT_TRUE(same_bits(found, gradients));
      }
      gradients = found;
    }
    EXPECT_GT(norm_of(gradients.data(), std::ssize(gradients)), 0.0);
  }
}

TEST(DropPathSubset, BitsDoNotDependOnThreads) {
  for (const auto& [name, config] : models(3)) {
    SCOPED_TRACE(name);
    for (const Chunking& chunking : {kInChunks, Chunking{.batch = kImages, .rows = kImages}}) {
      const Result one = run(*make_cpu_device(1), config, {.seed = 81}, {}, chunking);
      expect_same(run(*make_cpu_device(2), config, {.seed = 81}, {}, chunking), one);
    }
  }
}

/// Trains in `output` up to `steps` steps, from its checkpoint where there is one.
void train(const std::filesystem::path& output, std::int64_t steps, int threads) {
  constexpr std::uint64_t kDataSeed = 91;
  static const Dataset data = make_digits(150, kDataSeed), test = make_digits(20, kDataSeed + 1);
  RunConfig config;
  config.model = small_vit();
  config.model.image_height = config.model.image_width = 28;
  config.model.num_channels = 1;
  config.model.num_classes = 10;
  drop_by_subset(config.model);
  config.recipe.batch_size = 20;
  config.recipe.grad_accum_steps = 2;
  config.recipe.epochs = 3;
  config.recipe.max_steps = steps;
  config.recipe.lr = 1e-3;
  const auto device = make_cpu_device(threads);
  const bool resumes = std::filesystem::exists(output / "last");
  std::filesystem::create_directories(output);
  Trainer trainer(*device, config, data, test, output);
  if (resumes) {
    trainer.resume(open_checkpoint(output));
  } else {
    trainer.initialize();
  }
  TrainObserver silent;
  const std::atomic<bool> never{false};
  trainer.run(silent, never);
  ASSERT_EQ(trainer.state().step, steps);
  ASSERT_FALSE(subsets(trainer.plan().graph()).empty());
}

TEST(DropPathSubset, StopAndResumeChangesNoBit) {
  const TemporaryDirectory directory;
  train(directory / "whole", 10, 1);
  for (const std::int64_t stop : {1, 4, 6}) {
    const auto output = directory / std::to_string(stop);
    train(output, stop, 1);
    train(output, 10, 2);
    for (const char* file : {"model.safetensors", "optimizer.safetensors"}) {
      EXPECT_TRUE(read_file(output / "last" / file) ==
                  read_file(directory / "whole" / "last" / file))
          << file << ", stopped after " << stop;
    }
  }
}

}  // namespace
}  // namespace vitrine
