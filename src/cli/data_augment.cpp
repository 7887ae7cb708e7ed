// vitrine data augment: what a recipe makes of its images, before anything trains on them.
#include <memory>

#include "cli/data_commands.h"
#include "cli/flags.h"
#include "io/one_line.h"
#include "vitrine/batch_images.h"

namespace vitrine {
namespace {

struct Options {
  ConfigFlags flags;
  std::string output;
};

int augment(const Options& options) {
  const RunConfig config = options.flags.resolve();
  const Dataset data = load_data(config, Split::train);
  const std::unique_ptr<Device> device = make_cpu_device();
  const std::optional<Picture> picture = augmentation_picture(*device, config, data);
  if (!picture) {
    throw BadInput(
        "data augment: found flips and crops alone, or images of another size than the "
        "model's; expected a folder of photographs, or a recipe with more (aa, mixup, …)");
  }
  write_png(options.output, picture->image);
  std::printf("%s: %s\n", one_line(options.output).c_str(), picture->caption.c_str());
  return 0;
}

}  // namespace

Command add_data_augment(CLI::App& data) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      data.add_subcommand("augment", "Draw some training images before and after augmentation");
  options->flags.add_to(*command);
  command->add_option("-o,--output", options->output, "PNG file")->required();
  return [options] { return augment(*options); };
}

}  // namespace vitrine
