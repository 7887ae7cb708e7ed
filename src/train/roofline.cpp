// The roofline plot: what each operation reaches, and what the device could do.
//
// A copy roof is y = x * bytes per second. Two of them are drawn: of the fastest copy, from a
// cache, and of the largest, from memory; an operation's own roof lies by its working set, and a
// thin line leads from the operation up to it.
#include <algorithm>
#include <cmath>
#include <map>

#include "io/format.h"
#include "train/charts.h"
#include "train/html.h"
#include "train/step_drawings.h"
#include "train/step_profile_figures.h"

namespace vitrine {
namespace {

constexpr double kWidth = 1100, kHeight = 520, kLeft = 64, kRight = 1084, kTop = 14, kBottom = 474;
constexpr double kLargestRadius = 26, kLeastRadius = 3;
constexpr double kCharacter = 6.7;  // of a label
constexpr std::size_t kLabels = 10;

struct Point {
  std::string name, style, tooltip;
  double intensity = 0, rate = 0, roof = 0, share = 0;
};

/// A logarithmic axis; `low` and `high` are decades.
struct LogAxis {
  double low, high, begin, end;
  double per_decade() const { return (end - begin) / (high - low); }
  double at(double value) const { return begin + (std::log10(value) - low) * per_decade(); }
};

LogAxis axis(const std::vector<double>& values, double begin, double end) {
  constexpr double kRoom = 1.8;  // a factor, for discs and texts
  const auto [least, most] = std::minmax_element(values.begin(), values.end());
  return {std::log10(*least / kRoom), std::log10(*most * kRoom), begin, end};
}

std::vector<Point> points_of(const StepTimes& times, const Roof& roof) {
  std::map<std::string, const char*> styles;
  for (const StepOperation& operation : times.operations) {
    styles.emplace(operation.operation, family_of(operation).style);
  }
  double total = 0;
  const Profile table = make_table(times, ProfileBy::operation, &roof);
  for (const ProfileRow& row : table) total += row.seconds;
  std::vector<Point> points;
  for (const ProfileRow& row : table) {
    if (!(row.flops > 0 && row.bytes > 0 && row.seconds > 0)) continue;
    Point point{row.name, styles.at(row.name), "", row.flops / row.bytes, row.flops / row.seconds,
                0,        row.seconds / total};
    if (row.floor_seconds > 0) point.roof = row.flops / row.floor_seconds;
    point.tooltip = row.name + ": " + format_percent(point.share) + " of the time, " +
                    format_double("%.2g FLOP/byte, ", point.intensity) +
                    describe_rates(row.flops, row.bytes, row.seconds, row.floor_seconds);
    points.push_back(point);
  }
  return points;
}

class Roofline {
 public:
  Roofline(std::vector<Point> points, const Roof& roof)
      : points_(std::move(points)), roof_(roof), x_(intensities()), y_(rates()) {}

  std::string render() {
    add_roofs();
    add_points();
    return "<svg class=\"roofline\" viewBox=\"0 0 " + coordinate(kWidth) + " " +
           coordinate(kHeight) + "\" role=\"img\" aria-label=\"Roofline plot\">\n" + render_axes() +
           lines_ + discs_ + texts_ + "</svg>\n";
  }

 private:
  const Roof::Copy& fastest() const {
    return *std::max_element(roof_.copies.begin(), roof_.copies.end(),
                             [](const Roof::Copy& a, const Roof::Copy& b) {
                               return a.bytes_per_second < b.bytes_per_second;
                             });
  }

  LogAxis intensities() const {
    std::vector<double> values;
    for (const Point& point : points_) values.push_back(point.intensity);
    for (const Roof::Copy& copy : roof_.copies) {
      values.push_back(roof_.flops_per_second / copy.bytes_per_second * 2);
    }
    return axis(values, kLeft, kRight);
  }

  LogAxis rates() const {
    std::vector<double> values{roof_.flops_per_second};
    if (roof_.datasheet_flops > 0) values.push_back(roof_.datasheet_flops);
    for (const Point& point : points_) {
      values.push_back(point.rate);
      values.push_back(std::max(point.roof, point.rate));
    }
    return axis(values, kBottom, kTop);
  }

  std::string render_axes() const {
    std::string svg = svg_line("grid", kLeft, kBottom, kRight, kBottom) +
                      svg_line("grid", kLeft, kTop, kLeft, kBottom);
    for (double decade = std::ceil(x_.low); decade <= x_.high; ++decade) {
      const double value = std::pow(10.0, decade), x = x_.at(value);
      svg += svg_line("grid", x, kTop, x, kBottom);
      svg += svg_text(x, kBottom + 18, "middle", format_double("%.10g", value));
    }
    for (double decade = std::ceil(y_.low); decade <= y_.high; ++decade) {
      const double value = std::pow(10.0, decade), y = y_.at(value);
      svg += svg_line("grid", kLeft, y, kRight, y);
      const double giga = value * 1e-9;
      svg += svg_text(
          kLeft - 8, y + 4, "end",
          giga >= 1e3 ? format_double("%.10g T", giga * 1e-3) : format_double("%.10g G", giga));
    }
    svg += svg_text((kLeft + kRight) / 2, kHeight - 8, "middle", "intensity, FLOP/byte");
    return svg + "<text transform=\"translate(14 " + coordinate((kTop + kBottom) / 2) +
           ") rotate(-90)\" text-anchor=\"middle\">FLOP/s</text>\n";
  }

  /// y = x * bytes per second, up to `flops`. The text stands on the line or hangs from it.
  void add_copies(const std::string& style, double bytes_per_second, double flops,
                  const std::string& text, bool above) {
    const double left = std::max(std::pow(10.0, x_.low), std::pow(10.0, y_.low) / bytes_per_second);
    const double right = std::min(std::pow(10.0, x_.high), flops / bytes_per_second);
    if (!(left < right)) return;
    const double x1 = x_.at(left), y1 = y_.at(left * bytes_per_second);
    const double x2 = x_.at(right), y2 = y_.at(right * bytes_per_second);
    const double angle = std::atan2(y2 - y1, x2 - x1) * 180 / std::acos(-1.0);
    lines_ += svg_line(style, x1, y1, x2, y2);
    const double length = std::hypot(x2 - x1, y2 - y1), away = above ? -10 : 12;
    const double dx = (x2 - x1) / length, dy = (y2 - y1) / length;
    keep_off(x1 + 14 * dx - away * dy, y1 + 14 * dy + away * dx, dx, dy, text);
    texts_ += "<text class=\"halo\" transform=\"translate(" + coordinate(x1) + " " +
              coordinate(y1) + ") rotate(" + coordinate(angle) + ")\" x=\"14\" y=\"" +
              (above ? "-6" : "16") + "\">" + escape_html(text) + "</text>\n";
  }

  /// Labels of points keep off a roof's text, which goes from (x, y) in the direction (dx, dy).
  void keep_off(double x, double y, double dx, double dy, const std::string& text) {
    const double width = kCharacter * static_cast<double>(text.size());
    for (double at = 0; at < width; at += kLabelHeight / 2) {
      texts_taken_.push_back({.x = x + dx * at, .y = y + dy * at, .radius = kLabelHeight / 2});
    }
  }

  void add_products(const std::string& style, double flops, double bytes_per_second,
                    const std::string& text, bool above) {
    const double from = std::clamp(x_.at(flops / bytes_per_second), kLeft, kRight);
    const double baseline = y_.at(flops) + (above ? -6 : 15);
    lines_ += svg_line(style, from, y_.at(flops), kRight, y_.at(flops));
    keep_off(kRight - 4, baseline - 4, -1, 0, text);
    texts_ += "<text class=\"halo\" x=\"" + coordinate(kRight - 4) + "\" y=\"" +
              coordinate(baseline) + "\" text-anchor=\"end\">" + escape_html(text) + "</text>\n";
  }

  void add_roofs() {
    const Roof::Copy &fast = fastest(), &large = roof_.copies.back();
    const double flops = roof_.flops_per_second;
    const auto text = [](const Roof::Copy& copy) {
      return "copies of " + format_bytes(copy.working_set) + ": " +
             format_rate(copy.bytes_per_second, "B/s");
    };
    add_products("roof", flops, fast.bytes_per_second,
                 "products here: " + format_rate(flops, "FLOP/s"),
                 !(roof_.datasheet_flops > flops));
    add_copies("roof", fast.bytes_per_second, flops, text(fast), true);
    if (&fast != &large) add_copies("roof", large.bytes_per_second, flops, text(large), false);
    if (!(roof_.datasheet_flops > 0)) return;
    add_products("roof sheet", roof_.datasheet_flops, roof_.datasheet_bytes,
                 roof_.datasheet + ", data sheet: " + format_rate(roof_.datasheet_flops, "FLOP/s"),
                 true);
    add_copies("roof sheet", roof_.datasheet_bytes, roof_.datasheet_flops, "", true);
  }

  void add_points() {
    std::vector<Label> labels;
    double largest = 0;
    for (const Point& point : points_) largest = std::max(largest, point.share);
    for (const Point& point : points_) {
      labels.push_back(
          {.x = x_.at(point.intensity),
           .y = y_.at(point.rate),
           .radius = std::max(kLeastRadius, kLargestRadius * std::sqrt(point.share / largest)),
           .width =
               labels.size() < kLabels ? kCharacter * static_cast<double>(point.name.size()) : 0});
    }
    labels.insert(labels.end(), texts_taken_.begin(), texts_taken_.end());
    place_labels(labels, kLeft, kTop, kRight, kBottom);
    for (std::size_t i = 0; i < points_.size(); ++i) {
      const Point& point = points_[i];
      const Label& label = labels[i];
      if (point.roof > point.rate) {
        const double roof = y_.at(point.roof);
        lines_ += svg_line("reach", label.x, label.y, label.x, roof) +
                  svg_line("reach", label.x - 4, roof, label.x + 4, roof);
      }
      discs_ += "<circle class=\"" + point.style + "\" cx=\"" + coordinate(label.x) + "\" cy=\"" +
                coordinate(label.y) + "\" r=\"" + coordinate(label.radius) + "\"><title>" +
                escape_html(point.tooltip) + "</title></circle>\n";
      if (label.width > 0) texts_ += render_label(label, point.name);
    }
  }

  static std::string render_label(const Label& label, const std::string& name) {
    const double x = std::clamp(label.x, label.left, label.left + label.width);
    const double y = std::clamp(label.y, label.baseline - kLabelHeight + 4, label.baseline + 2);
    std::string svg;
    if (std::hypot(x - label.x, y - label.y) > label.radius + 8) {
      svg = svg_line("leader", label.x, label.y, x, y);
    }
    return svg + "<text class=\"halo name\" x=\"" + coordinate(label.left) + "\" y=\"" +
           coordinate(label.baseline) + "\">" + escape_html(name) + "</text>\n";
  }

  std::vector<Point> points_;
  const Roof& roof_;
  LogAxis x_, y_;
  std::vector<Label> texts_taken_;
  std::string lines_, discs_, texts_;  // from below to above
};

/// The box of a label's text.
struct TextBox {
  double left, top, right, bottom;
  bool meets(const TextBox& other) const {
    return left < other.right && other.left < right && top < other.bottom && other.top < bottom;
  }
  bool meets(const Label& point) const {
    const double x = std::clamp(point.x, left, right), y = std::clamp(point.y, top, bottom);
    return std::hypot(x - point.x, y - point.y) < point.radius;
  }
};

TextBox box_at(const Label& label, double left, double baseline) {
  constexpr double kBelow = 3;  // of the letters with a descender
  return {left, baseline + kBelow - kLabelHeight, left + label.width, baseline + kBelow};
}

}  // namespace

void place_labels(std::vector<Label>& labels, double left, double top, double right,
                  double bottom) {
  // Sides of a point, the favourite first: where the text's middle lies.
  constexpr double kSides[][2] = {{1, 0}, {-1, 0}, {0, 1},  {0, -1},
                                  {1, 1}, {1, -1}, {-1, 1}, {-1, -1}};
  constexpr double kDistances[] = {4, 12, 22, 34, 48, 64, 84, 108, 140};
  std::vector<TextBox> taken;
  const auto place = [&](Label& label) {
    for (const double distance : kDistances) {
      for (const auto& [dx, dy] : kSides) {
        const double reach = label.radius + distance;
        const double x = label.x + dx * reach + (dx - 1) * label.width / 2;
        const double y = label.y + dy * (reach + kLabelHeight / 2) + 4;
        const TextBox box = box_at(label, x, y);
        if (box.left < left || box.right > right || box.top < top || box.bottom > bottom) continue;
        const auto meets = [&](const auto& other) { return box.meets(other); };
        if (std::any_of(taken.begin(), taken.end(), meets)) continue;
        if (std::any_of(labels.begin(), labels.end(), meets)) continue;
        taken.push_back(box);
        label.left = x;
        label.baseline = y;
        return true;
      }
    }
    return false;
  };
  for (Label& label : labels) {
    if (label.width > 0 && !place(label)) label.width = 0;
  }
}

std::string render_roofline(const StepTimes& times, const Roof& roof) {
  std::vector<Point> points = points_of(times, roof);
  if (points.empty() || roof.copies.empty() || !(roof.flops_per_second > 0)) return "";
  return Roofline(std::move(points), roof).render();
}

}  // namespace vitrine
