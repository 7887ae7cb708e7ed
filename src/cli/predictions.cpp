#include "cli/predictions.h"

#include <algorithm>
#include <cstdio>
#include <numeric>

#include "io/json_fields.h"

namespace vitrine {

std::string class_name(const RunConfig& config, std::size_t index) {
  return index < config.class_names.size() ? config.class_names[index]
                                           : "class " + std::to_string(index);
}

std::vector<Prediction> top_predictions(const RunConfig& config,
                                        const std::vector<float>& probabilities, int count) {
  std::vector<std::size_t> order(probabilities.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return probabilities[a] > probabilities[b];
  });
  order.resize(std::min(order.size(), static_cast<std::size_t>(count)));
  std::vector<Prediction> predictions;
  for (const std::size_t k : order) {
    predictions.push_back({k, class_name(config, k), probabilities[k]});
  }
  return predictions;
}

void print_predictions(const std::vector<Prediction>& predictions) {
  for (const Prediction& p : predictions) {
    const std::string bar(static_cast<std::size_t>(p.probability * 30 + 0.5f), '#');
    std::printf("  %6.2f %%  %-16s %s\n", 100.0 * static_cast<double>(p.probability),
                p.name.c_str(), bar.c_str());
  }
}

nlohmann::ordered_json to_json(const std::vector<Prediction>& predictions) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const Prediction& p : predictions) {
    list.push_back({{"class", p.index}, {"name", p.name}, {"probability", p.probability}});
  }
  return list;
}

void print_json(const nlohmann::ordered_json& json) {
  std::printf("%s\n", json_text(json, 1).c_str());
}

}  // namespace vitrine
