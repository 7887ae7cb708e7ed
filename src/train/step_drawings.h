// The drawings of a step's page as inline SVG: the last step as a timeline, and the roofline plot.
// Colours come from the page's style sheet, by the names of classes.
#pragma once

#include <string>
#include <vector>

#include "vitrine/profile.h"

namespace vitrine {

/// Kinds of operations that share a colour.
struct Family {
  const char* name;
  const char* style;  ///< class
};
const Family& family_of(const StepOperation& operation);
/// Swatches and names of the families that occur.
std::string render_families(const std::vector<StepOperation>& operations);

/// "61.0 GFLOP/s, 12.3 GB/s, 56 % of its roof"
std::string describe_rates(double flops, double bytes, double seconds, double floor_seconds);

/// The last step: time from left to right, for each worker phases, layers and operations; what is
/// too narrow to be seen is drawn together with its neighbours. `step_seconds` is the whole step's.
std::string render_timeline(const StepTimes& times, const Roof& roof, double step_seconds);

/// Rates over intensities, both logarithmic, after Williams et al. 2009,
/// doi:10.1145/1498765.1498785: a disc an operation, its area the time, under the roofs.
std::string render_roofline(const StepTimes& times, const Roof& roof);

/// A text beside the point (x, y) that it names; `width` is the text's.
struct Label {
  double x = 0, y = 0, radius = 0, width = 0;
  double left = 0, baseline = 0;  ///< where the text begins, to be found
};
constexpr double kLabelHeight = 14;

/// Puts labels, the first ones first, into the box [left, right] x [top, bottom] where they cover
/// neither each other nor a point; where there is no such place they go without a text (width 0).
void place_labels(std::vector<Label>& labels, double left, double top, double right, double bottom);

}  // namespace vitrine
