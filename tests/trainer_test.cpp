// The training loop: interruption and resumption bit for bit, threads, records, learning.

#include "vitrine/trainer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

#include "io/files.h"
#include "temporary_directory.h"

namespace vitrine {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::uint64_t kTrainSeed = 71, kTestSeed = 72;
constexpr std::int64_t kTrainImages = 570;  ///< 5 steps of 2 × 50, then 50 + 20

// Everything random is on: dropout everywhere, drop-path, flips, crops.
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
  config.model.hidden_dropout_prob = 0.1;
  config.model.attention_probs_dropout_prob = 0.15;
  config.model.activation_dropout_prob = 0.05;
  config.model.embedding_dropout_prob = 0.1;
  config.model.drop_path_rate = 0.2;
  config.recipe.hflip = 0.5;
  config.recipe.scale = {0.6, 1.0};
  config.recipe.mean = {0.1f};
  config.recipe.std = {0.3f};
  config.recipe.batch_size = 50;
  config.recipe.grad_accum_steps = 2;
  config.recipe.epochs = 2;
  config.recipe.log_interval = 2;
  config.recipe.warmup_epochs = 0.5;
  config.recipe.clip_grad = 1.0;
  config.recipe.smoothing = 0.1;
  config.recipe.lr = 3e-3;
  config.recipe.seed = 12;
  return config;
}

RunConfig without_randomness(RunConfig config) {
  VitConfig& m = config.model;
  m.hidden_dropout_prob = m.attention_probs_dropout_prob = m.activation_dropout_prob = 0;
  m.embedding_dropout_prob = m.drop_path_rate = 0;
  config.recipe.hflip = config.recipe.smoothing = 0;
  config.recipe.scale = {1.0, 1.0};
  return config;
}

/// Sets the interrupt flag after a number of steps.
class Interrupter final : public TrainObserver {
 public:
  Interrupter(std::atomic<bool>& flag, int steps) : flag_(flag), steps_(steps) {}
  void on_step(std::int64_t) override {
    if (--steps_ == 0) flag_ = true;
  }

 private:
  std::atomic<bool>& flag_;
  int steps_;
};

class TrainerTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    std::cout << "seeds " << kTrainSeed << ", " << kTestSeed << "\n";
    train_ = new Dataset(make_digits(kTrainImages, kTrainSeed));
    test_ = new Dataset(make_digits(130, kTestSeed));
  }
  static void TearDownTestSuite() {
    delete train_;
    delete test_;
  }

  /// Trains in `output`, from its checkpoint when `resume` is set.
  TrainOutcome train(const RunConfig& config, const fs::path& output, bool resume = false,
                     int threads = 2) {
    if (!output.empty()) fs::create_directories(output);
    const auto device = make_cpu_device(threads);
    Trainer trainer(*device, config, *train_, *test_, output);
    if (resume) {
      trainer.resume(open_checkpoint(output));
    } else {
      trainer.initialize();
    }
    TrainObserver silent;
    const std::atomic<bool> never{false};
    const TrainOutcome outcome = trainer.run(silent, never);
    state_ = trainer.state();
    return outcome;
  }
  TrainOutcome train_until(RunConfig config, std::int64_t max_steps, const fs::path& output,
                           bool resume) {
    config.recipe.max_steps = max_steps;
    return train(config, output, resume);
  }

  /// The trainer's state without times and without what tells when to stop.
  static json state_of(const fs::path& checkpoint) {
    json state = json::parse(read_file(checkpoint / "trainer_state.json"));
    state.erase("epoch_seconds");
    state["recipe"].erase("max_steps");
    for (json& epoch : state["epochs"]) {
      epoch.erase("seconds");
      epoch.erase("data_seconds");
      epoch.erase("images_per_second");
    }
    return state;
  }
  static void expect_same_run(const fs::path& a, const fs::path& b) {
    for (const char* name : {"last", "best"}) {
      SCOPED_TRACE(name);
      EXPECT_EQ(fs::read_symlink(a / name), fs::read_symlink(b / name));
      for (const char* file : {"model.safetensors", "optimizer.safetensors", "config.json"}) {
        EXPECT_TRUE(read_file(a / name / file) == read_file(b / name / file)) << file;
      }
      EXPECT_EQ(state_of(a / name).dump(1), state_of(b / name).dump(1));
    }
    EXPECT_EQ(read_file(a / "summary.csv"), read_file(b / "summary.csv"));
  }

  static inline const Dataset *train_ = nullptr, *test_ = nullptr;
  TemporaryDirectory directory_;
  TrainerState state_;
};

TEST_F(TrainerTest, ResumedRunsHaveTheSameBits) {
  const RunConfig config = small_config();
  ASSERT_EQ(train(config, directory_ / "whole"), TrainOutcome::finished);
  ASSERT_EQ(state_.step, 12);
  const std::vector<std::vector<std::int64_t>> stops = {{5}, {6}, {2, 7, 10}};
  for (const auto& list : stops) {
    SCOPED_TRACE(testing::PrintToString(list));
    const fs::path output = directory_ / "stopped";
    fs::remove_all(output);
    for (std::size_t i = 0; i < list.size(); ++i) {
      ASSERT_EQ(train_until(config, list[i], output, i > 0), TrainOutcome::step_limit);
      ASSERT_EQ(state_.step, list[i]);
      ASSERT_EQ(open_checkpoint(output).state.step, list[i]);
    }
    ASSERT_EQ(train_until(config, 0, output, true), TrainOutcome::finished);
    expect_same_run(directory_ / "whole", output);
  }
}

TEST_F(TrainerTest, BitsDoNotDependOnThreads) {
  const RunConfig config = small_config();
  for (int threads : {1, 2, 3}) {
    SCOPED_TRACE(threads);
    const fs::path output = directory_ / std::to_string(threads);
    ASSERT_EQ(train(config, output, false, threads), TrainOutcome::finished);
    expect_same_run(directory_ / "1", output);
  }
}

TEST_F(TrainerTest, InterruptWritesACheckpointThatResumes) {
  const RunConfig config = small_config();
  train(config, directory_ / "whole");
  for (int steps : {1, 4, 6}) {  // the last one ends the first epoch
    SCOPED_TRACE(steps);
    const fs::path output = directory_ / ("interrupted-" + std::to_string(steps));
    fs::create_directories(output);
    {
      const auto device = make_cpu_device(2);
      Trainer trainer(*device, config, *train_, *test_, output);
      trainer.initialize();
      std::atomic<bool> flag{false};
      Interrupter observer(flag, steps);
      EXPECT_EQ(trainer.run(observer, flag), TrainOutcome::interrupted);
    }
    EXPECT_EQ(open_checkpoint(output).state.step, steps);
    ASSERT_EQ(train(config, output, true), TrainOutcome::finished);
    expect_same_run(directory_ / "whole", output);
  }
}

TEST_F(TrainerTest, CheckpointInterval) {
  RunConfig config = small_config();
  config.recipe.checkpoint_interval = 4;
  config.recipe.epochs = 1;
  train_until(config, 5, directory_ / "run", false);
  EXPECT_EQ(open_checkpoint(directory_ / "run").state.step, 5);
  EXPECT_EQ(train(config, directory_ / "run", true), TrainOutcome::finished);
  EXPECT_EQ(open_checkpoint(directory_ / "run").state.step, 6);
}

TEST_F(TrainerTest, ResumeInsideAnEpochNeedsTheSameBatches) {
  const RunConfig config = small_config();
  const fs::path run = directory_ / "run";
  train_until(config, 5, run, false);
  const auto message = [&](const RunConfig& changed) {
    try {
      train(changed, run, true);
    } catch (const BadInput& error) {
      return std::string(error.what());
    }
    return std::string("nothing was thrown");
  };
  RunConfig changed = config;
  changed.recipe.batch_size = 25;
  EXPECT_NE(message(changed).find("batch_size: found 25 x 2 grad_accum_steps, expected 50 x 2"),
            std::string::npos)
      << message(changed);
  json state = json::parse(read_file(run / "last" / "trainer_state.json"));
  json beyond = state;
  beyond["step_in_epoch"] = 7;  // an epoch has 6 steps
  write_file(run / "last" / "trainer_state.json", beyond.dump());
  EXPECT_NE(message(config).find("step_in_epoch: found 7, expected 0 to 6"), std::string::npos)
      << message(config);
  state["metrics"].push_back(state["metrics"][0]);
  write_file(run / "last" / "trainer_state.json", state.dump());
  EXPECT_NE(message(config).find("metrics: found "), std::string::npos) << message(config);
}

TEST_F(TrainerTest, DropLast) {
  RunConfig config = small_config();
  config.recipe.drop_last = true;
  ASSERT_EQ(train(config, directory_ / "run"), TrainOutcome::finished);
  EXPECT_EQ(state_.step, 10);
  EXPECT_EQ(state_.epochs.at(0).step, 5);
}

// Nothing is left of the epoch, and its last step ended no log interval.
TEST_F(TrainerTest, ResumedWhereNoStepIsLeft) {
  RunConfig config = small_config();
  config.recipe.log_interval = 50;
  ASSERT_EQ(train_until(config, 5, directory_ / "run", false), TrainOutcome::step_limit);
  EXPECT_TRUE(state_.steps.empty());
  config.recipe.drop_last = true;
  config.recipe.epochs = 1;
  ASSERT_EQ(train(config, directory_ / "run", true), TrainOutcome::finished);
  ASSERT_EQ(state_.steps.size(), 1u);
  EXPECT_EQ(state_.steps[0].step, 5);
  EXPECT_EQ(state_.epochs.at(0).train_loss, state_.steps[0].loss);
  EXPECT_GT(state_.steps[0].loss, 0.0);
}

TEST_F(TrainerTest, AnInterruptAtAnyMomentLeavesACheckpoint) {
  class InLog final : public TrainObserver {
   public:
    explicit InLog(std::atomic<bool>& flag) : flag_(flag) {}
    void on_log(std::int64_t, const StepRecord&, double, std::int64_t) override { flag_ = true; }

   private:
    std::atomic<bool>& flag_;
  };
  const fs::path run = directory_ / "run";
  fs::create_directories(run);
  const auto device = make_cpu_device(2);
  Trainer trainer(*device, small_config(), *train_, *test_, run);
  trainer.initialize();
  std::atomic<bool> flag{false};
  InLog observer(flag);
  ASSERT_EQ(trainer.run(observer, flag), TrainOutcome::interrupted);
  EXPECT_EQ(open_checkpoint(run).state.step, trainer.state().step);
}

TEST_F(TrainerTest, ZeroEpochsWriteTheInitialWeights) {
  RunConfig config = small_config();
  config.recipe.epochs = 0;
  ASSERT_EQ(train(config, directory_ / "run"), TrainOutcome::finished);
  const auto device = make_cpu_device(1);
  const Plan plan = plan_vit(config.model, {}, 3, device->traits());
  const fs::path file = directory_ / "run" / "last" / "model.safetensors";
  EXPECT_EQ(load_weights(file, config.model, plan),
            initial_weights(config.model, plan, config.recipe.seed));
}

// Losses of every test image in double precision, from the logits.
std::vector<double> losses_of(const EvaluationResult& result, const Dataset& data) {
  std::vector<double> losses;
  const auto classes = result.logits.size() / data.labels.size();
  for (std::size_t i = 0; i < data.labels.size(); ++i) {
    const float* row = result.logits.data() + i * classes;
    double sum = 0;
    for (std::size_t k = 0; k < classes; ++k) sum += std::exp(static_cast<double>(row[k]));
    losses.push_back(std::log(sum) - row[data.labels[i]]);
  }
  return losses;
}

double mean(const std::vector<double>& numbers, std::size_t begin, std::size_t end) {
  double sum = 0;
  for (std::size_t i = begin; i < end; ++i) sum += numbers[i];
  return sum / static_cast<double>(end - begin);
}

double mean_of_batch_means(const std::vector<double>& losses, std::size_t batch) {
  double sum = 0;
  std::size_t batches = 0;
  for (std::size_t begin = 0; begin < losses.size(); begin += batch, ++batches) {
    sum += mean(losses, begin, std::min(begin + batch, losses.size()));
  }
  return sum / static_cast<double>(batches);
}

// A learning rate of zero keeps the weights, so the epoch's loss is known from the logits.
TEST_F(TrainerTest, LossAverages) {
  for (LossAverage average : {LossAverage::samples, LossAverage::batches}) {
    SCOPED_TRACE(static_cast<int>(average));
    RunConfig config = without_randomness(small_config());
    config.recipe.lr = config.recipe.warmup_lr = config.recipe.weight_decay = 0;
    config.recipe.epochs = 1;
    config.recipe.loss_average = average;
    train(config, directory_ / ("run" + std::to_string(static_cast<int>(average))));
    const EpochRecord record = state_.epochs.at(0);

    const auto device = make_cpu_device(1);
    const auto evaluate = [&](const Dataset& data) {
      Evaluator evaluator(*device, config, data);
      const auto weights = initial_weights(config.model, evaluator.plan(), config.recipe.seed);
      return losses_of(evaluator.run(weights.data(), false, true), data);
    };
    const std::vector<double> test = evaluate(*test_), by_image = evaluate(*train_);
    std::vector<double> train;
    for (std::int64_t i : shuffled(train_->size(), config.recipe.seed, 0)) {
      train.push_back(by_image[static_cast<std::size_t>(i)]);
    }
    const bool by_sample = average == LossAverage::samples;
    EXPECT_NEAR(record.test_loss,
                by_sample ? mean(test, 0, test.size()) : mean_of_batch_means(test, 50), 1e-5);
    EXPECT_NEAR(record.train_loss,
                by_sample ? mean(train, 0, train.size()) : mean_of_batch_means(train, 100), 1e-5);
  }
}

// Of every image in double precision, from the logits: the mean over the classes.
std::vector<double> binary_losses_of(const EvaluationResult& result, const Dataset& data) {
  std::vector<double> losses;
  const auto classes = result.logits.size() / data.labels.size();
  for (std::size_t i = 0; i < data.labels.size(); ++i) {
    double sum = 0;
    for (std::size_t k = 0; k < classes; ++k) {
      const double z = result.logits[i * classes + k];
      const bool own = static_cast<std::int32_t>(k) == data.labels[i];
      sum += std::log(1 + std::exp(own ? -z : z));
    }
    losses.push_back(sum / static_cast<double>(classes));
  }
  return losses;
}

TEST_F(TrainerTest, TrainsWithTheBinaryLossAndEvaluatesWithTheOther) {
  RunConfig config = without_randomness(small_config());
  config.recipe.lr = config.recipe.warmup_lr = config.recipe.weight_decay = 0;
  config.recipe.epochs = 1;
  config.recipe.bce_loss = true;
  train(config, directory_ / "run");
  const EpochRecord record = state_.epochs.at(0);
  const auto device = make_cpu_device(1);
  const auto evaluate = [&](const Dataset& data) {
    Evaluator evaluator(*device, config, data);
    const auto weights = initial_weights(config.model, evaluator.plan(), config.recipe.seed);
    return evaluator.run(weights.data(), false, true);
  };
  const std::vector<double> trained = binary_losses_of(evaluate(*train_), *train_);
  const std::vector<double> test = losses_of(evaluate(*test_), *test_);
  EXPECT_NEAR(record.train_loss, mean(trained, 0, trained.size()), 1e-5);
  EXPECT_NEAR(record.test_loss, mean(test, 0, test.size()), 1e-5);
}

TEST_F(TrainerTest, EvaluationCounts) {
  const RunConfig config = small_config();
  const auto device = make_cpu_device(2);
  Evaluator evaluator(*device, config, *test_);
  const auto weights = initial_weights(config.model, evaluator.plan(), 3);
  const EvaluationResult result = evaluator.run(weights.data(), true, true);
  EXPECT_EQ(result.samples, test_->size());
  std::int64_t total = 0, diagonal = 0;
  for (std::int64_t i = 0; i < 100; ++i) {
    total += result.confusion.at(i);
    if (i % 11 == 0) diagonal += result.confusion[i];
  }
  EXPECT_EQ(total, test_->size());
  EXPECT_DOUBLE_EQ(result.top1, static_cast<double>(diagonal) / static_cast<double>(total));
  EXPECT_GE(result.top5, result.top1);
  EXPECT_EQ(result.misclassified.size(), std::min<std::size_t>(40, total - diagonal));
}

TEST_F(TrainerTest, NonFiniteGradientsAreSkippedAndCounted) {
  RunConfig config = small_config();
  config.recipe.lr = config.recipe.warmup_lr = 1e30;
  config.recipe.epochs = 1;
  ASSERT_EQ(train(config, directory_ / "run"), TrainOutcome::finished);
  const TrainerState saved = open_checkpoint(directory_ / "run").state;
  EXPECT_GT(saved.optimizer.skipped_steps, 0);
  EXPECT_EQ(saved.optimizer.adam_step + saved.optimizer.skipped_steps, 6);
  EXPECT_EQ(saved.epochs.at(0).skipped_steps, saved.optimizer.skipped_steps);
  const json line = json::parse(read_file(directory_ / "run" / "metrics.jsonl"));
  EXPECT_EQ(line.at("skipped_steps"), saved.optimizer.skipped_steps);
}

TEST_F(TrainerTest, MetricsAreOneLineAnEpoch) {
  const RunConfig config = small_config();
  train_until(config, 7, directory_ / "run", false);
  train_until(config, 0, directory_ / "run", true);
  std::istringstream lines(read_file(directory_ / "run" / "metrics.jsonl"));
  std::size_t count = 0;
  for (std::string text; std::getline(lines, text); ++count) {
    const json line = json::parse(text);
    const EpochRecord& record = state_.epochs.at(count);
    EXPECT_EQ(line.at("epoch"), record.epoch);
    EXPECT_EQ(line.at("step"), record.step);
    EXPECT_EQ(line.at("train_loss"), record.train_loss);
    EXPECT_EQ(line.at("test_top1"), record.test_top1);
    EXPECT_EQ(line.at("skipped_steps"), 0);
  }
  EXPECT_EQ(count, 2u);
  const std::string table = read_file(directory_ / "run" / "summary.csv");
  EXPECT_EQ(table.substr(0, table.find('\n')),
            "epoch,train_loss,train_top1,eval_loss,eval_top1,eval_top5,lr");
  EXPECT_EQ(std::count(table.begin(), table.end(), '\n'), 3);
  EXPECT_NE(table.find("\n2,"), std::string::npos);
}

TEST_F(TrainerTest, Learns) {
  RunConfig config = without_randomness(small_config());
  config.model.image_height = config.model.image_width = 28;
  config.model.hidden_size = 24;
  config.model.intermediate_size = 48;
  config.model.init = Initialization::torch;
  config.recipe.grad_accum_steps = 1;
  config.recipe.batch_size = 30;
  config.recipe.epochs = 25;
  config.recipe.lr = 5e-3;
  train(config, "");
  EXPECT_LT(state_.epochs.back().train_loss, 0.5 * state_.epochs.front().train_loss);
  EXPECT_GT(state_.epochs.back().test_top1, 0.5);  // chance is 0.1
}

TEST_F(TrainerTest, DataThatDoesNotFit) {
  const auto message = [&](const RunConfig& config) {
    try {
      train(config, directory_ / "run");
    } catch (const BadInput& error) {
      return std::string(error.what());
    }
    return std::string("nothing was thrown");
  };
  RunConfig config = small_config();
  config.recipe.batch_size = 300;
  EXPECT_EQ(
      message(config),
      "batch_size: found 300 x 2 grad_accum_steps, expected at most the 570 images of digits");
  config = small_config();
  config.model.num_channels = 3;
  config.recipe.mean = config.recipe.std = {0.5f};
  EXPECT_EQ(message(config), "digits: num_channels: found 1, expected the model's 3");
  config = small_config();
  config.model.num_classes = 9;
  EXPECT_EQ(message(config), "digits: num_classes: found 10, expected at most the model's 9");
}

}  // namespace
}  // namespace vitrine
