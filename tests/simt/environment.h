// How the emulator reads its environment variables: fields between semicolons, whole numbers.
#pragma once

#include <algorithm>
#include <charconv>
#include <string>
#include <string_view>
#include <vector>

#include "simt/error.h"

namespace simt {

/// The whole of `text` as a number. Throws Error naming the variable.
template <typename Number>
Number number_in(const char* variable, std::string_view text) {
  Number number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || end != text.data() + text.size()) {
    throw Error(std::string(variable) + ": expected a number, found \"" + std::string(text) + "\"");
  }
  return number;
}

/// What stands between the separators; empty fields are left out.
inline std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> fields;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(separator), text.size());
    if (end > 0) fields.push_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return fields;
}

}  // namespace simt
