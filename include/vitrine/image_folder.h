// Photographs in folders named by class, and the same photographs packed into one file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "vitrine/dataset.h"

namespace vitrine {

/// Labelled pictures of any size, one encoded file each. Thread-safe.
class PictureSource {
 public:
  virtual ~PictureSource() = default;
  virtual std::int64_t size() const = 0;
  virtual std::int32_t label(std::int64_t i) const = 0;
  /// What messages and reports call picture i: its path below the root.
  virtual std::string name(std::int64_t i) const = 0;
  /// The bytes of picture i, in `memory` or where they lie anyway. Throws BadInput: a file that is
  /// gone, empty or cannot be read.
  virtual std::span<const std::byte> read(std::int64_t i, std::vector<std::byte>& memory) const = 0;

  const std::vector<std::string>& class_names() const { return class_names_; }
  const std::string& description() const { return description_; }

 protected:
  std::vector<std::string> class_names_;  ///< sorted; the index is the label
  std::string description_;               ///< "imagenette-mini train"
};

struct FolderOptions {
  /// Share of the pictures of each class that validates, where root has no folder for it; drawn by
  /// `seed`. 0: such a root is an error.
  double val_split = 0.0;
  std::uint64_t seed = 42;
};

/// Scans root/{train,val}/class/**.{jpg,jpeg,png} ("validation" and "test" are read as val), or
/// root/class/** with `val_split`; suffixes in any case, names that begin with a dot passed over,
/// symbolic links followed once. Sorted by class, then by path. Labels are those of the training
/// split. Throws BadInput: no such folder, one class only, a class without pictures, a class of val
/// that train lacks, a loop of links.
std::unique_ptr<PictureSource> open_image_folder(const std::filesystem::path& root, Split split,
                                                 const FolderOptions& options = {});

/// Whether a path is a packed file; by its first bytes.
bool is_packed(const std::filesystem::path& path);

/// What `pack_pictures` wrote: pictures decoded once, u8, memory-mapped. Throws BadInput: magic,
/// version, lengths or the checksum of the index do not fit. A picture's own checksum is compared
/// when it is read.
std::unique_ptr<PictureSource> open_packed(const std::filesystem::path& path, Split split);

struct PackOptions {
  std::int64_t short_side = 256;  ///< larger pictures are reduced to it (antialiased, bicubic)
  int workers = 0;                ///< 0: one a core
};
/// What was packed.
struct PackSummary {
  std::int64_t train = 0, val = 0;  ///< pictures
  std::uint64_t bytes = 0;          ///< of the file
  std::vector<std::string> broken;  ///< pictures left out, each with the reason
};
/// Told how many pictures are done; returns false to stop.
using PackObserver = std::function<bool(std::int64_t done, std::int64_t of)>;
/// Packs both splits into one file, written whole or not at all: nothing where it was stopped.
/// Throws BadInput when more than 1 % of a split's pictures are broken.
std::optional<PackSummary> pack_pictures(const PictureSource& train, const PictureSource& val,
                                         const std::filesystem::path& path,
                                         const PackOptions& options, const PackObserver& observer);

/// Pictures that could not be used, counted and named. Thread-safe.
class BrokenPictures {
 public:
  explicit BrokenPictures(std::int64_t of);
  ~BrokenPictures();
  /// Throws BadInput when more than 1 % of the pictures (and more than one) are broken, with the
  /// first of them named. The same picture counts once.
  void add(std::int64_t picture, const std::string& message);
  std::int64_t count() const;
  /// In the order of the pictures.
  std::vector<std::string> messages() const;

 private:
  struct List;
  std::unique_ptr<List> list_;
};

}  // namespace vitrine
