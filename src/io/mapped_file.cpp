// Mapping files by mmap(2).
#include "io/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <system_error>

#include "io/one_line.h"
#include "vitrine/error.h"

namespace vitrine {

MappedFile map_file(const std::filesystem::path& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  const auto fail = [&](const std::string& what) {
    if (descriptor >= 0) ::close(descriptor);
    throw BadInput(one_line(path.string()) + ": " + what);
  };
  const auto reason = [] { return std::generic_category().message(errno); };
  struct stat status {};
  if (descriptor < 0) fail(errno == ENOENT ? "no such file" : reason());
  if (::fstat(descriptor, &status) != 0) fail(reason());
  if (!S_ISREG(status.st_mode)) fail("not a regular file");
  const auto bytes = static_cast<std::size_t>(status.st_size);
  if (bytes == 0) {
    ::close(descriptor);
    return {};
  }
  void* memory = ::mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, descriptor, 0);
  if (memory == MAP_FAILED) fail("cannot map: " + reason());
  ::close(descriptor);
  const auto unmap = [bytes](const void* p) { ::munmap(const_cast<void*>(p), bytes); };
  return {std::shared_ptr<const void>(memory, unmap), bytes};
}

}  // namespace vitrine
