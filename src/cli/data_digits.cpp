// vitrine data digits: the built-in data set as files that other programs can read.
#include <memory>

#include "cli/data_commands.h"
#include "cli/progress.h"
#include "vitrine/dataset.h"

namespace vitrine {

Command add_data_digits(CLI::App& data) {
  struct Options {
    std::string output;
  };
  auto options = std::make_shared<Options>();
  CLI::App* digits =
      data.add_subcommand("digits", "Handwritten-looking digits as IDX files, the format of MNIST");
  digits->add_option("-o,--output", options->output, "directory")->required();
  return [options] {
    for (const Split split : {Split::train, Split::test}) {
      const Dataset dataset = load_dataset("digits", "", split);
      write_idx(dataset, options->output, split);
      std::printf("%s: %s %s images\n", options->output.c_str(),
                  format_count(dataset.size()).c_str(),
                  split == Split::train ? "training" : "test");
    }
    return 0;
  };
}

}  // namespace vitrine
