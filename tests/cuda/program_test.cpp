// What a user of --device cuda sees: no GPU or one that is too old, memory that is not there,
// Ctrl-C; and that the commands give what they give on the CPU.
#include "program_test.h"

#include <cmath>
#include <csignal>
#include <nlohmann/json.hpp>
#include <regex>

namespace vitrine {
namespace {

using nlohmann::json;

TEST_F(ProgramTest, NoGpuThatCanBeUsed) {
  struct Case {
    std::string gpu, fault;
    Words parts;
  };
  const Case cases[] = {
      {"devices=0", "", {"--device cuda: found no CUDA GPU, expected at least one"}},
      {"error=35;driver=0", "", {"--device cuda: found no NVIDIA driver, expected one"}},
      {"driver=12000;runtime=13010",
       "",
       {"--device cuda: the driver is too old: found CUDA 12.0, expected 13.1 or newer"}},
      {"capability=7.5;name=Old GPU",
       "",
       {"--device cuda: Old GPU: found compute capability 7.5, expected 8.0 or higher"}},
      {"name=Full GPU",
       "cudaMemGetInfo:1:2",
       {"--device cuda: Full GPU: cudaErrorMemoryAllocation: out of memory; another process"}}};
  for (const Case& c : cases) {
    SCOPED_TRACE(c.gpu + " " + c.fault);
    const Gpu gpu(c.gpu);
    const InjectedFault fault(c.fault.empty() ? "none:1:1" : c.fault);
    expect_failure(1, train({}), c.parts);
    expect_cpu({}, c.parts);
  }
}

TEST_F(ProgramTest, BadFlags) {
  expect_failure(1, train({}, "run", "cuda:3"), {"--device cuda:3: found 1 GPU", "0 to 0"});
  {
    const Gpu two("devices=2");
    expect_failure(1, train({}, "run", "cuda:2"), {"--device cuda:2: found 2 GPUs", "0 to 1"});
    output_of(train({"--max-steps", "1"}, "second", "cuda:1"));
  }
  expect_failure(2, train({}, "run", "cuda:x"), {"--device", "\"cuda:x\"", "auto, cpu, cuda"});
  expect_failure(2, train({"--precision", "bf16"}, "run", "cpu"), {"precision", "bf16", "fp32"});
  const Variable replay("VITRINE_FAULT_REPLAY", "yes");
  expect_failure(2, train({}), {"VITRINE_FAULT_REPLAY", "\"yes\"", "expected nothing"});
}

// The largest batch that is said to fit must fit, and one more must not.
TEST_F(ProgramTest, TooLittleMemory) {
  const Words wide = {"--patch-size", "7", "--hidden-size", "16", "--intermediate-size", "4096"};
  const Words large = wide + Words{"--batch-size", "90"};
  for (const int mebibytes : {100, 120}) {
    SCOPED_TRACE(mebibytes);
    const Gpu gpu("memory=8g;used=" + std::to_string(8192 - mebibytes) + "m");
    const std::string line = expect_failure(
        1, train(large),
        {"out of memory: batch_size 90 needs ", ", free are ", "(other processes hold "});
    const std::regex hint("[^;]*; the largest batch that fits is ([0-9]+)\n");
    std::smatch match;
    ASSERT_TRUE(std::regex_match(line, match, hint)) << line;
    const int batch = std::stoi(match[1]);
    output_of(
        train(wide + Words{"--max-steps", "1", "--batch-size", std::to_string(batch)}, "fits"));
    fs::remove_all("fits");
    expect_failure(1, train(wide + Words{"--batch-size", std::to_string(batch + 1)}),
                   {"fits is " + std::to_string(batch) + "\n"});
  }
  {
    const Gpu full("memory=8g;used=8126m");
    const Words parts = {"out of memory: batch_size 90 needs ", ", free are ",
                         "(other processes hold 7.9 GiB); not even a batch of 1 fits\n"};
    expect_failure(1, train(large), parts);
    expect_cpu(large, parts);
    // Where neither has the memory, one line says so.
    expect_failure(
        1, train({"--hidden-size", "1048576", "--intermediate-size", "1048576"}, "run", "auto"),
        {"out of memory: batch_size 16 needs ", "not even a batch of 1 fits"});
  }
  const Gpu tiny("memory=8m;name=Tiny GPU");
  const Words parts = {"out of memory: workspace", "needed ", "free ", "Tiny GPU"};
  expect_failure(1, train({}), parts);
  expect_cpu({}, parts);
}

// Wherever in the construction memory runs out, one line says for what.
TEST_F(ProgramTest, EveryAllocationMayFail) {
  int device = 0;
  for (;; ++device) {
    const InjectedFault fault("cudaMalloc:" + std::to_string(device + 1) + ":2");
    if (run_program_with(train({"--max-steps", "1"}, "all")).code == 0) break;
    expect_failure(1, train({}), {"vitrine: out of memory: ", ": needed ", ", free ", " on "});
    if (device % 6 == 0) expect_cpu({}, {"out of memory: "});
  }
  EXPECT_GT(device, 12);
  fs::remove_all("all");
  int host = 0;
  for (;; ++host) {
    SCOPED_TRACE(host);
    const InjectedFault fault("cudaMallocHost:" + std::to_string(host + 1) + ":2");
    const ProgramResult result = run_program_with(train({"--max-steps", "1"}));
    if (result.code == 0) break;
    EXPECT_EQ(result.code, 1);
    const std::regex line("vitrine: out of memory: page-locked host memory: needed [0-9]+ MiB\n");
    EXPECT_TRUE(std::regex_match(result.err, line)) << result.err;
    EXPECT_FALSE(fs::exists("run/last"));
    for (const auto& [name, content] : files()) {
      EXPECT_EQ(name.find("step-"), std::string::npos) << name;
      EXPECT_EQ(name.find(".tmp"), std::string::npos) << name;
    }
  }
  EXPECT_GT(host, 4);
}

TEST_F(ProgramTest, TuningIsKeptAndReadAgain) {
  const Words tune = {"--max-steps", "3", "--tune", "tuning.json"};
  output_of(train(tune, "first"));
  const std::string tuning = read_file("tuning.json");
  EXPECT_GT(json::parse(tuning).at("algorithms").size(), 4u);
  const auto written = fs::last_write_time("tuning.json");
  output_of(train(tune, "second"));
  EXPECT_EQ(read_file("tuning.json"), tuning);
  EXPECT_EQ(fs::last_write_time("tuning.json"), written);
  expect_same_run("first", "second");

  std::string damaged = tuning;
  const std::size_t digits = damaged.rfind(": \"") + 3;
  damaged[digits] = damaged[digits] == '1' ? '2' : '1';
  write_file("tuning.json", damaged);
  expect_failure(2, train(tune), {"tuning.json: hash: found ", "expected"});
  write_file("tuning.json", tuning.substr(0, tuning.size() / 2));
  expect_failure(2, train(tune), {"tuning.json", "not JSON"});
  expect_failure(1, train({"--tune", "nowhere/tuning.json"}), {"nowhere/tuning.json"});
  expect_failure(1, train({"--tune", "/dev/null/tuning.json"}), {"/dev/null/tuning.json"});
}

TEST_F(ProgramTest, TheSameBitsHoweverOften) {
  output_of(train({}, "first"));
  output_of(train({}, "second"));
  expect_same_run("first", "second");
  output_of(train({"--no-cuda-graph"}, "launches"));
  expect_same_run("first", "launches");
  output_of(train({"--check-operations"}, "checked"));
  expect_same_run("first", "checked");
  const Streams eager("eager");
  output_of(train({}, "eager"));
  expect_same_run("first", "eager");
  output_of(train({"--seed", "7"}, "other"));
  EXPECT_FALSE(read_file("first/last/model.safetensors") ==
               read_file("other/last/model.safetensors"));
}

TEST_F(ProgramTest, CtrlCLeavesACheckpointThatContinues) {
  const Words forever = {"train",  "--config", "small.json", "--epochs",
                         "100000", "--device", "cuda",       "--output"};
  bool sent = false;
  const auto interrupt = [&](pid_t process, const std::string& err) {
    if (sent || err.find('\n') == std::string::npos) return;
    sent = true;
    ::kill(process, SIGINT);
  };
  const ProgramResult result = run_program_with(forever + Words{"stopped"}, interrupt);
  EXPECT_TRUE(sent);
  EXPECT_EQ(result.code, 130) << result.err;
  expect_parts(result.err, {"--resume stopped\n"});
  for (const auto& [name, content] : files()) EXPECT_EQ(name.find(".tmp"), std::string::npos);
  const std::int64_t step = open_checkpoint("stopped").state.step;
  EXPECT_GT(step, 0);
  const Words more = {"--max-steps", std::to_string(step + 8)};
  output_of(Words{"train", "--json", "--device", "cuda", "--resume", "stopped"} + more);
  EXPECT_EQ(open_checkpoint("stopped").state.step, step + 8);
  output_of(forever + Words{"whole", "--json"} + more);
  expect_same_run("stopped", "whole");
}

/// Whether all numbers of the two files' tensor are closer than `most`.
void expect_near(const std::string& a, const std::string& b, const std::string& tensor,
                 const Shape& shape, double most) {
  const auto x = SafetensorsFile(a).read_f32(tensor, shape);
  const auto y = SafetensorsFile(b).read_f32(tensor, shape);
  double largest = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double difference = std::abs(static_cast<double>(x[i]) - y[i]);
    largest = difference <= largest ? largest : difference;  // NaN is the largest
  }
  EXPECT_LE(largest, most) << tensor;
}

TEST_F(ProgramTest, CommandsAgreeWithTheCpu) {
  output_of(train({}));
  const Words cpu = {"--device", "cpu"}, cuda = {"--device", "cuda"};

  const Words eval = {"eval", "--checkpoint", "run", "--json"};
  const json expected = json::parse(output_of(eval + cpu));
  const json found = json::parse(output_of(eval + cuda));
  EXPECT_EQ(found.at("top1"), expected.at("top1"));
  EXPECT_EQ(found.at("top5"), expected.at("top5"));
  EXPECT_EQ(found.at("samples"), 40);
  EXPECT_NEAR(found.at("loss").get<double>(), expected.at("loss").get<double>(), 1e-5);

  write_digit();
  const Words predict = {"predict", "--checkpoint", "run", "--json", "--top-k", "10", "digit.png"};
  const json a = json::parse(output_of(predict + cpu)).at(0).at("predictions");
  const json b = json::parse(output_of(predict + cuda)).at(0).at("predictions");
  ASSERT_EQ(b.size(), 10u);
  for (std::size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(b[i].at("class"), a[i].at("class"));
    EXPECT_NEAR(b[i].at("probability").get<double>(), a[i].at("probability").get<double>(), 1e-5);
  }

  write_step_batch();
  const Words step = {
      "step",    "--config",          "small.json", "--weights", "run/last/model.safetensors",
      "--batch", "batch.safetensors", "--steps",    "2"};
  output_of(step + cpu + Words{"--output", "cpu.safetensors"});
  output_of(step + cuda + Words{"--output", "cuda.safetensors"});
  expect_near("cuda.safetensors", "cpu.safetensors", "logits", {2, 4, 10}, 1e-5);
  expect_near("cuda.safetensors", "cpu.safetensors", "loss", {2}, 1e-5);
  const SafetensorsFile by_cpu("cpu.safetensors");
  for (const SafetensorsEntry& entry : by_cpu.entries()) {
    if (!entry.name.starts_with("grad.")) continue;
    expect_near("cuda.safetensors", "cpu.safetensors", entry.name, entry.shape, 1e-5);
  }
}

TEST_F(ProgramTest, PrecisionOfAnEvaluation) {
  output_of(train({"--max-steps", "3", "--precision", "bf16"}));
  const Words eval = {"eval", "run", "--json", "--device", "cuda"};
  const auto loss = [&](const Words& more) {
    return json::parse(output_of(eval + more)).at("loss").get<double>();
  };
  const double own = loss({}), fp32 = loss({"--precision", "fp32"});
  EXPECT_EQ(own, loss({"--precision", "bf16"}));
  EXPECT_NE(own, fp32);
  EXPECT_NEAR(own, fp32, 0.05);
}

}  // namespace
}  // namespace vitrine
