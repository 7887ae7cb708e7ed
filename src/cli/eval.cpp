// vitrine eval: a checkpoint on a data set.
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/flags.h"
#include "cli/progress.h"
#include "vitrine/exchange.h"
#include "vitrine/safetensors.h"
#include "vitrine/trainer.h"

namespace vitrine {
namespace {

struct Options {
  ConfigFlags flags;
  std::string checkpoint, split = "test", dump;
  DeviceOptions device;
  bool json = false;
  Weights weights = Weights::trained;
};

void print_result(const Options& options, const Dataset& data, const EvaluationResult& result) {
  if (options.json) {
    const nlohmann::ordered_json line = {{"dataset", data.name},      {"split", options.split},
                                         {"samples", result.samples}, {"loss", result.loss},
                                         {"top1", result.top1},       {"top5", result.top5},
                                         {"seconds", result.seconds}};
    std::printf("%s\n", line.dump().c_str());
  } else {
    std::printf("%s %s, %s images: loss %.4f  top-1 %.2f %%  top-5 %.2f %%  %s\n",
                data.name.c_str(), options.split.c_str(), format_count(result.samples).c_str(),
                result.loss, 100 * result.top1, 100 * result.top5,
                format_duration(result.seconds).c_str());
  }
}

int evaluate(Device& device, const Options& options, Checkpoint& checkpoint, const Dataset& data) {
  options.flags.fit_precision(checkpoint.config, device.traits());
  Evaluator evaluator(device, checkpoint.config, data);
  const std::vector<float> weights = load_weights(weights_file(checkpoint, options.weights),
                                                  checkpoint.config.model, evaluator.plan());
  const Buffer on_device = share_weights(device, evaluator.plan(), weights);
  Progress progress(stderr, !options.json && isatty(STDERR_FILENO) != 0);
  if (!options.json) progress.begin("Test", data.size());
  const EvaluationResult result = evaluator.run(on_device.data(), /*details=*/false,
                                                !options.dump.empty(), [&](std::int64_t done) {
                                                  progress.update(done, "");
                                                  return !interrupted;
                                                });
  progress.end("");
  if (!result.complete) return kInterrupted;
  if (!options.dump.empty()) {
    const Shape shape{data.size(), checkpoint.config.model.num_classes};
    const SafetensorsTensor logits{"logits", DType::f32, shape, result.logits.data()};
    write_safetensors(options.dump, {&logits, 1});
  }
  print_result(options, data, result);
  return 0;
}

int evaluate(const Options& options) {
  Checkpoint checkpoint = open_checkpoint(options.checkpoint);
  options.flags.override(checkpoint.config);
  const Split split = options.split == "train" ? Split::train : Split::test;
  const Dataset data = load_data(checkpoint.config, split);
  check_data(checkpoint.config, data);
  return run_on_device(options.device,
                       [&](Device& device) { return evaluate(device, options, checkpoint, data); });
}

}  // namespace

Command add_eval(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("eval", "Evaluate a checkpoint on a data set");
  command->add_option("checkpoint,--checkpoint", options->checkpoint, "a run or a checkpoint")
      ->required();
  options->flags.add_to(*command, {{"dataset", "data set"},
                                   {"data_dir", "its directory"},
                                   {"batch_size", "images at a time"},
                                   {"precision", "fp32, tf32 or bf16"}});
  add_weights_flag(*command, options->weights);
  command->add_option("--split", options->split, "train or test [test]")
      ->check(CLI::IsMember({"train", "test"}));
  command->add_option("--dump", options->dump, "write all logits to this safetensors file");
  add_device_flags(*command, options->device);
  command->add_flag("--json", options->json, "the result as one JSON line");
  return [options] { return evaluate(*options); };
}

}  // namespace vitrine
