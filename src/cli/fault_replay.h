// Which operation an error belongs to that a GPU reports late.
//
// Work given to a GPU can fail after the call that gave it has returned. Whatever call comes next
// tells of it, without saying which work it was, and the process cannot use the GPU any more. The
// program then replaces itself by a replay of the run: the same command line, from the run's last
// checkpoint, waiting for each operation (--check-operations) and writing nothing. What the replay
// looks for it finds in the environment variable VITRINE_FAULT_REPLAY, as JSON.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "vitrine/device.h"

namespace vitrine {

/// An error of a run, as noticed.
struct Fault {
  std::string error;       ///< one line
  std::string place;       ///< where the run was when it noticed: "step 12"
  std::int64_t step = 0;   ///< steps it had submitted before
  std::string checkpoint;  ///< the last one the run has written; empty: none
  std::string run;         ///< its directory, for advice
};

/// "; continue with: vitrine train --resume RUN" where there is something to continue from.
std::string advice(const Fault& fault);

/// What the device says where it is lost and nothing but a new process helps; else nothing. What
/// was thrown may name an operation, but only the one that came next.
std::string fault_of(Device& device);

/// Says so on standard error and replaces the process; throws where that is impossible.
[[noreturn]] void start_replay(const Fault& fault);

/// What this process, being a replay, is to find; nothing in any other.
std::optional<Fault> fault_to_find();

/// Throws DeviceError with what came of `replay`, which returns "place: operation: error", or
/// nothing when the fault did not come again.
[[noreturn]] void find_fault(const Fault& fault, const std::function<std::string()>& replay);

}  // namespace vitrine
