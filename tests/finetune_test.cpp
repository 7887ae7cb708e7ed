// Frozen parameters: what is not differentiated, whose gradients keep their bits, and what neither
// the optimiser, the clipping nor a checkpoint may move.

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>

#include "cuda/training_runs.h"
#include "io/format.h"
#include "reference_check.h"
#include "run_program.h"
#include "temporary_directory.h"
#include "vit_cases.h"
#include "vit_run.h"
#include "vitrine/checkpoint.h"
#include "vitrine/trainer.h"

namespace vitrine {
namespace {

using Names = std::vector<std::string>;

Graph graph_of(const VitConfig& config, const Names& freeze) {
  return build_vit(config, {.rows = kBatch, .freeze = freeze});
}

Names trained_names(const Graph& graph) {
  Names names;
  for (const Parameter& parameter : graph.parameters()) {
    if (parameter.trained) names.push_back(parameter.name);
  }
  return names;
}

std::string refusal(const Names& freeze) {
  try {
    graph_of(small_vit(), freeze);
  } catch (const BadInput& error) {
    return error.what();
  }
  return "accepted";
}

/// Each parameter by itself, with probability one half; never all.
Names random_freeze(const Graph& graph, std::uint64_t seed) {
  RandomStream random(seed, 7);
  Names names;
  for (const Parameter& parameter : graph.parameters()) {
    if (random.uniform() < 0.5) names.push_back(parameter.name);
  }
  if (names.size() == graph.parameters().size()) names.pop_back();
  return names;
}

/// The numbers of a flat buffer that belong to a parameter.
std::vector<float> tensor(const Plan& plan, const std::vector<float>& flat, std::size_t parameter) {
  const auto begin = flat.begin() + plan.parameter_offset(static_cast<int>(parameter));
  return {begin, begin + plan.graph().parameters()[parameter].shape.elements()};
}

/// Two micro-batches of the case's network, gradients added up.
std::vector<float> gradients_of(Device& device, const VitCase& c, const VitConfig& config,
                                const Names& freeze, std::uint64_t seed) {
  VitRun run(device, config, {.label_smoothing = c.label_smoothing, .freeze = freeze}, c.chunking,
             kBatch);
  const std::vector<float> weights = random_weights(run.plan(), seed);
  const Batch batch(config, kBatch, c.chunking.rows * c.chunking.count, seed);
  for (const bool accumulate : {false, true}) {
    const StepState state{
        .seed = seed, .step = 1, .loss_scale = 0.5f / kBatch, .first_row = accumulate ? kBatch : 0};
    run.run(weights, batch, state, kBatch, accumulate);
  }
  return run.gradients();
}

TEST(Freeze, APrefixEndsAtADotOrAtTheNamesEnd) {
  VitConfig config = small_vit();
  config.num_hidden_layers = 11;
  const Graph graph = graph_of(config, {"blocks.1", "blocks.0.attn.qkv", "head.bias", "cls_token"});
  for (const Parameter& parameter : graph.parameters()) {
    const bool frozen = parameter.name.starts_with("blocks.1.") ||
                        parameter.name.starts_with("blocks.0.attn.qkv.") ||
                        parameter.name == "head.bias" || parameter.name == "cls_token";
    EXPECT_EQ(parameter.trained, !frozen) << parameter.name;
  }
  EXPECT_EQ(trained_names(graph_of(config, {"backbone"})), (Names{"head.weight", "head.bias"}));
  EXPECT_EQ(graph_of(config, {"backbone"}).trained_parameter_count(),
            (config.hidden_size + 1) * config.num_classes);
}

TEST(Freeze, RefusesWhatMatchesNothingAndWhatLeavesNothing) {
  EXPECT_EQ(refusal({"head", "blok.1"}),
            "freeze: found \"blok.1\", expected backbone or the start of a parameter's name such "
            "as \"blocks.1\"");
  EXPECT_NE(refusal({"blocks.2"}).find("found \"blocks.2\""), std::string::npos);
  EXPECT_NE(refusal({"blocks."}).find("found \"blocks.\""), std::string::npos);
  EXPECT_NE(refusal({""}).find("found \"\""), std::string::npos);
  EXPECT_EQ(refusal({"backbone", "head"}),
            "freeze: found every parameter frozen, expected one that is trained");
}

// Every network: a linear probe has one gradient node, the head's product; and the forward part
// writes nothing that only a gradient would read.
TEST(Freeze, ALinearProbeCostsAForwardPassAndOneProduct) {
  for (const VitCase& c : vit_cases()) {
    SCOPED_TRACE(c.name);
    VitConfig config = small_vit();
    c.change(config);
    const Graph graph = graph_of(config, {"backbone"});
    std::vector<std::string> backward;
    for (const Node& node : graph.nodes()) {
      if (node.phase == Phase::backward) {
        backward.push_back(node.name + " " + node.operation->name());
      }
    }
    EXPECT_EQ(backward, (Names{"logits matmul"}));
    for (const Value& value : graph.values()) {
      for (const char* saved : {".mean", ".rstd", ".derivative", ".log_sum_exp"}) {
        EXPECT_FALSE(value.name.ends_with(saved) && value.producer >= 0) << value.name;
      }
    }
  }
}

TEST(Freeze, NothingBelowTheLowestTrainedParameterIsDifferentiated) {
  VitConfig config = small_vit();
  config.num_hidden_layers = 3;
  for (const bool dropout : {false, true}) {
    if (dropout) drop_everywhere(config);
    const Graph graph =
        graph_of(config, {"cls_token", "pos_embed", "patch_embed", "blocks.0", "blocks.1.norm1",
                          "blocks.1.attn", "blocks.1.norm2", "blocks.2.mlp.fc1"});
    for (const Node& node : graph.nodes()) {
      if (node.phase == Phase::forward) continue;
      const bool above = node.name.starts_with("blocks.2") || node.name.starts_with("norm") ||
                         node.name == "logits" || node.name == "pool" ||
                         node.name.starts_with("blocks.1.mlp");
      EXPECT_TRUE(above) << node.name << " " << node.operation->name();
    }
    for (const Value& value : graph.values()) {
      if (value.kind != ValueKind::parameter_gradient) continue;
      EXPECT_TRUE(graph.parameters()[value.parameter].trained) << value.name;
    }
  }
}

// Passes copy graphs; the order of the flat buffers and the flags come through.
TEST(Freeze, PassesCarryTheFlag) {
  const VitOptions options{.rows = kBatch, .freeze = {"blocks.1.attn", "norm"}};
  VitOptions plain = options;
  plain.fuse_residual_norm = plain.prune_last_block = false;
  EXPECT_EQ(trained_names(build_vit(small_vit(), options)),
            trained_names(build_vit(small_vit(), plain)));
}

// On every network, with every parameter frozen in one draw and trained in another, in chunks and
// lanes, over two micro-batches.
TEST(Freeze, GradientsOfTheRestKeepTheirBits) {
  const auto device = make_cpu_device(2);
  std::uint64_t seed = 500;
  for (const VitCase& c : vit_cases()) {
    VitConfig config = small_vit();
    c.change(config);
    const Graph whole = graph_of(config, {});
    ++seed;
    const std::vector<float> expected = gradients_of(*device, c, config, {}, seed);
    std::vector<Names> lists = {{"backbone"}, {"patch_embed", "head.bias"}};
    for (std::uint64_t draw = 0; draw < 6; ++draw) {
      lists.push_back(random_freeze(whole, 10 * seed + draw));
    }
    for (const Names& freeze : lists) {
      std::string list;
      for (const std::string& name : freeze) list += " " + name;
      SCOPED_TRACE(c.name + ", seed " + std::to_string(seed) + ", freeze" + list);
      const std::vector<float> found = gradients_of(*device, c, config, freeze, seed);
      const Plan plan(graph_of(config, freeze), {}, {.batch = kBatch, .rows = kBatch});
      std::vector<float> wanted = expected;
      for (std::size_t p = 0; p < plan.graph().parameters().size(); ++p) {
        const Parameter& parameter = plan.graph().parameters()[p];
        float* begin = wanted.data() + plan.parameter_offset(static_cast<int>(p));
        if (!parameter.trained) std::fill_n(begin, parameter.shape.elements(), 0.0f);
        EXPECT_TRUE(same_bits(tensor(plan, found, p), tensor(plan, wanted, p))) << parameter.name;
      }
      EXPECT_TRUE(same_bits(found, wanted));  // the padding between them too
    }
  }
}

// A frozen parameter's gradient would have counted.
TEST(Freeze, TheNormIsThatOfWhatIsTrained) {
  const auto device = make_cpu_device(2);
  for (const VitCase& c : vit_cases()) {
    SCOPED_TRACE(c.name);
    VitConfig config = small_vit();
    c.change(config);
    VitRun run(*device, config, {.freeze = {"backbone"}}, c.chunking, kBatch);
    Optimizer optimizer(*device, run.plan(), {.clip_norm = 1.0});
    const std::vector<float> weights = random_weights(run.plan(), 31);
    optimizer.upload_weights(weights);
    run.run(weights, Batch(config, kBatch, c.chunking.rows * c.chunking.count, 31),
            {.seed = 31, .loss_scale = 1.0f / kBatch}, kBatch);
    run.executor().sum_gradients();
    optimizer.update(run.executor().gradients(), run.executor().state());

    VitRun whole(*device, config, {}, c.chunking, kBatch);
    whole.run(weights, Batch(config, kBatch, c.chunking.rows * c.chunking.count, 31),
              {.seed = 31, .loss_scale = 1.0f / kBatch}, kBatch);
    const std::vector<float> all = whole.gradients();
    double square = 0;
    for (std::size_t p = 0; p < run.plan().graph().parameters().size(); ++p) {
      if (!run.plan().graph().parameters()[p].trained) continue;
      for (const float g : tensor(run.plan(), all, p)) square += static_cast<double>(g) * g;
    }
    EXPECT_NEAR(optimizer.state().gradient_norm, std::sqrt(square), 1e-12 * std::sqrt(square));
    EXPECT_GT(norm_of(all.data(), std::ssize(all)), 1.01 * std::sqrt(square));
  }
}

/// A run of the trainer on random images.
class FrozenTraining : public testing::Test {
 protected:
  FrozenTraining() : device_(make_cpu_device(2)) {
    config_.model = small_vit();
    config_.model.image_width = config_.model.image_height;
    drop_everywhere(config_.model);
    config_.recipe.batch_size = 6;
    config_.recipe.epochs = 2;
    config_.recipe.lr = 0.02;
    config_.recipe.warmup_epochs = 0;
    config_.recipe.weight_decay = 0.1;
    config_.recipe.clip_grad = 0.5;
    config_.recipe.layer_decay = 0.8;
    config_.recipe.freeze = {"patch_embed", "cls_token", "blocks.0.attn", "blocks.1.norm2",
                             "head.bias"};
    train_ = random_images(config_.model, 40, 3);
    test_ = random_images(config_.model, 4, 4);
  }

  Plan plan() const {
    return plan_vit(config_.model, {.freeze = config_.recipe.freeze}, config_.recipe.batch_size,
                    device_->traits());
  }

  /// Trains and leaves the last checkpoint in `output`.
  Tensors train(const std::filesystem::path& output, std::int64_t max_steps,
                const Checkpoint* from = nullptr) {
    RunConfig config = config_;
    config.recipe.max_steps = max_steps;
    Trainer trainer(*device_, config, train_, test_, output);
    if (from != nullptr) {
      trainer.resume(*from);
    } else {
      trainer.initialize();
    }
    TrainObserver silent;
    const std::atomic<bool> never{false};
    trainer.run(silent, never);
    return load_tensors(open_checkpoint(output), trainer.plan());
  }

  std::unique_ptr<Device> device_;
  RunConfig config_;
  Dataset train_, test_;
};

TEST_F(FrozenTraining, MovesWhatIsTrainedAndNothingElse) {
  for (const OptimizerKind kind : {OptimizerKind::adam, OptimizerKind::adamw}) {
    for (const std::int64_t accumulate : {1, 2}) {
      SCOPED_TRACE(testing::Message()
                   << "kind " << static_cast<int>(kind) << ", accumulate " << accumulate);
      config_.recipe.opt = kind;
      config_.recipe.weight_decay_all = true;
      config_.recipe.grad_accum_steps = accumulate;
      const TemporaryDirectory run;
      const Tensors found = train(run.path(), 5);
      const Plan plan = this->plan();
      const std::vector<float> before = initial_weights(config_.model, plan, config_.recipe.seed);
      for (std::size_t p = 0; p < plan.graph().parameters().size(); ++p) {
        const Parameter& parameter = plan.graph().parameters()[p];
        SCOPED_TRACE(parameter.name);
        const auto zero = [](float number) { return number == 0.0f; };
        EXPECT_EQ(!parameter.trained,
                  same_bits(tensor(plan, found.weights, p), tensor(plan, before, p)));
        for (const auto* moment : {&found.first_moment, &found.second_moment}) {
          const std::vector<float> numbers = tensor(plan, *moment, p);
          EXPECT_EQ(!parameter.trained, std::all_of(numbers.begin(), numbers.end(), zero));
        }
      }
    }
  }
}

TEST_F(FrozenTraining, StopAndResumeChangesNoBit) {
  const TemporaryDirectory whole, parts;
  const Tensors expected = train(whole.path(), 9);
  train(parts.path(), 4);
  const Checkpoint checkpoint = open_checkpoint(parts.path());
  EXPECT_EQ(checkpoint.config.recipe.freeze, config_.recipe.freeze);
  EXPECT_EQ(checkpoint.config.recipe.layer_decay, config_.recipe.layer_decay);
  const Tensors found = train(parts.path(), 9, &checkpoint);
  EXPECT_TRUE(same_bits(found.weights, expected.weights));
  EXPECT_TRUE(same_bits(found.first_moment, expected.first_moment));
  EXPECT_TRUE(same_bits(found.second_moment, expected.second_moment));
}

// What inspect prints: a frozen network needs less, and never more the more of it is frozen.
TEST(Freeze, LessIsPlanned) {
  const VitConfig config = preset("vit_tiny_patch16_224").model;
  double flops = INFINITY;
  std::int64_t bytes = std::numeric_limits<std::int64_t>::max();
  for (const Names& freeze :
       {Names{}, Names{"patch_embed", "cls_token", "pos_embed", "blocks.0"}, Names{"backbone"}}) {
    const Plan plan = plan_vit(config, {.freeze = freeze}, 16, {});
    EXPECT_LT(plan.cost().flops, flops);
    EXPECT_LT(plan.memory(1).activations, bytes);
    flops = plan.cost().flops;
    bytes = plan.memory(1).activations;
  }
  const double head = 16.0 * 1000 * (2 * 192 + 1);  // weight and bias
  const Plan evaluation = plan_vit(config, {.training = false}, 16, {});
  EXPECT_DOUBLE_EQ(flops, evaluation.cost().flops + head);
}

TEST(FreezeProgram, InspectAndTrainSayWhatIsTrained) {
  const ProgramResult inspected =
      run_program_with({"inspect", "--preset", "mnist-tutorial", "--freeze", "backbone", "--device",
                        "cpu", "--json"});
  ASSERT_EQ(inspected.code, 0) << inspected.err;
  EXPECT_NE(inspected.out.find("\"trained_parameters\": 90,"), std::string::npos) << inspected.out;

  const TemporaryDirectory directory;
  const std::string run = directory / "run";
  std::vector<std::string> train = {
      "train",       "--preset", "mnist-tutorial", "--dataset", "digits",   "--device", "cpu",
      "--max-steps", "1",        "--output",       run,         "--freeze", "backbone"};
  const ProgramResult trained = run_program_with(train);
  ASSERT_EQ(trained.code, 0) << trained.err;
  const std::int64_t all = graph_of(preset("mnist-tutorial").model, {}).parameter_count();
  EXPECT_NE(
      trained.out.find("Training 90 of " + format_count(all) + " parameters (freeze backbone)\n"),
      std::string::npos)
      << trained.out;

  train[10] = directory / "refused";
  train.back() = "bloks.0";
  const ProgramResult refused = run_program_with(train);
  EXPECT_EQ(refused.code, 2);
  EXPECT_NE(refused.err.find("freeze: found \"bloks.0\""), std::string::npos) << refused.err;
  EXPECT_FALSE(std::filesystem::exists(train[10]));
}

}  // namespace
}  // namespace vitrine
