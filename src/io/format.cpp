// Numbers as people read them.
#include "io/format.h"

#include <cmath>
#include <cstdio>

namespace vitrine {
namespace {

bool continues_character(char c) {
  return (static_cast<unsigned char>(c) & 0xC0) == 0x80;
}

std::string two_units(std::int64_t count, std::int64_t base, char large, char small) {
  char text[64];
  std::snprintf(text, sizeof text, "%lld%c %02lld%c", static_cast<long long>(count / base), large,
                static_cast<long long>(count % base), small);
  return text;
}

}  // namespace

std::string format_double(const char* conversion, double value) {
  char text[400];  // DBL_MAX has 309 digits before the point
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
  std::snprintf(text, sizeof text, conversion, value);
#pragma GCC diagnostic pop
  return text;
}

std::string format_duration(double seconds) {
  constexpr double kLongest = 1e15;
  if (!(seconds >= 0 && seconds < kLongest)) return "?";
  if (seconds < 59.95) return format_double("%.1f", seconds) + "s";
  if (seconds < 3599.5) return two_units(std::llround(seconds), 60, 'm', 's');
  return two_units(std::llround(seconds / 60), 60, 'h', 'm');
}

std::string format_count(std::int64_t count) {
  std::string text = std::to_string(count);
  const std::size_t first = count < 0 ? 1 : 0;
  for (std::size_t at = text.size(); at > first + 3;) text.insert(at -= 3, 1, ',');
  return text;
}

std::string format_bytes(double bytes) {
  if (!(bytes >= 0) || std::isinf(bytes)) return "?";
  if (bytes < 1023.5) return format_double("%.0f", bytes) + " B";
  const char* const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB"};
  std::size_t unit = 0;
  for (bytes /= 1024; bytes >= 1023.95 && unit < 4; ++unit) bytes /= 1024;
  return format_double("%.1f ", bytes) + units[unit];
}

std::size_t utf8_length(const std::string& text) {
  std::size_t length = 0;
  for (const char c : text) length += continues_character(c) ? 0 : 1;
  return length;
}

std::string utf8_prefix(const std::string& text, std::size_t characters) {
  std::size_t end = 0;
  for (; end < text.size(); ++end) {
    if (continues_character(text[end])) continue;
    if (characters == 0) break;
    --characters;
  }
  return text.substr(0, end);
}

}  // namespace vitrine
