// Numbers as people read them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace vitrine {

/// "12.3s", "1m 05s", "2h 03m"; "?" when negative or not finite.
std::string format_duration(double seconds);

/// "12,345"
std::string format_count(std::int64_t count);

/// "512 B", "1.2 MiB"
std::string format_bytes(double bytes);

/// One finite number by a printf conversion for double, such as "%.3f".
std::string format_double(const char* conversion, double value);

/// Characters in UTF-8 text.
std::size_t utf8_length(const std::string& text);

/// The first characters of UTF-8 text, never cut inside one.
std::string utf8_prefix(const std::string& text, std::size_t characters);

}  // namespace vitrine
