// vitrine data pack: photographs decoded once, in one file.
#include <unistd.h>

#include <memory>

#include "cli/data_commands.h"
#include "cli/data_sources.h"
#include "cli/progress.h"
#include "io/one_line.h"

namespace vitrine {
namespace {

struct Options {
  std::string directory, file;
  FolderOptions folder;
  PackOptions pack;
};

int pack(const Options& options) {
  const PictureSplits splits = open_picture_splits(options.directory, "", options.folder);
  Progress progress(stderr, isatty(STDERR_FILENO) != 0);
  progress.begin("Packing", splits.train->size() + splits.val->size());
  const auto summary = pack_pictures(*splits.train, *splits.val, options.file, options.pack,
                                     [&](std::int64_t done, std::int64_t) {
                                       progress.update(done, "");
                                       return !interrupted;
                                     });
  progress.end("");
  if (!summary) return kInterrupted;
  for (const std::string& message : summary->broken) {
    std::fprintf(stderr, "vitrine: left out: %s\n", message.c_str());
  }
  std::printf("%s: %s training and %s validation pictures, %s\n", one_line(options.file).c_str(),
              format_count(summary->train).c_str(), format_count(summary->val).c_str(),
              format_bytes(static_cast<double>(summary->bytes)).c_str());
  return 0;
}

}  // namespace

Command add_data_pack(CLI::App& data) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      data.add_subcommand("pack", "Decode a folder of photographs once, into one file");
  command->add_option("DIR", options->directory, "train/ and val/, or classes with --val-split")
      ->required();
  command->add_option("FILE", options->file, "written whole or not at all")->required();
  command
      ->add_option("--short-side", options->pack.short_side,
                   "larger pictures are reduced to so many pixels")
      ->capture_default_str();
  add_folder_flags(*command, options->folder);
  command->add_option("-j,--workers", options->pack.workers, "threads; 0: one a core")
      ->check(CLI::NonNegativeNumber);
  return [options] { return pack(*options); };
}

}  // namespace vitrine
