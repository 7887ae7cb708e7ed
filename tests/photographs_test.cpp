// Trainings on folders of pictures: bits, resuming, averages, broken and vanished files.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "html_check.h"
#include "picture_folders.h"
#include "run_program.h"
#include "temporary_directory.h"
#include "vitrine/image.h"
#include "vitrine/trainer.h"

namespace vitrine {
namespace {

namespace fs = std::filesystem;
using Words = std::vector<std::string>;

const Words kModel = {"--image-size",          "16", "--patch-size",        "8",
                      "--hidden-size",         "16", "--num-hidden-layers", "1",
                      "--num-attention-heads", "2",  "--intermediate-size", "32"};
const Words kAugmentation = {"--aa",          "rand-m9-mstd0.5-inc1",
                             "--mixup",       "0.8",
                             "--cutmix",      "1.0",
                             "--reprob",      "0.5",
                             "--remode",      "pixel",
                             "--vflip",       "0.2",
                             "--model-ema",   "--model-ema-decay",
                             "0.9",           "--bce-loss",
                             "--aug-repeats", "2"};

class Photographs : public testing::Test {
 protected:
  void SetUp() override { put_pictures(root_, 12, 4); }

  /// Pictures of two classes, larger than the model's, of many sizes.
  static void put_pictures(const fs::path& root, int train, int val) {
    std::uint64_t seed = 0;
    for (const std::string split : {"train", "val"}) {
      for (const std::string name : {"cat", "dog"}) {
        for (int i = 0; i < (split == "train" ? train : val); ++i, ++seed) {
          const auto height = static_cast<std::int64_t>(18 + seed % 23);
          put(root / split / name / (std::to_string(100 + i) + ".png"),
              pnm_file(height, 25, seed, seed % 5 == 0 ? 1 : 3));
        }
      }
    }
  }

  ProgramResult train(const fs::path& run, const Words& more) {
    Words words = {"train",      "--preset",     "vit_tiny_patch16_224",
                   "--data-dir", root_.string(), "--device",
                   "cpu",        "-o",           run.string()};
    for (const auto& [flag, value] : {std::pair{"--epochs", "2"}, std::pair{"--batch-size", "5"}}) {
      if (std::count(more.begin(), more.end(), flag) == 0) words.insert(words.end(), {flag, value});
    }
    words.insert(words.end(), kModel.begin(), kModel.end());
    words.insert(words.end(), more.begin(), more.end());
    return run_program_with(words);
  }

  static Words with(Words words, const Words& more) {
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }

  static std::string file(const fs::path& run, const std::string& name) {
    return read_file(run / "last" / name);
  }

  TemporaryDirectory directory_;
  fs::path root_ = directory_ / "pictures";
};

TEST_F(Photographs, AFolderNeedsNoMoreThanItsName) {
  const fs::path run = directory_ / "run";
  const ProgramResult result = train(run, {});
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(result.err.find("vitrine:"), std::string::npos) << result.err;
  EXPECT_TRUE(contains(result.out, "24 training and 8 test images, 2 classes")) << result.out;
  EXPECT_TRUE(contains(result.out, "until images were ready")) << result.out;
  const auto config = nlohmann::json::parse(read_file(run / "config.json"));
  EXPECT_EQ(config.at("dataset"), "folder");
  EXPECT_EQ(config.at("id2label").at("1"), "dog");
  const bool events = std::any_of(fs::directory_iterator(run), {}, [](const auto& entry) {
    return entry.path().filename().string().starts_with("events.out.tfevents.");
  });
  EXPECT_TRUE(events);
  EXPECT_TRUE(contains(read_file(run / "report.html"), "Augmentation"));
}

TEST_F(Photographs, SameBitsWhateverTheWorkers) {
  const auto bits = [&](const std::string& name, const Words& workers) {
    const ProgramResult result = train(directory_ / name, with(kAugmentation, workers));
    EXPECT_EQ(result.code, 0) << result.err;
    return file(directory_ / name, "model.safetensors") +
           file(directory_ / name, "ema.safetensors");
  };
  const std::string one = bits("one", {"--workers", "1", "--threads", "1"});
  EXPECT_EQ(one, bits("again", {"--workers", "1", "--threads", "1"}));
  EXPECT_EQ(one, bits("three", {"--workers", "3", "--threads", "2"}));
  EXPECT_NE(one, bits("seed", {"--workers", "1", "--seed", "7"}));
}

TEST_F(Photographs, ResumingGivesTheSameBits) {
  const Words micro = with(kAugmentation, {"--grad-accum-steps", "2", "--batch-size", "3"});
  ASSERT_EQ(train(directory_ / "whole", micro).code, 0);
  const ProgramResult cut = train(directory_ / "cut", with(micro, {"--max-steps", "6"}));
  ASSERT_EQ(cut.code, 0) << cut.err;
  const ProgramResult rest = run_program_with(
      {"train", "--resume", (directory_ / "cut").string(), "--device", "cpu", "--max-steps", "0"});
  ASSERT_EQ(rest.code, 0) << rest.err;
  for (const char* name : {"model.safetensors", "ema.safetensors", "optimizer.safetensors"}) {
    EXPECT_EQ(file(directory_ / "whole", name), file(directory_ / "cut", name)) << name;
  }
}

TEST_F(Photographs, TheAverageIsEvaluatedAndKept) {
  const fs::path run = directory_ / "run";
  // Evaluated without a crop, as HuggingFace's image processor of ViT has it.
  ASSERT_EQ(train(run, with(kAugmentation, {"--crop-mode", "squash", "--crop-pct", "1"})).code, 0);
  std::istringstream lines(read_file(run / "metrics.jsonl"));
  nlohmann::json last;
  for (std::string line; std::getline(lines, line);) last = nlohmann::json::parse(line);
  const ProgramResult average =
      run_program_with({"eval", run.string(), "--use-ema", "--json", "--device", "cpu"});
  ASSERT_EQ(average.code, 0) << average.err;
  const auto result = nlohmann::json::parse(average.out);
  EXPECT_EQ(result.at("loss"), last.at("ema_loss"));
  EXPECT_EQ(result.at("top1"), last.at("ema_top1"));
  EXPECT_NE(last.at("ema_loss"), last.at("test_loss"));

  // Other commands take it too.
  const auto output = [&](const Words& words) {
    const ProgramResult done = run_program_with(words);
    EXPECT_EQ(done.code, 0) << done.err;
    return done.out;
  };
  const auto seen = [&](const Words& checkpoint) {
    return output(with(
        {"predict", "--json", "--device", "cpu", root_ / "val" / "cat" / "100.png", "--checkpoint"},
        checkpoint));
  };
  const fs::path exported = directory_ / "exported";
  output({"export", run, "--format", "hf", "--use-ema", "-o", exported});
  EXPECT_EQ(seen({run, "--use-ema"}), seen({exported}));
  EXPECT_NE(seen({run, "--use-ema"}), seen({run}));

  ASSERT_EQ(train(directory_ / "plain", {}).code, 0);
  const ProgramResult none =
      run_program_with({"eval", (directory_ / "plain").string(), "--use-ema", "--device", "cpu"});
  EXPECT_EQ(none.code, 2);
  EXPECT_TRUE(contains(none.err, "found no ema.safetensors, expected a run")) << none.err;
}

TEST_F(Photographs, StopsEarly) {
  const fs::path run = directory_ / "run";
  const ProgramResult result =
      train(run, {"--lr", "1e-30", "--warmup-epochs", "0", "--epochs", "9", "--early-stopping", "2",
                  "--eval-metric", "top5"});  // of two classes always right
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_TRUE(contains(result.err, "early stopping: no epoch was better than epoch 1"))
      << result.err;
  const std::string lines = read_file(run / "metrics.jsonl");
  EXPECT_EQ(std::count(lines.begin(), lines.end(), '\n'), 3);

  const ProgramResult again =
      run_program_with({"train", "--resume", run.string(), "--device", "cpu"});
  EXPECT_EQ(again.code, 0) << again.err;
  EXPECT_TRUE(contains(again.err, "early stopping")) << again.err;
  EXPECT_EQ(read_file(run / "metrics.jsonl"), lines);
}

TEST_F(Photographs, BrokenPicturesAreNamedAndBorne) {
  put_pictures(root_, 80, 4);
  write_file(root_ / "train" / "cat" / "103.png", "");
  const ProgramResult one = train(directory_ / "one", {});
  EXPECT_EQ(one.code, 0) << one.err;
  EXPECT_TRUE(contains(one.err, "left out: ")) << one.err;
  EXPECT_TRUE(contains(one.err, "cat/103.png")) << one.err;

  for (const char* name : {"104.png", "105.png", "106.png"}) {
    write_file(root_ / "train" / "dog" / name, "no picture");
  }
  const ProgramResult many = train(directory_ / "many", {});
  EXPECT_EQ(many.code, 2);
  EXPECT_EQ(many.err.find("terminate"), std::string::npos) << many.err;
  EXPECT_TRUE(contains(many.err, "1 %")) << many.err;
}

/// Takes a picture away after the first epoch.
class Thief final : public TrainObserver {
 public:
  explicit Thief(fs::path path) : path_(std::move(path)) {}
  void on_epoch_end(const EpochRecord&, bool) override { fs::remove(path_); }
  void on_notice(const std::string& line) override { notices.push_back(line); }

  std::vector<std::string> notices;

 private:
  fs::path path_;
};

TEST_F(Photographs, APictureMayVanishDuringTheTraining) {
  put_pictures(root_, 80, 4);
  RunConfig config = preset("vit_tiny_patch16_224");
  config.model.image_height = config.model.image_width = 16;
  config.model.patch_size = 8;
  config.model.hidden_size = 16;
  config.model.num_hidden_layers = 1;
  config.model.num_attention_heads = 2;
  config.model.intermediate_size = 32;
  config.model.num_classes = 2;
  config.recipe.data_dir = root_.string();
  config.recipe.epochs = 2;
  config.recipe.batch_size = 8;
  const Dataset train = load_data(config, Split::train), test = load_data(config, Split::test);
  const std::unique_ptr<Device> device = make_cpu_device(1);
  Trainer trainer(*device, config, train, test, directory_ / "run");
  fs::create_directories(directory_ / "run");
  trainer.initialize();
  Thief thief(root_ / "train" / "cat" / "150.png");
  const std::atomic<bool> interrupt = false;
  EXPECT_EQ(trainer.run(thief, interrupt), TrainOutcome::finished);
  ASSERT_EQ(thief.notices.size(), 1u);
  EXPECT_TRUE(contains(thief.notices[0], "cat/150.png")) << thief.notices[0];
  EXPECT_EQ(trainer.state().epochs.size(), 2u);
}

TEST_F(Photographs, StoredImagesAreAugmentedToo) {
  const auto bits = [&](const std::string& name, const Words& more) {
    Words words = {"train",
                   "--preset",
                   "digits",
                   "--device",
                   "cpu",
                   "--max-steps",
                   "3",
                   "-o",
                   (directory_ / name).string(),
                   "--aa",
                   "3a",
                   "--crop-padding",
                   "2",
                   "--train-crop-mode",
                   "pad"};
    const ProgramResult result = run_program_with(with(words, more));
    EXPECT_EQ(result.code, 0) << result.err;
    return file(directory_ / name, "model.safetensors");
  };
  const std::string one = bits("one", {"--mixup", "0.2", "--threads", "1"});
  EXPECT_EQ(one, bits("two", {"--mixup", "0.2", "--threads", "2"}));
  EXPECT_NE(one, bits("other", {"--threads", "2"}));
}

TEST_F(Photographs, DrawsWhatTheRecipeMakesOfThem) {
  const fs::path drawn = directory_ / "augmentation.png";
  const Words words = {"data",       "augment",      "--preset", "deit_small",
                       "--data-dir", root_.string(), "-o",       drawn.string()};
  const ProgramResult result = run_program_with(with(words, kModel));
  ASSERT_EQ(result.code, 0) << result.err;
  const Image sheet = read_image(drawn);
  EXPECT_EQ(sheet.width / 8, sheet.height / 4);  // eight images, and three draws below each

  const ProgramResult plain = run_program_with(
      {"data", "augment", "--preset", "digits", "-o", (directory_ / "plain.png").string()});
  EXPECT_EQ(plain.code, 2);
  EXPECT_TRUE(contains(plain.err, "found flips and crops alone")) << plain.err;
  EXPECT_FALSE(fs::exists(directory_ / "plain.png"));
}

TEST_F(Photographs, RefusesWhatCannotBeTrainedOn) {
  fs::remove_all(root_ / "train" / "dog");
  const ProgramResult one_class = train(directory_ / "run", {});
  EXPECT_EQ(one_class.code, 2);
  EXPECT_EQ(std::count(one_class.err.begin(), one_class.err.end(), '\n'), 1) << one_class.err;
  EXPECT_FALSE(fs::exists(directory_ / "run"));
}

}  // namespace
}  // namespace vitrine
