// What `load_dataset` hands out its work to.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "vitrine/dataset.h"

namespace vitrine {

/// The first of directory/folder/name that exists, over all folders and names in order; "" is the
/// directory itself. Throws BadInput with the names looked for when there is none.
std::filesystem::path find_file(const std::filesystem::path& directory,
                                const std::vector<std::string>& folders,
                                const std::vector<std::string>& names);

/// MNIST-family files; `folder` is torchvision's ("MNIST/raw"). Ten classes.
Dataset load_idx(const std::string& name, const std::filesystem::path& directory,
                 const std::string& folder, std::vector<std::string> class_names, Split split);

Dataset load_cifar10(const std::filesystem::path& directory, Split split);
Dataset load_cifar100(const std::filesystem::path& directory, Split split);

}  // namespace vitrine
