// Copies to shared memory that run while the thread goes on (cp.async).
//
// A copy is done when it is waited for, as late as the program allows; until then its target is
// NaN. The bytes are moved by inline functions, so that a sanitizer sees the kernel's accesses.
#pragma once

#include <cstdint>

#include "simt/error.h"

namespace simt {

struct AsyncCopy {
  static constexpr int kWords = 4;

  std::uint32_t* target;
  const std::uint32_t* source;
  int valid;  ///< bytes that are read, 0 or 16; the others become zero
  CallSite site;
};

/// Reports addresses that are not aligned, targets outside shared memory, another number of bytes.
void begin_async_copy(const AsyncCopy& copy);
void end_async_group();
/// The next copy to do before at most `pending` groups of this thread are under way; false if none.
bool next_async_copy(int pending, AsyncCopy& copy);

inline void async_copy(const AsyncCopy& copy) {
  begin_async_copy(copy);
  for (int i = 0; i < AsyncCopy::kWords; ++i) copy.target[i] = 0xFFFFFFFFu;
}

inline void wait_for_async_groups(int pending) {
  AsyncCopy copy{};
  while (next_async_copy(pending, copy)) {
    for (int i = 0; i < AsyncCopy::kWords; ++i) {
      copy.target[i] = copy.valid == 0 ? 0u : copy.source[i];
    }
  }
}

}  // namespace simt
