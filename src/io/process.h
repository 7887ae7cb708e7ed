// What the system says of this process.
#pragma once

#include <string>

namespace vitrine {

/// A figure of /proc/self/status in bytes ("VmRSS", "VmHWM"); 0 where there is none.
double process_bytes(const std::string& key);

/// Seconds since the process began, exact to 10 ms; 0 where the system does not tell.
double process_age();

}  // namespace vitrine
