// Argument checks of the CPU kernels: a launcher given sizes that contradict each other says which.
#pragma once

#include <string>

#include "vitrine/tensor.h"

namespace vitrine::cpu {

/// Throws DeviceError unless `view` is empty-and-optional or has exactly `expected` elements.
template <typename View>
void check_size(const char* operation, const char* field, const View& view, std::int64_t expected,
                bool optional = false) {
  if (optional && !view) return;
  if (!view || view.size != expected) {
    throw DeviceError(std::string(operation) + ": " + field + " has " +
                      std::to_string(view ? view.size : 0) + " elements, expected " +
                      std::to_string(expected));
  }
}

[[noreturn]] inline void fail(const char* operation, const std::string& message) {
  throw DeviceError(std::string(operation) + ": " + message);
}

}  // namespace vitrine::cpu

/// Throws DeviceError with `message` unless `condition` holds. A macro, so that the message is put
/// together only then: operations of small models take a few microseconds, as long as such a text.
#define VITRINE_CHECK(condition, operation, message) \
  do {                                               \
    if (!(condition)) [[unlikely]] {                 \
      ::vitrine::cpu::fail(operation, message);      \
    }                                                \
  } while (false)
