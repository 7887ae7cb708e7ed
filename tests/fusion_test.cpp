// Passes over memory that a step makes between its matrix products, against the table of what must
// be fused. The plan knows them; no device is needed.
//
// A pass is one read or one write of a tensor of B·T·D elements. A pre-norm block with an MLP four
// times as wide needs
//   forward   2 residual + LayerNorm: x, branch in; x', y out                2 · 4
//             bias + GELU: x in; y and its derivative out, each 4 wide       3 · 4
//   backward  2 LayerNorm: dy, skipped gradient, x in; dx out                2 · 4
//             bias + GELU: dy, derivative in; dx out, each 4 wide            3 · 4
// The first norm has no residual in front: x in, y out; and 4 back. The last block needs no such
// passes behind its attention, which has one query. Beside the blocks there are the tokens (patches
// in, x out, and the same way back) and the gradient of the pooled token in a tensor of zeros.
#include <gtest/gtest.h>

#include <iostream>
#include <set>

#include "vitrine/device.h"
#include "vitrine/recipe.h"
#include "vitrine/vit.h"

namespace vitrine {
namespace {

constexpr std::int64_t kBatch = 8;
constexpr double kPassesOfABlock = 2 * 4 + 3 * 4 + 2 * 4 + 3 * 4;
constexpr double kPassesOfTheModel = (2 + 4) + (2 + 2) + 1;

Plan plan_of(const std::string& preset_name, Precision precision, bool fuse = true) {
  const RunConfig config = preset(preset_name);
  DeviceTraits traits = cuda_traits(std::int64_t{80} << 30);
  traits.fuse_residual_norm = fuse;
  return plan_vit(config.model, {.precision = precision}, kBatch, traits);
}

/// Products and attention, what reads images, and what touches a single token of each sequence.
bool is_counted(const Node& node) {
  static const std::set<std::string> others = {
      "matmul",      "column_sum", "attention_forward", "attention_backward", "patch_embed_forward",
      "pool_forward"};
  const std::string name = node.operation->name();
  const bool adds_to_one_token = name == "pool_backward" && node.inputs[1] != kNone;
  return !others.contains(name) && !adds_to_one_token;
}

double passes(const Plan& plan, const VitConfig& model) {
  const Graph& graph = plan.graph();
  const auto whole = static_cast<double>(kBatch * model.tokens() * model.hidden_size *
                                         size_of(graph.working_type()));
  double bytes = 0;
  for (const Node& node : graph.nodes()) {
    if (!is_counted(node)) continue;
    for (const std::vector<ValueId>* side : {&node.inputs, &node.outputs}) {
      for (ValueId id : *side) {
        if (id == kNone || graph.value(id).kind != ValueKind::activation) continue;
        const auto size = static_cast<double>(graph.value(id).bytes());
        if (size > whole / 8) bytes += size;  // not statistics of rows and single tokens
      }
    }
  }
  for (const PlanStep& step : plan.steps()) {
    if (step.copy_addend) bytes += 2 * whole;
  }
  return bytes / whole;
}

TEST(FusionTable, NoPassMoreThanTheTableAllows) {
  for (const char* name : {"vit_tiny_patch16_224", "vit_small_patch16_224", "vit_base_patch16_224",
                           "vit_large_patch16_224", "vit_huge_patch14_224"}) {
    for (const Precision precision : {Precision::fp32, Precision::bf16}) {
      const VitConfig model = preset(name).model;
      const double found = passes(plan_of(name, precision), model);
      const double allowed =
          kPassesOfTheModel + kPassesOfABlock * static_cast<double>(model.num_hidden_layers - 1);
      std::cout << name << (precision == Precision::bf16 ? ", bf16: " : ", fp32: ") << found
                << " passes, allowed " << allowed << "\n";
      EXPECT_LE(found, allowed) << name;
      EXPECT_GT(found, allowed - 0.1) << name;  // the table is exact: patches are T - 1 tokens
    }
  }
}

TEST(FusionTable, WithoutFusionThereAreMore) {
  const VitConfig model = preset("vit_base_patch16_224").model;
  const double fused = passes(plan_of("vit_base_patch16_224", Precision::bf16), model);
  const double unfused = passes(plan_of("vit_base_patch16_224", Precision::bf16, false), model);
  EXPECT_GT(unfused, fused + static_cast<double>(model.num_hidden_layers));
}

// One program: every operation is a launch or two, and nothing is copied between them.
TEST(FusionTable, NoAddendIsCopied) {
  for (const PresetInfo& info : presets()) {
    const Plan plan = plan_of(info.name, Precision::fp32);
    for (const PlanStep& step : plan.steps()) {
      EXPECT_FALSE(step.copy_addend) << info.name;
    }
  }
}

TEST(FusionTable, LowPrecisionHalvesActivations) {
  const std::string name = "vit_base_patch16_224";
  const MemoryReport full = plan_of(name, Precision::fp32).memory(1);
  const MemoryReport half = plan_of(name, Precision::bf16).memory(1);
  EXPECT_LT(half.activations, 0.52 * static_cast<double>(full.activations));
  EXPECT_EQ(2 * half.weights, 3 * full.weights);  // master and working weights
  EXPECT_EQ(half.gradients, full.gradients);
  EXPECT_EQ(half.moments, full.moments);
}

}  // namespace
}  // namespace vitrine
