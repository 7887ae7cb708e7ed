// Tables of what was timed.
#include "vitrine/profile.h"

#include <algorithm>
#include <cstdio>
#include <map>

#include "vitrine/graph.h"

namespace vitrine {
namespace {

// A product serves forward and backward under one name.
std::string with_phase(const StepOperation& operation) {
  const bool told = operation.place.empty() || operation.operation.ends_with(operation.phase);
  return operation.operation + (told ? "" : " (" + operation.phase + ")");
}

std::string name_of(const StepOperation& operation, ProfileBy by) {
  switch (by) {
    case ProfileBy::layer:
      return operation.phase == "update" ? "update" : layer_of(operation.place);
    case ProfileBy::place:
      return (operation.place.empty() ? operation.phase : operation.place) + " " +
             with_phase(operation);
    case ProfileBy::operation:
      break;
  }
  return operation.operation;
}

}  // namespace

Profile make_table(const StepTimes& times, ProfileBy by, const Roof* roof) {
  Profile table;
  std::map<std::string, std::size_t> rows;  // where in the table
  for (std::size_t i = 0; i < times.operations.size(); ++i) {
    const StepOperation& operation = times.operations[i];
    const StepTimes::Sum& sum = times.sums[i];
    if (sum.calls == 0) continue;
    const auto calls = static_cast<double>(sum.calls);
    const std::string name = name_of(operation, by);
    const auto [place, is_new] = rows.emplace(name, table.size());
    if (is_new) table.push_back({.name = name});
    ProfileRow& row = table[place->second];
    row.calls += sum.calls;
    row.seconds += sum.seconds / operation.side_by_side;
    row.flops += operation.flops * calls;
    row.bytes += operation.bytes * calls;
    if (roof == nullptr) continue;
    row.floor_seconds +=
        calls / operation.side_by_side *
        roof->floor_seconds(operation.flops, operation.bytes, operation.side_by_side);
  }
  if (by == ProfileBy::layer) return table;
  std::stable_sort(table.begin(), table.end(),
                   [](const ProfileRow& a, const ProfileRow& b) { return a.seconds > b.seconds; });
  return table;
}

std::string to_text(const Profile& profile, std::int64_t steps) {
  ProfileRow sum{.name = "sum"};
  std::size_t width = 24;
  for (const ProfileRow& row : profile) {
    sum.calls += row.calls;
    sum.seconds += row.seconds;
    sum.flops += row.flops;
    sum.bytes += row.bytes;
    sum.floor_seconds += row.floor_seconds;
    width = std::max(width, row.name.size());
  }
  const bool has_roof = sum.floor_seconds > 0;
  const double per_step = 1.0 / static_cast<double>(std::max<std::int64_t>(steps, 1));
  const int name_width = static_cast<int>(width);
  char line[256];
  const auto print = [&](const ProfileRow& row, double gain) {
    const double seconds = std::max(row.seconds, 1e-12);
    std::snprintf(line, sizeof line, "%9.0f %10.3f %5.1f%% %9.1f %8.1f",
                  static_cast<double>(row.calls) * per_step, row.seconds * per_step * 1e3,
                  100 * row.seconds / std::max(sum.seconds, 1e-12), row.flops / seconds * 1e-9,
                  row.bytes / seconds * 1e-9);
    std::string text = row.name;
    text.resize(width, ' ');
    text += ' ';
    text += line;
    if (has_roof) {
      std::snprintf(line, sizeof line, " %6.0f%% %11.3f", 100 * row.floor_seconds / seconds,
                    gain * per_step * 1e3);
      text += line;
    }
    return text + '\n';
  };
  std::snprintf(line, sizeof line, "%-*s %9s %10s %6s %9s %8s%s\n", name_width, "a step", "calls",
                "ms", "share", "GFLOP/s", "GB/s", has_roof ? " of roof  to gain, ms" : "");
  std::string text = line;
  double gains = 0;
  for (const ProfileRow& row : profile) {
    const double gain = std::max(row.seconds - row.floor_seconds, 0.0);
    gains += gain;
    text += print(row, gain);
  }
  return text + print(sum, gains);
}

}  // namespace vitrine
