// A profile of a step: what it measures of small models, and how it is told: as text, JSON, page.
#include "vitrine/step_profile.h"

#include <gtest/gtest.h>

#include <cmath>
#include <iostream>
#include <nlohmann/json.hpp>

#include "html_check.h"
#include "step_profile_sample.h"
#include "train/step_profile_figures.h"
#include "vitrine/error.h"
#include "vitrine/random.h"

namespace vitrine {
namespace {

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
  p.timed_seconds = {17 * kMillisecond, 17 * kMillisecond, 47 * kMillisecond};
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
    p.plain_seconds = {1.0, 1.1, 0.9, 1.0, 1.0};
    p.timed_seconds = {1.02 + overhead, 1.09 + overhead, 0.91 + overhead, 1.0 + overhead,
                       0.99 + overhead};
    p.times.steps = 5;
    return reconciliation(p).back().note;
  };
  EXPECT_TRUE(contains(said(0), "below the noise")) << said(0);
  EXPECT_FALSE(contains(said(0.5), "below the noise")) << said(0.5);
  p.times.steps = 4;
  EXPECT_TRUE(contains(reconciliation(p).back().note, "too few"));
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

TEST(StepProfile, ShowsWhatIsRecomputed) {
  const auto device = make_cpu_device(1);
  RunConfig config = small_config();
  const Dataset data = make_stripes(8, 10, 1, 14, 14);
  const auto profiled = [&](RecomputeMode mode) {
    config.recipe.recompute = mode;
    return profile_step(*device, config, data, {.warm_up = 1, .steps = 1},
                        [](const std::string&, std::int64_t, std::int64_t) { return true; });
  };
  const StepProfile kept = profiled(RecomputeMode::automatic), full = profiled(RecomputeMode::full);
  EXPECT_EQ(kept.recomputed, Recompute{});
  EXPECT_EQ(setting(full).size(), setting(kept).size() + 1);
  EXPECT_EQ(setting(full).back().note, to_text(full.recomputed));
  EXPECT_EQ(full.recomputed.full, config.model.num_hidden_layers);
  EXPECT_GT(full.flops, kept.flops);
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
