// Writing and reading checkpoint directories.
//
// A checkpoint is complete before any name points at it: files and directory are flushed first,
// then the symbolic link is replaced by one rename. What no name points at is dropped afterwards.
#include "vitrine/checkpoint.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <system_error>

#include "io/files.h"
#include "io/json_fields.h"
#include "io/one_line.h"
#include "model/foreign_config.h"
#include "vitrine/exchange.h"
#include "vitrine/safetensors.h"

namespace vitrine {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using nlohmann::ordered_json;

constexpr const char* kWeightsFile = "model.safetensors";
constexpr const char* kAverageFile = "ema.safetensors";
constexpr const char* kStateFile = "trainer_state.json";
constexpr const char* kFirstMoment = "first_moment.";
constexpr const char* kSecondMoment = "second_moment.";

/// A number that older files lack, and that a NaN leaves out.
struct Optional {};
constexpr Optional kOptional;

template <typename Visitor, typename Record>
void fields(Visitor&& visit,
            Record& r) requires std::is_same_v<std::remove_const_t<Record>, EpochRecord> {
  visit("epoch", r.epoch);
  visit("step", r.step);
  visit("train_loss", r.train_loss);
  visit("train_top1", r.train_top1);
  visit("test_loss", r.test_loss);
  visit("test_top1", r.test_top1);
  visit("test_top5", r.test_top5);
  visit("learning_rate", r.learning_rate);
  visit("seconds", r.seconds);
  visit("images_per_second", r.images_per_second);
  visit("skipped_steps", r.skipped_steps);
  visit("data_seconds", r.data_seconds, kOptional);
  visit("ema_loss", r.ema_loss, kOptional);
  visit("ema_top1", r.ema_top1, kOptional);
  visit("ema_top5", r.ema_top5, kOptional);
}

template <typename Visitor, typename Record>
void fields(Visitor&& visit,
            Record& r) requires std::is_same_v<std::remove_const_t<Record>, StepRecord> {
  visit("step", r.step);
  visit("loss", r.loss);
  visit("learning_rate", r.learning_rate);
}

template <typename Visitor, typename Record>
void fields(Visitor&& visit,
            Record& r) requires std::is_same_v<std::remove_const_t<Record>, Metrics> {
  visit("loss", r.loss);
  visit("batch_loss", r.batch_loss);
  visit("samples", r.samples);
  visit("top1", r.top1);
  visit("top5", r.top5);
}

template <typename Visitor, typename State>
void fields(Visitor&& visit,
            State& s) requires std::is_same_v<std::remove_const_t<State>, TrainerState> {
  visit("step", s.step);
  visit("epoch", s.epoch);
  visit("step_in_epoch", s.step_in_epoch);
  visit("adam_step", s.optimizer.adam_step);
  visit("skipped_steps", s.optimizer.skipped_steps);
  visit("gradient_norm", s.optimizer.gradient_norm);
  visit("epoch_seconds", s.epoch_seconds);
  visit("epoch_data_seconds", s.epoch_data_seconds, kOptional);
  visit("tuning", s.tuning);
  visit("metrics", s.metrics);
  visit("epochs", s.epochs);
  visit("steps", s.steps);
}

/// JSON has no NaN and no infinity; a diverged run's numbers are written as text.
struct Writer {
  ordered_json& document;

  void operator()(const char* key, std::int64_t number) { document[key] = number; }
  void operator()(const char* key, double number) {
    if (std::isfinite(number)) {
      document[key] = number;
    } else {
      document[key] = std::isnan(number) ? "nan" : number > 0 ? "inf" : "-inf";
    }
  }
  void operator()(const char* key, double number, Optional) {
    if (!std::isnan(number)) (*this)(key, number);
  }
  void operator()(const char* key, const std::string& text) { document[key] = text; }
  template <typename Record>
  void operator()(const char* key, const std::vector<Record>& records) {
    document[key] = ordered_json::array();
    for (const Record& record : records) {
      fields(Writer{document[key].emplace_back(ordered_json::object())}, record);
    }
  }
};

struct Reader {
  const json& document;
  const std::string& source;

  const json& at(const char* key) const {
    const auto found = document.find(key);
    if (found == document.end()) {
      throw BadInput(source + ": " + key + ": found nothing, expected a value");
    }
    return *found;
  }
  [[noreturn]] void fail(const char* key, const char* expected) const {
    throw BadInput(source + ": " + key + ": found " + at(key).dump() + ", expected " + expected);
  }
  void operator()(const char* key, std::int64_t& number) const {
    if (!at(key).is_number_integer()) fail(key, "a whole number");
    number = at(key).get<std::int64_t>();
  }
  void operator()(const char* key, double& number) const {
    const json& found = at(key);
    if (found.is_number()) {
      number = found.get<double>();
    } else if (found.is_string() && (found == "nan" || found == "inf" || found == "-inf")) {
      number = std::stod(found.get<std::string>());
    } else {
      fail(key, "a number");
    }
  }
  void operator()(const char* key, double& number, Optional) const {
    if (document.contains(key)) (*this)(key, number);
  }
  void operator()(const char* key, std::string& text) const {
    if (!document.contains(key)) return;
    if (!at(key).is_string()) fail(key, "a text");
    text = at(key).get<std::string>();
  }
  template <typename Record>
  void operator()(const char* key, std::vector<Record>& records) const {
    if (!at(key).is_array()) fail(key, "a list");
    for (const json& element : at(key)) {
      fields(Reader{element, source}, records.emplace_back());
    }
  }
};

std::string pointed_at(const fs::path& link) {
  std::error_code error;
  const fs::path target = fs::read_symlink(link, error);
  return error ? "" : target.string();
}

std::set<std::string> pointed_at_by_any(const fs::path& run) {
  return {pointed_at(run / "last"), pointed_at(run / "best")};
}

// "step-120", or "step-120-1" when a name still points at an older checkpoint of that step.
std::string fresh_name(const fs::path& run, std::int64_t step) {
  const std::set<std::string> taken = pointed_at_by_any(run);
  std::string name = "step-" + std::to_string(step);
  for (int i = 1; taken.contains(name); ++i) {
    name = "step-" + std::to_string(step) + "-" + std::to_string(i);
  }
  return name;
}

void remove_unnamed(const fs::path& run) {
  const std::set<std::string> named = pointed_at_by_any(run);
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(run, error)) {
    const std::string name = entry.path().filename().string();
    const bool checkpoint = name.starts_with("step-") && entry.is_directory(error);
    if (checkpoint && !named.contains(name)) fs::remove_all(entry.path(), error);
  }
}

void write_optimizer(const fs::path& file, const Plan& plan, const TensorViews& tensors) {
  std::vector<SafetensorsTensor> list = named_tensors(plan, tensors.first_moment, kFirstMoment);
  const auto second = named_tensors(plan, tensors.second_moment, kSecondMoment);
  list.insert(list.end(), second.begin(), second.end());
  write_safetensors(file, list);
}

std::vector<float> load_flat(const SafetensorsFile& file, const Plan& plan,
                             const std::string& prefix) {
  std::vector<float> flat(static_cast<std::size_t>(plan.parameter_elements()), 0.0f);
  const std::vector<Parameter>& parameters = plan.graph().parameters();
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const std::vector<float> numbers =
        file.read_f32(prefix + parameters[i].name, parameters[i].shape);
    std::copy(numbers.begin(), numbers.end(),
              flat.begin() + plan.parameter_offset(static_cast<int>(i)));
  }
  return flat;
}

/// Of a run its last checkpoint; anything else is one itself.
fs::path checkpoint_of(const fs::path& path) {
  const bool is_run = !fs::exists(path / kWeightsFile) && fs::exists(path / "last");
  return is_run ? path / "last" : path;
}

}  // namespace

ordered_json to_json(const EpochRecord& record) {
  ordered_json document;
  fields(Writer{document}, record);
  return document;
}

std::vector<SafetensorsTensor> named_tensors(const Plan& plan, const float* flat,
                                             const std::string& prefix) {
  std::vector<SafetensorsTensor> list;
  const std::vector<Parameter>& parameters = plan.graph().parameters();
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    list.push_back({prefix + parameters[i].name, DType::f32, parameters[i].shape,
                    flat + plan.parameter_offset(static_cast<int>(i))});
  }
  return list;
}

void save_checkpoint(const fs::path& run, const RunConfig& config, const Plan& plan,
                     const TensorViews& tensors, const TrainerState& state,
                     const std::vector<std::string>& names) {
  const std::string name = fresh_name(run, state.step);
  const fs::path directory = run / name;
  std::error_code error;
  fs::remove_all(directory, error);
  if (!fs::create_directories(directory, error)) {
    throw IoError(directory.string() + ": cannot create: " + error.message());
  }
  try {
    ordered_json document;
    fields(Writer{document}, state);
    document["recipe"] = recipe_json(config.recipe);
    document["preset"] = config.preset;
    write_safetensors(directory / kWeightsFile, named_tensors(plan, tensors.weights));
    write_optimizer(directory / "optimizer.safetensors", plan, tensors);
    if (tensors.ema != nullptr) {
      write_safetensors(directory / kAverageFile, named_tensors(plan, tensors.ema));
    }
    write_file(directory / "config.json", json_text(model_json(config), 2) + "\n");
    write_file(directory / kStateFile, json_text(document, 1) + "\n");
    sync_directory(directory);
    sync_directory(run);
  } catch (...) {
    fs::remove_all(directory, error);
    throw;
  }
  for (const std::string& link : names) replace_symlink(name, run / link);
  remove_unnamed(run);
}

void check_same_model(const Checkpoint& checkpoint, const RunConfig& config) {
  constexpr std::array kMayDiffer = {"hidden_dropout_prob",
                                     "attention_probs_dropout_prob",
                                     "activation_dropout_prob",
                                     "embedding_dropout_prob",
                                     "drop_path_rate",
                                     "drop_path_subset",
                                     "initializer_range",
                                     "init",
                                     "embedding_init",
                                     "patch_init_normal",
                                     "head_init",
                                     "id2label"};
  const ordered_json before = model_json(checkpoint.config), now = model_json(config);
  for (const auto& [key, value] : before.items()) {
    const bool may_differ = std::count(kMayDiffer.begin(), kMayDiffer.end(), key) > 0;
    if (may_differ || now.at(key) == value) continue;
    throw BadInput(key + ": found " + now.at(key).dump() + ", expected " + value.dump() +
                   " as in the checkpoint " + one_line(checkpoint.directory.string()));
  }
}

Checkpoint read_checkpoint(const fs::path& path) {
  Checkpoint checkpoint;
  checkpoint.directory = checkpoint_of(path);
  const fs::path config = checkpoint.directory / "config.json";
  const fs::path preprocessor = checkpoint.directory / kPreprocessorFile;
  const fs::path state = checkpoint.directory / kStateFile;
  if (!fs::exists(config)) {
    throw BadInput(path.string() + ": found no config.json, expected a checkpoint or a run");
  }
  std::error_code error;
  const fs::path resolved = fs::canonical(checkpoint.directory, error);
  if (!error) checkpoint.directory = resolved;
  read_json_file(config.string(), checkpoint.config);
  if (fs::exists(preprocessor)) read_preprocessor_file(preprocessor, checkpoint.config);
  if (!fs::exists(state)) return checkpoint;
  const std::string source = state.string();
  const json document = parse_json(read_file(state), source);
  if (!document.is_object()) throw BadInput(source + ": expected a JSON object");
  fields(Reader{document, source}, checkpoint.state);
  if (document.contains("recipe")) {
    read_json(document["recipe"], source + ": recipe", checkpoint.config);
  }
  if (document.contains("preset") && document["preset"].is_string()) {
    checkpoint.config.preset = document["preset"].get<std::string>();
  }
  return checkpoint;
}

Checkpoint open_checkpoint(const fs::path& path) {
  Checkpoint checkpoint = read_checkpoint(path);
  const fs::path directory = checkpoint_of(path), state = directory / kStateFile;
  const std::string config = directory / "config.json";
  validate(checkpoint.config.model, config);
  validate(checkpoint.config.recipe, fs::exists(state) ? state.string() + ": recipe" : config);
  return checkpoint;
}

fs::path weights_file(const fs::path& path) {
  if (fs::is_regular_file(path)) return path;
  if (!fs::exists(path)) throw BadInput(one_line(path.string()) + ": no such file or directory");
  const fs::path file = checkpoint_of(path) / kWeightsFile;
  if (!fs::exists(file)) {
    throw BadInput(one_line(path.string()) + ": found no " + kWeightsFile +
                   ", expected a safetensors file, a checkpoint, a run or an export");
  }
  return file;
}

fs::path weights_file(const Checkpoint& checkpoint, Weights weights) {
  if (weights == Weights::trained) return weights_file(checkpoint.directory);
  const fs::path file = checkpoint.directory / kAverageFile;
  if (fs::exists(file)) return file;
  throw BadInput(one_line(checkpoint.directory.string()) + ": found no " + kAverageFile +
                 ", expected a run or checkpoint trained with model_ema");
}

std::vector<float> load_weights(const fs::path& file, const VitConfig& config, const Plan& plan) {
  std::vector<float> flat(static_cast<std::size_t>(plan.parameter_elements()), 0.0f);
  read_weights(file, config, plan, {}, flat);
  return flat;
}

Tensors load_tensors(const Checkpoint& checkpoint, const Plan& plan) {
  const SafetensorsFile moments(checkpoint.directory / "optimizer.safetensors");
  const fs::path weights = checkpoint.directory / kWeightsFile;
  Tensors tensors{.weights = load_weights(weights, checkpoint.config.model, plan),
                  .first_moment = load_flat(moments, plan, kFirstMoment),
                  .second_moment = load_flat(moments, plan, kSecondMoment)};
  const fs::path average = checkpoint.directory / kAverageFile;
  if (fs::exists(average)) tensors.ema = load_weights(average, checkpoint.config.model, plan);
  return tensors;
}

}  // namespace vitrine
