// A profile of a step: what it measures of small models, and how it is told: as text, JSON, page.
#include "vitrine/step_profile.h"

#include <gtest/gtest.h>

#include <cmath>
#include <iostream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <regex>

#include "html_check.h"
#include "train/step_drawings.h"
#include "train/step_profile_figures.h"
#include "vitrine/error.h"
#include "vitrine/random.h"

namespace vitrine {
namespace {

constexpr double kMillisecond = 1e-3;

/// Two workers, three layers, `chunks` chunks; each operation takes as many ms as it has a number.
StepProfile sample(int chunks = 4) {
  StepProfile p;
  p.model = "a <model>";
  p.device = "cpu";
  p.description = "2 threads";
  p.precision = "fp32";
  p.data = "stripes";
  p.images_per_step = 64;
  p.chunking = {.batch = 64, .rows = 16, .count = 4, .lanes = 4};
  p.model_flops = 1e9;
  p.planned_bytes = 1 << 20;
  p.times.operations = {{"patch_embed_forward", "patch_embed", "forward", 1e6, 1e6, 2},
                        {"matmul", "blocks.0.mlp.fc1", "forward", 4e8, 1e6, 2},
                        {"attention_backward", "blocks.0.attn", "backward", 2e8, 2e6, 2},
                        {"cross_entropy", "loss", "forward", 0, 1e4, 2},
                        {"adamw", "", "update", 12e6, 28e6, 1}};
  p.times.sums.resize(p.times.operations.size());
  p.times.steps = 2;
  p.times.workers = 2;
  const int last = static_cast<int>(p.times.operations.size()) - 1;
  for (int step = 0; step < 2; ++step) {
    p.times.last_step.clear();
    double at[2] = {0, 0};
    const auto add = [&](int operation, int worker) {
      const double begin = at[worker], end = begin + (operation + 1) * kMillisecond;
      p.times.last_step.push_back({operation, worker, begin, end});
      p.times.sums[static_cast<std::size_t>(operation)].calls += 1;
      p.times.sums[static_cast<std::size_t>(operation)].seconds += end - begin;
      at[worker] = end;
    };
    for (int chunk = 0; chunk < chunks; ++chunk) {
      for (int operation = 0; operation < last; ++operation) add(operation, chunk % 2);
    }
    at[0] = std::max(at[0], at[1]);
    add(last, 0);
    p.timed_seconds.push_back(at[0] + 2 * kMillisecond);
  }
  p.plain_seconds = {26 * kMillisecond, 25 * kMillisecond};
  p.wall_seconds = {25 * kMillisecond, 26 * kMillisecond, 30 * kMillisecond};
  p.roof = {
      .copies = {{1e4, 2e11}, {1e6, 1e11}, {1e8, 1e10}}, .flops_per_second = 1e12, .workers = 2};
  return p;
}

TEST(StepProfile, MeansAndMedians) {
  EXPECT_EQ(median({3, 1, 2}), 2);
  EXPECT_EQ(median({4, 1, 2, 3}), 2.5);
  EXPECT_EQ(median({}), 0);
  EXPECT_EQ(mean({1, 2, 6}), 3);
  EXPECT_EQ(mean({}), 0);
}

TEST(StepProfile, TheTimedStepIsItsOperationsAndTheRest) {
  const StepProfile p = sample();
  // Four chunks of 1 + 2 + 3 + 4 ms on two workers, and the update.
  EXPECT_NEAR(p.operation_seconds(), (4 * 10 / 2.0 + 5) * kMillisecond, 1e-12);
  EXPECT_NEAR(p.timed_step_seconds(), 27 * kMillisecond, 1e-12);
  EXPECT_NEAR(p.rest_seconds(), 2 * kMillisecond, 1e-12);
  EXPECT_NEAR(p.images_per_second(), 64 / 26e-3, 1e-6);
  EXPECT_LT(p.floor_seconds(), p.operation_seconds());
}

// The mean of the operations of slow and fast steps is not to be held against their median.
TEST(StepProfile, OneSlowStepKeepsTheSumsExact) {
  StepProfile p = sample();
  p.timed_seconds = {17 * kMillisecond, 37 * kMillisecond};
  EXPECT_NEAR(p.timed_step_seconds(), p.operation_seconds() + p.rest_seconds(), 1e-15);
  EXPECT_NEAR(p.timed_step_seconds(), 27 * kMillisecond, 1e-12);
}

TEST(StepProfile, OverheadIsToldWithItsNoise) {
  StepProfile p = sample();
  constexpr std::uint64_t kSeed = 20261122;
  std::cout << "seed " << kSeed << "\n";
  RandomStream random(kSeed, 0);
  int held = 0;
  constexpr int kRepeats = 400;
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
    p.plain_seconds.clear(), p.timed_seconds.clear();
    for (int i = 0; i < 25; ++i) {
      const double machine = 0.1 * i;  // a drift that both see
      p.plain_seconds.push_back(1 + machine + 0.01 * random.normal());
      p.timed_seconds.push_back(1.02 + machine + 0.01 * random.normal());
    }
    held += std::abs(p.overhead_seconds() - 0.02) <= p.overhead_noise();
  }
  EXPECT_GT(held, 0.89 * kRepeats) << "about 95 in 100";
  EXPECT_LT(held, 0.995 * kRepeats);
  const auto said = [&](double overhead) {
    p.plain_seconds = {1.0, 1.1, 0.9, 1.0};
    p.timed_seconds = {1.02 + overhead, 1.09 + overhead, 0.91 + overhead, 1.0 + overhead};
    return reconciliation(p).back().note;
  };
  EXPECT_TRUE(contains(said(0), "below the noise")) << said(0);
  EXPECT_FALSE(contains(said(0.5), "below the noise")) << said(0.5);
}

TEST(StepProfile, NamesWhatToOptimiseNext) {
  StepProfile p = sample();
  EXPECT_EQ(next_to_optimise(p).value, "cross_entropy") << "nearly all of 4 ms a call";
  for (StepTimes::Sum& sum : p.times.sums) sum.seconds = 1e-9;  // faster than any roof
  EXPECT_EQ(next_to_optimise(p).name, "");
  EXPECT_FALSE(contains(to_text(p, ProfileBy::operation), "optimise next"));
}

TEST(StepProfile, TextSaysWhatWasMeasured) {
  const std::string text = to_text(sample(), ProfileBy::layer);
  for (const char* part :
       {"a <model>", "2 threads", "fp32", "64 images", "4  of 16 images in 4 lanes", "stripes",
        "products here     1.0 TFLOP/s", "patch_embed", "blocks.0", "update", "to gain, ms",
        "step, timed       27.000 ms", "operations      25.000 ms  92.6 % of it",
        "the rest        2.000 ms  7.4 % of it", "optimise next     cross_entropy", "timing adds",
        "images/s          2462"}) {
    EXPECT_TRUE(contains(text, part)) << part << "\nin:\n" << text;
  }
  EXPECT_LT(text.find("\npatch_embed"), text.find("\nblocks.0")) << "the model's order";
  StepProfile captured = sample();
  captured.times = {};
  captured.plain_seconds.clear(), captured.timed_seconds.clear();
  captured.roof = {};
  EXPECT_FALSE(contains(to_text(captured, ProfileBy::layer), "timed")) << "nothing was timed";
}

TEST(StepProfile, JsonAddsUp) {
  const auto json = to_json(sample());
  for (const char* table : {"by_operation", "by_layer", "by_place"}) {
    double seconds = 0;
    for (const auto& row : json.at(table)) seconds += row.at("seconds").get<double>();
    EXPECT_NEAR(seconds, json.at("operation_seconds").get<double>(), 1e-12) << table;
  }
  EXPECT_NEAR(json.at("operation_seconds").get<double>() + json.at("rest_seconds").get<double>(),
              json.at("timed_step_seconds").get<double>(), 1e-12);
}

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t found = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) {
    ++found;
  }
  return found;
}

TEST(StepProfilePage, IsWellFormedAndNeedsNothingElse) {
  const std::string page = to_html(sample());
  EXPECT_EQ(unbalanced(page), "");
  EXPECT_TRUE(contains(page, "<h1>a &lt;model&gt; on cpu</h1>"));
  EXPECT_FALSE(contains(page, "<model>"));
  for (const char* part :
       {"http://", "https://", "src=", "href=", "@import", "url(", "nan", "inf\""}) {
    EXPECT_FALSE(contains(page, part)) << part;
  }
  EXPECT_EQ(count(page, "<script>"), 1u);
  for (const char* part : {"optimise next", "Roofline", "The last step", "By layer",
                           "blocks.0.mlp.fc1 matmul (forward)", "timing adds"}) {
    EXPECT_TRUE(contains(page, part)) << part;
  }
  EXPECT_EQ(count(page, "<h2>"), 5u);
}

TEST(StepProfilePage, DoesWithoutARoofAndWithoutTimes) {
  StepProfile p = sample();
  p.roof = {};
  const std::string page = to_html(p);
  EXPECT_EQ(unbalanced(page), "");
  EXPECT_FALSE(contains(page, "<svg class=\"roofline\""));
  EXPECT_FALSE(contains(page, "nan"));
}

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

// 52 chunks of 100 operations on 2 workers, and 1024 of 300 on 64: what is too narrow is merged.
TEST(Timeline, StaysSmall) {
  constexpr std::uint64_t kSeed = 7;
  for (const auto& [chunks, operations, workers] :
       {std::tuple{52, 100, 2}, std::tuple{8, 300, 1}, std::tuple{1024, 300, 64}}) {
    RandomStream random(kSeed, 1);
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

RunConfig small_config() {
  RunConfig config;
  config.model = {.image_height = 14,
                  .image_width = 14,
                  .patch_size = 7,
                  .num_channels = 1,
                  .hidden_size = 12,
                  .num_hidden_layers = 2,
                  .num_attention_heads = 3,
                  .intermediate_size = 20,
                  .num_classes = 10};
  config.recipe.batch_size = 8;
  return config;
}

TEST(StepProfile, MeasuresASmallModel) {
  const auto device = make_cpu_device(2);
  RunConfig config = small_config();
  config.recipe.grad_accum_steps = 2;
  const Dataset data = make_stripes(40, 10, 1, 14, 14);
  std::vector<std::string> told;
  const StepProfile p =
      profile_step(*device, config, data, {.warm_up = 3, .steps = 4},
                   [&](const std::string& what, std::int64_t done, std::int64_t of) {
                     if (told.empty() || told.back() != what) told.push_back(what);
                     return done <= of;
                   });
  EXPECT_EQ(told, (std::vector<std::string>{"Warm-up", "Steps in a row", "Timed steps"}));
  EXPECT_EQ(p.images_per_step, 16);
  EXPECT_EQ(p.wall_seconds.size(), 4u);
  EXPECT_EQ(p.plain_seconds.size(), 4u);
  EXPECT_EQ(p.timed_seconds.size(), 4u);
  EXPECT_EQ(p.times.steps, 4) << "the sums are those of the steps in timed_seconds";
  EXPECT_GE(p.rest_seconds(), 0);
  EXPECT_GT(p.operation_seconds(), 0);
  EXPECT_GT(p.data_seconds, 0);
  EXPECT_GT(p.first_step_seconds, 0);
  double flops = 0;
  for (const ProfileRow& row : make_table(p.times, ProfileBy::layer, &p.roof)) {
    if (row.name != "update") flops += row.flops;
  }
  EXPECT_NEAR(flops / 4, p.flops, 1e-6 * p.flops) << "what is timed is what is planned";
  EXPECT_EQ(unbalanced(to_html(p)), "");
}

TEST(StepProfile, StopsWhenToldTo) {
  const auto device = make_cpu_device(1);
  const Dataset data = make_stripes(8, 10, 1, 14, 14);
  for (const std::string stop : {"Warm-up", "Steps in a row", "Timed steps"}) {
    EXPECT_THROW(profile_step(*device, small_config(), data, {.warm_up = 3, .steps = 2},
                              [&](const std::string& what, std::int64_t, std::int64_t) {
                                return what != stop;
                              }),
                 Error)
        << stop;
  }
}

TEST(StepProfile, ACaptureTimesNoOperation) {
  const auto device = make_cpu_device(1);
  const Dataset data = make_stripes(8, 10, 1, 14, 14);
  const StepProfile p =
      profile_step(*device, small_config(), data, {.warm_up = 3, .steps = 2, .capture = true},
                   [](const char*, std::int64_t, std::int64_t) { return true; });
  EXPECT_EQ(p.times.steps, 0);
  EXPECT_EQ(p.wall_seconds.size(), 2u);
  EXPECT_TRUE(p.timed_seconds.empty());
}

}  // namespace
}  // namespace vitrine
