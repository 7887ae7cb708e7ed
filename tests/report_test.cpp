// report.html: well-formed, self-contained, escaped, and robust against runs that said little.
#include "vitrine/report.h"

#include <gtest/gtest.h>

#include <cmath>
#include <iostream>
#include <limits>
#include <random>

#include "html_check.h"
#include "train/charts.h"
#include "train/html.h"
#include "vitrine/error.h"

namespace vitrine {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// No number of a figure is "nan" or "inf".
void expect_drawable(const std::string& html) {
  std::size_t figures = 0;
  for (std::size_t at = html.find("<svg"); at != std::string::npos;
       at = html.find("<svg", at + 1)) {
    const std::string svg = html.substr(at, html.find("</svg>", at) - at);
    EXPECT_FALSE(contains(svg, "nan")) << svg;
    EXPECT_FALSE(contains(svg, "\"inf")) << svg;
    EXPECT_FALSE(contains(svg, "Linf")) << svg;
    ++figures;
  }
  std::cout << figures << " figures\n";
}

void expect_sound(const std::string& html) {
  EXPECT_EQ(unbalanced(html), "");
  expect_drawable(html);
  for (const char* loader : {"http://", "https://", "<script", "<link", "@import", "url("}) {
    EXPECT_FALSE(contains(html, loader)) << loader;
  }
}

Image random_image(std::mt19937* generator, std::int64_t channels) {
  Image image{channels, 5, 7, {}};
  for (std::int64_t i = 0; i < channels * 5 * 7; ++i) {
    image.pixels.push_back(static_cast<std::uint8_t>((*generator)() & 255));
  }
  return image;
}

Report sample_report(unsigned seed, std::int64_t epochs, std::size_t classes) {
  std::cout << "seed " << seed << '\n';
  std::mt19937 generator(seed);
  std::uniform_real_distribution<double> uniform(0.1, 0.9);
  Report report;
  report.title = "mnist-tutorial on digits";
  report.facts = {{"Device", "CPU, 2 threads"}, {"Parameters", "1,018"}};
  report.config = "{\n  \"lr\": 0.005\n}";
  for (std::int64_t i = 1; i <= epochs; ++i) {
    EpochRecord epoch{i,
                      10 * i,
                      1 + uniform(generator),
                      uniform(generator),
                      1 + uniform(generator),
                      uniform(generator),
                      0.95,
                      0.005,
                      2.5,
                      24000,
                      0};
    report.epochs.push_back(epoch);
    for (std::int64_t s = 10 * (i - 1) + 1; s <= 10 * i; ++s) {
      report.steps.push_back({s, 1 + uniform(generator), 0.005});
    }
  }
  for (std::size_t i = 0; i < classes; ++i)
    report.class_names.push_back("name" + std::to_string(i));
  for (std::size_t i = 0; i < classes * classes; ++i) {
    report.confusion.push_back(static_cast<std::int64_t>(generator() % 50) + 1000);
  }
  for (std::int64_t i = 0; i < 3; ++i) {
    report.misclassified.push_back({random_image(&generator, i % 2 == 0 ? 1 : 3), i, i + 1, 0.625});
  }
  report.profile = {{"matmul", 1200, 1.5, 3e10, 1e10}, {"layer_norm_backward", 40, 0.5, 1e9, 6e9}};
  return report;
}

TEST(Report, IsWellFormedAndSelfContained) {
  for (const std::int64_t epochs : {2, 5, 40, 200}) {
    for (const std::size_t classes : {1, 2, 10, 13, 21, 101}) {
      SCOPED_TRACE(std::to_string(epochs) + " epochs, " + std::to_string(classes) + " classes");
      expect_sound(render_report(sample_report(7, epochs, classes)));
    }
  }
}

TEST(Report, SaysTheNumbers) {
  Report report = sample_report(8, 3, 10);
  report.epochs[1].test_top1 = 0.9125;
  report.epochs[2].test_loss = 1.689;
  report.epochs[2].skipped_steps = 4;
  report.confusion[3] = 77;
  const std::string html = render_report(report);
  for (const char* part :
       {"91.2 %", "epoch 2 of 3", "1.689", "24,000", "7.5s", "1,018", "Skipped steps", ">77<",
        "name9", "name0 → <em>name1</em>", "62.5 %", "layer_norm_backward", "1,200", "75.0 %",
        "20.0", "12.0", "CPU, 2 threads", "&quot;lr&quot;: 0.005", "data:image/png;base64,iVBOR"}) {
    EXPECT_TRUE(contains(html, part)) << part;
  }
}

TEST(Report, EscapesEveryText) {
  const std::string evil = "<b class='x'>\"&</b>";
  Report report = sample_report(9, 2, 10);
  report.title = report.config = evil;
  report.facts = {{evil, evil}, {"Parameters", evil}};
  for (std::string& name : report.class_names) name = evil;
  report.profile[0].name = evil;
  const std::string html = render_report(report);
  EXPECT_FALSE(contains(html, "<b class='x'"));
  EXPECT_FALSE(contains(html, "'x'"));
  EXPECT_TRUE(contains(html, "&lt;b class=&#39;x&#39;&gt;&quot;&amp;&lt;/b&gt;"));
  expect_sound(html);
}

TEST(Report, LeavesOutWhatIsEmpty) {
  Report report;
  report.title = "nothing yet";
  std::string html = render_report(report);
  expect_sound(html);
  for (const char* part : {"<h2", "<svg", "<table", "class=\"tile", "<pre"}) {
    EXPECT_FALSE(contains(html, part)) << part;
  }
  report.steps = {{1, 2.5, 0.01}, {2, 2.4, 0.01}};
  html = render_report(report);
  expect_sound(html);
  EXPECT_TRUE(contains(html, ">step<"));
  EXPECT_FALSE(contains(html, "Every epoch"));
  EXPECT_FALSE(contains(html, "Confusion matrix"));

  Report idle = sample_report(10, 1, 3);
  idle.confusion.assign(9, 0);
  for (ProfileRow& row : idle.profile) row.seconds = 0;
  html = render_report(idle);
  expect_sound(html);
  EXPECT_FALSE(contains(html, "Confusion matrix"));
  EXPECT_FALSE(contains(html, "Where the time went"));
}

TEST(Report, ASingleEpochHasPointsAndNoDivisionByZero) {
  Report report = sample_report(11, 1, 10);
  report.epochs[0].step = 0;
  report.epochs[0].seconds = 0;
  report.epochs[0].learning_rate = 0;
  for (StepRecord& step : report.steps) step.learning_rate = 0;
  const std::string html = render_report(report);
  expect_sound(html);
  EXPECT_TRUE(contains(html, "<circle"));
  EXPECT_FALSE(contains(html, "NaN"));
}

TEST(Report, LossesThatAreNotFiniteBreakNoFigure) {
  for (const double bad : {kNan, kInfinity, -kInfinity, 1e300}) {
    SCOPED_TRACE(bad);
    Report report = sample_report(12, 4, 10);
    report.epochs[1].train_loss = report.epochs[3].test_loss = bad;
    report.epochs[0].test_top1 = report.epochs[2].images_per_second = bad;
    for (std::size_t i = 5; i < 30; i += 2) report.steps[i].loss = bad;
    report.profile[1].seconds = 0;
    expect_sound(render_report(report));
    for (EpochRecord& epoch : report.epochs) epoch.train_loss = epoch.test_loss = bad;
    for (StepRecord& step : report.steps) step.loss = bad;
    const std::string html = render_report(report);
    expect_sound(html);
    EXPECT_FALSE(contains(html, "aria-label=\"Loss\""));
  }
}

TEST(Report, ANotANumberIsNeverTheBest) {
  Report report = sample_report(13, 3, 10);
  report.epochs[0].test_top1 = kNan;
  report.epochs[1].test_top1 = 0.5;
  report.epochs[2].test_top1 = kNan;
  EXPECT_TRUE(contains(render_report(report), "<b>50.0 %</b><span>epoch 2 of 3"));
}

TEST(Report, ClassesWithoutNameOrImage) {
  Report report = sample_report(14, 2, 4);
  report.class_names.resize(1);
  for (std::size_t i = 4; i < 8; ++i) report.confusion[i] = 0;
  report.misclassified[0].label = 99;
  report.misclassified[0].predicted = -1;
  const std::string html = render_report(report);
  expect_sound(html);
  EXPECT_TRUE(contains(html, "99 → <em>-1</em>"));
}

TEST(Report, RefusesAConfusionThatIsNoSquare) {
  Report report = sample_report(15, 2, 3);
  report.confusion.pop_back();
  EXPECT_THROW(render_report(report), BadInput);
}

TEST(Report, EqualRunsGiveEqualPages) {
  EXPECT_EQ(render_report(sample_report(16, 3, 10)), render_report(sample_report(16, 3, 10)));
}

TEST(Charts, TicksAreRoundAndManyPointsAreThinned) {
  LineChart chart{"Loss", "step", 0, Unit::kNumber, false, 270, {}};
  Series series{"train", "steps", {}, {}, false};
  for (int i = 0; i < 100000; ++i) {
    series.x.push_back(i);
    series.y.push_back(1 + std::exp(-i / 2e4) + 0.01 * std::sin(i));
  }
  chart.series = {series};
  const std::string html = render_line_chart(chart);
  expect_sound(html);
  EXPECT_LT(html.size(), 20000u);
  for (const char* tick : {">1.0<", ">1.2<", ">2.0<", ">0<", ">20,000<", ">80,000<"}) {
    EXPECT_TRUE(contains(html, tick)) << tick;
  }
}

TEST(Charts, ValuesAreReadable) {
  EXPECT_EQ(format_value(1.71512, Unit::kNumber), "1.715");
  EXPECT_EQ(format_value(0.00005, Unit::kNumber), "5e-05");
  EXPECT_EQ(format_value(0, Unit::kNumber), "0");
  EXPECT_EQ(format_value(0.8094, Unit::kFraction), "80.9 %");
  EXPECT_EQ(format_value(25011.6, Unit::kCount), "25,012");
  EXPECT_EQ(format_value(kNan, Unit::kNumber), "NaN");
  EXPECT_EQ(format_value(kInfinity, Unit::kCount), "∞");
  EXPECT_EQ(format_value(-kInfinity, Unit::kFraction), "−∞");
}

TEST(Html, Base64OfEveryLength) {
  for (const std::int64_t width : {1, 2, 3, 4, 5, 6}) {
    const Image image{1, 1, width, std::vector<std::uint8_t>(static_cast<std::size_t>(width), 93)};
    const std::string uri = png_data_uri(image);
    const std::string start = "data:image/png;base64,iVBORw0KGgo";
    EXPECT_EQ(uri.substr(0, start.size()), start);
    EXPECT_EQ((uri.size() - 22) % 4, 0u);
    EXPECT_EQ((uri.size() - 22) / 4, (encode_png(image).size() + 2) / 3);
  }
}

}  // namespace
}  // namespace vitrine
