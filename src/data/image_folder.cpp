// Photographs in folders named by class.
//
// Where no folder holds the pictures that validate, each class gives a share p of its n pictures:
// round(n p) of them, at least one and never all, the first of a shuffle by (seed, class).
#include "vitrine/image_folder.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <system_error>
#include <utility>

#include "data/picture_scan.h"
#include "io/files.h"
#include "io/format.h"
#include "io/one_line.h"
#include "vitrine/error.h"

namespace vitrine {
namespace {

namespace fs = std::filesystem;

constexpr const char* kTrain = "train";
constexpr std::array<const char*, 3> kValidation = {"val", "validation", "test"};

[[noreturn]] void fail(const fs::path& path, const std::string& what) {
  throw BadInput(one_line(path.string()) + ": " + what);
}

bool folder_exists(const fs::path& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored);
}

class FolderPictures final : public PictureSource {
 public:
  FolderPictures(fs::path root, Split split) : root_(std::move(root)) {
    std::error_code ignored;
    const fs::path whole = fs::weakly_canonical(root_, ignored);
    description_ =
        one_line((whole.has_filename() ? whole : whole.parent_path()).filename().string()) +
        (split == Split::train ? " train" : " val");
  }
  void set_classes(std::vector<std::string> names) { class_names_ = std::move(names); }
  /// `path` is below the root.
  void add(std::string path, std::size_t label) {
    paths_.push_back(std::move(path));
    labels_.push_back(static_cast<std::int32_t>(label));
  }

  std::int64_t size() const override { return static_cast<std::int64_t>(paths_.size()); }
  std::int32_t label(std::int64_t i) const override { return labels_[static_cast<std::size_t>(i)]; }
  std::string name(std::int64_t i) const override {
    return one_line(paths_[static_cast<std::size_t>(i)]);
  }
  std::span<const std::byte> read(std::int64_t i, std::vector<std::byte>& memory) const override;

 private:
  fs::path root_;
  std::vector<std::string> paths_;
  std::vector<std::int32_t> labels_;
};

std::span<const std::byte> FolderPictures::read(std::int64_t i,
                                                std::vector<std::byte>& memory) const {
  const std::string file = name(i);
  read_file(root_ / paths_[static_cast<std::size_t>(i)], file, memory);
  if (memory.empty()) throw BadInput(file + ": found an empty file, expected a picture");
  return memory;
}

/// Throws unless there are enough classes to tell apart.
void check_classes(const fs::path& folder, const std::vector<std::string>& classes) {
  if (classes.size() >= 2) return;
  fail(folder, classes.empty()
                   ? "found no class folders, expected one a class"
                   : "found one class, \"" + one_line(classes[0]) + "\", expected at least two");
}

/// The scan of root/`folder`, with labels by `classes`.
void add_all(const fs::path& root, const std::string& folder,
             const std::vector<std::string>& classes, FolderPictures& pictures) {
  const PictureScan scan = scan_pictures(root / folder);
  for (std::size_t i = 0; i < scan.classes.size(); ++i) {
    const auto found = std::lower_bound(classes.begin(), classes.end(), scan.classes[i]);
    if (found == classes.end() || *found != scan.classes[i]) {
      fail(root / folder, "found class \"" + one_line(scan.classes[i]) + "\", which " +
                              one_line((root / kTrain).string()) + " lacks");
    }
    const auto label = static_cast<std::size_t>(found - classes.begin());
    for (const std::string& path : scan.pictures[i]) pictures.add(folder + "/" + path, label);
  }
}

/// Whether each of the n pictures of a class validates.
std::vector<bool> drawn_to_validate(std::int64_t n, const FolderOptions& options,
                                    std::size_t label) {
  const auto share = std::llround(static_cast<double>(n) * options.val_split);
  const auto count = std::min(std::max<std::int64_t>(share, 1), n - 1);
  const auto order = shuffled(n, options.seed, static_cast<std::int64_t>(label));
  std::vector<bool> validates(static_cast<std::size_t>(n));
  for (std::int64_t i = 0; i < count; ++i) {
    validates[static_cast<std::size_t>(order[static_cast<std::size_t>(i)])] = true;
  }
  return validates;
}

/// `folder` of the root, "" for itself, shared out between the splits.
void add_share(const fs::path& root, const std::string& folder, Split split,
               const FolderOptions& options, FolderPictures& pictures) {
  const PictureScan scan = scan_pictures(folder.empty() ? root : root / folder);
  for (std::size_t label = 0; label < scan.classes.size(); ++label) {
    const std::vector<std::string>& paths = scan.pictures[label];
    const auto validates =
        drawn_to_validate(static_cast<std::int64_t>(paths.size()), options, label);
    for (std::size_t i = 0; i < paths.size(); ++i) {
      if (validates[i] != (split == Split::test)) continue;
      pictures.add(folder.empty() ? paths[i] : folder + "/" + paths[i], label);
    }
  }
}

/// The folder that validates; empty: there is none.
std::string validation_folder(const fs::path& root) {
  for (const char* name : kValidation) {
    if (folder_exists(root / name)) return name;
  }
  return "";
}

}  // namespace

std::unique_ptr<PictureSource> open_image_folder(const fs::path& root, Split split,
                                                 const FolderOptions& options) {
  if (!folder_exists(root)) fail(root, "no such directory");
  const bool has_train = folder_exists(root / kTrain);
  const std::string validation = validation_folder(root);
  if (!validation.empty() && !has_train) {
    fail(root, "found the folder " + validation + " without the folder train");
  }
  if (validation.empty() && !(options.val_split > 0 && options.val_split < 1)) {
    fail(root,
         "found no folder val, validation or test, expected one, or a val_split between 0 "
         "and 1 (found " +
             format_double("%g", options.val_split) + ")");
  }
  auto pictures = std::make_unique<FolderPictures>(root, split);
  const std::string train = has_train ? kTrain : "";
  const fs::path labelled = has_train ? root / train : root;
  const std::vector<std::string> classes = list_classes(labelled);
  check_classes(labelled, classes);
  if (validation.empty()) {
    add_share(root, train, split, options, *pictures);
  } else {
    add_all(root, split == Split::train ? train : validation, classes, *pictures);
  }
  pictures->set_classes(classes);
  return pictures;
}

}  // namespace vitrine
