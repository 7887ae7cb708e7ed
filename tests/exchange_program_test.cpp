// Export and fine-tuning through the program.
#include <nlohmann/json.hpp>

#include "exchange_test.h"
#include "io/files.h"
#include "run_program.h"
#include "vitrine/dataset.h"

namespace vitrine {
namespace {

using nlohmann::json;
using Words = std::vector<std::string>;

constexpr const char* kModel = R"({
  "image_size": 28, "patch_size": 7, "num_channels": 1, "hidden_size": 8, "num_hidden_layers": 2,
  "num_attention_heads": 2, "intermediate_size": 12, "num_classes": 10, "dataset": "mnist",
  "mean": [0.1307], "std": [0.3081], "batch_size": 16, "epochs": 1})";

class ExchangeProgramTest : public testing::Test {
 protected:
  ExchangeProgramTest() : home_(fs::current_path()) {
    ::setenv("VITRINE_PROGRAM", fs::absolute(program_path()).c_str(), 1);
    fs::current_path(directory_.path());
    write_file("model.json", kModel);
    write_idx(make_digits(40, 5), "data", Split::train);
    write_idx(make_digits(20, 6), "data", Split::test);
    output_of({"train", "--config", "model.json", "--epochs", "1", "--output", "run"});
  }
  ~ExchangeProgramTest() override { fs::current_path(home_); }

  static std::string output_of(const Words& words) {
    const ProgramResult result = run_program_with(words);
    EXPECT_EQ(result.code, 0) << result.err;
    return result.out;
  }
  static std::set<std::string> files() {
    std::set<std::string> names;
    for (const auto& entry : fs::recursive_directory_iterator(".")) {
      names.insert(entry.path().string());
    }
    return names;
  }
  static void expect_bad_input(const Words& words, const Words& parts) {
    SCOPED_TRACE(testing::PrintToString(words));
    const std::set<std::string> before = files();
    const ProgramResult result = run_program_with(words);
    EXPECT_EQ(result.code, 2) << result.err;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    for (const std::string& part : parts) {
      EXPECT_NE(result.err.find(part), std::string::npos) << part << "\nin: " << result.err;
    }
    EXPECT_EQ(files(), before);
  }
  static json evaluation_of(const std::string& checkpoint) {
    json result = json::parse(
        output_of({"eval", checkpoint, "--dataset", "mnist", "--batch-size", "16", "--json"}));
    result.erase("seconds");
    return result;
  }
  static void export_to(const std::string& format, const std::string& directory) {
    output_of({"export", "run", "--format", format, "-o", directory});
  }

  TemporaryDirectory directory_;
  fs::path home_;
};

TEST_F(ExchangeProgramTest, ExportsReadBackBitForBit) {
  export_to("timm", "there/timm");
  fs::create_directory("hf");  // an empty one is fine
  export_to("hf", "hf/");
  const Checkpoint run = open_checkpoint("run");
  const std::unique_ptr<Device> device = make_cpu_device(1);
  const Plan plan = plan_vit(run.config.model, {.training = false}, 1, device->traits());
  const std::vector<float> weights = load_weights(weights_file("run"), run.config.model, plan);
  for (const char* directory : {"there/timm", "hf"}) {
    SCOPED_TRACE(directory);
    const Checkpoint back = open_checkpoint(directory);
    EXPECT_EQ(back.config.model, run.config.model);
    EXPECT_EQ(back.config.class_names, run.config.class_names);
    EXPECT_EQ(back.config.recipe.mean, run.config.recipe.mean);
    EXPECT_EQ(back.config.recipe.std, run.config.recipe.std);
    EXPECT_EQ(load_weights(weights_file(directory), back.config.model, plan), weights);
    EXPECT_EQ(evaluation_of(directory), evaluation_of("run"));
  }
  EXPECT_NE(SafetensorsFile("hf/model.safetensors").find("vit.encoder.layer.1.output.dense.bias"),
            nullptr);
  EXPECT_EQ(SafetensorsFile("hf/model.safetensors").metadata().at("format"), "pt");
  EXPECT_NE(SafetensorsFile("there/timm/model.safetensors").find("blocks.1.mlp.fc2.bias"), nullptr);
}

TEST_F(ExchangeProgramTest, ExportsThatAreRefused) {
  expect_bad_input({"export", "run", "--format", "hf", "-o", "run"},
                   {"run", "expected a new or an empty directory"});
  expect_bad_input({"export", "run", "--format", "hf", "-o", "model.json"}, {"empty directory"});
  expect_bad_input({"export", "run", "--format", "onnx", "-o", "new"}, {"onnx", "timm"});
  expect_bad_input({"export", "nowhere", "--format", "hf", "-o", "new"}, {"nowhere"});
  output_of({"train", "--preset", "mnist-tutorial", "--epochs", "0", "--output", "tutorial"});
  expect_bad_input({"export", "tutorial", "--format", "hf", "-o", "new"},
                   {"--format hf: qkv_layout: found per_head, expected dense"});
  Checkpoint run = open_checkpoint("run");  // fails after the weights have been written
  run.config.recipe.mean = run.config.recipe.std = {0.5f, 0.5f};
  const std::set<std::string> before = files();
  EXPECT_THROW(export_checkpoint(run, ExportFormat::huggingface, "new"), BadInput);
  EXPECT_EQ(files(), before);
  const std::string weights = read_file("run/last/model.safetensors");
  write_file("run/last/model.safetensors", weights.substr(0, weights.size() - 4));
  expect_bad_input({"export", "run", "--format", "hf", "-o", "new"}, {"model.safetensors"});
}

TEST_F(ExchangeProgramTest, NewHeadAndResolution) {
  export_to("hf", "hf");
  const Words train = {"train", "--initial-checkpoint", "hf", "--dataset",
                       "mnist", "--batch-size",         "16"};
  const auto and_more = [](Words words, const Words& more) {
    words.insert(words.end(), more.begin(), more.end());
    return words;
  };
  const Words other = {"--num-classes", "12", "--image-size", "42", "--output", "tuned"};
  const std::string printed = output_of(and_more(train, and_more(other, {"--epochs", "1"})));
  EXPECT_NE(printed.find("Weights: hf: HuggingFace v4 names, 30 of 32 tensors, new head, positions "
                         "4x4 to 6x6\n"),
            std::string::npos)
      << printed;
  const Checkpoint tuned = open_checkpoint("tuned");
  EXPECT_EQ(tuned.config.model.num_classes, 12);
  EXPECT_EQ(tuned.config.model.image_height, 42);
  EXPECT_EQ(tuned.config.model.hidden_size, 8);
  EXPECT_EQ(tuned.config.model.layer_norm_eps, open_checkpoint("run").config.model.layer_norm_eps);
  EXPECT_EQ(tuned.config.recipe.initial_checkpoint, "hf");
  EXPECT_EQ(tuned.config.recipe.mean, (std::vector<float>{0.1307f}));
  EXPECT_EQ(tuned.state.step, 3);
  // What a run started from does not matter any more when it goes on.
  fs::rename("hf", "moved");
  output_of({"train", "--resume", "tuned", "--epochs", "2"});
  EXPECT_EQ(open_checkpoint("tuned").state.step, 6);
  expect_bad_input(and_more(train, {"--output", "new"}), {"hf: no such file or directory"});
}

TEST_F(ExchangeProgramTest, StartsFromAFileARunAndACheckpoint) {
  const std::string weights = read_file("run/last/model.safetensors");
  for (const char* path : {"run", "run/last", "run/last/model.safetensors"}) {
    SCOPED_TRACE(path);
    const std::string printed = output_of(
        {"train", "--initial-checkpoint", path, "--epochs", "0", "--output", "untrained"});
    EXPECT_EQ(printed, "Weights: " + std::string(path) +
                           ": timm names, 32 of 32 tensors\nUntrained checkpoint: "
                           "untrained/last\n");
    EXPECT_EQ(read_file("untrained/last/model.safetensors"), weights);
    EXPECT_EQ(open_checkpoint("untrained").config.class_names,
              open_checkpoint("run").config.class_names);
    fs::remove_all("untrained");
  }
  output_of({"train", "--initial-checkpoint", "run", "--num-classes", "4", "--epochs", "0",
             "--output", "untrained"});
  EXPECT_EQ(open_checkpoint("untrained").config.model.num_classes, 4);
  EXPECT_TRUE(open_checkpoint("untrained").config.class_names.empty());
}

TEST_F(ExchangeProgramTest, WeightsThatDoNotFit) {
  const Words base = {"train", "--config", "model.json", "--initial-checkpoint",
                      "run",   "--output", "new"};
  const auto with = [&](const Words& more) {
    Words words = base;
    words.insert(words.end(), more.begin(), more.end());
    return words;
  };
  write_file("model.json", replaced(kModel, "\"num_classes\": 10", "\"num_classes\": 12"));
  expect_bad_input(with({}), {"wrong shape head.weight (found [10, 8], expected [12, 8])",
                              "--num-classes 12 makes a new head"});
  expect_bad_input(with({"--epochs", "0"}), {"--num-classes 12 makes a new head"});
  write_file("model.json", replaced(kModel, "\"image_size\": 28", "\"image_size\": 56"));
  expect_bad_input(with({}), {"wrong shape pos_embed (found [1, 17, 8], expected [1, 65, 8])",
                              "--image-size 56 interpolates positions"});
  expect_bad_input(with({"--hidden-size", "16", "--num-classes", "12", "--image-size", "28"}),
                   {"wrong shape cls_token (found [1, 1, 8], expected [1, 1, 16])"});
}

TEST_F(ExchangeProgramTest, DamagedFilesWriteNothing) {
  export_to("hf", "hf");
  const std::string file = "hf/model.safetensors", good = read_file(file);
  const Words train = {"train", "--initial-checkpoint", "hf", "--dataset",
                       "mnist", "--batch-size",         "16", "--output",
                       "new"};
  for (const std::size_t bytes :
       {std::size_t{0}, std::size_t{7}, std::size_t{500}, good.size() - 1}) {
    write_file(file, good.substr(0, bytes));
    expect_bad_input(train, {file});
    expect_bad_input({"eval", "hf", "--dataset", "mnist"}, {file});
  }
  // The second tensor begins where the first does.
  const std::size_t at = good.find("\"data_offsets\":[32,");
  ASSERT_NE(at, std::string::npos);
  std::string overlapping = good;
  overlapping.replace(at, 18, "\"data_offsets\":[00");
  write_file(file, overlapping);
  expect_bad_input(train, {file});
  overlapping.replace(at, 18, "\"data_offsets\":[16");
  write_file(file, overlapping);
  expect_bad_input(train, {file});
  write_file(file, good);
  json config = json::parse(read_file("hf/config.json"));
  config["hidden_act"] = "swish";
  write_file("hf/config.json", config.dump());
  expect_bad_input(train, {"hf/config.json: hidden_act: found \"swish\", expected one of gelu"});
}

TEST_F(ExchangeProgramTest, AStartIsTheModelThatItStartsFrom) {
  export_to("hf", "hf");
  export_to("timm", "timm");
  for (const std::string from : {"run", "run/last", "run/last/model.safetensors", "hf", "timm"}) {
    SCOPED_TRACE(from);
    output_of({"train", "--initial-checkpoint", from, "--epochs", "0", "--output", "start"});
    EXPECT_EQ(evaluation_of("start"), evaluation_of("run"));  // normalisation and all
    fs::remove_all("start");
  }
}

TEST_F(ExchangeProgramTest, NothingIsWrittenOverACheckpoint) {
  const Words again = {"train", "--config", "model.json", "--output"};
  auto to = [&](const std::string& output) {
    Words words = again;
    words.push_back(output);
    return words;
  };
  export_to("hf", "hf");
  expect_bad_input(to("run"), {"--output: found a run in run", "--resume run"});
  expect_bad_input(to("run/last"), {"--output: found a checkpoint in run/last"});
  expect_bad_input(to("hf"), {"--output: found a checkpoint in hf"});
  expect_bad_input({"export", "run", "--format", "hf", "-o", ""}, {"output: found an empty name"});
  fs::create_directory("empty");
  fs::create_directory_symlink("empty", "link");
  export_to("timm", "link");
  EXPECT_TRUE(fs::exists("empty/model.safetensors"));
}

TEST_F(ExchangeProgramTest, ResumeKeepsTheModel) {
  auto resume = [](Words more) {
    more.insert(more.begin(), {"train", "--resume", "run", "--epochs", "2"});
    return more;
  };
  expect_bad_input(resume({"--image-size", "14,56"}),
                   {"image_size: found [14,56], expected 28 as in the checkpoint"});
  expect_bad_input(resume({"--num-classes", "12"}), {"num_classes: found 12, expected 10"});
  expect_bad_input(resume({"--initial-checkpoint", "run"}),
                   {"--resume: found --initial-checkpoint"});
  output_of(resume({"--drop", "0.1"}));  // how it is trained may change
}

TEST_F(ExchangeProgramTest, FreezingMayChangeBetweenEpochsOnly) {
  output_of({"train", "--config", "model.json", "--freeze", "backbone", "--max-steps", "1",
             "--output", "probe"});
  expect_bad_input({"train", "--resume", "probe", "--freeze", "patch_embed"},
                   {"freeze: found [\"patch_embed\"], expected [\"backbone\"] until the epoch"});
  output_of({"train", "--resume", "probe", "--max-steps", "0"});
  output_of({"train", "--resume", "probe", "--epochs", "2", "--freeze", "", "--max-steps", "0"});
}

TEST_F(ExchangeProgramTest, AModelWithoutHeadGetsOne) {
  export_to("timm", "headless");
  json config = json::parse(read_file("headless/config.json"));
  config["num_classes"] = config["pretrained_cfg"]["num_classes"] = 0;
  config["model_args"]["num_classes"] = 0;
  config.erase("label_names");
  write_file("headless/config.json", config.dump());
  const Words start = {"train", "--initial-checkpoint", "headless", "--epochs", "0", "--output",
                       "new"};
  expect_bad_input(start, {"num_classes: found 0"});
  Words with_head = start;
  with_head.insert(with_head.end(), {"--num-classes", "7"});
  EXPECT_NE(output_of(with_head).find("new head"), std::string::npos);
}

TEST_F(ExchangeProgramTest, NumbersBeyondTheRangeOfDouble) {
  export_to("hf", "hf");
  write_file("hf/config.json", R"({"model_type": "vit", "layer_norm_eps": 1e400})");
  expect_bad_input({"eval", "hf"}, {"hf/config.json: found a number beyond the range of double"});
}

}  // namespace
}  // namespace vitrine
