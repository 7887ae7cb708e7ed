// Progress of long work: a bar that redraws itself on a terminal, plain lines in a pipe.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>

#include "io/format.h"

namespace vitrine {

class Progress {
 public:
  /// Draws on `stream` (usually stderr); `terminal` tells whether it redraws in place.
  Progress(std::FILE* stream, bool terminal) : stream_(stream), terminal_(terminal) {}
  ~Progress();

  /// Starts a piece of work of `total` units (images). On a terminal a bar appears at once.
  void begin(const std::string& label, std::int64_t total);
  /// `status` is short text such as "loss 1.842  top-1 61.2 %". Redraws at most ten times a
  /// second; in a pipe prints a line only when `line` is set.
  void update(std::int64_t done, const std::string& status, bool line = false);
  /// Removes the bar and prints `summary` as a line.
  void end(const std::string& summary);

 private:
  void draw(std::int64_t done, const std::string& status);
  void clear();

  std::FILE* stream_;
  bool terminal_;
  bool drawn_ = false;
  std::string label_;
  std::int64_t total_ = 0;
  std::chrono::steady_clock::time_point start_{}, last_{};
};

}  // namespace vitrine
