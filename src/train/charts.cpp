// Line charts as inline SVG.
//
// A chart is drawn in a box of 480 units of width and scaled by the page. Ticks are multiples of
// 1, 2 or 5 times a power of ten; the horizontal axis counts epochs or steps, so its ticks are
// whole numbers. Curves with more points than a screen has columns are drawn by means of buckets.
#include "train/charts.h"

#include <algorithm>
#include <cmath>

#include "io/format.h"
#include "train/html.h"

namespace vitrine {
namespace {

constexpr double kWidth = 480, kLeft = 62, kRight = 14, kTop = 10, kBottom = 44;
constexpr std::size_t kMostPoints = 600, kMostMarkers = 150;

/// Beyond this a number is as good as infinite: a curve through it says nothing.
bool drawable(double value) {
  return std::abs(value) < 1e30;
}

bool drawable(const Series& series, std::size_t i) {
  return drawable(series.x[i]) && drawable(series.y[i]);
}

/// An axis: the value `low` lies at pixel `begin`, `high` at `end`.
struct Axis {
  double low, high, step, begin, end;
  double at(double value) const { return begin + (value - low) / (high - low) * (end - begin); }
};

std::string tick_text(double value, double step, Unit unit) {
  if (unit == Unit::kFraction) {
    value *= 100;
    step *= 100;
  }
  if (std::abs(value) < step * 1e-6) value = 0;
  if (value == 0) return unit == Unit::kFraction ? "0 %" : "0";
  if (unit == Unit::kCount && std::abs(value) < 1e9) return format_count(std::llround(value));
  if (std::abs(value) >= 1e6 || step < 0.99e-4) return format_double("%.3g", value);
  const int decimals = std::max(0, static_cast<int>(-std::floor(std::log10(step * 1.0001))));
  const std::string text = format_double(("%." + std::to_string(decimals) + "f").c_str(), value);
  return unit == Unit::kFraction ? text + " %" : text;
}

Axis vertical_axis(const LineChart& chart) {
  double low = 1e300, high = -1e300;
  for (const Series& series : chart.series) {
    for (std::size_t i = 0; i < series.y.size(); ++i) {
      if (!drawable(series, i)) continue;
      low = std::min(low, series.y[i]);
      high = std::max(high, series.y[i]);
    }
  }
  if (chart.from_zero) low = std::min(low, 0.0);
  const double least = std::max(1e-12, 0.02 * std::max(std::abs(low), std::abs(high)));
  if (high - low < least) {
    low -= chart.from_zero || low == 0 ? 0 : least;
    high += high == 0 ? 1 : least;
  }
  const double step = tick_step(high - low, chart.height < 200 ? 3 : 5);
  low = std::floor(low / step + 1e-9) * step;
  high = std::ceil(high / step - 1e-9) * step;
  return {low, high, step, chart.height - kBottom, kTop};
}

Axis horizontal_axis(const LineChart& chart) {
  double high = std::max(1.0, chart.x_end);
  for (const Series& series : chart.series) {
    for (const double x : series.x) high = drawable(x) ? std::max(high, x) : high;
  }
  return {0, high, std::max(1.0, tick_step(high, 6)), kLeft, kWidth - kRight};
}

std::string render_axes(const LineChart& chart, const Axis& x, const Axis& y) {
  std::string svg;
  for (double value = y.low; value <= y.high + y.step / 2; value += y.step) {
    const double at = y.at(value);
    svg += svg_line("grid", x.begin, at, x.end, at);
    svg += svg_text(x.begin - 8, at + 4, "end", tick_text(value, y.step, chart.unit));
  }
  svg += svg_line("axis", x.begin, y.begin, x.end, y.begin);
  for (double value = x.low; value <= x.high * 1.0001; value += x.step) {
    svg += svg_line("axis", x.at(value), y.begin, x.at(value), y.begin + 4);
    svg += svg_text(x.at(value), y.begin + 18, "middle", tick_text(value, x.step, Unit::kCount));
  }
  return svg + svg_text((x.begin + x.end) / 2, chart.height - 6, "middle", chart.x_label);
}

/// `series` by at most kMostPoints points: the means of buckets of neighbours.
Series thinned(const Series& series) {
  const std::size_t bucket = (series.y.size() + kMostPoints - 1) / kMostPoints;
  if (bucket < 2) return series;
  Series thin{series.name, series.style, {}, {}, false};
  for (std::size_t begin = 0; begin < series.y.size(); begin += bucket) {
    const std::size_t end = std::min(begin + bucket, series.y.size());
    double x = 0, y = 0;
    for (std::size_t i = begin; i < end; ++i) {
      x += series.x[i];
      y += series.y[i];
    }
    thin.x.push_back(x / static_cast<double>(end - begin));
    thin.y.push_back(y / static_cast<double>(end - begin));
  }
  return thin;
}

std::string render_path(const Series& series, const Axis& x, const Axis& y) {
  std::string path;
  bool pen_down = false;
  for (std::size_t i = 0; i < series.y.size(); ++i) {
    if (drawable(series, i)) {
      path += pen_down ? "L" : "M";
      path += coordinate(x.at(series.x[i])) + " " + coordinate(y.at(series.y[i]));
    }
    pen_down = drawable(series, i);
  }
  return "<path class=\"" + series.style + "\" d=\"" + path + "\"/>\n";
}

std::string render_markers(const LineChart& chart, const Series& series, const Axis& x,
                           const Axis& y) {
  std::string svg;
  const bool crowded = series.y.size() > 30;  // then only the tooltip stays
  const std::string style = series.style + (crowded ? " hidden" : "");
  for (std::size_t i = 0; i < series.y.size(); ++i) {
    if (!drawable(series, i)) continue;
    const std::string tooltip = series.name + ", " + chart.x_label + " " +
                                format_value(series.x[i], Unit::kCount) + ": " +
                                format_value(series.y[i], chart.unit);
    svg += "<circle class=\"" + style + "\" cx=\"" + coordinate(x.at(series.x[i])) + "\" cy=\"" +
           coordinate(y.at(series.y[i])) + "\" r=\"" + (crowded ? "5" : "3") + "\"><title>" +
           escape_html(tooltip) + "</title></circle>\n";
  }
  return svg;
}

/// Title on the left, the key to the curves with their last values on the right.
std::string render_caption(const LineChart& chart) {
  std::string html = "<figcaption><b>" + escape_html(chart.title) + "</b><span class=\"key\">\n";
  for (const Series& series : chart.series) {
    html += "<span><i class=\"" + series.style + "\"></i>" + escape_html(series.name) + " <em>" +
            format_value(series.y.back(), chart.unit) + "</em></span>\n";
  }
  return html + "</span></figcaption>\n";
}

}  // namespace

double tick_step(double range, double ticks) {
  const double raw = range / ticks, power = std::pow(10.0, std::floor(std::log10(raw)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (raw <= factor * power * 1.0001) return factor * power;
  }
  return 10 * power;
}

std::string coordinate(double value) {
  return format_double("%.1f", value);
}

std::string svg_text(double x, double y, const std::string& anchor, const std::string& text) {
  return "<text x=\"" + coordinate(x) + "\" y=\"" + coordinate(y) + "\" text-anchor=\"" + anchor +
         "\">" + escape_html(text) + "</text>\n";
}

std::string svg_line(const std::string& style, double x1, double y1, double x2, double y2) {
  return "<line class=\"" + style + "\" x1=\"" + coordinate(x1) + "\" y1=\"" + coordinate(y1) +
         "\" x2=\"" + coordinate(x2) + "\" y2=\"" + coordinate(y2) + "\"/>\n";
}

std::string format_value(double value, Unit unit) {
  if (std::isnan(value)) return "NaN";
  if (!drawable(value)) return value < 0 ? "−∞" : "∞";
  if (unit == Unit::kFraction) return format_double("%.1f %%", 100 * value);
  if (unit == Unit::kCount && std::abs(value) < 1e15) return format_count(std::llround(value));
  if (value != 0 && std::abs(value) < 1e-3) return format_double("%.3g", value);
  return format_double(std::abs(value) < 1000 ? "%.4g" : "%.6g", value);
}

std::string render_line_chart(const LineChart& given) {
  LineChart chart = given;
  const auto has_no_point = [](const Series& series) {
    for (std::size_t i = 0; i < series.y.size(); ++i) {
      if (drawable(series, i)) return false;
    }
    return true;
  };
  auto& series = chart.series;
  series.erase(std::remove_if(series.begin(), series.end(), has_no_point), series.end());
  if (series.empty()) return "";
  for (Series& curve : series) curve = thinned(curve);

  const Axis x = horizontal_axis(chart), y = vertical_axis(chart);
  std::string svg = "<svg viewBox=\"0 0 " + coordinate(kWidth) + " " + coordinate(chart.height) +
                    "\" role=\"img\" aria-label=\"" + escape_html(chart.title) + "\">\n";
  svg += render_axes(chart, x, y);
  for (const Series& curve : series) svg += render_path(curve, x, y);
  for (const Series& curve : series) {
    if (curve.markers && curve.y.size() <= kMostMarkers) {
      svg += render_markers(chart, curve, x, y);
    }
  }
  return "<figure class=\"chart\">\n" + render_caption(chart) + svg + "</svg>\n</figure>\n";
}

}  // namespace vitrine
