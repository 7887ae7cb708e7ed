// What is reported when a kernel breaks a rule, and where in the kernel that was.
#pragma once

#include "vitrine/error.h"

namespace simt {

/// A launch that CUDA would refuse or a kernel that breaks a rule. The message begins with the
/// operation, block, thread, file and line.
class Error : public vitrine::DeviceError {
 public:
  using vitrine::DeviceError::DeviceError;
};

/// The line of a kernel that calls a wrapper: the wrapper's last parameter, by default.
struct CallSite {
  const char* file = "";
  int line = 0;

  static constexpr CallSite here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
};

}  // namespace simt
