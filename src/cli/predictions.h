// What a model says of an image, for the commands that classify single ones.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "vitrine/recipe.h"

namespace vitrine {

/// The name of class `index`, "class 7" where the checkpoint has none.
std::string class_name(const RunConfig& config, std::size_t index);

struct Prediction {
  std::size_t index = 0;
  std::string name;
  float probability = 0;
};

/// The `count` most probable classes, the most probable first.
std::vector<Prediction> top_predictions(const RunConfig& config,
                                        const std::vector<float>& probabilities, int count);

/// A line each, with a bar.
void print_predictions(const std::vector<Prediction>& predictions);
nlohmann::ordered_json to_json(const std::vector<Prediction>& predictions);

/// On standard output, whatever bytes the names of files have.
void print_json(const nlohmann::ordered_json& json);

}  // namespace vitrine
