// Walking the class folders.
//
// A folder that links lead to a second time is passed over, so no picture comes twice; reached from
// another class it would give its pictures two labels and is an error. A link that leads back to a
// folder above it is a loop. Links to files that are gone stay in the list: reading them says so.
#include "data/picture_scan.h"

#include <dirent.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <map>
#include <memory>
#include <system_error>
#include <utility>

#include "io/one_line.h"
#include "vitrine/error.h"

namespace vitrine {
namespace {

using FileId = std::pair<dev_t, ino_t>;

[[noreturn]] void fail(const std::filesystem::path& path, const std::string& what) {
  throw BadInput(one_line(path.string()) + ": " + what);
}

std::string reason() {
  return std::generic_category().message(errno);
}

struct Name {
  std::string text;
  bool regular_file = false;  ///< false: or not known without a further look
};

/// Names in a folder, sorted, without hidden ones.
std::vector<Name> list(const std::filesystem::path& folder) {
  const std::unique_ptr<DIR, int (*)(DIR*)> directory(::opendir(folder.c_str()), ::closedir);
  if (directory == nullptr) fail(folder, errno == ENOENT ? "no such directory" : reason());
  std::vector<Name> names;
  for (errno = 0; const dirent* entry = ::readdir(directory.get()); errno = 0) {
    if (entry->d_name[0] != '.') names.push_back({entry->d_name, entry->d_type == DT_REG});
  }
  if (errno != 0) fail(folder, reason());
  std::sort(names.begin(), names.end(),
            [](const Name& a, const Name& b) { return a.text < b.text; });
  return names;
}

enum class EntryKind : std::uint8_t { file, directory, other };
struct Entry {
  EntryKind kind = EntryKind::other;
  FileId id;
};

/// What a path means, links followed.
Entry look_at(const std::filesystem::path& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) {
    if (errno == ELOOP) fail(path, "found a loop of symbolic links");
    return {EntryKind::file, {}};  // gone: reading it says so
  }
  const EntryKind kind = S_ISDIR(status.st_mode)   ? EntryKind::directory
                         : S_ISREG(status.st_mode) ? EntryKind::file
                                                   : EntryKind::other;
  return {kind, {status.st_dev, status.st_ino}};
}

bool has_picture_suffix(const std::string& name) {
  constexpr std::array<const char*, 3> kSuffixes = {".jpg", ".jpeg", ".png"};
  std::string suffix = std::filesystem::path(name).extension().string();
  for (char& c : suffix) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return std::find(kSuffixes.begin(), kSuffixes.end(), suffix) != kSuffixes.end();
}

class Walk {
 public:
  explicit Walk(const std::filesystem::path& root) : root_(root) {
    const std::filesystem::path whole = std::filesystem::canonical(root);
    for (std::filesystem::path above = whole; above.has_relative_path();
         above = above.parent_path()) {
      ancestors_.push_back({look_at(above).id, above.string()});
    }
    ancestors_.push_back({look_at("/").id, "/"});
  }

  /// All pictures of one class folder.
  std::vector<std::string> pictures_of(const std::string& class_name) {
    class_name_ = class_name;
    pictures_.clear();
    other_files_ = 0;
    walk(class_name, look_at(root_ / class_name).id);
    if (pictures_.empty()) {
      fail(root_ / class_name, "found no pictures and " + std::to_string(other_files_) +
                                   " other files, expected .jpg, .jpeg or .png");
    }
    std::sort(pictures_.begin(), pictures_.end());
    return std::move(pictures_);
  }

 private:
  struct Ancestor {
    FileId id;
    std::string path;
  };

  void walk(const std::string& below, const FileId& id) {
    for (const Ancestor& ancestor : ancestors_) {
      if (ancestor.id != id) continue;
      fail(root_ / below,
           "found a loop of symbolic links, back to " + one_line((root_ / ancestor.path).string()));
    }
    const auto [seen, is_new] = class_of_.emplace(id, class_name_);
    if (!is_new && seen->second == class_name_) return;
    if (!is_new) {
      fail(root_ / below, "found the folder of class \"" + one_line(seen->second) +
                              "\" by a link, expected one class a folder");
    }
    ancestors_.push_back({id, below});
    for (const Name& name : list(root_ / below)) {
      const std::string path = below + "/" + name.text;
      visit(path, name.regular_file ? Entry{EntryKind::file, {}} : look_at(root_ / path));
    }
    ancestors_.pop_back();
  }

  void visit(const std::string& path, const Entry& entry) {
    if (entry.kind == EntryKind::directory) {
      walk(path, entry.id);
    } else if (entry.kind == EntryKind::file && has_picture_suffix(path)) {
      pictures_.push_back(path);
    } else {
      ++other_files_;
    }
  }

  std::filesystem::path root_;
  std::string class_name_;
  std::vector<std::string> pictures_;
  std::int64_t other_files_ = 0;
  std::vector<Ancestor> ancestors_;
  std::map<FileId, std::string> class_of_;
};

}  // namespace

std::vector<std::string> list_classes(const std::filesystem::path& folder) {
  std::vector<std::string> classes;
  for (Name& name : list(folder)) {
    if (name.regular_file || look_at(folder / name.text).kind != EntryKind::directory) continue;
    classes.push_back(std::move(name.text));
  }
  return classes;
}

PictureScan scan_pictures(const std::filesystem::path& folder) {
  PictureScan scan{.classes = list_classes(folder)};
  Walk walk(folder);
  for (const std::string& name : scan.classes) scan.pictures.push_back(walk.pictures_of(name));
  return scan;
}

}  // namespace vitrine
