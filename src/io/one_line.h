// Text from outside (paths, names found in files) made fit for a message of one line.
#pragma once

#include <string>
#include <string_view>

namespace vitrine {

/// Control characters become \xNN; what goes beyond `limit` bytes becomes "...".
inline std::string one_line(std::string_view text, std::size_t limit = 400) {
  constexpr std::string_view kHex = "0123456789abcdef";
  bool cut = text.size() > limit;
  if (cut) {
    while (limit > 0 && (static_cast<unsigned char>(text[limit]) & 0xC0) == 0x80) --limit;
    text = text.substr(0, limit);
  }
  std::string line;
  for (char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7F) {
      line += {'\\', 'x', kHex[byte >> 4], kHex[byte & 15]};
    } else {
      line += c;
    }
  }
  return cut ? line + "..." : line;
}

}  // namespace vitrine
