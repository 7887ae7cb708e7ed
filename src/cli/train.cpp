// vitrine train: from data to checkpoints and a report.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/fault_replay.h"
#include "cli/flags.h"
#include "cli/train_console.h"
#include "io/files.h"
#include "io/json_fields.h"
#include "io/one_line.h"
#include "io/process.h"
#include "vitrine/trainer.h"

namespace vitrine {
namespace {

namespace fs = std::filesystem;

struct Options {
  ConfigFlags flags;
  std::string output, resume;
  DeviceOptions device;
  bool json = false;
};

// runs/<preset>, runs/<preset>-2, …: the first that holds no run.
fs::path default_output(const RunConfig& config) {
  const std::string base = config.preset.empty() ? "vit" : config.preset;
  fs::path path = fs::path("runs") / base;
  for (int i = 2; fs::exists(path); ++i) path = fs::path("runs") / (base + "-" + std::to_string(i));
  return path;
}

void create_output(const fs::path& output) {
  if (fs::is_symlink(output / "last")) {
    throw BadInput("--output: found a run in " + output.string() +
                   ", expected an empty directory (or continue it with --resume " +
                   output.string() + ")");
  }
  for (const char* file : {"model.safetensors", "trainer_state.json"}) {
    if (!fs::exists(output / file)) continue;
    throw BadInput("--output: found a checkpoint in " + one_line(output.string()) +
                   ", expected an empty directory");
  }
  std::error_code error;
  fs::create_directories(output, error);
  if (error) throw IoError(output.string() + ": cannot create: " + error.message());
}

/// What a run starts from.
struct Start {
  RunConfig config;
  std::optional<Checkpoint> checkpoint;
  fs::path output;
  Adaptation adaptation = {};  ///< of the initial checkpoint's weights
};

// --epochs 0 needs no data: the untrained model as a checkpoint.
int write_untrained(Start& start, const DeviceTraits& traits, bool json) {
  auto& [config, resumed, output, adaptation] = start;
  const Plan plan = plan_vit(config.model, {.training = false}, 1, traits);
  std::optional<WeightReport> report;
  const std::vector<float> weights = start_weights(config, plan, adaptation, report);
  if (report && !report->initial.empty()) config.class_names.clear();  // the old head's
  create_output(output);
  const std::vector<float> zeros(weights.size(), 0.0f);
  const TensorViews tensors(weights.data(), zeros.data(), zeros.data());
  save_checkpoint(output, config, plan, tensors, {}, {"last"});
  const std::string checkpoint = output / "last";
  if (json) {
    std::printf("%s\n", json_text({{"checkpoint", checkpoint}}).c_str());
  } else {
    if (report) print_weights(config, *report);
    std::printf("Untrained checkpoint: %s\n", checkpoint.c_str());
  }
  return 0;
}

// What lies beside an initial checkpoint's weights.
std::optional<RunConfig> config_beside(const std::string& initial_checkpoint) {
  const fs::path weights = weights_file(initial_checkpoint);
  const fs::path directory = weights.has_parent_path() ? weights.parent_path() : ".";
  if (!fs::exists(directory / "config.json")) return {};
  RunConfig config = read_checkpoint(directory).config;
  VitConfig checked = config.model;
  if (checked.num_classes == 0) checked.num_classes = 1;  // no head: --num-classes makes one
  const std::string source = directory / "config.json";
  validate(checked, source);
  validate(config.recipe, source);
  return config;
}

// Its model, class names, normalisation, and the crop of an evaluation.
RunConfig model_of(const std::string& initial_checkpoint) {
  const std::optional<RunConfig> source = config_beside(initial_checkpoint);
  if (!source) {
    throw BadInput(initial_checkpoint +
                   ": found no config.json beside the weights, expected one, or --preset or "
                   "--config");
  }
  RunConfig config;
  config.model = source->model;
  config.class_names = source->class_names;
  config.recipe.mean = source->recipe.mean;
  config.recipe.std = source->recipe.std;
  config.recipe.crop_pct = source->recipe.crop_pct;
  config.recipe.crop_mode = source->recipe.crop_mode;
  return config;
}

Adaptation adaptation_of(const ConfigFlags& flags, const Recipe& recipe) {
  Adaptation adaptation{.new_head = flags.has("num_classes"),
                        .new_resolution = flags.has("image_size")};
  if (recipe.initial_checkpoint.empty()) return adaptation;
  if (const std::optional<RunConfig> source = config_beside(recipe.initial_checkpoint)) {
    const VitConfig& model = source->model;
    adaptation.grid =
        PatchGrid{model.image_height / model.patch_size, model.image_width / model.patch_size};
  }
  return adaptation;
}

Start start_of(const Options& options) {
  Start start{.output = options.output};
  if (!options.resume.empty()) {
    if (options.flags.has_model()) {
      throw BadInput("--resume: found --preset or --config beside it, expected neither");
    }
    if (options.flags.has("initial_checkpoint")) {
      throw BadInput("--resume: found --initial-checkpoint beside it, expected one of the two");
    }
    start.checkpoint = open_checkpoint(options.resume);
    start.config = start.checkpoint->config;
    options.flags.override(start.config);
    if (start.config.recipe.epochs == 0) {
      throw BadInput("--epochs: found 0 beside --resume, expected at least 1");
    }
    if (start.output.empty()) start.output = start.checkpoint->directory.parent_path();
    return start;
  }
  const bool of_initial =
      !options.flags.has_model() && !options.flags.text("initial_checkpoint").empty();
  if (!options.flags.has_model() && !of_initial) {
    throw BadInput(
        "train: found no model, expected --preset, --config, --initial-checkpoint or --resume");
  }
  start.config = options.flags.resolve(
      of_initial ? model_of(options.flags.text("initial_checkpoint")) : RunConfig{});
  start.adaptation = adaptation_of(options.flags, start.config.recipe);
  if (start.output.empty()) start.output = default_output(start.config);
  return start;
}

/// A run under way.
struct Session {
  Start start;
  std::unique_ptr<Device> device;
  Dataset train, test;
  std::optional<Trainer> trainer;
  std::optional<WeightReport> weights;  ///< of an initial checkpoint
  bool trained = false;                 ///< what is left is the evaluation for the report
};

void load_data(const Options& options, Session& session) {
  RunConfig& config = session.start.config;
  session.train = load_data(config, Split::train);
  session.test = load_data(config, Split::test);
  config.class_names = session.train.class_names;
  // A model that is told nothing else has as many classes as the photographs.
  const bool told = options.flags.has("num_classes") || session.start.checkpoint;
  if (session.train.pictures && !told && config.model.num_classes != session.train.num_classes()) {
    config.model.num_classes = session.train.num_classes();
    session.start.adaptation.new_head = true;
  }
}

void make_trainer(Session& session, const fs::path& output) {
  session.trainer.emplace(*session.device, session.start.config, session.train, session.test,
                          output);
}

void make_trainer(Session& session, const DeviceOptions& options) {
  try {
    make_trainer(session, session.start.output);
  } catch (const OutOfMemory& error) {
    if (options.name != "auto" || session.device->traits().name == "cpu") throw;
    session.device = make_cpu_device(options.threads);
    make_trainer(session, session.start.output);
    std::fprintf(stderr, "vitrine: using the CPU: %s\n", error.what());
  }
}

void set_start(Session& session) {
  const std::optional<Checkpoint>& checkpoint = session.start.checkpoint;
  if (checkpoint) {
    session.trainer->resume(*checkpoint);
  } else {
    session.weights = session.trainer->initialize(session.start.adaptation);
  }
}

/// Where the run is: "step 12", "the evaluation after step 12".
std::string place(const Session& session) {
  if (!session.trainer) return "the start";
  const TrainerState& state = session.trainer->state();
  const Recipe& recipe = session.start.config.recipe;
  const std::int64_t images = recipe.batch_size * recipe.grad_accum_steps;
  const std::int64_t left = session.train.size() - state.step_in_epoch * images;
  if (session.trained || left <= 0 || (recipe.drop_last && left < images)) {
    return "the evaluation after step " + std::to_string(state.step);
  }
  return "step " + std::to_string(state.step + 1);
}

int finish(const Options& options, Session& session, TrainOutcome outcome, Console& console,
           double bytes_before) {
  Trainer& trainer = *session.trainer;
  const fs::path& output = session.start.output;
  const EvaluationResult result = trainer.evaluate(/*details=*/true, console, interrupted);
  // What the plan announced; the pictures of the report come on top.
  const auto of_device = static_cast<double>(session.device->peak_bytes());
  const double peak = of_device > 0 ? of_device : process_bytes("VmHWM") - bytes_before;
  write_file(output / "report.html",
             render_report(make_report(*session.device, session.start.config, trainer, session.test,
                                       result, console)));
  if (!options.json) {
    if (result.complete) {
      std::printf("Test loss: %.2f\nTest accuracy: %.2f%%\n", result.loss, 100 * result.top1);
    }
    print_data(trainer);
    std::printf("Peak memory: %s, planned %s\n", format_bytes(peak).c_str(),
                format_bytes(static_cast<double>(trainer.planned_bytes())).c_str());
    std::printf("Checkpoint: %s\nReport: %s\n", (output / "last").c_str(),
                (output / "report.html").c_str());
  }
  if (outcome != TrainOutcome::interrupted) return 0;
  std::fprintf(stderr, "Interrupted. Continue with: vitrine train --resume %s\n", output.c_str());
  return kInterrupted;
}

int run(const Options& options, Session& session, double bytes_before) {
  const auto& [config, checkpoint, output, adaptation] = session.start;
  make_trainer(session, options.device);
  set_start(session);
  std::error_code error;
  const bool continues = checkpoint && fs::equivalent(output, checkpoint->directory / "..", error);
  if (!continues) create_output(output);
  write_file(output / "config.json", json_text(to_json(config), 2) + "\n");
  if (!options.json) {
    print_header(config, *session.trainer, *session.device, session.train, session.test, output);
    if (session.weights) print_weights(config, *session.weights);
  }
  Console console(options.json, config.recipe.epochs);
  const TrainOutcome outcome = session.trainer->run(console, interrupted);
  session.trained = true;
  return finish(options, session, outcome, console, bytes_before);
}

/// The run again from where `fault` says, at most one log interval further than it came.
std::string replay(Options options, const Fault& fault) {
  options.device.check_operations = true;
  if (options.device.name == "auto") options.device.name = "cuda";
  Session session{.start = start_of(options)};
  Recipe& recipe = session.start.config.recipe;
  if (!fault.checkpoint.empty()) session.start.checkpoint = open_checkpoint(fault.checkpoint);
  const std::int64_t last = recipe.max_steps, most = fault.step + recipe.log_interval;
  recipe.max_steps = last > 0 ? std::min(last, most) : most;
  session.device = make_device(options.device);
  load_data(options, session);
  make_trainer(session, fs::path());
  TrainObserver silent;
  try {
    set_start(session);
    const TrainOutcome outcome = session.trainer->run(silent, interrupted);
    session.trained = outcome == TrainOutcome::finished || recipe.max_steps == last;
    if (session.trained) session.trainer->evaluate(/*details=*/true, silent, interrupted);
    if (interrupted) throw Error("interrupted");
  } catch (const DeviceError& error) {
    return place(session) + ": " + error.what();
  }
  return "";
}

std::string last_checkpoint(const fs::path& output) {
  std::error_code none;
  return fs::read_symlink(output / "last", none).string();
}

int train(const Options& options) {
  if (const std::optional<Fault> fault = fault_to_find()) {
    find_fault(*fault, [&] { return replay(options, *fault); });
  }
  Session session{.start = start_of(options), .device = open_device(options.device)};
  const auto& [config, checkpoint, output, adaptation] = session.start;
  if (config.recipe.epochs == 0) {
    return write_untrained(session.start, session.device->traits(), options.json);
  }
  const double bytes_before = process_bytes("VmRSS");
  load_data(options, session);
  const std::string checkpoint_before = last_checkpoint(output);
  try {
    return run(options, session, bytes_before);
  } catch (const DeviceError& error) {
    const std::string checkpoint_now = last_checkpoint(output);
    Fault fault{.error = fault_of(*session.device), .place = place(session), .run = output};
    if (session.trainer) fault.step = session.trainer->state().step;
    if (checkpoint_now != checkpoint_before) fault.checkpoint = output / checkpoint_now;
    if (options.device.check_operations) {
      throw DeviceError(fault.place + ": " + error.what() + advice(fault));
    }
    if (!fault.error.empty()) start_replay(fault);
    throw;
  }
}

}  // namespace

Command add_train(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("train", "Train a model");
  options->flags.add_to(*command);
  command->add_option("-o,--output", options->output, "directory of the run [runs/PRESET]");
  command->add_option("--resume", options->resume, "a run or checkpoint directory to continue");
  add_device_flags(*command, options->device);
  command->add_flag("--json", options->json, "one JSON line an epoch on standard output");
  return [options] { return train(*options); };
}

}  // namespace vitrine
