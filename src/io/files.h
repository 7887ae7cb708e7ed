// Reading whole files, and writing them so that a kill at any byte leaves the previous one whole.
#pragma once

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

namespace vitrine {

/// A file under construction: a temporary name in the same directory, which `commit` fsyncs and
/// renames. Without `commit` nothing is left behind.
class AtomicFile {
 public:
  /// Throws IoError when the directory cannot be written to.
  explicit AtomicFile(const std::filesystem::path& path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  /// Throws IoError with the reason (for example "no space left on device").
  void write(const void* data, std::size_t bytes);
  void write(std::string_view text) { write(text.data(), text.size()); }
  /// Flushes to the disk, renames, and flushes the directory.
  void commit();

 private:
  std::filesystem::path path_, temporary_;
  int descriptor_ = -1;
};

/// A directory under construction, beside its final place, which must be new or empty. Without
/// `commit` nothing is left behind.
class AtomicDirectory {
 public:
  /// Throws BadInput when there is something in that place, IoError when it cannot be written to.
  explicit AtomicDirectory(const std::filesystem::path& path);
  ~AtomicDirectory();
  AtomicDirectory(const AtomicDirectory&) = delete;
  AtomicDirectory& operator=(const AtomicDirectory&) = delete;

  /// A path inside, for writing.
  std::filesystem::path operator/(const std::string& name) const { return temporary_ / name; }
  void commit();

 private:
  std::filesystem::path path_, temporary_;
};

/// AtomicFile in one call.
void write_file(const std::filesystem::path& path, std::string_view contents);

/// The whole file. Throws BadInput "FILE: no such file" / the system's reason.
std::string read_file(const std::filesystem::path& path);
/// The same into memory that is used again; `name` is the file's in messages.
void read_file(const std::filesystem::path& path, const std::string& name,
               std::vector<std::byte>& contents);

/// Flushes a directory's entries to the disk. Throws IoError.
void sync_directory(const std::filesystem::path& directory);

/// Points the symbolic link `link` at `target` (a name in the same directory) by one rename.
void replace_symlink(const std::filesystem::path& target, const std::filesystem::path& link);

}  // namespace vitrine
