// Checks of configurations: each throws BadInput "SOURCE: KEY: found …, expected …".
#pragma once

#include <cmath>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "vitrine/error.h"
#include "vitrine/recipe.h"

namespace vitrine {

inline void expect(bool condition, const std::string& source, const std::string& key,
                   const std::string& found, const std::string& expected) {
  if (!condition)
    throw BadInput(source + ": " + key + ": found " + found + ", expected " + expected);
}

inline std::string text(double number) {
  std::string digits = nlohmann::json(number).dump();
  return digits.ends_with(".0") ? digits.substr(0, digits.size() - 2) : digits;
}

inline void expect_at_least(double number, double least, const std::string& source,
                            const std::string& key) {
  expect(std::isfinite(number) && number >= least, source, key, text(number),
         "at least " + text(least));
}

inline void expect_between(std::int64_t number, std::int64_t least, std::int64_t most,
                           const std::string& source, const std::string& key) {
  expect(number >= least && number <= most, source, key, std::to_string(number),
         std::to_string(least) + " to " + std::to_string(most));
}

inline void expect_probability(double number, const std::string& source, const std::string& key) {
  expect(number >= 0 && number < 1, source, key, text(number), "a number in [0, 1)");
}

/// The part of a recipe's checks that is about augmentation and pictures.
void validate_augmentation(const Recipe& recipe, const std::string& source);

}  // namespace vitrine
