// What ThreadSanitizer is told about atomics and fences.
//
//   PTX ISA 8.5, 8.7 (release and acquire patterns)
//
// Memory itself is a thread to it, which makes the atomic accesses. Who has made one is ordered
// after those before, so that a plain access may follow, but after nothing else. What a block's
// fences gave goes with its next atomic access to all who make one later, and is theirs from their
// next fence on. A block's fences and atomics are taken together, whichever of its threads call.
#pragma once

#include "simt/sanitizer.h"

namespace simt {

class MemoryOrder {
 public:
  MemoryOrder();
  ~MemoryOrder();
  MemoryOrder(const MemoryOrder&) = delete;
  MemoryOrder& operator=(const MemoryOrder&) = delete;

  void start_block();
  void begin_access();
  void end_access();
  void fence();

 private:
  void* memory_;     ///< makes the accesses
  void* messenger_;  ///< carries what fences gave
  void* thread_ = nullptr;
  sanitizer::Clock started_, given_, taken_;
};

}  // namespace simt
