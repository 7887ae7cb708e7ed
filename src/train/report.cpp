// report.html: one page without scripts and without a reference to anything outside it.
//
// Each section below returns its HTML, or nothing where the run has nothing to say about it.
#include "vitrine/report.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "io/format.h"
#include "train/charts.h"
#include "train/html.h"
#include "train/report_pictures.h"
#include "train/report_style.h"
#include "vitrine/error.h"

namespace vitrine {
namespace {

std::string number(double value) {
  return format_value(value, Unit::kNumber);
}
std::string fraction(double value) {
  return std::isnan(value) ? "–" : format_value(value, Unit::kFraction);
}

/// The title and the key figures.
std::string render_head(const Report& report) {
  std::string html = "<h1>" + escape_html(report.title) + "</h1>\n";
  std::string tiles;
  if (!report.epochs.empty()) {
    const auto& epochs = report.epochs;
    const EpochRecord& last = epochs.back();
    const EpochRecord* best = &epochs.front();
    double seconds = 0, images = 0;
    for (const EpochRecord& epoch : epochs) {
      if (epoch.test_top1 > best->test_top1 || std::isnan(best->test_top1)) best = &epoch;
      seconds += epoch.seconds;
      images += epoch.seconds * epoch.images_per_second;
    }
    tiles += tile("Best top-1 on test", fraction(best->test_top1),
                  "epoch " + std::to_string(best->epoch) + " of " + std::to_string(last.epoch));
    tiles += tile("Final test loss", number(last.test_loss), "train " + number(last.train_loss));
    tiles += tile("Training speed", format_value(seconds > 0 ? images / seconds : 0, Unit::kCount),
                  "images/s");
    tiles += tile("Training time", format_duration(seconds), format_count(last.step) + " steps");
    if (last.skipped_steps > 0) {
      tiles += tile("Skipped steps", format_count(last.skipped_steps), "gradient not finite");
    }
  }
  for (const auto& [name, value] : report.facts) {
    std::string lower = name;
    std::transform(lower.begin(), lower.end(), lower.begin(),
                   [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
    if (lower == "parameters") tiles += tile("Parameters", value, "trained");
  }
  if (!tiles.empty()) html += "<div class=\"tiles\">\n" + tiles + "</div>\n";
  return html;
}

/// One curve over the epochs; empty when the run never measured it.
Series epoch_series(const Report& report, const std::string& name, const std::string& style,
                    double EpochRecord::*value) {
  Series series{name, style, {}, {}, true};
  bool measured = false;
  for (const EpochRecord& epoch : report.epochs) {
    series.x.push_back(static_cast<double>(epoch.epoch));
    series.y.push_back(epoch.*value);
    measured = measured || epoch.*value != 0;
  }
  return measured ? series : Series{};
}

/// One curve over the steps, in epochs where those are known.
Series step_series(const Report& report, const std::string& name, const std::string& style,
                   double StepRecord::*value) {
  double epochs_per_step = 1;
  if (!report.epochs.empty() && report.epochs.back().step > 0) {
    const EpochRecord& last = report.epochs.back();
    epochs_per_step = static_cast<double>(last.epoch) / static_cast<double>(last.step);
  }
  Series series{name, style, {}, {}, false};
  for (const StepRecord& step : report.steps) {
    series.x.push_back(static_cast<double>(step.step) * epochs_per_step);
    series.y.push_back(step.*value);
  }
  return series;
}

std::string render_epoch_table(const Report& report) {
  constexpr std::size_t kMostOpenRows = 12;
  std::string rows = header_row({"epoch", "train loss", "train top-1", "test loss", "test top-1",
                                 "test top-5", "learning rate", "images/s", "time"});
  for (const EpochRecord& epoch : report.epochs) {
    rows += row({std::to_string(epoch.epoch), number(epoch.train_loss), fraction(epoch.train_top1),
                 number(epoch.test_loss), fraction(epoch.test_top1), fraction(epoch.test_top5),
                 number(epoch.learning_rate), format_value(epoch.images_per_second, Unit::kCount),
                 format_duration(epoch.seconds)});
  }
  return "<details" + std::string(report.epochs.size() <= kMostOpenRows ? " open" : "") +
         "><summary>Every epoch in numbers</summary>\n" + table(rows) + "</details>\n";
}

std::string render_curves(const Report& report) {
  const std::string x_label = report.epochs.empty() ? "step" : "epoch";
  const double x_end = report.epochs.empty() ? 0 : static_cast<double>(report.epochs.back().epoch);
  LineChart loss{"Loss", x_label, x_end, Unit::kNumber, false, 270, {}};
  loss.series = {step_series(report, "train, per step", "steps", &StepRecord::loss),
                 epoch_series(report, "train", "train", &EpochRecord::train_loss),
                 epoch_series(report, "test", "test", &EpochRecord::test_loss)};
  const bool ema = !report.epochs.empty() && report.epochs.back().has_ema();
  if (ema) loss.series.push_back(epoch_series(report, "EMA", "top5", &EpochRecord::ema_loss));
  LineChart accuracy{"Accuracy", x_label, x_end, Unit::kFraction, false, 270, {}};
  accuracy.series = {epoch_series(report, "train", "train", &EpochRecord::train_top1),
                     epoch_series(report, "test", "test", &EpochRecord::test_top1),
                     ema ? epoch_series(report, "EMA", "top5", &EpochRecord::ema_top1)
                         : epoch_series(report, "test, top-5", "top5", &EpochRecord::test_top5)};
  LineChart rate{"Learning rate", x_label, x_end, Unit::kNumber, true, 160, {}};
  rate.series = {report.steps.empty()
                     ? epoch_series(report, "at the end", "train", &EpochRecord::learning_rate)
                     : step_series(report, "at the end", "train", &StepRecord::learning_rate)};
  LineChart speed{"Training speed, images/s", x_label, x_end, Unit::kCount, true, 160, {}};
  if (report.epochs.size() > 1) {
    speed.series = {epoch_series(report, "last", "train", &EpochRecord::images_per_second)};
  }
  LineChart time{"Time of an epoch, s", x_label, x_end, Unit::kNumber, true, 160, {}};
  const bool waits = std::any_of(report.epochs.begin(), report.epochs.end(), [](const auto& epoch) {
    return epoch.data_seconds > 0.01 * epoch.seconds;
  });
  if (waits && report.epochs.size() > 1) {
    time.series = {epoch_series(report, "training", "train", &EpochRecord::seconds),
                   epoch_series(report, "of it for data", "test", &EpochRecord::data_seconds)};
  }
  std::string charts;
  for (const LineChart* chart : {&loss, &accuracy, &rate, &speed, &time}) {
    charts += render_line_chart(*chart);
  }
  if (charts.empty()) return "";
  std::string html = "<h2>Training</h2>\n<div class=\"pair\">\n" + charts + "</div>\n";
  return report.epochs.empty() ? html : html + render_epoch_table(report);
}

/// Right answers and the most frequent mistake of one class.
struct ClassResult {
  std::size_t label = 0, taken_for = 0;
  std::int64_t images = 0, right = 0, mistakes = 0;
  double accuracy() const {
    return images > 0 ? static_cast<double>(right) / static_cast<double>(images) : 0;
  }
};

std::vector<ClassResult> class_results(const std::vector<std::int64_t>& confusion,
                                       std::size_t classes) {
  std::vector<ClassResult> results;
  for (std::size_t label = 0; label < classes; ++label) {
    ClassResult result;
    result.label = label;
    for (std::size_t i = 0; i < classes; ++i) {
      const std::int64_t count = confusion[label * classes + i];
      result.images += count;
      if (i == label) {
        result.right = count;
      } else if (count > result.mistakes) {
        result.mistakes = count;
        result.taken_for = i;
      }
    }
    if (result.images > 0) results.push_back(result);
  }
  return results;
}

std::string class_name(const Report& report, std::size_t index) {
  return index < report.class_names.size() ? report.class_names[index] : std::to_string(index);
}

std::string render_classes(const Report& report, std::vector<ClassResult> results) {
  std::string caption = "Accuracy by class";
  if (results.size() > kMostNumberedClasses) {
    std::stable_sort(
        results.begin(), results.end(),
        [](const ClassResult& a, const ClassResult& b) { return a.accuracy() < b.accuracy(); });
    results.resize(kMostNumberedClasses);
    caption = "The hardest classes";
  }
  std::string rows =
      "<tr><th>class</th><th class=\"left\">accuracy</th><th></th><th>images</th>"
      "<th class=\"left\">most often taken for</th></tr>\n";
  for (const ClassResult& result : results) {
    std::string mistake;
    if (result.mistakes > 0) {
      mistake = escape_html(class_name(report, result.taken_for)) + " <small>" +
                format_count(result.mistakes) + (result.mistakes == 1 ? " time" : " times") +
                "</small>";
    }
    rows += "<tr><td>" + escape_html(class_name(report, result.label)) + "</td>" +
            bar_cell(result.accuracy()) + "<td>" + fraction(result.accuracy()) + "</td><td>" +
            format_count(result.images) + "</td><td class=\"left\">" + mistake + "</td></tr>\n";
  }
  return "<figure class=\"classes\"><figcaption><b>" + caption + "</b></figcaption>\n" +
         table(rows) + "</figure>\n";
}

std::string render_mistakes(const Report& report) {
  if (report.confusion.empty()) return "";
  const auto classes = static_cast<std::size_t>(
      std::llround(std::sqrt(static_cast<double>(report.confusion.size()))));
  if (classes * classes != report.confusion.size()) {
    throw BadInput("report: confusion has " + std::to_string(report.confusion.size()) +
                   " entries, expected the square of the number of classes");
  }
  const std::vector<ClassResult> results = class_results(report.confusion, classes);
  std::int64_t images = 0, right = 0;
  for (const ClassResult& result : results) {
    images += result.images;
    right += result.right;
  }
  if (images == 0) return "";
  std::vector<std::string> names;
  for (std::size_t i = 0; i < classes; ++i) names.push_back(class_name(report, i));
  constexpr std::size_t kMostSideBySide = 12;
  const bool large = classes > kMostSideBySide && classes <= kMostNumberedClasses;
  const double share = static_cast<double>(right) / static_cast<double>(images);
  return section_heading("Right and wrong",
                         format_count(right) + " of " + format_count(images) +
                             " test images are recognised (" + fraction(share) +
                             "). The stronger the shade, the larger the share of its "
                             "class; mistakes are drawn in red.") +
         "<div class=\"pair" + (large ? " stacked" : "") +
         "\">\n<figure><figcaption><b>Confusion matrix</b></figcaption>\n"
         "<div class=\"scroll\">" +
         render_confusion(report.confusion, names) + "</div></figure>\n" +
         render_classes(report, results) + "</div>\n";
}

std::string render_examples(const Report& report) {
  if (report.misclassified.empty()) return "";
  constexpr std::int64_t kLargestPixelated = 64;
  std::string html = section_heading("Misclassified",
                                     "Test images with their label, the prediction and "
                                     "the probability given to it.") +
                     "<div class=\"examples\">\n";
  for (const Misclassified& example : report.misclassified) {
    const auto name = [&](std::int64_t index) {
      return index < 0 ? std::to_string(index)
                       : escape_html(class_name(report, static_cast<std::size_t>(index)));
    };
    const std::string label = name(example.label), predicted = name(example.predicted);
    const bool small = example.image.width <= kLargestPixelated;
    html += "<figure><img " + std::string(small ? "class=\"small\" " : "") + "alt=\"" + label +
            ", taken for " + predicted + "\" src=\"" + png_data_uri(example.image) +
            "\"><figcaption>" + label + " → <em>" + predicted + "</em> <small>" +
            fraction(example.probability) + "</small></figcaption></figure>\n";
  }
  return html + "</div>\n";
}

std::string render_profile(const Report& report) {
  double total = 0, longest = 0, flops = 0;
  for (const ProfileRow& operation : report.profile) {
    total += operation.seconds;
    longest = std::max(longest, operation.seconds);
    flops += operation.flops;
  }
  if (!(total > 0)) return "";
  std::string rows =
      "<tr><th>operation</th><th class=\"left\">share of the time</th><th></th><th>seconds</th>"
      "<th>calls</th><th>GFLOP/s</th><th>GB/s</th></tr>\n";
  for (const ProfileRow& operation : report.profile) {
    const auto rate = [&](double amount) {
      if (!(operation.seconds > 0 && amount > 0)) return std::string("–");
      return format_double("%.1f", amount / operation.seconds * 1e-9);
    };
    rows += "<tr><td><code>" + escape_html(operation.name) + "</code></td>" +
            bar_cell(operation.seconds / longest) + "<td>" + fraction(operation.seconds / total) +
            "</td><td>" + format_double("%.3f", operation.seconds) + "</td><td>" +
            format_count(operation.calls) + "</td><td>" + rate(operation.flops) + "</td><td>" +
            rate(operation.bytes) + "</td></tr>\n";
  }
  const std::string sum = "Training by operation, " + format_duration(total) + " of the device, " +
                          format_double("%.1f", flops / total * 1e-9) +
                          " GFLOP/s on average. What ran side by side shares the seconds.";
  return section_heading("Where the time went", sum) + table(rows);
}

std::string render_setting(const Report& report) {
  std::string facts, config;
  for (const auto& [name, value] : report.facts) {
    facts += row({escape_html(name), escape_html(value)});
  }
  if (!facts.empty()) {
    facts = "<div><h2>Facts</h2>\n<table class=\"facts\">\n" + facts + "</table></div>\n";
  }
  if (!report.config.empty()) {
    config = "<div><h2>Configuration</h2>\n<pre>" + escape_html(report.config) + "</pre></div>\n";
  }
  if (facts.empty() && config.empty()) return "";
  return "<div class=\"pair\">\n" + facts + config + "</div>\n";
}

}  // namespace

std::string render_report(const Report& report) {
  return html_page(report.title, kReportStyle,
                   render_head(report) + render_curves(report) + render_mistakes(report) +
                       render_examples(report) + render_augmentation(report) +
                       render_attention(report) + render_positions(report) +
                       render_profile(report) + render_setting(report));
}

}  // namespace vitrine
