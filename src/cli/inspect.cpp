// vitrine inspect: what a model is and what it needs, before anything is allocated.
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/flags.h"
#include "cli/progress.h"
#include "train/footprint.h"
#include "vitrine/checkpoint.h"

namespace vitrine {
namespace {

struct Options {
  ConfigFlags flags;
  std::string checkpoint;
  DeviceOptions device;
  bool json = false, operations = false, tensors = false;
};

constexpr std::int64_t kBatchLimit = 1 << 20;

void list_presets() {
  std::printf("Presets (vitrine inspect --preset NAME tells more):\n");
  for (const PresetInfo& info : presets()) {
    std::printf("  %-26s %s\n", info.name.c_str(), info.summary.c_str());
  }
}

VitOptions options_for(const RunConfig& config, bool training, const Recompute& recompute = {}) {
  VitOptions options{.training = training,
                     .precision = config.recipe.precision,
                     .patch_projection = config.recipe.patch_projection,
                     .probabilities = !training};
  if (!training) return options;
  options.freeze = config.recipe.freeze;
  options.recompute = recompute;
  return options;
}

// Training with its evaluation, as `vitrine train` runs them; images not counted.
MemoryReport memory_of(const RunConfig& config, const Plan& training, const Device& device) {
  const Plan evaluation = plan_vit(config.model, options_for(config, false),
                                   training.chunking().batch, device.traits());
  return run_memory(training, evaluation, config.recipe, device.workers());
}

bool fits(const RunConfig& config, std::int64_t batch, const Recompute& recompute,
          const Device& device) {
  const DeviceTraits& traits = device.traits();
  const Plan training = plan_vit(config.model, options_for(config, true, recompute), batch, traits);
  return memory_of(config, training, device).total() <= traits.memory;
}

/// The largest batches that fit.
struct LargestBatches {
  std::int64_t trained = 0;  ///< as the recipe has it
  std::int64_t kept = 0;     ///< with nothing computed again
};

LargestBatches largest_batches(const RunConfig& config, const Device& device) {
  const auto largest = [&](RecomputeMode mode) {
    RunConfig with = config;
    with.recipe.recompute = mode;
    const Recompute how = choose_recompute(with, {});
    return largest_that_fits(kBatchLimit,
                             [&](std::int64_t batch) { return fits(config, batch, how, device); });
  };
  const RecomputeMode mode = config.recipe.recompute;
  const bool open = mode == RecomputeMode::automatic;
  return {.trained = largest(open ? RecomputeMode::full : mode),
          .kept = largest(RecomputeMode::none)};
}

void print_operations(const Plan& plan) {
  std::printf("\n%-28s %-28s %-18s %10s %12s  %s\n", "place", "operation", "output", "MFLOP",
              "bytes", "storage");
  for (const PlanStep& step : plan.steps()) {
    const Node& node = plan.graph().nodes()[step.node];
    const Cost cost = plan.graph().cost(node);
    const ValueId out = node.outputs[0];
    const bool in_arena = out != kNone && plan.location(out).place == Place::arena;
    std::printf(
        "%-28s %-28s %-18s %10.3f %12.0f  %s\n", node.name.c_str(), node.operation->name().c_str(),
        out == kNone ? "" : plan.graph().shape(out).str().c_str(), cost.flops * 1e-6, cost.bytes,
        in_arena ? ("arena+" + std::to_string(plan.location(out).offset)).c_str() : "");
  }
}

void print_tensors(const Plan& plan) {
  std::printf("\n");
  for (const Parameter& parameter : plan.graph().parameters()) {
    std::printf("%-36s %-22s %12s\n", parameter.name.c_str(), parameter.shape.str().c_str(),
                format_count(parameter.shape.elements()).c_str());
  }
}

nlohmann::ordered_json to_document(const RunConfig& config, const Plan& plan,
                                   const MemoryReport& memory, std::int64_t batch,
                                   const LargestBatches& largest, double forward_flops) {
  const Recompute& recomputed = plan.graph().recomputed();
  return {{"parameters", plan.graph().parameter_count()},
          {"trained_parameters", plan.graph().trained_parameter_count()},
          {"tensors", plan.graph().parameters().size()},
          {"tokens", config.model.tokens()},
          {"forward_flops_per_image", forward_flops},
          {"training_flops_per_image", plan.cost().flops / static_cast<double>(batch)},
          {"batch_size", batch},
          {"chunks", plan.chunking().count},
          {"chunk_rows", plan.chunking().rows},
          {"operations", plan.steps().size()},
          {"memory",
           {{"weights", memory.weights},
            {"gradients", memory.gradients},
            {"moments", memory.moments},
            {"average", memory.average},
            {"activations", memory.activations},
            {"outputs", memory.outputs},
            {"evaluation", memory.evaluation},
            {"runtime", memory.runtime},
            {"total", memory.total()}}},
          {"recompute", {{"selective", recomputed.selective}, {"full", recomputed.full}}},
          {"largest_batch", largest.trained},
          {"largest_batch_without_recompute", largest.kept}};
}

// ", 1,930 trained" where some are frozen
std::string trained_hint(const Graph& graph) {
  const std::int64_t trained = graph.trained_parameter_count();
  return trained == graph.parameter_count() ? "" : ", " + format_count(trained) + " trained";
}

void print_text(const RunConfig& config, const Plan& plan, const MemoryReport& memory,
                const Device& device, const LargestBatches& largest, double forward_flops) {
  const VitConfig& m = config.model;
  const Chunking& chunking = plan.chunking();
  auto number = [](std::int64_t n) { return format_count(n); };
  auto bytes = [](std::int64_t n) { return format_bytes(static_cast<double>(n)); };
  auto row = [](const char* key, const std::string& value) {
    std::printf("%-22s %s\n", key, value.c_str());
  };
  char flops[96];
  std::snprintf(flops, sizeof flops, "%.3f GFLOP forward, %.3f GFLOP a training step",
                forward_flops * 1e-9,
                plan.cost().flops / static_cast<double>(chunking.batch) * 1e-9);
  row("model", config.preset.empty() ? "vit" : config.preset);
  row("image", number(m.image_height) + "x" + number(m.image_width) + "x" + number(m.num_channels) +
                   ", patch " + number(m.patch_size) + ", " + number(m.tokens()) + " tokens");
  row("width, blocks, heads", number(m.hidden_size) + ", " + number(m.num_hidden_layers) + ", " +
                                  number(m.num_attention_heads));
  row("parameters", number(plan.graph().parameter_count()) + " in " +
                        number(static_cast<std::int64_t>(plan.graph().parameters().size())) +
                        " tensors" + trained_hint(plan.graph()));
  row("work an image", flops);
  row("plan", number(static_cast<std::int64_t>(plan.steps().size())) + " operations, batch " +
                  number(chunking.batch) + " in " + number(chunking.count) + " chunks of " +
                  number(chunking.rows) + ", " + number(chunking.lanes) + " gradient lanes");
  row("memory: weights", bytes(memory.weights));
  row("        gradients", bytes(memory.gradients));
  row("        moments", bytes(memory.moments));
  if (memory.average > 0) row("        average", bytes(memory.average));
  row("        activations", bytes(memory.activations));
  row("        outputs", bytes(memory.outputs));
  row("        evaluation", bytes(memory.evaluation));
  row("        runtime", bytes(memory.runtime));
  row("        total", bytes(memory.total()) + " of " + bytes(device.traits().memory) + " on " +
                           device.traits().name);
  const auto limited = [&](std::int64_t batch) {
    return batch >= kBatchLimit ? "over " + number(kBatchLimit) : number(batch);
  };
  row("recompute", to_text(plan.graph().recomputed()));
  row("largest batch",
      limited(largest.trained) + ", " + limited(largest.kept) + " with nothing computed again");
}

int inspect(const Options& options) {
  RunConfig config;
  if (!options.checkpoint.empty()) {
    config = open_checkpoint(options.checkpoint).config;
    options.flags.override(config);
  } else if (options.flags.has_model()) {
    config = options.flags.resolve();
  } else {
    list_presets();
    return 0;
  }
  const std::unique_ptr<Device> device = open_device(options.device);
  const std::int64_t batch = config.recipe.batch_size;
  const Recompute recompute = choose_recompute(
      config, [&](const Recompute& how) { return fits(config, batch, how, *device); });
  const Plan plan =
      plan_vit(config.model, options_for(config, true, recompute), batch, device->traits());
  const MemoryReport memory = memory_of(config, plan, *device);
  const LargestBatches largest = largest_batches(config, *device);
  // The published figure of a model counts every token; so does this one.
  const Plan whole =
      plan_vit(config.model, {.training = false, .prune_last_block = false}, 1, device->traits());
  const double forward_flops = whole.forward_flops();
  if (options.json) {
    const auto document = to_document(config, plan, memory, batch, largest, forward_flops);
    std::printf("%s\n", document.dump(2).c_str());
    return 0;
  }
  print_text(config, plan, memory, *device, largest, forward_flops);
  if (options.tensors) print_tensors(plan);
  if (options.operations) print_operations(plan);
  return 0;
}

}  // namespace

Command add_inspect(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "inspect", "Parameters, FLOPs, memory plan, largest batch; without a model: the presets");
  options->flags.add_to(*command);
  command->add_option("--checkpoint", options->checkpoint, "a run or a checkpoint");
  add_device_flags(*command, options->device);
  command->add_flag("--operations", options->operations, "list every operation of the plan");
  command->add_flag("--tensors", options->tensors, "list every parameter tensor");
  command->add_flag("--json", options->json, "as JSON");
  return [options] { return inspect(*options); };
}

}  // namespace vitrine
