// Writing packed pictures; see packed.cpp for the format.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "io/files.h"
#include "vitrine/dataset.h"

namespace vitrine {

/// What the index says of one split.
struct PackedEntries {
  std::vector<std::int32_t> labels;
  std::vector<std::string> names;
  std::vector<std::uint64_t> sizes, checksums;
};

/// Pictures are added in the order in which the file holds them: all that train, then all that
/// validate. Nothing is left behind without `commit`.
class PackedWriter {
 public:
  /// Throws BadInput when `path` is a directory, IoError when it cannot be written to.
  PackedWriter(const std::filesystem::path& path, std::vector<std::string> class_names);

  /// `picture` is a whole PGM or PPM file.
  void add(Split split, std::int32_t label, const std::string& name,
           std::span<const std::byte> picture);
  void commit();
  /// Of what is written so far.
  std::uint64_t bytes() const { return bytes_; }

 private:
  void write(std::span<const std::byte> bytes);

  AtomicFile file_;
  std::vector<std::string> class_names_;
  std::array<PackedEntries, 2> entries_;  ///< by split
  std::uint64_t bytes_ = 0;
};

}  // namespace vitrine
