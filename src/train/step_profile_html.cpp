// A profile as one page that needs nothing else: key figures, tables, the last step as a timeline
// and the roofline plot. Its only script widens the timeline.
#include <algorithm>
#include <cmath>
#include <map>

#include "io/format.h"
#include "train/html.h"
#include "train/report_style.h"
#include "train/step_drawings.h"
#include "train/step_profile_figures.h"
#include "train/step_profile_style.h"

namespace vitrine {
namespace {

std::string figure_tile(const Figure& figure, const std::string& style = "") {
  return tile(escape_html(figure.name), figure.value, figure.note, style);
}

std::string render_head(const StepProfile& p) {
  std::string said;
  for (const Figure& figure : setting(p)) {
    if (figure.name == "model") {
      said += figure.note;
    } else {
      said += " · " + figure.name + " " + figure.value +
              (figure.note.empty() ? "" : " (" + figure.note + ")");
    }
  }
  std::string tiles;
  for (const Figure& figure : key_figures(p)) tiles += figure_tile(figure);
  const std::vector<Figure> sums = reconciliation(p);
  tiles += figure_tile(sums.back());
  const Figure next = next_to_optimise(p);
  if (!next.name.empty()) tiles += figure_tile(next, " wide");
  return "<h1>" + escape_html(title(p)) + "</h1>\n<p class=\"note\">" + escape_html(said) +
         "</p>\n<div class=\"tiles\">\n" + tiles + "</div>\n";
}

/// Numbers of a row for one step.
class Numbers {
 public:
  Numbers(const Profile& table, std::int64_t steps)
      : per_step_(1 / static_cast<double>(std::max<std::int64_t>(steps, 1))) {
    for (const ProfileRow& row : table) {
      total_ += row.seconds;
      longest_ = std::max(longest_, row.seconds);
    }
  }

  std::string cells(const ProfileRow& row, double gain, bool bars) const {
    const auto text = [](const char* conversion, double value) {
      return "<td>" + format_double(conversion, value) + "</td>";
    };
    const auto rate = [&](double amount) {
      const double giga = row.seconds > 0 ? amount / row.seconds * 1e-9 : 0;
      if (!(giga > 0)) return std::string("<td>–</td>");
      return giga < 1000 ? text("%.1f", giga) : "<td>" + format_count(std::llround(giga)) + "</td>";
    };
    const double reached = row.seconds > 0 ? row.floor_seconds / row.seconds : 0;
    const std::string no_bar = "<td></td>";
    return (bars ? bar_cell(row.seconds / std::max(longest_, 1e-300)) : no_bar) +
           text("%.1f %%", 100 * row.seconds / std::max(total_, 1e-300)) +
           text("%.3f", row.seconds * per_step_ * 1e3) +
           text("%.0f", static_cast<double>(row.calls) * per_step_) + rate(row.flops) +
           rate(row.bytes) + (bars ? bar_cell(reached, " roof") : no_bar) +
           text("%.0f %%", 100 * reached) + text("%.3f", gain * per_step_ * 1e3);
  }

 private:
  double per_step_, total_ = 0, longest_ = 0;
};

std::string render_rows(const StepProfile& p, ProfileBy by, const char* what) {
  std::map<std::string, const char*> styles;
  for (const StepOperation& operation : p.times.operations) {
    if (by == ProfileBy::operation) styles.emplace(operation.operation, family_of(operation).style);
  }
  const Profile table_rows = make_table(p.times, by, &p.roof);
  const Numbers numbers(table_rows, p.times.steps);
  std::string rows = std::string("<tr><th>") + what +
                     "</th><th class=\"left\">share of the time</th><th></th><th>ms</th>"
                     "<th>calls</th><th>GFLOP/s</th><th>GB/s</th>"
                     "<th class=\"left\">of its roof</th><th></th><th>to gain, ms</th></tr>\n";
  ProfileRow sum;
  double gains = 0;
  for (const ProfileRow& row : table_rows) {
    const auto style = styles.find(row.name);
    const double gain = std::max(row.seconds - row.floor_seconds, 0.0);
    gains += gain;
    rows +=
        "<tr><td>" +
        (style == styles.end() ? ""
                               : std::string("<i class=\"swatch ") + style->second + "\"></i>") +
        "<code>" + escape_html(row.name) + "</code></td>" + numbers.cells(row, gain, true) +
        "</tr>\n";
    sum.calls += row.calls;
    sum.seconds += row.seconds;
    sum.flops += row.flops;
    sum.bytes += row.bytes;
    sum.floor_seconds += row.floor_seconds;
  }
  rows += "<tr class=\"sum\"><td>sum</td>" + numbers.cells(sum, gains, false) + "</tr>\n";
  return table(rows);
}

std::string render_figures(const std::vector<Figure>& figures) {
  std::string rows;
  for (const Figure& figure : figures) {
    const bool is_part = figure.name.starts_with(' ');
    rows += std::string(is_part ? "<tr class=\"part\">" : "<tr>") + "<td>" +
            escape_html(figure.name) + "</td><td>" + escape_html(figure.value) + "</td><td>" +
            escape_html(figure.note) + "</td></tr>\n";
  }
  return "<div class=\"sums\">" + table(rows) + "</div>\n";
}

std::string render_operations(const StepProfile& p) {
  return section_heading(
             "Where the time goes",
             "A step by operation. Its roof is the rate that a large matrix product, or a copy of "
             "the same size, reaches on this device, whichever bounds it; what it moves is counted "
             "once. Beyond 100 % its operands came from a faster cache than that copy's. What "
             "reaching the roof would save is to gain.") +
         render_rows(p, ProfileBy::operation, "operation") +
         section_heading("How the times add up",
                         "The rows above are means of the timed steps; steps that are not timed "
                         "took turns with them.") +
         render_figures(reconciliation(p));
}

std::string render_drawings(const StepProfile& p) {
  const double step = p.timed_seconds.empty() ? 0 : p.timed_seconds.back();
  const std::string families = render_families(p.times.operations);
  std::string html = section_heading(
      "The last step",
      "Time from left to right; for each worker its phases, layers and operations. Between them "
      "the worker waits or starts work. Point at a box to read what it is.");
  html += families + render_timeline(p.times, p.roof, step);
  const std::string roofline = render_roofline(p.times, p.roof);
  if (roofline.empty()) return html;
  return html +
         section_heading("Roofline",
                         "Each disc is an operation, its area the time it takes. The thin line "
                         "above it ends at its own roof: the nearer, the less there is to gain. "
                         "Left of the bend memory is the limit, right of it arithmetic.") +
         families + roofline + render_figures(roofs(p));
}

std::string render_layers(const StepProfile& p) {
  return section_heading("By layer", "In the model's order, forward and backward together.") +
         render_rows(p, ProfileBy::layer, "layer") +
         "<details><summary>Every place in the model</summary>\n" +
         render_rows(p, ProfileBy::place, "place and operation") + "</details>\n";
}

}  // namespace

std::string to_html(const StepProfile& p) {
  return html_page(title(p), std::string(kReportStyle) + kStepProfileStyle,
                   render_head(p) + render_operations(p) + render_drawings(p) + render_layers(p),
                   kZoomScript);
}

}  // namespace vitrine
