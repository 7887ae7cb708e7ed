// The drawings of a step's page: what the timeline shows and merges, and labels of the roofline
// plot that cover nothing.
#include "train/step_drawings.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <regex>
#include <tuple>

#include "html_check.h"
#include "step_profile_sample.h"
#include "vitrine/random.h"

namespace vitrine {
namespace {

/// A box of the timeline.
struct Rect {
  std::string style, title;
  double x = 0, y = 0, width = 0;
};

std::vector<Rect> rects(const std::string& svg) {
  static const std::regex kRect(
      "<rect class=\"([^\"]*)\" x=\"([^\"]*)\" y=\"([^\"]*)\" width=\"([^\"]*)\" height=\"[^\"]*\">"
      "<title>([^<]*)</title>");
  std::vector<Rect> found;
  for (std::sregex_iterator at(svg.begin(), svg.end(), kRect), end; at != end; ++at) {
    const std::smatch& m = *at;
    found.push_back({m[1], m[5], std::stod(m[2]), std::stod(m[3]), std::stod(m[4])});
  }
  return found;
}

TEST(Timeline, DrawsEachOperationWhereItRan) {
  const StepProfile p = sample();
  const std::string svg = render_timeline(p.times, p.roof, p.timed_seconds.back());
  const std::vector<Rect> boxes = rects(svg);
  double step = p.timed_seconds.back(), matmuls = 0, last = 0;
  for (const Rect& box : boxes) {
    last = std::max(last, box.x + box.width);
    if (!contains(box.title, "fc1 (forward) matmul: ")) continue;
    EXPECT_TRUE(contains(box.style, "products"));
    EXPECT_TRUE(contains(box.title, "2.000 ms")) << box.title;
    EXPECT_TRUE(contains(box.title, "200 GFLOP/s, 0.5 GB/s, 40.0 % of its roof")) << box.title;
    EXPECT_NEAR(box.width, 1100 * 2 * kMillisecond / step, 0.02);
    ++matmuls;
  }
  EXPECT_EQ(matmuls, 4);
  EXPECT_NEAR(last, 1100 * (step - 2 * kMillisecond) / step, 0.02) << "then nothing runs";
  EXPECT_EQ(count(svg, ">worker "), 2u);
  // Rows of one lane do not overlap.
  for (const Rect& a : boxes) {
    for (const Rect& b : boxes) {
      if (a.y != b.y || a.x >= b.x) continue;
      EXPECT_LE(a.x + a.width, b.x + 0.02) << a.title << b.title;
    }
  }
}

TEST(Timeline, ShowsWorkersThatGotNothing) {
  StepProfile p = sample();
  for (Span& span : p.times.last_step) span.worker = 1;
  EXPECT_EQ(count(render_timeline(p.times, p.roof, 0.1), ">worker "), 2u);
}

TEST(Timeline, DrawsNarrowOperationsTogether) {
  StepTimes times;
  times.operations = {{"matmul", "blocks.0.mlp.fc1", "forward", 1, 1},
                      {"layer_norm_forward", "blocks.0.norm1", "forward", 1, 1},
                      {"pool_forward", "blocks.1.pool", "forward", 1, 1}};
  times.last_step = {{0, 0, 0.0, 0.9},
                     {1, 0, 0.9, 0.9 + 3e-9},
                     {2, 0, 0.9 + 3e-9, 0.9 + 4e-9},
                     {1, 0, 0.95, 0.95 + 1e-9}};
  const std::vector<Rect> boxes = rects(render_timeline(times, {}, 1.0));
  const auto found = [&](const std::string& title) {
    return std::find_if(boxes.begin(), boxes.end(),
                        [&](const Rect& box) { return contains(box.title, title); });
  };
  const auto two = found("2 operations, blocks.0.norm1 to blocks.1.pool");
  ASSERT_NE(two, boxes.end());
  EXPECT_TRUE(contains(two->style, "norms")) << "the colour of the longer one";
  EXPECT_NEAR(two->x, 1100 * 0.9, 0.02);
  EXPECT_EQ(two->width, 0.5) << "wide enough to be seen";
  const auto last = found("blocks.0.norm1 (forward) layer_norm_forward");
  ASSERT_NE(last, boxes.end()) << "far behind them, a box of its own";
  EXPECT_NEAR(last->x, 1100 * 0.95, 0.02);
}

// 52 chunks of 100 operations on 2 workers, and 1024 of 300 on 64: what is too narrow is merged.
TEST(Timeline, StaysSmall) {
  constexpr std::uint64_t kSeed = 7;
  for (const auto& [chunks, operations, workers] :
       {std::tuple{52, 100, 2}, std::tuple{8, 300, 1}, std::tuple{1024, 300, 64}}) {
    RandomStream random(kSeed, 1);  // how long each takes
    StepTimes times;
    for (int i = 0; i < operations; ++i) {
      times.operations.push_back({i % 3 == 0 ? "matmul" : "layer_norm_forward",
                                  "blocks." + std::to_string(i / 10) + ".mlp.fc1",
                                  i < operations / 2 ? "forward" : "backward", 1e6, 1e6, workers});
    }
    std::vector<double> at(static_cast<std::size_t>(workers), 0.0);
    double busy = 0;
    for (int chunk = 0; chunk < chunks; ++chunk) {
      double& now = at[static_cast<std::size_t>(chunk % workers)];
      for (int i = 0; i < operations; ++i) {
        const double seconds = 1e-6 * static_cast<double>(1 + random.below(200));
        times.last_step.push_back({i, chunk % workers, now, now + seconds});
        busy += chunk % workers == 0 ? seconds : 0;
        now += seconds;
      }
    }
    const double step = *std::max_element(at.begin(), at.end());
    const std::string svg = render_timeline(times, {}, step);
    EXPECT_LT(svg.size(), std::size_t{2} << 20) << chunks;
    EXPECT_EQ(unbalanced(svg), "");
    double first_row = -1, drawn = 0;
    for (const Rect& box : rects(svg)) {
      if (first_row < 0) first_row = box.y;
      if (box.y == first_row) drawn += box.width;
    }
    EXPECT_NEAR(drawn, 1100 * busy / step, 1100 * 0.02) << "nothing is left out";
  }
}

TEST(Roofline, LabelsCoverNeitherEachOtherNorPoints) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    RandomStream random(seed, 2);
    std::vector<Label> labels;
    for (int i = 0; i < 20; ++i) {
      labels.push_back({.x = 64 + static_cast<double>(random.below(300)),
                        .y = 14 + static_cast<double>(random.below(200)),
                        .radius = 3 + static_cast<double>(random.below(12)),
                        .width = i < 10 ? 60 + static_cast<double>(random.below(120)) : 0});
    }
    place_labels(labels, 64, 14, 1084, 474);
    int placed = 0;
    for (std::size_t i = 0; i < labels.size(); ++i) {
      const Label& a = labels[i];
      if (a.width == 0) continue;
      ++placed;
      const double top = a.baseline - kLabelHeight + 3, bottom = a.baseline + 3;
      EXPECT_GE(a.left, 64);
      EXPECT_LE(a.left + a.width, 1084);
      EXPECT_GE(top, 14);
      EXPECT_LE(bottom, 474);
      for (std::size_t j = 0; j < labels.size(); ++j) {
        const Label& b = labels[j];
        const double x = std::clamp(b.x, a.left, a.left + a.width),
                     y = std::clamp(b.y, top, bottom);
        EXPECT_GE(std::hypot(x - b.x, y - b.y), b.radius) << i << " covers point " << j;
        if (j == i || b.width == 0) continue;
        const bool apart = a.left + a.width <= b.left || b.left + b.width <= a.left ||
                           std::abs(a.baseline - b.baseline) >= kLabelHeight;
        EXPECT_TRUE(apart) << i << " covers " << j;
      }
    }
    EXPECT_GE(placed, 9);
  }
}

TEST(Roofline, DrawsRoofsAndPoints) {
  StepProfile p = sample();
  p.roof.datasheet = "H100";
  p.roof.datasheet_flops = 2e12;
  p.roof.datasheet_bytes = 3e11;
  const std::string svg = render_roofline(p.times, p.roof);
  EXPECT_EQ(unbalanced(svg), "");
  EXPECT_EQ(count(svg, "<circle"), 4u) << "cross_entropy has no FLOPs here";
  EXPECT_EQ(count(svg, "class=\"roof\""), 3u) << "products, the fastest copy, the largest";
  EXPECT_EQ(count(svg, "class=\"roof sheet\""), 2u);
  EXPECT_TRUE(contains(svg, "H100, data sheet: 2.0 TFLOP/s"));
  EXPECT_TRUE(contains(svg, "products here: 1.0 TFLOP/s"));
}

}  // namespace
}  // namespace vitrine
