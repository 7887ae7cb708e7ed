// The program as its users meet it: bad input, failures of the machine, Ctrl-C, and what each
// command prints and writes.

#include <gtest/gtest.h>

#include <cmath>
#include <csignal>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

#include "io/files.h"
#include "run_program.h"
#include "temporary_directory.h"
#include "vitrine/checkpoint.h"
#include "vitrine/device.h"
#include "vitrine/image.h"

namespace vitrine {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using Words = std::vector<std::string>;

// A model so small that a run takes a blink.
const Words kSmallModel = {"--config", "small.json"};
constexpr const char* kSmallConfig = R"({
  "image_size": 28, "patch_size": 14, "num_channels": 1, "hidden_size": 8, "num_hidden_layers": 1,
  "num_attention_heads": 2, "intermediate_size": 12, "num_classes": 10, "dataset": "mnist",
  "batch_size": 16, "epochs": 2, "log_interval": 1})";

Words operator+(Words a, const Words& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

class CliTest : public testing::Test {
 protected:
  CliTest() : program_(fs::absolute(program_path()).string()), home_(fs::current_path()) {
    ::setenv("VITRINE_PROGRAM", program_.c_str(), 1);
    fs::current_path(directory_.path());
    write_file("small.json", kSmallConfig);
    write_idx(make_digits(90, 5), "data", Split::train);
    write_idx(make_digits(40, 6), "data", Split::test);
  }
  ~CliTest() override { fs::current_path(home_); }

  static std::set<std::string> files() {
    std::set<std::string> names;
    for (const auto& entry : fs::recursive_directory_iterator(".")) {
      names.insert(entry.path().string());
    }
    return names;
  }
  static ProgramResult run(const Words& words) { return run_program_with(words); }
  /// Runs, expects success, and gives what was printed.
  static std::string output_of(const Words& words) {
    const ProgramResult result = run(words);
    EXPECT_EQ(result.code, 0) << result.err;
    return result.out;
  }
  /// The program ends with `code` and one line on standard error that has every part, and leaves
  /// the directory as it was.
  static void expect_failure(int code, const Words& words, const Words& parts) {
    SCOPED_TRACE(testing::PrintToString(words));
    const std::set<std::string> before = files();
    const ProgramResult result = run(words);
    EXPECT_EQ(result.code, code) << result.err;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    EXPECT_EQ(result.err.substr(0, 9), "vitrine: ") << result.err;
    for (const std::string& part : parts) {
      EXPECT_NE(result.err.find(part), std::string::npos) << part << "\nin: " << result.err;
    }
    EXPECT_EQ(files(), before);
  }
  static Words train(const Words& more, const std::string& output = "run") {
    return Words{"train"} + kSmallModel + Words{"--output", output} + more;
  }
  static void expect_plain_text(const std::string& text) {
    for (char c : text) {
      ASSERT_TRUE(c == '\n' || static_cast<unsigned char>(c) >= 0x20) << json(text).dump();
    }
  }

  TemporaryDirectory directory_;
  std::string program_;
  fs::path home_;
};

TEST_F(CliTest, BadFlags) {
  expect_failure(2, {}, {"subcommand"});
  expect_failure(2, {"trian"}, {"\"trian\"", "nearest known one is train"});
  expect_failure(2, train({"--threads", "-1"}), {"--threads", "-1"});
  expect_failure(2, train({"--batchsize", "3"}), {"--batchsize", "--batch-size"});
  expect_failure(2, train({"--lr", "fast"}), {"lr", "fast", "a number"});
  expect_failure(2, train({"--epochs", "-1"}), {"epochs: found -1, expected at least 0"});
  expect_failure(2, train({"--opt", "sgd"}), {"opt", "sgd", "adam, adamw"});
  expect_failure(2, train({"--patch-size", "5"}), {"image_size", "28x28", "patch_size 5"});
  expect_failure(2, train({"--hidden-size", "9"}), {"hidden_size", "9", "num_attention_heads 2"});
  expect_failure(2, train({"--batch-size", "91"}), {"batch_size", "91", "90 images"});
  expect_failure(2, train({"--batch-size", "6", "--target-batch-size", "20"}),
                 {"target_batch_size: found 20, expected a multiple of batch_size, 6"});
  expect_failure(2, train({"--grad-accum-steps", "2", "--target-batch-size", "20"}),
                 {"--target-batch-size", "--grad-accum-steps"});
  expect_failure(2, train({"--recompute", "some"}),
                 {"recompute: found \"some\", expected one of auto, none, selective, full"});
  expect_failure(2, train({"--num-classes", "9"}), {"num_classes: found 10", "9"});
  expect_failure(2, train({"--device", "tpu"}), {"tpu"});
  if (!built_with_cuda()) {
    expect_failure(1, train({"--device", "cuda:9"}), {"--device cuda:9: this build has no CUDA"});
  }
  expect_failure(2, {"train"}, {"--preset"});
  expect_failure(2, {"train", "--preset", "mnist-tutoral"}, {"mnist-tutoral", "mnist-tutorial"});
  expect_failure(2, train({"--dataset", "mnits"}), {"mnits", "mnist"});
  expect_failure(2, train({"--data-dir", "nowhere"}), {"nowhere", "train-images-idx3-ubyte"});
}

TEST_F(CliTest, BadFiles) {
  write_file("bad.json", R"({"hiden_size": 8})");
  expect_failure(2, {"train", "--config", "bad.json"}, {"bad.json", "hiden_size", "hidden_size"});
  write_file("bad.json", "{");
  expect_failure(2, {"inspect", "--config", "bad.json"}, {"bad.json", "not JSON"});
  expect_failure(2, {"inspect", "--config", "none.json"}, {"none.json", "no such file"});

  const fs::path images = "data/train-images-idx3-ubyte", labels = "data/train-labels-idx1-ubyte";
  const std::string good_images = read_file(images), good_labels = read_file(labels);
  std::string damaged = good_images;
  damaged[3] = 7;
  write_file(images, damaged);
  expect_failure(2, train({}), {images.string(), "magic number 2055", "2051"});
  write_file(images, good_images.substr(0, 1000));
  expect_failure(2, train({}), {images.string(), "short file"});
  write_file(images, good_images);
  damaged = good_labels;
  damaged[20] = 10;
  write_file(labels, damaged);
  expect_failure(2, train({}), {labels.string(), "label", "10"});
}

TEST_F(CliTest, BadCheckpoints) {
  fs::create_directory("empty");
  expect_failure(2, {"train", "--resume", "empty"}, {"empty", "config.json"});
  expect_failure(2, {"eval", "--checkpoint", "nowhere"}, {"nowhere"});
  output_of(train({"--epochs", "0"}));
  expect_failure(2, train({}), {"run", "--resume"});
  write_file("text.png", "this is text");
  expect_failure(2, {"predict", "--checkpoint", "run", "text.png"}, {"text.png", "PNG"});
  expect_failure(2, {"predict", "--checkpoint", "run", "no.png"}, {"no.png", "no such file"});
  write_file("run/last/model.safetensors", read_file("run/last/model.safetensors").substr(0, 300));
  expect_failure(2, {"eval", "--checkpoint", "run"}, {"model.safetensors"});
}

/// What `step` reads: a batch of four images.
struct StepBatch {
  std::vector<float> images = std::vector<float>(4 * 28 * 28, 0.5f);
  std::vector<std::int64_t> labels = {1, 0, 9, 3};
  Shape shape{4, 1, 28, 28};
  bool has_labels = true;

  void write(const fs::path& path) const {
    std::vector<SafetensorsTensor> list = {{"images", DType::f32, shape, images.data()}};
    if (has_labels) list.push_back({"labels", DType::i64, Shape{4}, labels.data()});
    write_safetensors(path, list);
  }
};

Words step_into(const std::string& output) {
  return Words{"step", "--output", output} + kSmallModel +
         Words{"--weights", "run/last/model.safetensors", "--batch", "b.safetensors"};
}
const Words kStep = step_into("out.safetensors");

TEST_F(CliTest, BadStepInput) {
  output_of(train({"--epochs", "0"}));
  const auto expect = [&](const StepBatch& batch, const Words& parts) {
    batch.write("b.safetensors");
    expect_failure(2, kStep, parts + Words{"b.safetensors"});
  };
  StepBatch batch;
  batch.has_labels = false;
  expect(batch, {"labels"});
  batch = {};
  batch.shape = Shape{4, 1, 14, 56};
  expect(batch, {"images", "[4, 1, 14, 56]", "[4, 1, 28, 28]"});
  for (float bad : {std::nanf(""), INFINITY}) {
    batch = {};
    batch.images[100] = bad;
    expect(batch, {"images", "finite"});
  }
  for (std::int64_t bad : {10, -2}) {
    batch = {};
    batch.labels[2] = bad;
    expect(batch, {"labels", "found " + std::to_string(bad), "0 to 9"});
  }
  StepBatch{}.write("b.safetensors");
  expect_failure(2, kStep + Words{"--hidden-size", "16"}, {"model.safetensors", "wrong shape"});
  expect_failure(2, kStep + Words{"--num-hidden-layers", "2"}, {"missing blocks.1."});
}

TEST_F(CliTest, FailuresOfTheMachine) {
  write_file("file", "regular");
  expect_failure(1, train({}, "file/run"), {"file/run"});
  expect_failure(1, train({"--epochs", "0"}, "/dev/null/x"), {"/dev/null/x"});
  expect_failure(1, {"data", "digits", "--output", "/dev/null/x"}, {"/dev/null/x"});
  output_of(train({"--epochs", "0"}));
  StepBatch{}.write("b.safetensors");
  expect_failure(1, step_into("/dev/null/x"), {"/dev/null/x"});
  write_idx(make_digits(3000, 5), "data", Split::train);
  expect_failure(1,
                 {"train", "--preset", "vit_huge_patch14_224", "--dataset", "mnist",
                  "--num-channels", "1", "--mean", "0.5", "--std", "0.5", "--batch-size", "3000",
                  "--hidden-size", "20480", "--output", "big"},
                 {"out of memory", "batch_size 3000 needs", "free are", "fits"});
}

TEST_F(CliTest, TrainEvalPredictInspect) {
  const ProgramResult trained = run(train({}));
  ASSERT_EQ(trained.code, 0) << trained.err;
  expect_plain_text(trained.out);
  expect_plain_text(trained.err);
  EXPECT_NE(trained.out.find("Test accuracy: "), std::string::npos) << trained.out;
  EXPECT_NE(trained.err.find("Epoch 2/2 loss: "), std::string::npos) << trained.err;
  for (const char* file : {"run/config.json", "run/metrics.jsonl", "run/summary.csv",
                           "run/report.html", "run/last/model.safetensors", "run/best"}) {
    EXPECT_TRUE(fs::exists(file)) << file;
  }
  const Checkpoint checkpoint = open_checkpoint("run");
  const json eval = json::parse(output_of({"eval", "--checkpoint", "run", "--json"}));
  EXPECT_EQ(eval.at("top1"), checkpoint.state.epochs.at(1).test_top1);
  EXPECT_EQ(eval.at("loss"), checkpoint.state.epochs.at(1).test_loss);
  EXPECT_EQ(eval.at("samples"), 40);

  const std::vector<std::uint8_t> png =
      encode_png({1, 28, 28, std::vector<std::uint8_t>(28 * 28, 77)});
  write_file("a.png", {reinterpret_cast<const char*>(png.data()), png.size()});
  const json predicted = json::parse(
      output_of({"predict", "--checkpoint", "run", "--json", "--top-k", "10", "a.png"}));
  double sum = 0;
  for (const json& p : predicted.at(0).at("predictions")) sum += p.at("probability").get<double>();
  EXPECT_NEAR(sum, 1.0, 1e-5);
  EXPECT_EQ(predicted.at(0).at("predictions").size(), 10u);
  EXPECT_NE(output_of({"predict", "--checkpoint", "run", "a.png"}).find(" %"), std::string::npos);

  const json model = json::parse(output_of({"inspect", "--checkpoint", "run", "--json"}));
  std::int64_t parts = 0;
  for (const auto& [part, bytes] : model.at("memory").items()) {
    if (part != "total") parts += bytes.get<std::int64_t>();
  }
  EXPECT_EQ(parts, model.at("memory").at("total"));
  EXPECT_GT(model.at("memory").at("evaluation"), 0);
  // Patch 8·196 + 8, class token 8, positions 5·8, one block of 572 + norm 16 + head 90.
  const int block = 2 * 16 + (3 * 64 + 24) + (64 + 8) + (8 * 12 + 12) + (12 * 8 + 8);
  EXPECT_EQ(model.at("parameters"), 8 * 196 + 8 + 8 + 40 + block + 16 + 90);
  EXPECT_GT(model.at("largest_batch"), 1);
  EXPECT_NE(output_of({"inspect"}).find("mnist-tutorial"), std::string::npos);
}

TEST_F(CliTest, UntrainedCheckpointNeedsNoData) {
  output_of({"train", "--preset", "mnist-tutorial", "--epochs", "0", "--output", "new"});
  EXPECT_EQ(open_checkpoint("new").state.step, 0);
  EXPECT_EQ(open_checkpoint("new").config.preset, "mnist-tutorial");
}

TEST_F(CliTest, UntrainedCheckpointAsJson) {
  const std::string line = output_of(train({"--epochs", "0", "--json"}));
  EXPECT_EQ(std::count(line.begin(), line.end(), '\n'), 1) << line;
  EXPECT_EQ(json::parse(line), (json{{"checkpoint", "run/last"}}));
}

// Untrained weights must not take the place of trained ones.
TEST_F(CliTest, ResumeTrains) {
  const Words resume = {"train", "--resume", "run"};
  const Words parts = {"--epochs: found 0 beside --resume, expected at least 1"};
  output_of(train({"--max-steps", "1"}));
  expect_failure(2, resume + Words{"--epochs", "0"}, parts);
  expect_failure(2, resume + Words{"--epochs", "0", "--output", "other"}, parts);
  EXPECT_EQ(open_checkpoint("run").state.step, 1);

  fs::remove_all("run");
  output_of(train({"--epochs", "0"}));
  expect_failure(2, resume, parts);
  output_of(resume + Words{"--epochs", "1"});
  EXPECT_EQ(open_checkpoint("run").state.step, 6);
}

// What eval or predict print, without the time it took.
json result_of(const std::string& text) {
  json result = json::parse(text);
  if (result.is_object()) result.erase("seconds");
  return result;
}

TEST_F(CliTest, PrecisionOfAnEvaluation) {
  output_of(train({"--epochs", "0", "--precision", "bf16", "--device", "cpu"}));
  ASSERT_EQ(open_checkpoint("run").config.recipe.precision, Precision::bf16);
  const std::vector<std::uint8_t> png =
      encode_png({1, 28, 28, std::vector<std::uint8_t>(28 * 28, 77)});
  write_file("a.png", {reinterpret_cast<const char*>(png.data()), png.size()});
  const Words options = {"--checkpoint", "run", "--json", "--device", "cpu"};
  for (const Words& command : {Words{"eval"} + options, Words{"predict", "a.png"} + options}) {
    SCOPED_TRACE(command[0]);
    const ProgramResult found = run(command);
    EXPECT_EQ(found.code, 0);
    EXPECT_EQ(found.err, "vitrine: evaluating in fp32: the device cpu has no bf16\n");
    for (const char* precision : {"fp32", "tf32"}) {
      const ProgramResult asked = run(command + Words{"--precision", precision});
      EXPECT_EQ(asked.err, "");
      EXPECT_EQ(result_of(asked.out), result_of(found.out)) << precision;
    }
    expect_failure(2, command + Words{"--precision", "bf16"}, {"precision: found bf16", "cpu"});
    expect_failure(2, command + Words{"--precision", "fp16"}, {"precision", "fp16", "fp32, tf32"});
  }
}

// The mean of the batches' mean losses, by the logits: −log softmax(logits)[label].
double mean_of_batch_losses(const std::string& logits, const Dataset& data, std::int64_t batch) {
  const auto z = SafetensorsFile(logits).read_f32("logits", Shape{data.size(), 10});
  double sum_of_means = 0;
  std::int64_t batches = 0;
  for (std::int64_t begin = 0; begin < data.size(); begin += batch, ++batches) {
    const std::int64_t end = std::min(begin + batch, data.size());
    double sum = 0;
    for (std::int64_t i = begin; i < end; ++i) {
      const float* row = z.data() + i * 10;
      double exponentials = 0;
      for (int k = 0; k < 10; ++k) exponentials += std::exp(static_cast<double>(row[k]));
      sum += std::log(exponentials) - row[data.labels[static_cast<std::size_t>(i)]];
    }
    sum_of_means += sum / static_cast<double>(end - begin);
  }
  return sum_of_means / static_cast<double>(batches);
}

TEST_F(CliTest, BatchSizeOfAnEvaluation) {
  output_of(train({"--epochs", "0", "--loss-average", "batches"}));
  const Words eval = {"eval", "run", "--json", "--dump", "logits.safetensors"};
  const Dataset test = load_dataset("mnist", "data", Split::test);
  const auto expect_batch = [&](const Words& more, std::int64_t batch) {
    SCOPED_TRACE(testing::PrintToString(more));
    const json found = json::parse(output_of(eval + more));
    EXPECT_EQ(found.at("samples"), 40);
    EXPECT_NEAR(found.at("loss").get<double>(),
                mean_of_batch_losses("logits.safetensors", test, batch), 1e-6);
  };
  expect_batch({}, 16);
  expect_batch({"--batch-size", "7"}, 7);
  expect_batch({"-b", "3"}, 3);
  expect_batch({"-b", "1000"}, 40);
  for (const std::int64_t other : {7, 3, 40}) {  // or no batch size could be told from another
    EXPECT_GT(std::abs(mean_of_batch_losses("logits.safetensors", test, 16) -
                       mean_of_batch_losses("logits.safetensors", test, other)),
              1e-5);
  }
  expect_failure(2, eval + Words{"-b", "0"}, {"batch_size: found 0", "1"});
}

TEST_F(CliTest, JsonLines) {
  const ProgramResult result = run(train({"--json"}));
  EXPECT_EQ(result.err, "");
  EXPECT_EQ(std::count(result.out.begin(), result.out.end(), '\n'), 2);
  EXPECT_EQ(json::parse(result.out.substr(0, result.out.find('\n'))).at("epoch"), 1);
}

TEST_F(CliTest, DataDigits) {
  output_of({"data", "digits", "--output", "digits"});
  const Dataset test = load_dataset("mnist", "digits", Split::test);
  EXPECT_EQ(test.size(), 2000);
  EXPECT_EQ(load_dataset("mnist", "digits", Split::train).size(), 10000);
}

TEST_F(CliTest, StepWritesWhatIsDocumented) {
  output_of(train({"--epochs", "0"}));
  StepBatch{}.write("b.safetensors");
  output_of(kStep + Words{"--steps", "3", "--lr", "0.01"});
  const SafetensorsFile out("out.safetensors"), weights("run/last/model.safetensors");
  EXPECT_EQ(out.read_f32("logits", Shape{3, 4, 10}).size(), 120u);
  const auto probabilities = out.read_f32("probabilities", Shape{3, 4, 10});
  double sum = 0;
  for (int k = 0; k < 10; ++k) sum += probabilities[k];
  EXPECT_NEAR(sum, 1.0, 1e-5);
  const auto loss = out.read_f32("loss", Shape{3});
  EXPECT_LT(loss[2], loss[0]);
  for (const SafetensorsEntry& entry : weights.entries()) {
    const auto before = weights.read_f32(entry.name, entry.shape);
    EXPECT_NE(out.read_f32("param." + entry.name, entry.shape), before) << entry.name;
    out.read_f32("grad." + entry.name, entry.shape);
  }
  EXPECT_EQ(out.entries().size(), 3 + 2 * weights.entries().size());
}

TEST_F(CliTest, CtrlCWritesACheckpointThatResumes) {
  bool sent = false;
  const auto interrupt = [&](pid_t process, const std::string& err) {
    if (sent || err.find('\n') == std::string::npos) return;
    sent = true;
    ::kill(process, SIGINT);
  };
  const ProgramResult result = run_program_with(train({"--epochs", "100000"}), interrupt);
  EXPECT_TRUE(sent);
  EXPECT_EQ(result.code, 130) << result.err;
  EXPECT_NE(result.err.find("--resume run\n"), std::string::npos) << result.err;
  for (const std::string& name : files()) EXPECT_EQ(name.find(".tmp"), std::string::npos) << name;
  const std::int64_t step = open_checkpoint("run").state.step;
  EXPECT_GT(step, 0);
  const std::string more = std::to_string(step + 8);
  output_of({"train", "--resume", "run", "--output", "other", "--max-steps", more});
  EXPECT_EQ(open_checkpoint("run").state.step, step);
  output_of({"train", "--resume", "run", "--max-steps", more});
  EXPECT_EQ(open_checkpoint("run").state.step, step + 8);
  for (const char* file : {"model.safetensors", "optimizer.safetensors"}) {
    EXPECT_TRUE(read_file(fs::path("run/last") / file) == read_file(fs::path("other/last") / file));
  }
  expect_failure(2, {"train", "--resume", "run", "--output", "other"}, {"--output", "other"});
}

}  // namespace
}  // namespace vitrine
