// Pictures as the command line names them.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "vitrine/image_folder.h"

namespace vitrine {

/// Training and validation pictures of a folder, a packed file, or a known data set whose files are
/// in `data_dir`. Throws BadInput.
struct PictureSplits {
  std::unique_ptr<PictureSource> train, val;
};
PictureSplits open_picture_splits(const std::string& path, const std::string& data_dir,
                                  const FolderOptions& options);

/// --val-split and --seed.
void add_folder_flags(CLI::App& command, FolderOptions& options);

}  // namespace vitrine
