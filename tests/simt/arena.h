// The memory that a multiprocessor hands out as shared memory, one block after another.
#pragma once

#include <array>
#include <cstddef>
#include <string>

namespace simt {

/// The dynamic part lies first, static arrays follow as they are asked for, with gaps between.
/// All of it is 0xFF (NaN) when a block starts; gaps are poisoned and must still be 0xFF when it
/// ends, so that writes beyond an array are found without a sanitizer too.
class Arena {
 public:
  Arena();
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  void start_block(std::size_t dynamic_bytes);
  /// Null if this block has no room left for the array.
  void* array(const void* key, std::size_t bytes);
  void* dynamic() const { return memory_; }
  bool contains(const void* address, std::size_t bytes) const;
  std::size_t dynamic_bytes() const { return dynamic_bytes_; }
  std::size_t bytes_in_use() const { return dynamic_bytes_ + static_bytes_; }
  /// Whether a byte outside the dynamic part and the arrays was written.
  bool gap_was_written() const;

 private:
  struct Array {
    const void* key;
    std::size_t first, bytes;
  };

  static constexpr std::size_t kMaxArrays = 64;

  unsigned char* memory_;
  std::size_t dynamic_bytes_ = 0, static_bytes_ = 0;
  std::size_t end_ = 0;      ///< of this block's last array
  std::size_t written_ = 0;  ///< no earlier block wrote beyond
  std::array<Array, kMaxArrays> arrays_;
  std::size_t array_count_ = 0;
};

}  // namespace simt
