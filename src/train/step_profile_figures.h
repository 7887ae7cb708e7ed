// The key figures of a step, as its text and its page tell them.
#pragma once

#include <string>
#include <vector>

#include "vitrine/step_profile.h"

namespace vitrine {

/// "3.939 ms", "585.4 ms", "12.1 µs"
std::string format_time(double seconds);
/// "56.3 %"
std::string format_percent(double share);
/// "27.2 GFLOP/s", "989 TFLOP/s": `unit` behind G or T.
std::string format_rate(double amount_a_second, const char* unit);
/// "3.939 ms (2.206 ms to 11.944 ms)": the median, the least and the largest.
std::string format_spread(const std::vector<double>& seconds);

/// What is said of one thing: a name, a number, and what explains it.
struct Figure {
  std::string name, value, note;
};

/// "vit_base_patch16_224 on cpu"
std::string title(const StepProfile& profile);
/// Device, precision, batch, chunks, data.
std::vector<Figure> setting(const StepProfile& profile);
/// Rate, step, floor, utilisation, memory, first step, data.
std::vector<Figure> key_figures(const StepProfile& profile);
/// How the times add up: the timed step in its parts, the step that is not timed, what timing adds.
std::vector<Figure> reconciliation(const StepProfile& profile);
/// What copies and products reach here, and the data sheet where there is one.
std::vector<Figure> roofs(const StepProfile& profile);

/// The operation with the most to gain; of empty name where there is none.
Figure next_to_optimise(const StepProfile& profile);

}  // namespace vitrine
