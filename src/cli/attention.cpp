// vitrine attention: where a checkpoint's model looks, as pictures.
#include <algorithm>
#include <charconv>
#include <filesystem>
#include <memory>
#include <set>
#include <sstream>

#include "cli/commands.h"
#include "cli/flags.h"
#include "cli/predictions.h"
#include "io/files.h"
#include "io/one_line.h"
#include "train/image_pass.h"
#include "vitrine/exchange.h"
#include "vitrine/safetensors.h"
#include "vitrine/trainer.h"

namespace vitrine {
namespace {

namespace fs = std::filesystem;

struct Options {
  ConfigFlags flags;
  std::string checkpoint, test_images, dump;
  std::vector<std::string> images;
  std::string output = "attention";
  int top_k = 5;
  bool only_sheet = false, json = false;
  DeviceOptions device;
  Weights weights = Weights::trained;
};

/// An image that the model is shown.
struct Subject {
  std::string title;       ///< what is printed of it
  std::string name;        ///< of its directory
  std::string true_class;  ///< of a test image
  Image image;
};

/// What is known of it afterwards; `maps` only where they are dumped.
struct Seen {
  std::vector<Prediction> predictions;
  AttentionMaps maps;
  std::vector<float> rollout;
};

/// Files below the output directory, in memory until all are there.
struct Outputs {
  std::vector<std::pair<fs::path, std::vector<std::uint8_t>>> files;

  void add(const fs::path& path, const Image& image) {
    files.emplace_back(path, encode_png(image));
  }
};

/// "a" → "a", "a-2", …: the first that is free.
std::string free_name(const std::string& wanted, std::set<std::string>& taken) {
  std::string name = wanted;
  for (int i = 2; !taken.insert(name).second; ++i) name = wanted + "-" + std::to_string(i);
  return name;
}

// "0,5,17"
std::vector<std::int64_t> numbers_of(const std::string& list, std::int64_t images) {
  std::vector<std::int64_t> numbers;
  std::istringstream words(list + ",");
  for (std::string word; std::getline(words, word, ',');) {
    std::int64_t number = -1;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), number);
    if (error != std::errc() || end != word.data() + word.size() || number < 0 ||
        number >= images) {
      throw BadInput("--test-images: found \"" + one_line(word) +
                     "\", expected numbers from 0 to " + std::to_string(images - 1) +
                     " with commas between them");
    }
    numbers.push_back(number);
  }
  return numbers;
}

std::vector<Subject> read_subjects(const Options& options, const RunConfig& config) {
  std::vector<Subject> subjects;
  std::set<std::string> taken = {"positions.png", "position-similarity.png"};
  for (const std::string& file : options.images) {
    std::string stem = fs::path(file).stem().string();
    if (stem == "." || stem == "..") stem = "image";
    subjects.push_back({.title = file,
                        .name = free_name(stem, taken),
                        .true_class = "",
                        .image = evaluation_image(config, fs::path(file))});
  }
  if (options.test_images.empty()) return subjects;
  const Dataset data = load_data(config, Split::test);
  check_data(config, data);
  for (const std::int64_t i : numbers_of(options.test_images, data.size())) {
    const std::string number = std::to_string(i);
    const auto label = static_cast<std::size_t>(data.labels[static_cast<std::size_t>(i)]);
    subjects.push_back({.title = "test image " + number,
                        .name = free_name("test-" + number, taken),
                        .true_class = data.class_names[label],
                        .image = evaluation_image(config, data, i)});
  }
  return subjects;
}

void check_output(const fs::path& output, const std::vector<Subject>& subjects) {
  const auto check = [](const fs::path& path) {
    std::error_code none;
    if (fs::exists(path, none) && !fs::is_directory(path, none)) {
      throw BadInput("--output: found the file " + one_line(path.string()) +
                     ", expected a directory");
    }
  };
  if (output.empty()) throw BadInput("--output: found an empty name, expected a directory");
  for (fs::path above = output; !above.empty(); above = above.parent_path()) {
    check(above);
    if (above == above.parent_path()) break;
  }
  for (const Subject& subject : subjects) check(output / subject.name);
}

// "layer-03-head-11.png": as many digits as the largest number has, at least two.
std::string map_name(std::int64_t layer, std::int64_t head, const AttentionMaps& maps) {
  constexpr std::size_t kFewestDigits = 2;
  const auto padded = [&](std::int64_t number, std::int64_t largest) {
    const std::string digits = std::to_string(number);
    const std::size_t width = std::max(kFewestDigits, std::to_string(largest).size());
    return std::string(width - digits.size(), '0') + digits;
  };
  return "layer-" + padded(layer + 1, maps.layers) + "-head-" + padded(head + 1, maps.heads) +
         ".png";
}

void draw(const Subject& subject, const AttentionMaps& maps, const std::vector<float>& rollout,
          const VitConfig& model, bool only_sheet, Outputs& outputs) {
  const fs::path directory = subject.name;
  outputs.add(directory / "sheet.png", attention_sheet(subject.image, maps, model));
  if (only_sheet) return;
  const auto add = [&](const std::string& name, const float* map) {
    outputs.add(directory / name,
                attention_overlay(subject.image, patch_attention(model, map), model));
  };
  add("rollout.png", rollout.data());
  add("mean.png", mean_over_heads(maps, maps.layers - 1).data());
  for (std::int64_t layer = 0; layer < maps.layers; ++layer) {
    for (std::int64_t head = 0; head < maps.heads; ++head) {
      add(map_name(layer, head, maps), maps.map(layer, head));
    }
  }
}

void draw_positions(const VitConfig& model, const std::vector<float>& positions, Outputs& outputs) {
  if (positions.empty()) return;
  outputs.add("positions.png", position_table(positions, model.hidden_size));
  outputs.add("position-similarity.png", position_similarity(model, positions));
}

void write_dump(const fs::path& path, const std::vector<Subject>& subjects,
                const std::vector<Seen>& seen) {
  std::vector<SafetensorsTensor> tensors;
  for (std::size_t i = 0; i < seen.size(); ++i) {
    const AttentionMaps& maps = seen[i].maps;
    const std::int64_t t = maps.tokens;
    const std::string& name = subjects[i].name;
    const auto classes = static_cast<std::int64_t>(maps.class_probabilities.size());
    tensors.push_back({name + ".attention", DType::f32, Shape{maps.layers, maps.heads, t, t},
                       maps.probabilities.data()});
    tensors.push_back({name + ".rollout", DType::f32, Shape{t, t}, seen[i].rollout.data()});
    tensors.push_back(
        {name + ".probabilities", DType::f32, Shape{classes}, maps.class_probabilities.data()});
  }
  write_safetensors(path, tensors);
}

// Whether all can be written, as far as one can know before.
void check_files(const fs::path& directory, const fs::path& dump, const Outputs& outputs) {
  std::error_code none;
  for (const auto& [name, png] : outputs.files) {
    const fs::path path = directory / name;
    if (fs::is_directory(path, none)) {
      throw BadInput(one_line(path.string()) + ": found a directory, expected a file or nothing");
    }
    if (!dump.empty() && fs::weakly_canonical(dump, none) == fs::weakly_canonical(path, none)) {
      throw BadInput("--dump: found " + one_line(dump.string()) +
                     ", which is one of the pictures, expected another file");
    }
  }
}

// Maps of another model that was drawn here before.
void remove_old_maps(const fs::path& directory) {
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory, error)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("layer-") && name.ends_with(".png")) fs::remove(entry.path(), error);
  }
}

void write_outputs(const fs::path& directory, const Outputs& outputs,
                   const std::vector<Subject>& subjects) {
  for (const Subject& subject : subjects) remove_old_maps(directory / subject.name);
  for (const auto& [name, png] : outputs.files) {
    const fs::path path = directory / name;
    std::error_code error;
    fs::create_directories(path.parent_path(), error);
    if (error) throw IoError(path.parent_path().string() + ": cannot create: " + error.message());
    write_file(path, {reinterpret_cast<const char*>(png.data()), png.size()});
  }
}

void print_text(const Options& options, const VitConfig& model,
                const std::vector<Subject>& subjects, const std::vector<Seen>& seen,
                bool positions) {
  const fs::path output = options.output;
  std::printf(
      "Rows of a sheet: layers 1 to %lld, the first on top. Columns: heads 1 to %lld, their mean, "
      "and the rollout up to that layer.\n",
      static_cast<long long>(model.num_hidden_layers),
      static_cast<long long>(model.num_attention_heads));
  for (std::size_t i = 0; i < subjects.size(); ++i) {
    const Subject& subject = subjects[i];
    std::printf("%s%s\n", one_line(subject.title).c_str(),
                subject.true_class.empty() ? "" : (" (true " + subject.true_class + ")").c_str());
    print_predictions(seen[i].predictions);
    std::printf("  Sheet: %s\n", (output / subject.name / "sheet.png").c_str());
  }
  if (positions) {
    std::printf("Position embeddings: %s\nTheir similarity: %s\n",
                (output / "positions.png").c_str(), (output / "position-similarity.png").c_str());
  }
}

nlohmann::ordered_json json_of(const Options& options, const std::vector<Subject>& subjects,
                               const std::vector<Seen>& seen, const Outputs& outputs) {
  const fs::path output = options.output;
  // The files of one image, or (name "") those of the model.
  const auto files_of = [&](const fs::path& name) {
    nlohmann::ordered_json files = nlohmann::ordered_json::array();
    for (const auto& [path, png] : outputs.files) {
      if (path.parent_path() == name) files.push_back((output / path).string());
    }
    return files;
  };
  nlohmann::ordered_json images = nlohmann::ordered_json::array();
  for (std::size_t i = 0; i < subjects.size(); ++i) {
    nlohmann::ordered_json image = {{"image", subjects[i].title}};
    if (!subjects[i].true_class.empty()) image["true_class"] = subjects[i].true_class;
    image["predictions"] = to_json(seen[i].predictions);
    image["files"] = files_of(subjects[i].name);
    images.push_back(image);
  }
  return {{"images", images}, {"files", files_of("")}};
}

int look(Device& device, const Options& options, Checkpoint& checkpoint,
         const std::vector<Subject>& subjects) {
  const RunConfig& config = checkpoint.config;
  options.flags.fit_precision(checkpoint.config, device.traits());
  const Plan plan = weights_plan(config, device.traits());
  const std::vector<float> weights =
      load_weights(weights_file(checkpoint, options.weights), config.model, plan);
  const Buffer on_device = share_weights(device, plan, weights);
  ImagePass pass(device, config, /*attention=*/true);
  std::vector<Seen> all;
  Outputs outputs;
  for (const Subject& subject : subjects) {
    if (interrupted) return kInterrupted;
    AttentionMaps maps = pass.run(on_device.data(), subject.image);
    Seen seen{.predictions = top_predictions(config, maps.class_probabilities, options.top_k)};
    seen.rollout = attention_rollout(maps);
    draw(subject, maps, seen.rollout, config.model, options.only_sheet, outputs);
    if (!options.dump.empty()) seen.maps = std::move(maps);
    all.push_back(std::move(seen));
  }
  const std::vector<float> positions = patch_positions(config.model, plan, weights);
  draw_positions(config.model, positions, outputs);
  check_files(options.output, options.dump, outputs);
  if (!options.dump.empty()) write_dump(options.dump, subjects, all);
  write_outputs(options.output, outputs, subjects);
  if (options.json) {
    print_json(json_of(options, subjects, all, outputs));
  } else {
    print_text(options, config.model, subjects, all, !positions.empty());
  }
  return 0;
}

int attention(const Options& options) {
  Checkpoint checkpoint = open_checkpoint(options.checkpoint);
  options.flags.override(checkpoint.config);
  if (options.images.empty() && options.test_images.empty()) {
    throw BadInput("attention: found no image, expected files or --test-images");
  }
  if (checkpoint.config.model.num_hidden_layers == 0) {
    throw BadInput(options.checkpoint +
                   ": num_hidden_layers: found 0, expected a model with attention");
  }
  const std::vector<Subject> subjects = read_subjects(options, checkpoint.config);
  check_output(options.output, subjects);
  return run_on_device(options.device,
                       [&](Device& device) { return look(device, options, checkpoint, subjects); });
}

}  // namespace

Command add_attention(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("attention", "Draw where a model looks in images");
  command->add_option("checkpoint,--checkpoint", options->checkpoint, "a run or a checkpoint")
      ->required();
  command->add_option("images", options->images, "image files");
  command->add_option("--test-images", options->test_images,
                      "images of the data set's test split by number: 0,5,17");
  command->add_option("-o,--output", options->output, "directory of the pictures [attention]");
  command->add_flag("--only-sheet", options->only_sheet,
                    "of each image the contact sheet alone, not map by map");
  command->add_option("--dump", options->dump, "write the raw maps to this safetensors file");
  command->add_option("-k,--top-k", options->top_k, "classes to print [5]")
      ->check(CLI::PositiveNumber);
  options->flags.add_to(*command, {{"dataset", "data set of --test-images"},
                                   {"data_dir", "its directory"},
                                   {"precision", "fp32, tf32 or bf16"}});
  add_weights_flag(*command, options->weights);
  add_device_flags(*command, options->device);
  command->add_flag("--json", options->json, "files and predictions as JSON");
  return [options] { return attention(*options); };
}

}  // namespace vitrine
