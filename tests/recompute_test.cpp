// Computing results again in the backward part: the same bits with less memory, as much as was
// asked for, and no more than a run needs to fit.
#include <gtest/gtest.h>

#include <map>

#include "train/footprint.h"
#include "vit_cases.h"
#include "vitrine/recipe.h"

namespace vitrine {
namespace {

constexpr std::int64_t kAll = 99;  // more than there are layers

struct Result {
  std::vector<float> logits, gradients, image_gradient;
  std::vector<Metrics> metrics;
  std::int64_t arena = 0;
  double flops = 0;
};

Result run(Device& device, const VitCase& c, const Recompute& recompute, std::uint64_t seed,
           bool fuse, bool prune) {
  VitConfig config = small_vit();
  c.change(config);
  VitRun vit(device, config,
             {.loss = c.loss,
              .label_smoothing = c.label_smoothing,
              .label_mixes = c.label_mixes,
              .image_gradient = true,
              .fuse_residual_norm = fuse,
              .prune_last_block = prune,
              .recompute = recompute},
             c.chunking, kBatch);
  const std::int64_t padded = c.chunking.rows * c.chunking.count;
  vit.run(random_weights(vit.plan(), seed), Batch(config, kBatch, padded, seed),
          {.seed = seed, .step = 3, .loss_scale = 1.0f / kBatch, .first_row = 10}, kBatch);
  return {.logits = vit.output("logits"),
          .gradients = vit.gradients(),
          .image_gradient = vit.output("images.grad"),
          .metrics = vit.executor().chunk_metrics(),
          .arena = vit.plan().arena_bytes(),
          .flops = vit.plan().cost().flops};
}

class RecomputeBits : public testing::TestWithParam<std::uint64_t> {};

TEST_P(RecomputeBits, AreThoseOfKeepingEverything) {
  const auto device = make_cpu_device(1);
  for (const VitCase& c : vit_cases()) {
    SCOPED_TRACE(c.name + ", seed " + std::to_string(GetParam()));
    VitConfig config = small_vit();
    c.change(config);
    for (const bool fuse : {false, true}) {
      const bool prune = fuse;
      const Result kept = run(*device, c, {}, GetParam(), fuse, prune);
      for (const Recompute how : {Recompute{.selective = 1}, Recompute{.selective = kAll},
                                  Recompute{.selective = kAll, .full = 1}, Recompute{.full = 1},
                                  Recompute{.full = kAll}}) {
        const Result again = run(*device, c, how, GetParam(), fuse, prune);
        EXPECT_TRUE(same_bits(again.logits, kept.logits)) << to_text(how);
        EXPECT_TRUE(same_bits(again.gradients, kept.gradients)) << to_text(how);
        EXPECT_TRUE(same_bits(again.image_gradient, kept.image_gradient)) << to_text(how);
        for (std::size_t i = 0; i < kept.metrics.size(); ++i) {
          EXPECT_EQ(again.metrics[i].loss, kept.metrics[i].loss);
        }
        if (config.num_hidden_layers > 0) {
          EXPECT_GT(again.flops, kept.flops) << to_text(how);
        } else {
          EXPECT_EQ(again.flops, kept.flops);
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, RecomputeBits, testing::Values(11, 20261122));

Graph vit(const VitConfig& config, const Recompute& how, std::int64_t rows = 4) {
  return build_vit(config, {.rows = rows, .recompute = how});
}

/// Nodes of the backward part by layer and operation: those of `graph` that `kept` has not.
std::map<std::string, int> added(const Graph& graph, const Graph& kept) {
  std::map<std::string, int> counts;
  const auto count = [&](const Graph& of, int step) {
    for (const Node& node : of.nodes()) {
      if (node.phase != Phase::backward) continue;
      counts[layer_of(node.name) + " " + node.operation->name()] += step;
    }
  };
  count(graph, 1);
  count(kept, -1);
  std::erase_if(counts, [](const auto& entry) { return entry.second == 0; });
  return counts;
}

TEST(Recompute, AddsTheseNodes) {
  VitConfig config = small_vit();
  config.num_hidden_layers = 3;
  const Graph kept = vit(config, {});
  using Counts = std::map<std::string, int>;
  EXPECT_EQ(added(vit(config, {.selective = 2}), kept),
            (Counts{{"blocks.0 layer_norm_forward", 2},
                    {"blocks.0 activation_forward", 1},
                    {"blocks.1 layer_norm_forward", 2},
                    {"blocks.1 activation_forward", 1}}));
  EXPECT_EQ(added(vit(config, {.selective = 2, .full = 1}), kept),
            (Counts{{"blocks.0 layer_norm_forward", 2},
                    {"blocks.0 activation_forward", 1},
                    {"blocks.0 attention_forward", 1},
                    {"blocks.0 matmul", 2},  // qkv, fc1
                    {"blocks.1 layer_norm_forward", 2},
                    {"blocks.1 activation_forward", 1}}));
  // The last block is pruned: its queries are apart from keys and values.
  const Graph all = vit(config, {.full = kAll});
  EXPECT_EQ(added(all, kept)["blocks.2 matmul"], 3);
  EXPECT_EQ(added(all, kept).count("norm layer_norm_forward"), 0u);
  EXPECT_EQ(all.recomputed(), (Recompute{.selective = 3, .full = 3}));
  EXPECT_EQ(vit(config, {.selective = kAll}).recomputed(), (Recompute{.selective = 3}));
  EXPECT_EQ(kept.recomputed(), Recompute{});
}

// With LayerScale the projections' outputs are read again: its own gradient needs them.
TEST(Recompute, ProjectionsWithLayerScaleAreAddedToo) {
  VitConfig config = small_vit();
  const Graph plain = vit(config, {}), plain_again = vit(config, {.full = 1});
  config.init_values = 0.1;
  const Graph kept = vit(config, {}), again = vit(config, {.full = 1});
  EXPECT_EQ(added(plain_again, plain)["blocks.0 matmul"], 2);
  EXPECT_EQ(added(again, kept)["blocks.0 matmul"], 4);
}

TEST(Recompute, OfFrozenLayersDoesNothing) {
  const VitOptions frozen{.rows = 4, .freeze = {"backbone"}};
  VitOptions again = frozen;
  again.recompute = {.full = kAll};
  EXPECT_EQ(build_vit(small_vit(), again).nodes().size(),
            build_vit(small_vit(), frozen).nodes().size());
  EXPECT_EQ(build_vit(small_vit(), again).recomputed(), Recompute{});
}

TEST(Recompute, IsDoneAfterBackward) {
  Graph graph(true);
  EXPECT_THROW(graph.recompute({.full = 1}), BadInput);
}

std::int64_t arena(const VitConfig& config, const Recompute& how, std::int64_t batch) {
  const DeviceTraits traits = cuda_traits(std::int64_t{140} << 30);
  return plan_vit(config, {.precision = Precision::bf16, .recompute = how}, batch, traits)
      .arena_bytes();
}

// Of 16 numbers a token, block and channel: 10 are left, or the 2 of the residual stream.
TEST(Recompute, LeavesItsShareOfVitBase) {
  const VitConfig base;
  const auto kept = static_cast<double>(arena(base, {}, 64));
  EXPECT_NEAR(static_cast<double>(arena(base, {.selective = 12}, 64)) / kept, 10.0 / 16, 0.05);
  EXPECT_NEAR(static_cast<double>(arena(base, {.full = 12}, 64)) / kept, (2 + 14.0 / 12) / 16,
              0.05);
  std::int64_t last = arena(base, {}, 64);
  for (std::int64_t n = 1; n <= 12; ++n) {
    const std::int64_t bytes = arena(base, {.selective = n}, 64);
    EXPECT_LT(bytes, last) << n;
    last = bytes;
  }
  for (std::int64_t n = 1; n <= 11; ++n) {  // the last block alone is what remains at its turn
    const std::int64_t bytes = arena(base, {.selective = 12, .full = n}, 64);
    EXPECT_LT(bytes, last) << n;
    last = bytes;
  }
}

// How a batch is cut decides bits, so it hangs on model and batch alone.
TEST(Recompute, LeavesTheChunksAsTheyAre) {
  const auto device = make_cpu_device(1);
  for (const char* name : {"mnist-small", "cifar10-small"}) {
    const VitConfig model = preset(name).model;
    const Chunking kept = plan_vit(model, {}, 256, device->traits()).chunking();
    EXPECT_GT(kept.count, 1);
    EXPECT_EQ(plan_vit(model, {.recompute = {.full = kAll}}, 256, device->traits()).chunking(),
              kept);
  }
}

RunConfig with_blocks(std::int64_t blocks, RecomputeMode mode) {
  RunConfig config;
  config.model.num_hidden_layers = blocks;
  config.recipe.recompute = mode;
  return config;
}

TEST(ChooseRecompute, GoesNoFurtherThanItMust) {
  const RunConfig config = with_blocks(12, RecomputeMode::automatic);
  const auto needs = [&](std::int64_t selective, std::int64_t full) {
    return choose_recompute(config, [=](const Recompute& how) {
      return how.selective >= selective && how.full >= full;
    });
  };
  EXPECT_EQ(needs(0, 0), Recompute{});
  EXPECT_EQ(needs(1, 0), (Recompute{.selective = 1}));
  EXPECT_EQ(needs(7, 0), (Recompute{.selective = 7}));
  EXPECT_EQ(needs(12, 0), (Recompute{.selective = 12}));
  EXPECT_EQ(needs(12, 1), (Recompute{.selective = 12, .full = 1}));
  EXPECT_EQ(needs(12, 12), (Recompute{.selective = 12, .full = 12}));
  EXPECT_EQ(needs(13, 13), (Recompute{.selective = 12, .full = 12})) << "nothing fits";
}

TEST(ChooseRecompute, DoesWhatTheRecipeSays) {
  const auto never_asked = [](const Recompute&) -> bool { throw Error("asked"); };
  const auto choose = [&](RecomputeMode mode) {
    return choose_recompute(with_blocks(5, mode), never_asked);
  };
  EXPECT_EQ(choose(RecomputeMode::none), Recompute{});
  EXPECT_EQ(choose(RecomputeMode::selective), (Recompute{.selective = 5}));
  EXPECT_EQ(choose(RecomputeMode::full), (Recompute{.selective = 5, .full = 5}));
}

TEST(Recompute, SaysWhatItDoes) {
  EXPECT_EQ(to_text(Recompute{}), "nothing");
  EXPECT_EQ(to_text({.selective = 1}), "layer 0 norms and activations");
  EXPECT_EQ(to_text({.selective = 12}), "layers 0-11 norms and activations");
  EXPECT_EQ(to_text({.selective = 12, .full = 12}), "layers 0-11 all but the residual stream");
  EXPECT_EQ(to_text({.selective = 12, .full = 1}),
            "layer 0 all but the residual stream, layers 1-11 norms and activations");
}

}  // namespace
}  // namespace vitrine
