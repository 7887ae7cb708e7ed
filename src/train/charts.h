// The figures of a report as inline SVG and HTML. Colours come from the page's style sheet, by the
// names of classes, so that one figure serves light and dark pages.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace vitrine {

/// How the numbers of an axis are written.
enum class Unit { kNumber, kFraction, kCount };

/// "1.715", "80.9 %", "25,012"; "NaN" or "∞" where there is no number.
std::string format_value(double value, Unit unit);

/// Ticks of an axis lie at multiples of it: 1, 2 or 5 times a power of ten, about `ticks` of them.
double tick_step(double range, double ticks);
/// A number in the units of a drawing.
std::string coordinate(double value);
/// `anchor`: start, middle or end. The text is escaped.
std::string svg_text(double x, double y, const std::string& anchor, const std::string& text);
std::string svg_line(const std::string& style, double x1, double y1, double x2, double y2);

/// A curve. A point that is not finite is a gap.
struct Series {
  std::string name;
  std::string style;  ///< class: "train", "test", "top5", "steps" or "rate"
  std::vector<double> x, y;
  bool markers = false;  ///< a dot with a tooltip on each point
};

struct LineChart {
  std::string title;
  std::string x_label;
  double x_end = 0;  ///< the horizontal axis reaches at least this far
  Unit unit = Unit::kNumber;
  bool from_zero = false;  ///< the vertical axis starts at zero
  double height = 270;     ///< of 480 units of width
  std::vector<Series> series;
};

/// A figure with axes, ticks and legend; empty when no series has a finite point.
std::string render_line_chart(const LineChart& chart);

/// Counts [K, K], row = label, column = prediction; the shade is the share of the row's images,
/// right and wrong in two hues. With numbers up to kMostNumberedClasses, else one pixel a cell.
std::string render_confusion(const std::vector<std::int64_t>& counts,
                             const std::vector<std::string>& names);

constexpr std::size_t kMostNumberedClasses = 20;

}  // namespace vitrine
