// Runs vitrine with the emulated GPU in a directory of its own, with a small configuration and
// small data, and checks what a user sees of it.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "io/files.h"
#include "run_program.h"
#include "temporary_directory.h"
#include "vitrine/checkpoint.h"
#include "vitrine/dataset.h"
#include "vitrine/image.h"

namespace vitrine {

namespace fs = std::filesystem;
using Words = std::vector<std::string>;

inline constexpr const char* kConfig = R"({
  "image_size": 28, "patch_size": 14, "num_channels": 1, "hidden_size": 8, "num_hidden_layers": 2,
  "num_attention_heads": 2, "intermediate_size": 12, "num_classes": 10, "dataset": "mnist",
  "batch_size": 16, "epochs": 2, "log_interval": 1})";

inline Words operator+(Words a, const Words& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

/// An environment variable for the programs run while it lives.
class Variable {
 public:
  Variable(const char* name, const std::string& value) : name_(name) {
    ::setenv(name, value.c_str(), 1);
  }
  ~Variable() { ::unsetenv(name_); }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  const char* name_;
};

struct Gpu : Variable {
  explicit Gpu(const std::string& what) : Variable("VITRINE_SIMT_GPU", what) {}
};
struct InjectedFault : Variable {
  explicit InjectedFault(const std::string& what) : Variable("VITRINE_SIMT_FAULT", what) {}
};
struct Streams : Variable {
  explicit Streams(const std::string& mode) : Variable("VITRINE_SIMT_STREAMS", mode) {}
};

inline Words lines_of(const std::string& text) {
  Words lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

/// Every file below the working directory with what it holds; links with where they point.
inline std::map<std::string, std::string> files() {
  std::map<std::string, std::string> found;
  for (const auto& entry : fs::recursive_directory_iterator(".")) {
    std::string& content = found[entry.path().string()];
    if (entry.is_symlink()) {
      content = fs::read_symlink(entry.path()).string();
    } else if (entry.is_regular_file()) {
      content = read_file(entry.path());
    }
  }
  return found;
}

/// batch.safetensors: four images for `vitrine step`.
inline void write_step_batch() {
  std::vector<float> images(4 * 28 * 28);
  for (std::size_t i = 0; i < images.size(); ++i) {
    images[i] = static_cast<float>(i * 37 % 101) / 50.0f - 1.0f;
  }
  const std::vector<std::int64_t> labels = {1, 0, 9, 3};
  const std::vector<SafetensorsTensor> batch = {
      {"images", DType::f32, Shape{4, 1, 28, 28}, images.data()},
      {"labels", DType::i64, Shape{4}, labels.data()}};
  write_safetensors("batch.safetensors", batch);
}

/// digit.png, for `vitrine predict`.
inline void write_digit() {
  const Dataset test = make_digits(1, 3);
  const std::vector<std::uint8_t> png =
      encode_png({1, 28, 28, {test.image(0), test.image(0) + 784}});
  write_file("digit.png", {reinterpret_cast<const char*>(png.data()), png.size()});
}

class ProgramTest : public testing::Test {
 protected:
  ProgramTest() : home_(fs::current_path()) {
    ::setenv("VITRINE_PROGRAM", fs::absolute(program_path()).c_str(), 1);
    for (const char* name : {"VITRINE_SIMT_GPU", "VITRINE_SIMT_FAULT", "VITRINE_SIMT_STREAMS"}) {
      ::unsetenv(name);
    }
    fs::current_path(directory_.path());
    write_file("small.json", kConfig);
    write_idx(make_digits(90, 5), "data", Split::train);
    write_idx(make_digits(40, 6), "data", Split::test);
  }
  ~ProgramTest() override { fs::current_path(home_); }

  /// JSON lines, so that standard error holds nothing but complaints.
  static Words train(const Words& more, const std::string& output = "run",
                     const std::string& device = "cuda") {
    return Words{"train",    "--config", "small.json", "--json",
                 "--device", device,     "--output",   output} +
           more;
  }

  static void expect_parts(const std::string& text, const Words& parts) {
    for (const std::string& part : parts) {
      EXPECT_NE(text.find(part), std::string::npos) << part << "\nin: " << text;
    }
  }
  static std::string output_of(const Words& words) {
    SCOPED_TRACE(testing::PrintToString(words));
    const ProgramResult result = run_program_with(words);
    EXPECT_EQ(result.code, 0) << result.err;
    EXPECT_EQ(result.err, "");
    return result.out;
  }
  /// The program ends with `code`, prints nothing but one line on standard error that has every
  /// part, and leaves the directory as it was.
  static std::string expect_failure(int code, const Words& words, const Words& parts) {
    SCOPED_TRACE(testing::PrintToString(words));
    const auto before = files();
    const ProgramResult result = run_program_with(words);
    EXPECT_EQ(result.code, code) << result.err;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    EXPECT_EQ(result.err.substr(0, 9), "vitrine: ") << result.err;
    EXPECT_EQ(result.out, "");
    expect_parts(result.err, parts);
    EXPECT_TRUE(files() == before) << "files changed";
    return result.err;
  }
  /// With --device auto the program says why it takes the CPU, in one line, and takes it.
  static void expect_cpu(const Words& more, const Words& parts) {
    const ProgramResult result =
        run_program_with(train(Words{"--max-steps", "1"} + more, "auto", "auto"));
    EXPECT_EQ(result.code, 0) << result.err;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    EXPECT_EQ(result.err.find("vitrine: using the CPU: "), 0u) << result.err;
    expect_parts(result.err, parts);
    EXPECT_EQ(open_checkpoint("auto").state.step, 1);
    EXPECT_NE(read_file("auto/report.html").find("<td>cpu</td>"), std::string::npos);
    fs::remove_all("auto");
  }
  static void expect_same_run(const std::string& a, const std::string& b) {
    for (const char* file : {"model.safetensors", "optimizer.safetensors"}) {
      EXPECT_TRUE(read_file(fs::path(a) / "last" / file) == read_file(fs::path(b) / "last" / file))
          << file << " of " << a << " and " << b;
    }
  }
  TemporaryDirectory directory_;
  fs::path home_;
};

}  // namespace vitrine
