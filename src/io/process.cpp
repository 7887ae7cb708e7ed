#include "io/process.h"

#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <sstream>

namespace vitrine {

double process_bytes(const std::string& key) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(key + ":")) return 1024.0 * std::atof(line.c_str() + key.size() + 1);
  }
  return 0;
}

double process_age() {
  constexpr int kFirst = 3, kStartTime = 22;  // fields of proc(5), the first behind the name
  std::ifstream stat("/proc/self/stat"), uptime("/proc/uptime");
  std::string text, field;
  double now = 0;
  if (!std::getline(stat, text) || !(uptime >> now)) return 0;
  std::istringstream fields(text.substr(text.rfind(')') + 1));
  for (int i = kFirst; i <= kStartTime; ++i) fields >> field;
  return now - std::atof(field.c_str()) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

}  // namespace vitrine
