// Checkpoints: there and back bit for bit, the names that point at them, and writes that fail.
#include "checkpoint_test.h"

#include <sys/resource.h>

#include <cmath>
#include <csignal>
#include <cstring>

#include "io/files.h"

namespace vitrine {
namespace {

std::uint64_t bits(double number) {
  std::uint64_t word = 0;
  std::memcpy(&word, &number, sizeof word);
  return std::isnan(number) ? 1 : word;  // one NaN is as good as another
}

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
    EXPECT_EQ(load_weights(back.directory / "model.safetensors", config_.model, plan_),
              tensors.weights);
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
