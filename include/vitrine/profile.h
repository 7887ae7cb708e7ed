// Where the time went, by operation.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace vitrine {

/// One row of the table: all calls of one operation.
struct ProfileRow {
  std::string operation;  ///< the catalogue's name
  std::int64_t calls = 0;
  double seconds = 0;  ///< summed over workers
  double flops = 0;
  double bytes = 0;
};

/// Rows by falling time.
using Profile = std::vector<ProfileRow>;

/// Adds rows of the same operation together and sorts.
Profile merge(const Profile& a, const Profile& b);

/// The table as text, one row an operation with calls, time, share, GFLOP/s and GB/s.
std::string to_text(const Profile& profile);

}  // namespace vitrine
