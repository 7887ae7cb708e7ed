// "rand-m9-n2-p0.5-mstd0.5-mmax10-inc1" (timm), "randaug(2,10)" (big_vision), "3a", "".
#include <charconv>
#include <cmath>
#include <limits>
#include <string_view>

#include "io/one_line.h"
#include "vitrine/augmentation.h"
#include "vitrine/error.h"

namespace vitrine {
namespace {

constexpr int kMostOperations = 16, kLargestMagnitude = 100;
// timm: a larger deviation means magnitudes that are uniform between 0 and m.
constexpr double kLargestDeviation = 100;

// The whole text as a number in [least, most].
template <typename T>
bool read_number(std::string_view text, T least, T most, T& number) {
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number);
  return error == std::errc() && stop == end && number >= least && number <= most;
}

// A section of timm's text: letters, then a number.
bool read_section(std::string_view section, AutoAugment& rule) {
  const std::size_t digits = section.find_first_of("0123456789");
  if (digits == std::string_view::npos) return false;
  const std::string_view key = section.substr(0, digits), value = section.substr(digits);
  int whole = 0;
  if (key == "m") {
    if (!read_number(value, 0, kLargestMagnitude, whole)) return false;
    rule.magnitude = whole;
  } else if (key == "mmax") {
    if (!read_number(value, 1, kLargestMagnitude, whole)) return false;
    rule.magnitude_max = whole;
  } else if (key == "mstd") {
    constexpr double kAny = std::numeric_limits<double>::max();
    if (!read_number(value, 0.0, kAny, rule.magnitude_std)) return false;
    if (rule.magnitude_std > kLargestDeviation) {
      rule.magnitude_std = std::numeric_limits<double>::infinity();
    }
  } else if (key == "n") {
    return read_number(value, 1, kMostOperations, rule.num_ops);
  } else if (key == "p") {
    return read_number(value, 0.0, 1.0, rule.probability);
  } else if (key == "inc") {
    if (!read_number(value, 0, 1, whole)) return false;
    rule.increasing = whole == 1;
  } else {
    return false;
  }
  return true;
}

bool read_timm(std::string_view sections, AutoAugment& rule) {
  while (!sections.empty()) {
    if (sections[0] != '-') return false;
    sections.remove_prefix(1);
    const std::string_view section = sections.substr(0, sections.find('-'));
    if (!read_section(section, rule)) return false;
    sections.remove_prefix(section.size());
  }
  return true;
}

bool read_big_vision(std::string_view arguments, AutoAugment& rule) {
  const std::size_t comma = arguments.find(',');
  if (comma == std::string_view::npos || !arguments.ends_with(')')) return false;
  std::string_view magnitude = arguments.substr(comma + 1);
  magnitude.remove_suffix(1);
  while (magnitude.starts_with(' ')) magnitude.remove_prefix(1);
  int whole = 0;
  if (!read_number(magnitude, 0, kLargestMagnitude, whole)) return false;
  rule.magnitude = whole;
  return read_number(arguments.substr(0, comma), 1, kMostOperations, rule.num_ops);
}

bool read_rule(std::string_view text, AutoAugment& rule) {
  constexpr std::string_view kTimm = "rand", kBigVision = "randaug(";
  if (text.starts_with(kBigVision)) {
    rule.kind = AutoAugment::Kind::big_vision;
    return read_big_vision(text.substr(kBigVision.size()), rule);
  }
  if (text.starts_with(kTimm)) {
    rule.kind = AutoAugment::Kind::rand;
    return read_timm(text.substr(kTimm.size()), rule);
  }
  rule.kind = text.empty() ? AutoAugment::Kind::none : AutoAugment::Kind::three;
  return text.empty() || text == "3a";
}

}  // namespace

AutoAugment parse_auto_augment(const std::string& text, const std::string& source) {
  AutoAugment rule;
  rule.text = text;
  if (read_rule(text, rule)) return rule;
  throw BadInput(source + ": aa: found \"" + one_line(text) +
                 "\", expected \"3a\", \"randaug(2,10)\" or \"rand\" with any of -m9, -n2, -p0.5, "
                 "-mstd0.5, -mmax10, -inc1");
}

}  // namespace vitrine
