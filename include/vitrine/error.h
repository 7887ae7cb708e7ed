// The kinds of failure Vitrine reports. A message is one line: what, where, found, expected.
#pragma once

#include <stdexcept>
#include <string>

namespace vitrine {

/// Base of every error the library throws on purpose.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The user gave something that cannot be used: a file, a key, a size. The program exits with 2.
class BadInput : public Error {
 public:
  using Error::Error;
};

/// The file system refused: no space left, not writable, a short write. The program exits with 1.
class IoError : public Error {
 public:
  using Error::Error;
};

/// The device refused or failed. The program exits with 1.
class DeviceError : public Error {
 public:
  using Error::Error;
};

/// Work submitted earlier failed and took the device with it: this process cannot use it any more.
class DeviceFault : public DeviceError {
 public:
  using DeviceError::DeviceError;
};

/// More memory was asked for than there is. The program exits with 1.
class OutOfMemory : public Error {
 public:
  using Error::Error;
};

}  // namespace vitrine
