// Finding the pictures of a folder.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace vitrine {

/// The pictures below a folder whose own folders are the classes.
struct PictureScan {
  std::vector<std::string> classes;                ///< sorted
  std::vector<std::vector<std::string>> pictures;  ///< [class] paths below the folder, sorted
};

/// Names of the class folders, sorted; what begins with a dot is hidden. Throws BadInput: no such
/// folder, not readable.
std::vector<std::string> list_classes(const std::filesystem::path& folder);

/// Throws BadInput: a class without pictures, a folder that is two classes' by a link, a loop of
/// links, a folder that cannot be read.
PictureScan scan_pictures(const std::filesystem::path& folder);

}  // namespace vitrine
