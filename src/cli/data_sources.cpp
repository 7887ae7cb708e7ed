// Pictures as the command line names them.
#include "cli/data_sources.h"

#include <algorithm>

#include "data/dataset_pictures.h"
#include "io/one_line.h"
#include "vitrine/error.h"

namespace vitrine {

PictureSplits open_picture_splits(const std::string& path, const std::string& data_dir,
                                  const FolderOptions& options) {
  const auto& known = dataset_names();
  if (std::find(known.begin(), known.end(), path) != known.end()) {
    const auto open = [&](Split split) {
      return dataset_pictures(load_dataset(path, data_dir, split), split);
    };
    return {open(Split::train), open(Split::test)};
  }
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) {
    return {open_image_folder(path, Split::train, options),
            open_image_folder(path, Split::test, options)};
  }
  if (!std::filesystem::exists(path, ignored)) {
    std::string names;
    for (const std::string& name : known) names += (names.empty() ? "" : ", ") + name;
    throw BadInput(one_line(path) + ": found nothing there, expected a folder, a packed file or " +
                   "one of " + names);
  }
  return {open_packed(path, Split::train), open_packed(path, Split::test)};
}

void add_folder_flags(CLI::App& command, FolderOptions& options) {
  command.add_option("--val-split", options.val_split,
                     "share of each class that validates, where no folder does");
  command.add_option("--seed", options.seed, "of --val-split")->capture_default_str();
}

}  // namespace vitrine
