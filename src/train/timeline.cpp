// A step as a timeline.
//
// A lane a worker, in it three rows: phase, layer, operation. Rows are runs of neighbouring spans,
// so a layer is as wide as its operations and what lies between them. Neighbours that are each
// narrower than the least width are drawn as one box; the least width doubles until the drawing
// has no more boxes than a browser likes to keep.
#include <algorithm>
#include <map>

#include "io/format.h"
#include "train/charts.h"
#include "train/html.h"
#include "train/step_drawings.h"
#include "train/step_profile_figures.h"
#include "vitrine/graph.h"

namespace vitrine {
namespace {

constexpr double kWidth = 1100, kTop = 24, kRow = 20, kBetweenLanes = 24;
constexpr double kLeastWidth = 0.5;  // of a box; narrower ones are drawn together
constexpr std::size_t kMostBoxes = 6000;
constexpr int kMostLanes = 16;
constexpr double kCharacter = 6.2, kMargin = 8;  // of a box's text

/// Something with a begin and an end in one row of a lane.
struct Box {
  double begin = 0, end = 0;
  std::string style, text, tooltip;
};

/// Neighbouring spans of one lane that are drawn as one.
struct Run {
  std::size_t first = 0, last = 0;  ///< spans [first, last)
};

class Timeline {
 public:
  Timeline(const StepTimes& times, const Roof& roof, double step_seconds)
      : times_(times), roof_(roof), end_(step_seconds) {
    // A worker that got nothing to do has an empty lane.
    for (const StepOperation& operation : times.operations) {
      if (times.last_step.empty()) break;
      for (int worker = 0; worker < operation.side_by_side; ++worker) lanes_[worker];
    }
    for (const Span& span : times.last_step) {
      lanes_[span.worker].push_back(span);
      end_ = std::max(end_, span.end);
    }
    for (auto& [worker, spans] : lanes_) {
      std::stable_sort(spans.begin(), spans.end(),
                       [](const Span& a, const Span& b) { return a.begin < b.begin; });
    }
  }

  std::string render() {
    if (lanes_.empty() || !(end_ > 0)) return "";
    std::string boxes;
    for (double least = kLeastWidth;; least *= 2) {
      boxes_ = 0;
      boxes = render_lanes(least);
      if (boxes_ <= kMostBoxes) break;
    }
    const double height =
        kTop + static_cast<double>(drawn_lanes()) * (3 * kRow + kBetweenLanes) + kRow;
    return "<div class=\"scroll\"><svg class=\"timeline\" viewBox=\"0 0 " + coordinate(kWidth) +
           " " + coordinate(height) +
           "\" role=\"img\" aria-label=\"The last step as a timeline\">\n" + render_axis(height) +
           boxes + "</svg></div>\n" + note();
  }

 private:
  const StepOperation& operation(const Span& span) const {
    return times_.operations[static_cast<std::size_t>(span.operation)];
  }
  double at(double seconds) const { return seconds / end_ * kWidth; }
  int drawn_lanes() const { return std::min<int>(static_cast<int>(lanes_.size()), kMostLanes); }

  std::string note() const {
    if (drawn_lanes() == static_cast<int>(lanes_.size())) return "";
    return "<p class=\"note\">The first " + std::to_string(drawn_lanes()) + " of " +
           std::to_string(lanes_.size()) + " workers.</p>\n";
  }

  std::string render_axis(double height) const {
    std::string svg;
    const double step = tick_step(end_, 10), scale = end_ < 1e-3 ? 1e6 : 1e3;
    const int decimals = step * scale < 0.099 ? 2 : step * scale < 0.99 ? 1 : 0;
    const std::string conversion = "%." + std::to_string(decimals) + "f";
    for (double seconds = 0; seconds <= end_ * (1 + 1e-9); seconds += step) {
      const double x = at(seconds);
      svg += svg_line("grid", x, kTop - 6, x, height - kRow / 2);
      const bool is_last = seconds + step > end_ * (1 + 1e-9);
      const std::string text = format_double(conversion.c_str(), seconds * scale) +
                               (is_last ? (scale > 1e3 ? " µs" : " ms") : "");
      svg += svg_text(x, kTop - 10, seconds == 0 ? "start" : is_last ? "end" : "middle", text);
    }
    return svg;
  }

  std::string render_lanes(double least) {
    std::string svg;
    int lane = 0;
    for (const auto& [worker, spans] : lanes_) {
      if (lane >= kMostLanes) break;
      double y = kTop + lane * (3 * kRow + kBetweenLanes) + 14;
      if (lanes_.size() > 1) svg += svg_text(0, y, "start", "worker " + std::to_string(worker));
      y += 5;
      for (int level = 0; level < 3; ++level)
        svg += render_row(spans, level, y + level * kRow, least);
      ++lane;
    }
    return svg;
  }

  /// Whether neighbours lie in one box of that row: 0 phases, 1 layers, 2 operations.
  bool together(const Span& a, const Span& b, int level) const {
    const StepOperation &left = operation(a), &right = operation(b);
    if (level == 2 || left.phase != right.phase) return false;
    return level == 0 || layer_of(left.place) == layer_of(right.place);
  }

  std::string render_row(const std::vector<Span>& spans, int level, double y, double least) {
    std::string svg;
    std::vector<Run> narrow;
    const auto flush = [&] {
      if (!narrow.empty()) {
        const Run all{narrow.front().first, narrow.back().last};
        svg += render_box(narrow.size() == 1 ? box(spans, all, level) : merged(spans, all, level),
                          y, least);
      }
      narrow.clear();
    };
    for (std::size_t first = 0, last = 0; first < spans.size(); first = last) {
      for (last = first + 1; last < spans.size(); ++last) {
        if (!together(spans[last - 1], spans[last], level)) break;
      }
      const double width = at(spans[last - 1].end - spans[first].begin);
      if (width >= least) {
        flush();
        svg += render_box(box(spans, {first, last}, level), y, least);
        continue;
      }
      // A box of narrow ones ends where it can be seen, or where nothing runs for so long.
      const bool far =
          !narrow.empty() && at(spans[first].begin - spans[narrow.back().last - 1].end) >= least;
      if (far || (!narrow.empty() && at(spans[narrow.back().last - 1].end -
                                        spans[narrow.front().first].begin) >= least)) {
        flush();
      }
      narrow.push_back({first, last});
    }
    flush();
    return svg;
  }

  double busy_seconds(const std::vector<Span>& spans, const Run& run) const {
    double seconds = 0;
    for (std::size_t i = run.first; i < run.last; ++i) seconds += spans[i].end - spans[i].begin;
    return seconds;
  }

  Box box(const std::vector<Span>& spans, const Run& run, int level) const {
    const Span &first = spans[run.first], &last = spans[run.last - 1];
    const StepOperation& what = operation(first);
    const double seconds = last.end - first.begin;
    const std::string when = ": " + format_time(seconds) + " from " + format_time(first.begin);
    if (level == 2) {
      const double floor = roof_.floor_seconds(what.flops, what.bytes, what.side_by_side);
      const std::string rates = describe_rates(what.flops, what.bytes, seconds, floor);
      const std::string place =
          what.place.empty() ? what.phase : what.place + " (" + what.phase + ")";
      return {first.begin, last.end, family_of(what).style, what.operation,
              place + " " + what.operation + when + (rates.empty() ? "" : "; " + rates)};
    }
    const bool is_update = what.phase == "update";
    const std::string layer = is_update ? "" : layer_of(what.place);
    return {first.begin, last.end, level == 0 ? what.phase : what.phase + " layer",
            level == 0 ? what.phase : layer,
            (level == 0 || is_update ? what.phase : layer + " (" + what.phase + ")") + when +
                ", operations " + format_time(busy_seconds(spans, run))};
  }

  /// What most of the time of narrow boxes goes to gives the colour.
  Box merged(const std::vector<Span>& spans, const Run& run, int level) const {
    std::map<std::string, double> seconds;
    for (std::size_t i = run.first; i < run.last; ++i) {
      const StepOperation& what = operation(spans[i]);
      const std::string style = level == 2   ? family_of(what).style
                                : level == 1 ? what.phase + " layer"
                                             : what.phase;
      seconds[style] += spans[i].end - spans[i].begin;
    }
    const auto most =
        std::max_element(seconds.begin(), seconds.end(),
                         [](const auto& a, const auto& b) { return a.second < b.second; });
    const double begin = spans[run.first].begin, end = spans[run.last - 1].end;
    return {begin, end, most->first, "",
            std::to_string(run.last - run.first) + " operations, " +
                operation(spans[run.first]).place + " to " + operation(spans[run.last - 1]).place +
                ": " + format_time(end - begin) + " from " + format_time(begin)};
  }

  std::string render_box(const Box& box, double y, double least) {
    ++boxes_;
    const double x = at(box.begin), width = std::max(at(box.end) - x, std::min(least, kLeastWidth));
    std::string svg = "<rect class=\"" + box.style + (width > 2 ? " edge" : "") + "\" x=\"" +
                      format_double("%.2f", x) + "\" y=\"" + coordinate(y) + "\" width=\"" +
                      format_double("%.2f", width) + "\" height=\"" + coordinate(kRow - 1) +
                      "\"><title>" + escape_html(box.tooltip) + "</title></rect>\n";
    const double room = (width - kMargin) / kCharacter;
    if (box.text.empty() || static_cast<double>(box.text.size()) > room) return svg;
    return svg + "<text class=\"inside " + box.style + "\" x=\"" + coordinate(x + kMargin / 2) +
           "\" y=\"" + coordinate(y + 14) + "\">" + escape_html(box.text) + "</text>\n";
  }

  const StepTimes& times_;
  const Roof& roof_;
  double end_;
  std::map<int, std::vector<Span>> lanes_;
  std::size_t boxes_ = 0;
};

}  // namespace

std::string render_timeline(const StepTimes& times, const Roof& roof, double step_seconds) {
  return Timeline(times, roof, step_seconds).render();
}

}  // namespace vitrine
