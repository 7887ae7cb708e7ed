// Where the time went, by operation.
#include "vitrine/profile.h"

#include <algorithm>
#include <cstdio>
#include <map>

namespace vitrine {

Profile merge(const Profile& a, const Profile& b) {
  std::map<std::string, ProfileRow> rows;
  for (const Profile* profile : {&a, &b}) {
    for (const ProfileRow& row : *profile) {
      ProfileRow& sum = rows[row.operation];
      sum.operation = row.operation;
      sum.calls += row.calls;
      sum.seconds += row.seconds;
      sum.flops += row.flops;
      sum.bytes += row.bytes;
    }
  }
  Profile merged;
  for (const auto& [name, row] : rows) merged.push_back(row);
  std::stable_sort(merged.begin(), merged.end(),
                   [](const ProfileRow& x, const ProfileRow& y) { return x.seconds > y.seconds; });
  return merged;
}

std::string to_text(const Profile& profile) {
  double total = 0;
  for (const ProfileRow& row : profile) total += row.seconds;
  std::string text = "operation                      calls   seconds  share   GFLOP/s    GB/s\n";
  for (const ProfileRow& row : profile) {
    char line[160];
    const double seconds = std::max(row.seconds, 1e-12);
    std::snprintf(line, sizeof line, "%-26s %9lld %9.3f %5.1f%% %9.1f %7.1f\n",
                  row.operation.c_str(), static_cast<long long>(row.calls), row.seconds,
                  100 * row.seconds / std::max(total, 1e-12), row.flops / seconds * 1e-9,
                  row.bytes / seconds * 1e-9);
    text += line;
  }
  return text;
}

}  // namespace vitrine
