// Tables of what was timed.
#include "vitrine/profile.h"

#include <algorithm>
#include <cstdio>
#include <map>

namespace vitrine {
namespace {

std::string name_of(const StepOperation& operation, ProfileBy by) {
  switch (by) {
    case ProfileBy::layer:
      return operation.phase == "update" ? "update" : layer_of(operation.place);
    case ProfileBy::place:
      return (operation.place.empty() ? operation.phase : operation.place) + " " +
             operation.operation;
    case ProfileBy::operation:
      break;
  }
  return operation.operation;
}

}  // namespace

std::string layer_of(const std::string& place) {
  const std::size_t first = place.find('.');
  return place.substr(0, place.starts_with("blocks.") ? place.find('.', first + 1) : first);
}

Profile make_table(const StepTimes& times, ProfileBy by, const Roof* roof) {
  std::map<std::string, ProfileRow> rows;
  for (std::size_t i = 0; i < times.operations.size(); ++i) {
    const StepOperation& operation = times.operations[i];
    const StepTimes::Sum& sum = times.sums[i];
    const auto calls = static_cast<double>(sum.calls);
    ProfileRow& row = rows[name_of(operation, by)];
    row.calls += sum.calls;
    row.seconds += sum.seconds / operation.side_by_side;
    row.flops += operation.flops * calls;
    row.bytes += operation.bytes * calls;
    if (roof == nullptr) continue;
    row.floor_seconds +=
        calls / operation.side_by_side *
        roof->floor_seconds(operation.flops, operation.bytes, operation.side_by_side);
  }
  Profile table;
  for (auto& [name, row] : rows) {
    row.name = name;
    table.push_back(row);
  }
  std::stable_sort(table.begin(), table.end(),
                   [](const ProfileRow& a, const ProfileRow& b) { return a.seconds > b.seconds; });
  return table;
}

std::string to_text(const Profile& profile, std::int64_t steps) {
  double total = 0;
  std::size_t width = 24;
  bool has_roof = false;
  for (const ProfileRow& row : profile) {
    total += row.seconds;
    width = std::max(width, row.name.size());
    has_roof = has_roof || row.floor_seconds > 0;
  }
  const double per_step = 1.0 / static_cast<double>(std::max<std::int64_t>(steps, 1));
  const int name_width = static_cast<int>(width);
  char line[256];
  std::snprintf(line, sizeof line, "%-*s %9s %10s %6s %9s %8s%s\n", name_width, "", "calls", "ms",
                "share", "GFLOP/s", "GB/s", has_roof ? "  roof   to gain" : "");
  std::string text = line;
  for (const ProfileRow& row : profile) {
    const double seconds = std::max(row.seconds, 1e-12);
    std::snprintf(line, sizeof line, "%-*s %9.0f %10.3f %5.1f%% %9.1f %8.1f", name_width,
                  row.name.c_str(), static_cast<double>(row.calls) * per_step,
                  row.seconds * per_step * 1e3, 100 * row.seconds / std::max(total, 1e-12),
                  row.flops / seconds * 1e-9, row.bytes / seconds * 1e-9);
    text += line;
    if (has_roof) {
      std::snprintf(line, sizeof line, " %4.0f%% %9.3f", 100 * row.floor_seconds / seconds,
                    std::max(row.seconds - row.floor_seconds, 0.0) * per_step * 1e3);
      text += line;
    }
    text += '\n';
  }
  return text;
}

}  // namespace vitrine
