// Kernels with a bug each, and the same kernels without it.
#pragma once

#include <span>

namespace simt {

struct PlantedBug {
  const char* name;
  bool (*run)(bool planted);  ///< whether the result is right
  /// What each build reports of it, as a regular expression; null where it cannot notice.
  const char* plain;
  const char* address;  ///< AddressSanitizer and UndefinedBehaviorSanitizer
  const char* thread;   ///< ThreadSanitizer
};

std::span<const PlantedBug> planted_bugs();

}  // namespace simt
