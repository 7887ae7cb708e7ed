// Reading and writing structs as JSON from one list of their fields.
//
// A struct's list is a function template `fields(visitor, object)` that calls visitor("key",
// member) for each; a reader and a writer are visitors. So a key stands in one place only.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "vitrine/error.h"

namespace vitrine {

/// Names of an enumeration's values in the order of the values.
template <typename E>
struct EnumNames;

/// The known word with the fewest edits from `word`.
std::string nearest(const std::string& word, const std::vector<std::string>& known);

/// Parses text; throws BadInput "SOURCE: not JSON: …" with the position.
nlohmann::json parse_json(const std::string& text, const std::string& source);

/// As text. Bytes that are no UTF-8, as names of files and classes may have, become U+FFFD.
std::string json_text(const nlohmann::ordered_json& document, int indent = -1);

/// The value of that name; throws BadInput "SOURCE: KEY: found …, expected one of …".
template <typename E>
E enum_from(const std::string& word, const std::string& key, const std::string& source) {
  std::string expected;
  for (std::size_t i = 0; i < EnumNames<E>::names.size(); ++i) {
    if (EnumNames<E>::names[i] == word) return static_cast<E>(i);
    expected += (i ? ", " : "") + std::string(EnumNames<E>::names[i]);
  }
  throw BadInput(source + ": " + key + ": found \"" + word + "\", expected one of " + expected);
}

template <typename E>
std::string enum_name(E value) {
  return std::string(EnumNames<E>::names[static_cast<std::size_t>(value)]);
}

/// Visitor that fills members from the keys that are present, and remembers which keys are known.
class JsonReader {
 public:
  JsonReader(const nlohmann::json& json, std::string source)
      : json_(json), source_(std::move(source)) {
    if (!json.is_object()) throw BadInput(source_ + ": expected a JSON object");
  }

  template <typename T>
  void operator()(const char* key, T& member) {
    known_.emplace_back(key);
    const auto found = json_.find(key);
    if (found == json_.end()) return;
    if constexpr (std::is_enum_v<T>) {
      if (!found->is_string()) fail(key, *found, "a name");
      member = enum_from<T>(found->template get<std::string>(), key, source_);
    } else {
      member = read<T>(key, *found);
    }
  }

  /// Keys that other lists read.
  void also_known(const std::string& key) { known_.push_back(key); }
  /// Throws BadInput for keys nobody knows.
  void finish() const {
    const std::set<std::string> known(known_.begin(), known_.end());
    for (const auto& [key, value] : json_.items()) {
      if (known.contains(key)) continue;
      throw BadInput(source_ + ": unknown key \"" + key + "\", the nearest known one is \"" +
                     nearest(key, known_) + "\"");
    }
  }
  bool has(const char* key) const { return json_.contains(key); }
  const nlohmann::json& json() const { return json_; }
  const std::string& source() const { return source_; }

  [[noreturn]] void fail(const std::string& key, const nlohmann::json& found,
                         const std::string& expected) const {
    throw BadInput(source_ + ": " + key + ": found " + found.dump() + ", expected " + expected);
  }

  template <typename T>
  T read(const char* key, const nlohmann::json& found) const {
    if constexpr (std::is_same_v<T, bool>) {
      if (!found.is_boolean()) fail(key, found, "true or false");
    } else if constexpr (std::is_integral_v<T>) {
      const bool fits = found.is_number_unsigned()
                            ? found.template get<std::uint64_t>() <= std::numeric_limits<T>::max()
                            : found.is_number_integer() &&
                                  (std::is_signed_v<T> || found.template get<std::int64_t>() >= 0);
      if (!fits) fail(key, found, "a whole number");
    } else if constexpr (std::is_floating_point_v<T>) {
      if (!found.is_number()) fail(key, found, "a number");
    } else if constexpr (std::is_same_v<T, std::string>) {
      if (!found.is_string()) fail(key, found, "a text");
    } else if constexpr (std::is_same_v<T, std::vector<std::string>>) {
      if (!found.is_array()) fail(key, found, "a list of texts");
      for (const auto& element : found) {
        if (!element.is_string()) fail(key, found, "a list of texts");
      }
    } else {
      if (!found.is_array()) fail(key, found, "a list of numbers");
      for (const auto& element : found) {
        if (!element.is_number()) fail(key, found, "a list of numbers");
      }
    }
    return found.template get<T>();
  }

 private:
  const nlohmann::json& json_;
  std::string source_;
  std::vector<std::string> known_;
};

/// Visitor that writes every member.
class JsonWriter {
 public:
  template <typename T>
  void operator()(const char* key, const T& member) {
    if constexpr (std::is_enum_v<T>) {
      json_[key] = enum_name(member);
    } else {
      json_[key] = member;
    }
  }
  nlohmann::ordered_json& json() { return json_; }

 private:
  nlohmann::ordered_json json_ = nlohmann::ordered_json::object();
};

}  // namespace vitrine
