// vitrine data inspect: classes, sizes, broken files, mean and standard deviation, and a sheet of
// pictures.
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/data_commands.h"
#include "cli/data_sources.h"
#include "cli/progress.h"
#include "data/inspect_pictures.h"
#include "io/json_fields.h"
#include "io/one_line.h"
#include "vitrine/error.h"
#include "vitrine/picture.h"

namespace vitrine {
namespace {

using Json = nlohmann::ordered_json;

struct Options {
  std::string path, data_dir = "data", sheet;
  FolderOptions folder;
  InspectOptions inspect;
  bool json = false;
};

struct Both {
  PictureInspection train, val;
};

/// Smallest, median and largest of sorted numbers.
std::array<std::int64_t, 3> range_of(const std::vector<std::int64_t>& sorted) {
  if (sorted.empty()) return {};
  return {sorted.front(), sorted[sorted.size() / 2], sorted.back()};
}

std::vector<std::int64_t> merged(const std::vector<std::int64_t>& a,
                                 const std::vector<std::int64_t>& b) {
  std::vector<std::int64_t> all;
  std::merge(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(all));
  return all;
}

template <typename Key>
std::map<Key, std::int64_t> summed(std::map<Key, std::int64_t> a,
                                   const std::map<Key, std::int64_t>& b) {
  for (const auto& [key, count] : b) a[key] += count;
  return a;
}

Json range_json(const std::vector<std::int64_t>& a, const std::vector<std::int64_t>& b) {
  const auto [low, median, high] = range_of(merged(a, b));
  return {{"min", low}, {"median", median}, {"max", high}};
}

void print_json(const PictureSplits& splits, const Options& options, const Both& both) {
  Json classes = Json::array();
  for (std::size_t i = 0; i < splits.train->class_names().size(); ++i) {
    classes.push_back({{"name", splits.train->class_names()[i]},
                       {"train", both.train.class_counts[i]},
                       {"val", both.val.class_counts[i]}});
  }
  Json channels = Json::object();
  for (const auto& [count, pictures] : summed(both.train.channels, both.val.channels)) {
    channels[std::to_string(count)] = pictures;
  }
  std::vector<std::string> broken = both.train.broken;
  broken.insert(broken.end(), both.val.broken.begin(), both.val.broken.end());
  const Json document = {{"path", options.path},
                         {"train", splits.train->size()},
                         {"val", splits.val->size()},
                         {"classes", classes},
                         {"width", range_json(both.train.widths, both.val.widths)},
                         {"height", range_json(both.train.heights, both.val.heights)},
                         {"formats", summed(both.train.formats, both.val.formats)},
                         {"channels", channels},
                         {"mean", both.train.mean},
                         {"std", both.train.std},
                         {"broken", broken}};
  std::printf("%s\n", json_text(document).c_str());
}

std::string padded(const std::string& text, std::size_t columns) {
  return text + std::string(columns - std::min(columns, utf8_length(text)), ' ');
}

void print_classes(const PictureSplits& splits, const Both& both) {
  std::vector<std::string> names;
  std::size_t columns = utf8_length("class");
  for (const std::string& name : splits.train->class_names()) {
    names.push_back(one_line(name));
    columns = std::max(columns, utf8_length(names.back()));
  }
  std::printf("%s  %9s  %9s\n", padded("class", columns).c_str(), "train", "val");
  for (std::size_t i = 0; i < names.size(); ++i) {
    std::printf("%s  %9s  %9s\n", padded(names[i], columns).c_str(),
                format_count(both.train.class_counts[i]).c_str(),
                format_count(both.val.class_counts[i]).c_str());
  }
}

void print_range(const char* name, const std::vector<std::int64_t>& sorted) {
  const auto [low, median, high] = range_of(sorted);
  std::printf("%-8s  %7s  %7s  %7s\n", name, format_count(low).c_str(),
              format_count(median).c_str(), format_count(high).c_str());
}

void print_numbers(const char* name, const std::vector<double>& numbers) {
  std::printf("%-8s", name);
  for (const double number : numbers) std::printf("  %.4f", number);
  std::printf("\n");
}

void print_text(const PictureSplits& splits, const Options& options, const Both& both) {
  std::printf("%s: %s classes, %s training and %s validation pictures\n\n",
              one_line(options.path).c_str(),
              format_count(static_cast<std::int64_t>(splits.train->class_names().size())).c_str(),
              format_count(splits.train->size()).c_str(), format_count(splits.val->size()).c_str());
  print_classes(splits, both);
  std::printf("\n%-8s  %7s  %7s  %7s\n", "size", "min", "median", "max");
  print_range("width", merged(both.train.widths, both.val.widths));
  print_range("height", merged(both.train.heights, both.val.heights));
  std::printf("\n");
  for (const auto& [format, count] : summed(both.train.formats, both.val.formats)) {
    std::printf("%-8s  %7s\n", format.c_str(), format_count(count).c_str());
  }
  for (const auto& [channels, count] : summed(both.train.channels, both.val.channels)) {
    const char* kind = channels == 1 ? "grey" : channels == 3 ? "colour" : "CMYK";
    std::printf("%-8s  %7s\n", kind, format_count(count).c_str());
  }
  if (!both.train.mean.empty()) {
    std::printf("\nof the training pixels in [0, 1]\n");
    print_numbers("mean", both.train.mean);
    print_numbers("std", both.train.std);
  }
  const std::size_t broken = both.train.broken.size() + both.val.broken.size();
  std::printf("\n%s broken\n", format_count(static_cast<std::int64_t>(broken)).c_str());
  for (const PictureInspection* split : {&both.train, &both.val}) {
    for (const std::string& message : split->broken) std::printf("  %s\n", message.c_str());
  }
}

/// Nothing when Ctrl-C ended it.
std::optional<Both> look(const PictureSplits& splits, const Options& options) {
  Progress progress(stderr, !options.json && isatty(STDERR_FILENO) != 0);
  progress.begin("Inspecting", splits.train->size() + splits.val->size());
  const auto observer = [&](std::int64_t before) {
    return [&progress, before](std::int64_t done) {
      progress.update(before + done, "");
      return !interrupted;
    };
  };
  auto train = inspect_pictures(*splits.train, options.inspect, observer(0));
  if (!train) return std::nullopt;
  auto val = inspect_pictures(*splits.val, options.inspect, observer(splits.train->size()));
  if (!val) return std::nullopt;
  progress.end("");
  return Both{std::move(*train), std::move(*val)};
}

int inspect(const Options& options) {
  const PictureSplits splits = open_picture_splits(options.path, options.data_dir, options.folder);
  const std::optional<Both> both = look(splits, options);
  if (!both) return kInterrupted;
  if (!options.sheet.empty()) {
    const auto sheet = picture_sheet(*splits.train, [] { return !interrupted; });
    if (!sheet) return kInterrupted;
    write_png(options.sheet, *sheet);
  }
  options.json ? print_json(splits, options, *both) : print_text(splits, options, *both);
  for (const std::string& refusal : {both->train.refusal, both->val.refusal}) {
    if (!refusal.empty()) throw BadInput(one_line(options.path) + ": " + refusal);
  }
  return 0;
}

}  // namespace

Command add_data_inspect(CLI::App& data) {
  auto options = std::make_shared<Options>();
  CLI::App* command = data.add_subcommand(
      "inspect", "Classes, sizes, broken files, mean and standard deviation of a data set");
  command->add_option("PATH", options->path, "folder, packed file, or the name of a data set")
      ->required();
  command->add_option("--data-dir", options->data_dir, "directory of a named data set's files")
      ->capture_default_str();
  command->add_flag("--headers-only", options->inspect.headers_only,
                    "read headers, decode nothing: quick, but damage further on stays hidden");
  command->add_option("--sheet", options->sheet, "PNG with a few pictures of each class");
  add_folder_flags(*command, options->folder);
  command->add_option("-j,--workers", options->inspect.workers, "threads; 0: one a core")
      ->check(CLI::NonNegativeNumber);
  command->add_flag("--json", options->json, "one line of JSON");
  return [options] { return inspect(*options); };
}

}  // namespace vitrine
