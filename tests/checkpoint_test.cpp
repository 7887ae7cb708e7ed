// Checkpoints: there and back bit for bit, the names that point at them, damaged ones, and writes
// that fail.

#include "vitrine/checkpoint.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cmath>
#include <csignal>
#include <cstring>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "io/files.h"
#include "temporary_directory.h"
#include "vitrine/random.h"

namespace vitrine {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

std::uint64_t bits(double number) {
  std::uint64_t word = 0;
  std::memcpy(&word, &number, sizeof word);
  return std::isnan(number) ? 1 : word;  // one NaN is as good as another
}

RunConfig small_config() {
  RunConfig config;
  config.model = {.image_height = 8,
                  .image_width = 12,
                  .patch_size = 4,
                  .num_channels = 1,
                  .hidden_size = 12,
                  .num_hidden_layers = 2,
                  .num_attention_heads = 3,
                  .intermediate_size = 20,
                  .num_classes = 3};
  config.recipe.lr = 0.1;
  config.recipe.seed = 9;
  config.preset = "mine";
  config.class_names = {"a", "b", "c"};
  return config;
}

TrainerState some_state(std::int64_t step) {
  return {.step = step,
          .epoch = 2,
          .step_in_epoch = 3,
          .optimizer = {.adam_step = 31, .skipped_steps = 2, .gradient_norm = kInfinity},
          .metrics = {{.loss = 0.1, .batch_loss = 1.0 / 3, .samples = 5, .top1 = 4, .top5 = 5},
                      {.loss = kNan, .batch_loss = -kInfinity}},
          .epoch_seconds = 1e-300,
          .best_top1 = 0.1 + 0.2,
          .epochs = {{.epoch = 1,
                      .step = 20,
                      .train_loss = kNan,
                      .train_top1 = 0.7,
                      .test_loss = 2.0 / 3,
                      .test_top1 = 0.123456789012345678,
                      .test_top5 = 1,
                      .learning_rate = 1e-7,
                      .seconds = 3.25,
                      .images_per_second = kInfinity,
                      .skipped_steps = 2}},
          .steps = {{.step = 10, .loss = 5e-324, .learning_rate = 0.001}, {.loss = kNan}}};
}

class CheckpointTest : public testing::Test {
 protected:
  CheckpointTest()
      : config_(small_config()),
        device_(make_cpu_device(1)),
        plan_(plan_vit(config_.model, {}, 5, device_->traits())) {}

  Tensors random_tensors(std::uint64_t seed) const {
    Tensors tensors;
    RandomStream random(seed, 0);
    for (auto* flat : {&tensors.weights, &tensors.first_moment, &tensors.second_moment}) {
      flat->assign(static_cast<std::size_t>(plan_.parameter_elements()), 0.0f);
      for (std::size_t i = 0; i < plan_.graph().parameters().size(); ++i) {
        const std::int64_t offset = plan_.parameter_offset(static_cast<int>(i));
        for (std::int64_t k = 0; k < plan_.graph().parameters()[i].shape.elements(); ++k) {
          (*flat)[static_cast<std::size_t>(offset + k)] =
              static_cast<float>(random.uniform(-1.0, 1.0));
        }
      }
    }
    return tensors;
  }
  void save(std::int64_t step, const std::vector<std::string>& names, std::uint64_t seed = 5) {
    save_checkpoint(run_.path(), config_, plan_, random_tensors(seed), some_state(step), names);
  }
  /// What opening and loading says; "" when nothing is wrong.
  std::string error_of_loading(const fs::path& path) const {
    return error_of([&] { load_tensors(open_checkpoint(path), plan_); });
  }
  static std::string error_of(const std::function<void()>& call) {
    try {
      call();
    } catch (const BadInput& error) {
      const std::string message = error.what();
      EXPECT_EQ(message.find('\n'), std::string::npos) << message;
      return message;
    }
    return "";
  }
  /// Loading fails, naming the file and every part.
  void expect_error(const std::string& file, std::initializer_list<std::string> parts) const {
    const std::string message = error_of_loading(run_.path());
    EXPECT_NE(message.find(file + ": "), std::string::npos) << "message: " << message;
    for (const std::string& part : parts) {
      EXPECT_NE(message.find(part), std::string::npos) << part << " in: " << message;
    }
  }
  void rewrite_weights(const std::vector<SafetensorsTensor>& list) const {
    write_safetensors(run_ / "last" / "model.safetensors", list);
  }
  std::set<std::string> listing() const {
    std::set<std::string> names;
    for (const auto& entry : fs::directory_iterator(run_.path())) {
      names.insert(entry.path().filename().string());
    }
    return names;
  }
  std::string target(const std::string& name) const {
    return fs::read_symlink(run_ / name).string();
  }

  RunConfig config_;
  std::unique_ptr<Device> device_;
  Plan plan_;
  TemporaryDirectory run_;
};

TEST_F(CheckpointTest, ComesBackBitForBit) {
  const Tensors tensors = random_tensors(17);
  const TrainerState state = some_state(120);
  save_checkpoint(run_.path(), config_, plan_, tensors, state, {"last"});
  for (const fs::path& path : {run_.path(), run_ / "last", run_ / "step-120"}) {
    SCOPED_TRACE(path);
    const Checkpoint back = open_checkpoint(path);
    EXPECT_EQ(back.directory, fs::canonical(run_ / "step-120"));
    EXPECT_EQ(back.config.model, config_.model);
    EXPECT_EQ(back.config.recipe, config_.recipe);
    EXPECT_EQ(back.config.preset, "mine");
    EXPECT_EQ(back.config.class_names, config_.class_names);
    const Tensors loaded = load_tensors(back, plan_);
    EXPECT_EQ(loaded.weights, tensors.weights);
    EXPECT_EQ(loaded.first_moment, tensors.first_moment);
    EXPECT_EQ(loaded.second_moment, tensors.second_moment);
    EXPECT_EQ(load_weights(back.directory / "model.safetensors", plan_), tensors.weights);
  }
}

TEST_F(CheckpointTest, TrainerStateComesBackWithNanAndInfinity) {
  const TrainerState state = some_state(120);
  save(120, {"last"});
  const TrainerState back = open_checkpoint(run_.path()).state;
  EXPECT_EQ(back.step, 120);
  EXPECT_EQ(back.epoch, 2);
  EXPECT_EQ(back.step_in_epoch, 3);
  EXPECT_EQ(back.optimizer.adam_step, 31);
  EXPECT_EQ(back.optimizer.skipped_steps, 2);
  EXPECT_EQ(bits(back.optimizer.gradient_norm), bits(kInfinity));
  EXPECT_EQ(bits(back.epoch_seconds), bits(1e-300));
  EXPECT_EQ(bits(back.best_top1), bits(0.1 + 0.2));
  ASSERT_EQ(back.metrics.size(), 2u);
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(bits(back.metrics[i].loss), bits(state.metrics[i].loss));
    EXPECT_EQ(bits(back.metrics[i].batch_loss), bits(state.metrics[i].batch_loss));
    EXPECT_EQ(back.metrics[i].samples, state.metrics[i].samples);
    EXPECT_EQ(back.metrics[i].top1, state.metrics[i].top1);
    EXPECT_EQ(back.metrics[i].top5, state.metrics[i].top5);
  }
  ASSERT_EQ(back.epochs.size(), 1u);
  const EpochRecord &a = back.epochs[0], &b = state.epochs[0];
  EXPECT_EQ(a.epoch, b.epoch);
  EXPECT_EQ(a.step, b.step);
  EXPECT_EQ(a.skipped_steps, b.skipped_steps);
  for (double EpochRecord::*member :
       {&EpochRecord::train_loss, &EpochRecord::train_top1, &EpochRecord::test_loss,
        &EpochRecord::test_top1, &EpochRecord::test_top5, &EpochRecord::learning_rate,
        &EpochRecord::seconds, &EpochRecord::images_per_second}) {
    EXPECT_EQ(bits(a.*member), bits(b.*member));
  }
  ASSERT_EQ(back.steps.size(), 2u);
  EXPECT_EQ(back.steps[0].step, 10);
  EXPECT_EQ(bits(back.steps[0].loss), bits(5e-324));
  EXPECT_EQ(bits(back.steps[0].learning_rate), bits(0.001));
  EXPECT_TRUE(std::isnan(back.steps[1].loss));
}

TEST_F(CheckpointTest, NamesPointAndTheUnnamedGo) {
  save(10, {"last", "best"});
  EXPECT_EQ(listing(), (std::set<std::string>{"best", "last", "step-10"}));
  save(20, {"last"});
  EXPECT_EQ(listing(), (std::set<std::string>{"best", "last", "step-10", "step-20"}));
  save(30, {"last"});
  EXPECT_EQ(listing(), (std::set<std::string>{"best", "last", "step-10", "step-30"}));
  EXPECT_EQ(target("best"), "step-10");
  EXPECT_EQ(target("last"), "step-30");
  write_file(run_ / "step-notes.txt", "not a checkpoint");
  save(40, {"last", "best"});
  EXPECT_EQ(listing(), (std::set<std::string>{"best", "last", "step-40", "step-notes.txt"}));
}

TEST_F(CheckpointTest, TwiceAtTheSameStep) {
  save(10, {"last", "best"}, 1);
  save(10, {"last"}, 2);
  EXPECT_NE(target("last"), target("best"));
  EXPECT_EQ(load_tensors(open_checkpoint(run_ / "best"), plan_).weights, random_tensors(1).weights);
  EXPECT_EQ(load_tensors(open_checkpoint(run_ / "last"), plan_).weights, random_tensors(2).weights);
  save(10, {"last", "best"}, 3);
  EXPECT_EQ(target("last"), target("best"));
  EXPECT_EQ(load_tensors(open_checkpoint(run_.path()), plan_).weights, random_tensors(3).weights);
  EXPECT_EQ(listing().size(), 3u);
}

TEST_F(CheckpointTest, MissingFiles) {
  EXPECT_NE(error_of_loading(run_ / "nowhere").find("expected a checkpoint or a run"),
            std::string::npos);
  EXPECT_NE(error_of_loading(run_.path()).find("found no config.json"), std::string::npos);
  save(1, {"last"});
  for (const char* file : {"model.safetensors", "optimizer.safetensors", "config.json"}) {
    const fs::path path = run_ / "last" / file;
    const std::string contents = read_file(path);
    fs::remove(path);
    EXPECT_NE(error_of_loading(run_.path()).find(file), std::string::npos)
        << error_of_loading(run_.path());
    write_file(path, contents);
    EXPECT_EQ(error_of_loading(run_.path()), "");
  }
}

TEST_F(CheckpointTest, TruncatedAtAnyPlace) {
  save(1, {"last"});
  for (const char* file : {"model.safetensors", "optimizer.safetensors"}) {
    const fs::path path = run_ / "last" / file;
    const std::string contents = read_file(path);
    for (std::size_t bytes : {std::size_t{0}, std::size_t{5}, std::size_t{100}, contents.size() / 2,
                              contents.size() - 1}) {
      SCOPED_TRACE(bytes);
      write_file(path, contents.substr(0, bytes));
      expect_error(file, {});
    }
    write_file(path, contents);
  }
}

TEST_F(CheckpointTest, WeightsThatDoNotFit) {
  save(1, {"last"});
  const Tensors tensors = random_tensors(3);
  const std::vector<SafetensorsTensor> good = named_tensors(plan_, tensors.weights.data());
  auto without_last = good;
  const std::string missing = good.back().name;
  without_last.pop_back();
  rewrite_weights(without_last);
  expect_error("model.safetensors", {"missing " + missing});

  auto extra = good;
  extra.push_back({"stranger.weight", DType::f32, Shape{2}, tensors.weights.data()});
  rewrite_weights(extra);
  expect_error("model.safetensors", {"unexpected stranger.weight"});

  auto misshaped = good;
  ASSERT_EQ(misshaped[0].shape.rank(), 3);
  misshaped[0].shape = Shape{misshaped[0].shape.elements()};
  rewrite_weights(misshaped);
  expect_error("model.safetensors",
               {"wrong shape " + good[0].name, "found " + misshaped[0].shape.str(),
                "expected " + good[0].shape.str()});

  for (float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    Tensors broken = tensors;
    broken.weights[static_cast<std::size_t>(plan_.parameter_offset(1))] = bad;
    rewrite_weights(named_tensors(plan_, broken.weights.data()));
    expect_error("model.safetensors", {good[1].name, "expected finite numbers"});
  }
  rewrite_weights(good);
  EXPECT_EQ(error_of_loading(run_.path()), "");
}

TEST_F(CheckpointTest, MomentsThatDoNotFit) {
  save(1, {"last"});
  const Tensors tensors = random_tensors(3);
  write_safetensors(run_ / "last" / "optimizer.safetensors",
                    named_tensors(plan_, tensors.first_moment.data(), "first_moment."));
  expect_error("optimizer.safetensors", {"second_moment."});
}

TEST_F(CheckpointTest, OfAnotherModel) {
  save(1, {"last"});
  VitConfig other = config_.model;
  other.hidden_size = 24;
  const Plan plan = plan_vit(other, {}, 5, device_->traits());
  const std::string message =
      error_of([&] { load_weights(run_ / "last" / "model.safetensors", plan); });
  EXPECT_NE(message.find("does not fit the model"), std::string::npos) << message;
  EXPECT_NE(message.find("cls_token (found [1, 1, 12], expected [1, 1, 24])"), std::string::npos)
      << message;
}

TEST_F(CheckpointTest, DamagedText) {
  save(1, {"last"});
  const fs::path state = run_ / "last" / "trainer_state.json";
  const fs::path config = run_ / "last" / "config.json";
  const json whole = json::parse(read_file(state));
  for (const auto& [key, value] : whole.items()) {
    if (key == "recipe" || key == "preset") continue;
    SCOPED_TRACE(key);
    json damaged = whole;
    damaged.erase(key);
    write_file(state, damaged.dump());
    if (key == "tuning") {
      EXPECT_EQ(open_checkpoint(run_.path()).state.tuning, "");  // checkpoints before it had none
      damaged[key] = 3;
      write_file(state, damaged.dump());
      expect_error("trainer_state.json", {"tuning: found 3, expected a text"});
      continue;
    }
    expect_error("trainer_state.json", {key + ": found nothing"});
    damaged[key] = "text";
    write_file(state, damaged.dump());
    expect_error("trainer_state.json", {key + ": found \"text\""});
  }
  json damaged = whole;
  damaged["metrics"][1].erase("samples");
  write_file(state, damaged.dump());
  expect_error("trainer_state.json", {"samples: found nothing"});
  damaged = whole;
  damaged["recipe"]["batch_size"] = 0;
  write_file(state, damaged.dump());
  expect_error("trainer_state.json: recipe", {"batch_size: found 0, expected 1 to 16777216"});
  for (const char* text : {"", "{", "no JSON", "[1, 2]", "null"}) {
    write_file(state, text);
    expect_error("trainer_state.json", {"JSON"});
  }
  write_file(state, whole.dump());
  write_file(config, "{\"hidden_size\": 12");
  expect_error("config.json", {"not JSON"});
  write_file(config, "{\"hidden_size\": 13}");
  expect_error("config.json", {"hidden_size: found 13"});
}

TEST_F(CheckpointTest, PathsThatCannotBeWritten) {
  write_file(run_ / "file", "a regular file");
  for (const fs::path& path : {run_ / "file" / "run", fs::path("/dev/null/x")}) {
    EXPECT_THROW(save_checkpoint(path, config_, plan_, random_tensors(1), {}, {"last"}), IoError);
  }
  EXPECT_EQ(listing(), std::set<std::string>{"file"});
}

/// Files may grow to `bytes` only, as on a disk that is nearly full.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{bytes, before_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  rlimit before_{};
  void (*handler_)(int);
};

TEST_F(CheckpointTest, FailingWriteLeavesThePreviousOneWhole) {
  save(1, {"last", "best"}, 8);
  const auto files = fs::directory_iterator(run_ / "last");
  std::set<std::uintmax_t> sizes;
  for (const auto& entry : files) sizes.insert(entry.file_size());
  for (std::uintmax_t size : sizes) {
    SCOPED_TRACE(size);
    {
      const FileSizeLimit limit(size - 1);
      EXPECT_THROW(save(2, {"last", "best"}, 9), IoError);
      EXPECT_THROW(save(1, {"last"}, 9), IoError);
    }
    EXPECT_EQ(listing(), (std::set<std::string>{"best", "last", "step-1"}));
    EXPECT_EQ(load_tensors(open_checkpoint(run_.path()), plan_).weights, random_tensors(8).weights);
  }
  save(2, {"last"}, 9);
  EXPECT_EQ(target("last"), "step-2");
}

}  // namespace
}  // namespace vitrine
