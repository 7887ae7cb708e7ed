// A whole file in memory without reading it: its pages come when they are touched.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>

namespace vitrine {

/// Read-only; unmapped with the last owner. Null where the file is empty.
struct MappedFile {
  std::shared_ptr<const void> memory;
  std::size_t bytes = 0;

  std::span<const std::byte> span() const {
    return {static_cast<const std::byte*>(memory.get()), bytes};
  }
};

/// Throws BadInput "FILE: no such file", "FILE: not a regular file", the system's reason.
MappedFile map_file(const std::filesystem::path& path);

}  // namespace vitrine
