// Whole-file reading, and writing through a temporary file that is fsynced and renamed.
//
//   write: open(temporary, O_EXCL) → write … → fsync → close → rename → fsync(directory)
//
// rename(2) replaces a name in one step, so a reader, or the machine after a crash, sees the old
// file or the new one and never a part.

#include "io/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

#include "io/one_line.h"
#include "vitrine/error.h"

namespace vitrine {
namespace {

constexpr int kNameAttempts = 10000;  ///< a killed process may have left names behind

std::string reason(int error) {
  return std::generic_category().message(error);
}

[[noreturn]] void fail(const std::filesystem::path& path, const std::string& what, int error) {
  throw IoError(one_line(path.string()) + ": " + what + ": " + reason(error));
}

std::filesystem::path directory_of(const std::filesystem::path& path) {
  return path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
}

/// Calls `create` with fresh names beside `path` until one is not taken. `create` returns whether
/// it succeeded, with errno set when it did not.
template <typename Create>
std::filesystem::path create_temporary(const std::filesystem::path& path, const Create& create) {
  const std::string prefix = ".vitrine-" + std::to_string(::getpid()) + "-";
  for (int attempt = 0; attempt < kNameAttempts; ++attempt) {
    std::filesystem::path name = directory_of(path) / (prefix + std::to_string(attempt) + ".tmp");
    if (create(name)) return name;
    if (errno != EEXIST) break;
  }
  fail(path, "cannot create a file in its directory", errno);
}

/// A descriptor that is closed at the end of the scope.
class Descriptor {
 public:
  explicit Descriptor(int descriptor) : descriptor_(descriptor) {}
  ~Descriptor() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return descriptor_; }

 private:
  int descriptor_;
};

/// Container: a string or a vector of bytes.
template <typename Container>
void read_into(const std::filesystem::path& path, const std::string& name, Container& contents) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.get() < 0) {
    throw BadInput(name + ": " + (errno == ENOENT ? "no such file" : reason(errno)));
  }
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) throw BadInput(name + ": " + reason(errno));

  constexpr std::size_t kSmallestRead = 4096;  // pipes and /proc say 0
  contents.clear();
  std::size_t used = 0;
  for (;;) {
    if (used == contents.size()) {
      const auto expected = static_cast<std::size_t>(status.st_size) + 1;
      contents.resize(std::max({expected, used + kSmallestRead, used + used / 2}));
    }
    const ssize_t got = ::read(file.get(), contents.data() + used, contents.size() - used);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw BadInput(name + ": " + reason(errno));
    if (got == 0) break;
    used += static_cast<std::size_t>(got);
  }
  contents.resize(used);
}

}  // namespace

AtomicFile::AtomicFile(const std::filesystem::path& path) : path_(path) {
  temporary_ = create_temporary(path_, [this](const std::filesystem::path& name) {
    descriptor_ = ::open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    return descriptor_ >= 0;
  });
}

AtomicFile::~AtomicFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::write(const void* data, std::size_t bytes) {
  const char* next = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t written = ::write(descriptor_, next, bytes);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail(path_, "cannot write", errno);
    next += written;
    bytes -= static_cast<std::size_t>(written);
  }
}

void AtomicFile::commit() {
  if (::fsync(descriptor_) != 0) fail(path_, "cannot flush", errno);
  const int closed = ::close(descriptor_);
  descriptor_ = -1;
  if (closed != 0) fail(path_, "cannot close", errno);
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail(path_, "cannot replace", errno);
  temporary_.clear();
  sync_directory(directory_of(path_));
}

AtomicDirectory::AtomicDirectory(const std::filesystem::path& path) {
  std::error_code error;
  if (path.empty()) throw BadInput("output: found an empty name, expected a directory");
  path_ = std::filesystem::weakly_canonical(path, error);  // "." and links to what they mean
  if (!path_.has_filename()) path_ = path_.parent_path();
  const bool taken =
      std::filesystem::exists(std::filesystem::symlink_status(path_, error)) &&
      !(std::filesystem::is_directory(path_, error) && std::filesystem::is_empty(path_, error));
  if (taken) {
    throw BadInput(one_line(path_.string()) +
                   ": found something there, expected a new or an empty directory");
  }
  std::filesystem::create_directories(directory_of(path_), error);
  if (error) throw IoError(one_line(path_.string()) + ": cannot create: " + error.message());
  temporary_ = create_temporary(
      path_, [](const std::filesystem::path& name) { return ::mkdir(name.c_str(), 0777) == 0; });
}

AtomicDirectory::~AtomicDirectory() {
  std::error_code ignored;
  if (!temporary_.empty()) std::filesystem::remove_all(temporary_, ignored);
}

void AtomicDirectory::commit() {
  sync_directory(temporary_);
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail(path_, "cannot replace", errno);
  temporary_.clear();
  sync_directory(directory_of(path_));
}

void write_file(const std::filesystem::path& path, std::string_view contents) {
  AtomicFile file(path);
  file.write(contents);
  file.commit();
}

std::string read_file(const std::filesystem::path& path) {
  std::string contents;
  read_into(path, one_line(path.string()), contents);
  return contents;
}

void read_file(const std::filesystem::path& path, const std::string& name,
               std::vector<std::byte>& contents) {
  read_into(path, name, contents);
}

void sync_directory(const std::filesystem::path& directory) {
  const std::filesystem::path name = directory.empty() ? "." : directory;
  const Descriptor descriptor(::open(name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (descriptor.get() < 0) fail(name, "cannot open directory", errno);
  // EINVAL: a file system that has no such operation, and keeps its names in order without it.
  if (::fsync(descriptor.get()) != 0 && errno != EINVAL) fail(name, "cannot flush", errno);
}

void replace_symlink(const std::filesystem::path& target, const std::filesystem::path& link) {
  const std::filesystem::path temporary =
      create_temporary(link, [&target](const std::filesystem::path& name) {
        return ::symlink(target.c_str(), name.c_str()) == 0;
      });
  if (::rename(temporary.c_str(), link.c_str()) != 0) {
    const int error = errno;
    ::unlink(temporary.c_str());
    fail(link, "cannot replace", error);
  }
  sync_directory(directory_of(link));
}

}  // namespace vitrine
