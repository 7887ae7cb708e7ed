// vitrine export: a checkpoint as timm or HuggingFace transformers reads it.
#include <cstdio>
#include <memory>

#include "cli/commands.h"
#include "cli/flags.h"
#include "vitrine/exchange.h"

namespace vitrine {
namespace {

struct Options {
  std::string checkpoint, format, output;
  Weights weights = Weights::trained;
};

// ViTImageProcessor knows no crop.
void note_crop(const Recipe& recipe) {
  if (recipe.dataset != "folder" || (recipe.crop_mode == "squash" && recipe.crop_pct == 1)) return;
  std::fprintf(stderr,
               "vitrine: HuggingFace's image processor scales the whole image where our evaluation "
               "takes its centre (crop_mode %s, crop_pct %g)\n",
               recipe.crop_mode.c_str(), recipe.crop_pct);
}

int export_to(const Options& options) {
  const bool timm = options.format == "timm";
  const Checkpoint checkpoint = open_checkpoint(options.checkpoint);
  export_checkpoint(checkpoint, timm ? ExportFormat::timm : ExportFormat::huggingface,
                    options.output, options.weights);
  if (!timm) note_crop(checkpoint.config.recipe);
  std::printf("Exported for %s: %s\n", timm ? "timm" : "HuggingFace transformers",
              options.output.c_str());
  return 0;
}

}  // namespace

Command add_export(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("export", "Write a checkpoint as timm or HuggingFace transformers has it");
  command->add_option("checkpoint,--checkpoint", options->checkpoint, "a run or a checkpoint")
      ->required();
  command->add_option("--format", options->format, "timm or hf")
      ->required()
      ->check(CLI::IsMember({"timm", "hf"}));
  command->add_option("-o,--output", options->output, "a new or empty directory")->required();
  add_weights_flag(*command, options->weights);
  return [options] { return export_to(*options); };
}

}  // namespace vitrine
