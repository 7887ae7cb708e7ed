// The confusion matrix: an SVG heat map with counts, or for many classes an image of one pixel a
// cell. The shade of a cell is the square root of its share of the row, so that rare mistakes show.
#include <algorithm>
#include <cmath>

#include "io/format.h"
#include "train/charts.h"
#include "train/html.h"

namespace vitrine {
namespace {

constexpr double kCell = 36;
constexpr std::size_t kMostLabelCharacters = 14;

std::string number(double value) {
  return format_double("%.1f", value);
}

/// Square root of the share of its row, for each cell.
std::vector<double> shades(const std::vector<std::int64_t>& counts, std::size_t classes) {
  std::vector<double> shade(counts.size());
  for (std::size_t row = 0; row < classes; ++row) {
    double total = 0;
    for (std::size_t i = 0; i < classes; ++i) {
      total += static_cast<double>(counts[row * classes + i]);
    }
    for (std::size_t i = row * classes; total > 0 && i < (row + 1) * classes; ++i) {
      shade[i] = std::sqrt(std::max(0.0, static_cast<double>(counts[i]) / total));
    }
  }
  return shade;
}

std::string label(const std::string& name) {
  if (utf8_length(name) <= kMostLabelCharacters) return escape_html(name);
  return escape_html(utf8_prefix(name, kMostLabelCharacters - 1)) + "…";
}

std::string render_cell(std::size_t row, std::size_t column, std::int64_t count, double shade,
                        double left, double top, const std::vector<std::string>& names) {
  const double x = left + kCell * static_cast<double>(column);
  const double y = top + kCell * static_cast<double>(row);
  const std::string strong = shade > 0.6 ? " strong" : "";
  const std::string text =
      count < 100000 ? std::to_string(count) : std::to_string((count + 500) / 1000) + "k";
  return "<g class=\"" + std::string(row == column ? "right" : "wrong") + strong + "\"><title>" +
         escape_html(names[row]) + " → " + escape_html(names[column]) + ": " + format_count(count) +
         "</title><rect x=\"" + number(x + 1) + "\" y=\"" + number(y + 1) + "\" width=\"" +
         number(kCell - 2) + "\" height=\"" + number(kCell - 2) + "\" rx=\"2\" fill-opacity=\"" +
         format_double("%.3f", 0.04 + 0.9 * shade) + "\"/><text x=\"" + number(x + kCell / 2) +
         "\" y=\"" + number(y + kCell / 2 + 4) + "\">" + text + "</text></g>\n";
}

/// Names of the rows at the left, of the columns on top, upright where they are short.
std::string render_labels(const std::vector<std::string>& names, double left, double top,
                          bool upright) {
  std::string svg;
  for (std::size_t i = 0; i < names.size(); ++i) {
    const double middle = kCell * (static_cast<double>(i) + 0.5);
    const std::string x = number(left + middle), y = number(top - 8);
    svg += "<text class=\"row\" x=\"" + number(left - 8) + "\" y=\"" + number(top + middle + 4) +
           "\">" + label(names[i]) + "</text>\n<text " +
           (upright ? std::string("class=\"column\" x=\"") + x + "\" y=\"" + y + "\""
                    : "class=\"tilted\" transform=\"translate(" + x + " " + y + ") rotate(-45)\"") +
           ">" + label(names[i]) + "</text>\n";
  }
  return svg;
}

std::string render_numbered(const std::vector<std::int64_t>& counts,
                            const std::vector<std::string>& names) {
  const std::size_t classes = names.size();
  std::size_t longest = 1;
  for (const std::string& name : names) longest = std::max(longest, utf8_length(name));
  longest = std::min(longest, kMostLabelCharacters);
  const bool upright = longest <= 4;
  const double text = 7.2 * static_cast<double>(longest);
  const double left = 42 + text, top = upright ? 48 : 40 + 0.75 * text;
  const double side = kCell * static_cast<double>(classes);
  const double width = left + side + (upright ? 4 : 0.7 * text), height = top + side + 4;

  std::string svg = "<svg class=\"matrix\" style=\"max-width:" + number(1.35 * width) +
                    "px;min-width:" + number(0.8 * width) + "px\" viewBox=\"0 0 " + number(width) +
                    " " + number(height) +
                    "\" role=\"img\" aria-label=\"Confusion matrix\">\n<text class=\"side\" x=\"" +
                    number(left + side / 2) + "\" y=\"16\">predicted</text>\n" +
                    "<text class=\"side\" transform=\"translate(16 " + number(top + side / 2) +
                    ") rotate(-90)\">label</text>\n";
  svg += render_labels(names, left, top, upright);
  const std::vector<double> shade = shades(counts, classes);
  for (std::size_t i = 0; i < counts.size(); ++i) {
    if (counts[i] == 0) continue;
    svg += render_cell(i / classes, i % classes, counts[i], shade[i], left, top, names);
  }
  return svg + "</svg>\n";
}

/// White where nothing is; the page multiplies it with its paper, or inverts it in the dark.
std::string render_pixels(const std::vector<std::int64_t>& counts, std::size_t classes) {
  constexpr double kRight[] = {38, 92, 138}, kWrong[] = {190, 74, 46};
  const std::vector<double> shade = shades(counts, classes);
  Image image{3, static_cast<std::int64_t>(classes), static_cast<std::int64_t>(classes), {}};
  for (std::size_t channel = 0; channel < 3; ++channel) {
    for (std::size_t i = 0; i < counts.size(); ++i) {
      const bool right = i / classes == i % classes;
      const double ink = 255 - (right ? kRight : kWrong)[channel];
      image.pixels.push_back(static_cast<std::uint8_t>(std::lround(255 - ink * shade[i])));
    }
  }
  return "<p class=\"sides\">rows: label, columns: predicted, " + std::to_string(classes) +
         " classes</p>\n<div class=\"frame\"><img class=\"matrix\" alt=\"Confusion matrix\" "
         "src=\"" +
         png_data_uri(image) + "\"></div>\n";
}

}  // namespace

std::string render_confusion(const std::vector<std::int64_t>& counts,
                             const std::vector<std::string>& names) {
  return names.size() <= kMostNumberedClasses ? render_numbered(counts, names)
                                              : render_pixels(counts, names.size());
}

}  // namespace vitrine
