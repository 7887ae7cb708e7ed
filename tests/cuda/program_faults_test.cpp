// What a user of --device cuda sees of errors that come late: a replay, step by step, names the
// operation, and the run's files stay as they are.
#include <regex>
#include <set>

#include "program_test.h"

namespace vitrine {
namespace {

constexpr int kStepsPerEpoch = 6;  // of 90 images, the last with 10
constexpr const char* kIllegalAddress =
    "cudaErrorIllegalAddress: an illegal memory access was encountered";

/// A run that fails with a complaint of two lines: that something went wrong, and what.
std::string expect_fault(const Words& words) {
  SCOPED_TRACE(testing::PrintToString(words));
  const ProgramResult result = run_program_with(words);
  EXPECT_EQ(result.code, 1) << result.err;
  EXPECT_EQ(result.out, "");
  const Words lines = lines_of(result.err);
  if (lines.size() != 2) {
    ADD_FAILURE() << "expected two lines, found: " << result.err;
    return "";
  }
  const std::regex first("vitrine: cuda[A-Za-z]*: " + std::string(kIllegalAddress) +
                         "; looking for the operation, step by step …");
  EXPECT_TRUE(std::regex_match(lines[0], first)) << lines[0];
  return lines[1];
}

// Two blocks: activation_backward runs twice a step, the update once.
TEST_F(ProgramTest, AnErrorThatComesLateIsNamed) {
  for (const char* streams : {"late", "eager"}) {
    const Streams mode(streams);
    for (const Words& graph : {Words{}, Words{"--no-cuda-graph"}}) {
      SCOPED_TRACE(testing::Message() << streams << " " << graph.size());
      fs::remove_all("run");
      {
        const InjectedFault fault("activation_backward:6:700");
        expect_parts(expect_fault(train(graph)),
                     {"vitrine: step 3: blocks.0.mlp.act: activation_backward: ", kIllegalAddress});
      }
      {
        const InjectedFault fault("adamw:2:700");
        expect_parts(expect_fault(train(graph)), {"vitrine: step 2: update: ", kIllegalAddress});
      }
      // Six steps, two blocks: the next is the first of the evaluation.
      const InjectedFault fault("activation_forward:13:700");
      expect_parts(expect_fault(train(graph)),
                   {"vitrine: the evaluation after step 6: blocks.0.mlp.act: activation_forward: ",
                    kIllegalAddress});
    }
  }
  const InjectedFault fault("adamw:2:700");
  expect_parts(expect_fault(train({}, "run", "auto")), {"vitrine: step 2: update: "});
  // Nothing but the configuration and the log: no checkpoint was due, and the replay writes none.
  for (const auto& [name, content] : files()) {
    EXPECT_TRUE(!name.starts_with("./run/") || name == "./run/config.json" ||
                name.starts_with("./run/events."))
        << name;
  }
}

// The header once, the progress of the run, and then the two lines.
TEST_F(ProgramTest, AReplayIsSilent) {
  const InjectedFault fault("adamw:4:700");
  const Streams eager("eager");
  const ProgramResult result =
      run_program_with({"train", "--config", "small.json", "--device", "cuda", "--output", "run"});
  EXPECT_EQ(result.code, 1);
  EXPECT_EQ(lines_of(result.out).size(), 5u) << result.out;
  const Words lines = lines_of(result.err);
  ASSERT_EQ(lines.size(), 5u) << result.err;
  for (int step = 1; step <= 3; ++step) {
    expect_parts(lines[static_cast<std::size_t>(step) - 1],
                 {"Epoch 1/2  " + std::to_string(16 * step) + "/90  loss "});
  }
  expect_parts(lines[3], {"looking for the operation, step by step …"});
  expect_parts(lines[4], {"vitrine: step 4: update: "});
}

TEST_F(ProgramTest, AnErrorIsNamedAtOnceWhereOperationsAreChecked) {
  const InjectedFault fault("activation_backward:6:700");
  const ProgramResult result = run_program_with(train({"--check-operations"}));
  EXPECT_EQ(result.code, 1);
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  expect_parts(result.err,
               {"vitrine: step 3: blocks.0.mlp.act: activation_backward: ", kIllegalAddress});
}

// After the evaluation that belongs to the run comes the one for the report.
TEST_F(ProgramTest, AnErrorInTheLastEvaluationIsNamed) {
  const std::string first_of_report = std::to_string(2 * (2 * (kStepsPerEpoch + 3)) + 1);
  const InjectedFault fault("activation_forward:" + first_of_report + ":700");
  const ProgramResult result = run_program_with(train({}));
  EXPECT_EQ(result.code, 1);
  const Words lines = lines_of(result.err);
  ASSERT_EQ(lines.size(), 2u) << result.err;
  // The replay begins behind the epochs and launches what the report needs, and no more.
  expect_parts(lines[1], {"noticed at the evaluation after step 12", "--resume run"});
  EXPECT_EQ(open_checkpoint("run").state.step, 12);
}

// The replay continues from the run's own checkpoint, ends one log interval after the step that
// noticed, and leaves the run as it is.
TEST_F(ProgramTest, AReplayBeginsAtTheCheckpointAndEnds) {
  const Words more = {"--checkpoint-interval", "3", "--epochs", "1000"};
  output_of(train(Words{"--max-steps", "3"} + more, "three"));
  {
    const InjectedFault fault("adamw:5:700");  // step 5; after step 3 the replay has no fifth
    const std::string line = expect_fault(train(more));
    expect_parts(line, {"vitrine: cuda", kIllegalAddress, "(noticed at ",
                        "; it did not come again when every operation was waited for)",
                        "; continue with: vitrine train --resume run"});
  }
  EXPECT_EQ(fs::read_symlink("run/last"), "step-3");
  expect_same_run("run", "three");
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator("run")) {
    const std::string name = entry.path().filename();
    names.insert(name.starts_with("events.") ? "events" : name);
  }
  EXPECT_EQ(names, (std::set<std::string>{"config.json", "events", "last", "step-3"}));

  // Resumed and failing at once: the replay begins where the resumed run began.
  const Words resume = {"train", "--json", "--device", "cuda", "--resume", "run"};
  {
    const InjectedFault fault("adamw:2:700");
    const std::string line = expect_fault(resume);
    expect_parts(line, {"vitrine: step 5: update: ", kIllegalAddress});
  }
  expect_same_run("run", "three");
  output_of(resume + Words{"--max-steps", "8"});
  output_of(train(Words{"--max-steps", "8"} + more, "eight"));
  expect_same_run("run", "eight");
}

// The other commands have no replay; they say how to get the operation's name.
TEST_F(ProgramTest, OtherCommandsSayHowToFindTheOperation) {
  output_of(train({"--max-steps", "1"}));
  write_digit();
  write_step_batch();
  const std::string weights = "run/last/model.safetensors";
  const Words cuda = {"--device", "cuda"};
  const std::vector<Words> commands = {
      Words{"eval", "run", "--json"} + cuda,
      Words{"predict", "digit.png", "--checkpoint", "run", "--json"} + cuda,
      Words{"step", "--config", "small.json", "--weights", weights, "--batch", "batch.safetensors",
            "--output", "none"} +
          cuda};
  const InjectedFault fault("activation_forward:2:700");
  for (const char* streams : {"late", "eager"}) {
    const Streams mode(streams);
    for (const Words& command : commands) {
      const std::string late = expect_failure(1, command, {});
      const std::regex line("vitrine: cuda[A-Za-z]*: " + std::string(kIllegalAddress) +
                            "; run again with --check-operations to see which operation it was\n");
      EXPECT_TRUE(std::regex_match(late, line)) << late;
      EXPECT_EQ(
          expect_failure(1, command + Words{"--check-operations"}, {}),
          "vitrine: blocks.1.mlp.act: activation_forward: " + std::string(kIllegalAddress) + "\n");
    }
  }
  // An error that leaves the device as it was belongs to the call that says so.
  const InjectedFault refused("cudaStreamBeginCapture:1:801");
  EXPECT_EQ(expect_failure(1, commands[0], {"cudaStreamBeginCapture"}).find("--check-operations"),
            std::string::npos);
}

}  // namespace
}  // namespace vitrine
