// vitrine eval: a checkpoint on a data set.
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/progress.h"
#include "vitrine/safetensors.h"
#include "vitrine/trainer.h"

namespace vitrine {
namespace {

struct Options {
  std::string checkpoint, dataset, data_dir, split = "test", dump;
  DeviceOptions device;
  bool json = false;
};

int evaluate(const Options& options) {
  Checkpoint checkpoint = open_checkpoint(options.checkpoint);
  Recipe& recipe = checkpoint.config.recipe;
  if (!options.dataset.empty()) recipe.dataset = options.dataset;
  if (!options.data_dir.empty()) recipe.data_dir = options.data_dir;
  const Split split = options.split == "train" ? Split::train : Split::test;
  const Dataset data = load_dataset(recipe.dataset, recipe.data_dir, split);
  check_data(checkpoint.config, data);
  const std::unique_ptr<Device> device = open_device(options.device);
  Evaluator evaluator(*device, checkpoint.config, data);
  const std::vector<float> weights =
      load_weights(checkpoint.directory / "model.safetensors", evaluator.plan());
  const Buffer on_device = share_weights(*device, evaluator.plan(), weights);
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
  return 0;
}

}  // namespace

Command add_eval(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("eval", "Evaluate a checkpoint on a data set");
  command->add_option("checkpoint,--checkpoint", options->checkpoint, "a run or a checkpoint")
      ->required();
  command->add_option("-d,--dataset", options->dataset, "data set [the checkpoint's]");
  command->add_option("--data-dir", options->data_dir, "its directory [the checkpoint's]");
  command->add_option("--split", options->split, "train or test [test]")
      ->check(CLI::IsMember({"train", "test"}));
  command->add_option("--dump", options->dump, "write all logits to this safetensors file");
  add_device_flags(*command, options->device);
  command->add_flag("--json", options->json, "the result as one JSON line");
  return [options] { return evaluate(*options); };
}

}  // namespace vitrine
