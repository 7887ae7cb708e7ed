// Hears what a program tells a profiler through NVTX.
#pragma once

#include <string>
#include <vector>

namespace simt {

/// Ranges since the last call, in the order of their begin, each with the ranges around it:
/// "epoch 1/step/forward".
std::vector<std::string> take_ranges();

}  // namespace simt
