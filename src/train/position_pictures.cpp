// Position embeddings as pictures.
#include <algorithm>
#include <cmath>
#include <string>

#include "vitrine/attention_maps.h"
#include "vitrine/error.h"

namespace vitrine {
namespace {

constexpr std::int64_t kSide = 640;  // about as many pixels as a picture is wide

std::int64_t cell_size(std::int64_t cells) {
  return std::max<std::int64_t>(1, kSide / cells);
}

std::int64_t rows_of(const std::vector<float>& positions, std::int64_t hidden) {
  const auto numbers = static_cast<std::int64_t>(positions.size());
  if (hidden <= 0 || numbers == 0 || numbers % hidden != 0) {
    throw BadInput("positions: found " + std::to_string(numbers) + " numbers, expected rows of " +
                   std::to_string(hidden));
  }
  return numbers / hidden;
}

/// Smallest and largest of what is a number.
std::pair<float, float> range_of(const std::vector<float>& numbers) {
  float low = 0, high = 0;
  bool any = false;
  for (const float x : numbers) {
    if (std::isnan(x)) continue;
    low = any ? std::min(low, x) : x;
    high = any ? std::max(high, x) : x;
    any = true;
  }
  return {low, high};
}

}  // namespace

std::vector<float> patch_positions(const VitConfig& config, const Plan& plan,
                                   std::span<const float> weights) {
  if (config.position == Position::none) return {};
  const auto begin = config.first_patch_position() * config.hidden_size;
  const auto count = config.patches() * config.hidden_size;
  if (config.position != Position::learned) {
    const std::vector<float> table = sincos_positions(config);
    return {table.begin() + begin, table.begin() + begin + count};
  }
  const std::vector<Parameter>& parameters = plan.graph().parameters();
  const auto table = std::find_if(parameters.begin(), parameters.end(),
                                  [](const Parameter& p) { return p.name == "pos_embed"; });
  if (table == parameters.end())
    throw BadInput("pos_embed: found none, expected learned positions");
  const auto place = static_cast<int>(table - parameters.begin());
  const auto rows = weights.subspan(static_cast<std::size_t>(plan.parameter_offset(place) + begin),
                                    static_cast<std::size_t>(count));
  return {rows.begin(), rows.end()};
}

std::vector<float> cosine_similarities(const std::vector<float>& positions, std::int64_t hidden) {
  const std::int64_t rows = rows_of(positions, hidden);
  const auto product = [&](std::int64_t a, std::int64_t b) {
    const float *x = positions.data() + a * hidden, *y = positions.data() + b * hidden;
    double sum = 0;
    for (std::int64_t i = 0; i < hidden; ++i) {
      sum += static_cast<double>(x[i]) * static_cast<double>(y[i]);
    }
    return sum;
  };
  std::vector<double> norms;
  for (std::int64_t a = 0; a < rows; ++a) norms.push_back(std::sqrt(product(a, a)));
  std::vector<float> similarities(static_cast<std::size_t>(rows * rows));
  for (std::int64_t a = 0; a < rows; ++a) {
    for (std::int64_t b = 0; b <= a; ++b) {
      const double both = norms[static_cast<std::size_t>(a)] * norms[static_cast<std::size_t>(b)];
      const auto cosine = static_cast<float>(product(a, b) / both);
      similarities[static_cast<std::size_t>(a * rows + b)] = cosine;
      similarities[static_cast<std::size_t>(b * rows + a)] = cosine;
    }
  }
  return similarities;
}

Image position_similarity(const VitConfig& config, const std::vector<float>& positions) {
  const std::int64_t rows = config.image_height / config.patch_size;
  const std::int64_t columns = config.image_width / config.patch_size;
  const std::vector<float> similarities = cosine_similarities(positions, config.hidden_size);
  const float low = range_of(similarities).first;
  const std::int64_t cell = cell_size(std::max(rows * rows, columns * columns));
  std::vector<Image> grids;
  for (std::int64_t p = 0; p < rows * columns; ++p) {
    const auto grid = std::span(similarities)
                          .subspan(static_cast<std::size_t>(p * rows * columns),
                                   static_cast<std::size_t>(rows * columns));
    grids.push_back(enlarge(colorize(grid, rows, columns, ColorMap::viridis, low, 1.0f), cell));
  }
  return contact_sheet(grids, columns, std::max<std::int64_t>(1, cell / 2));
}

Image position_table(const std::vector<float>& positions, std::int64_t hidden) {
  const std::int64_t rows = rows_of(positions, hidden);
  const std::int64_t cell_height = cell_size(rows), cell_width = cell_size(hidden);
  const auto [low, high] = range_of(positions);
  std::vector<float> cells;
  for (std::int64_t y = 0; y < rows * cell_height; ++y) {
    const float* row = positions.data() + y / cell_height * hidden;
    for (std::int64_t x = 0; x < hidden * cell_width; ++x) cells.push_back(row[x / cell_width]);
  }
  return colorize(cells, rows * cell_height, hidden * cell_width, ColorMap::hot, low, high);
}

}  // namespace vitrine
