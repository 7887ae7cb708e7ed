// Measured algorithms of matrix products, and the file that keeps them.
#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include "cublaslt_problem.h"
#include "io/files.h"
#include "temporary_directory.h"

namespace vitrine::cuda {
namespace {

class Tuning : public CublasLt {
 protected:
  std::filesystem::path file() const { return directory_ / "tune.json"; }
  /// A library that has run these cases and saved what it measured.
  std::string tuned_hash(const std::filesystem::path& path, const std::vector<Case>& cases) {
    CublasLtMatmul library(options(path));
    for (const Case& c : cases) run(library, Problem(c, 101));
    library.save();
    return library.hash();
  }
  /// The message of the BadInput that reading the file throws.
  std::string complaint() {
    try {
      const CublasLtMatmul library(options(file()));
    } catch (const BadInput& error) {
      const std::string message = error.what();
      EXPECT_EQ(message.find('\n'), std::string::npos) << message;
      EXPECT_EQ(message.rfind(file().string() + ": ", 0), 0u) << message;
      return message;
    }
    return "accepted";
  }
  /// The file with the first `from` replaced.
  void damage(const std::string& from, const std::string& to) {
    std::string text = read_file(file());
    const std::size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << text;
    write_file(file(), text.replace(at, from.size(), to));
  }

  const Case wide_{.m = 32, .n = 32, .k = 64};
  const Case narrow_{.m = 3, .n = 5, .k = 7};
  TemporaryDirectory directory_;
};

TEST_F(Tuning, TakesTheFastest) {
  for (const int fastest : {1, 3, 4, 5}) {
    for (int i = 0; i < simt::kLtAlgorithms; ++i) {
      simt::set_duration(("cublasLtMatmul/" + std::to_string(i)).c_str(), i == fastest ? 1 : 2);
    }
    CublasLtMatmul library(options(directory_ / std::to_string(fastest)));
    run(library, Problem(wide_, 111));
    simt::reset_lt_calls();
    run(library, Problem(wide_, 112));
    EXPECT_EQ(simt::lt_calls().all, 1);
    EXPECT_EQ(simt::lt_calls().by_algorithm[fastest], 1) << fastest;
  }
}

TEST_F(Tuning, PassesOverAlgorithmsThatDoNotRun) {
  simt::refuse_lt_algorithm(1);
  CublasLtMatmul library(options(file()));
  run(library, Problem(wide_, 115));
  simt::reset_lt_calls();
  run(library, Problem(wide_, 116));
  EXPECT_EQ(simt::lt_calls().matmuls, 1);
  EXPECT_EQ(simt::lt_calls().by_algorithm[1], 0);
}

TEST_F(Tuning, LeavesOutAsOneProductDoes) {
  for (const bool accumulate : {false, true}) {
    Case c = wide_;
    c.accumulate = accumulate;
    c.batch = 3, c.between = 2;
    const Problem problem(c, 121);
    CublasLtMatmul library(options(directory_ / (accumulate ? "sum" : "plain")));
    const std::vector<float> measured = run(library, problem);
    EXPECT_GT(simt::lt_calls().matmuls, 8);
    EXPECT_TRUE(same_bits(measured, run(problem)));
  }
}

// Work that waits in the stream uses the workspace, and must be over before the measurement.
TEST_F(Tuning, WaitsForTheStream) {
  cudaStream_t stream = nullptr;
  require_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  int measured_before = -1;
  simt::submit(stream, "before", [&] { measured_before = simt::lt_calls().matmuls; });
  CublasLtMatmul library(options(file()));
  const Problem problem(wide_, 131);
  const Device device(problem);
  library.run(device.args(), stream);
  EXPECT_EQ(measured_before, 0);
  require_cuda(cudaStreamSynchronize(stream));
  require_cuda(cudaStreamDestroy(stream));
}

TEST_F(Tuning, SaysThatItNeedsMemory) {
  CublasLtMatmul library(options(file()));
  const Problem problem(wide_, 135);
  const Device device(problem);
  simt::set_fault("cudaMalloc", 1, cudaErrorMemoryAllocation);
  try {
    library.run(device.args(), nullptr);
    ADD_FAILURE() << "measured without memory";
  } catch (const OutOfMemory& error) {
    EXPECT_NE(std::string(error.what()).find("4096 bytes"), std::string::npos) << error.what();
  }
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  EXPECT_EQ(library.plans(), 0u);
  library.run(device.args(), nullptr);
  EXPECT_EQ(library.plans(), 1u);
}

TEST_F(Tuning, RemembersInItsFile) {
  simt::set_duration("cublasLtMatmul/1", 2);
  simt::set_duration("cublasLtMatmul/4", 0.0005f);
  const std::string hash = tuned_hash(file(), {wide_, narrow_});
  EXPECT_EQ(hash.size(), 16u);
  simt::set_duration("cublasLtMatmul/4", 5);
  const std::string text = read_file(file());
  CublasLtMatmul again(options(file()));
  simt::reset_lt_calls();
  run(again, Problem(wide_, 141));
  EXPECT_EQ(simt::lt_calls().heuristics, 0);
  EXPECT_EQ(simt::lt_calls().matmuls, 1);
  EXPECT_EQ(simt::lt_calls().by_algorithm[4], 1);
  run(again, Problem(narrow_, 142));
  EXPECT_EQ(again.hash(), hash);
  again.save();
  EXPECT_EQ(read_file(file()), text);
}

TEST_F(Tuning, HashesWhatIsUsedInAnyOrder) {
  const std::string hash = tuned_hash(directory_ / "one", {wide_, narrow_});
  EXPECT_EQ(tuned_hash(directory_ / "two", {narrow_, wide_}), hash);
  const std::string wide = tuned_hash(directory_ / "three", {wide_});
  EXPECT_NE(wide, hash);
  EXPECT_EQ(tuned_hash(directory_ / "three", {wide_, wide_}), wide) << "read";
  EXPECT_NE(tuned_hash(directory_ / "three", {narrow_}), wide);
  EXPECT_EQ(tuned_hash(directory_ / "three", {wide_}), wide) << "the file has grown";
  EXPECT_EQ(tuned_hash(directory_ / "three", {narrow_, wide_}), hash) << "read from another's";
  EXPECT_EQ(library().hash(), "");
  run(Problem(wide_, 101));
  EXPECT_EQ(library().hash(), "") << "without a file";
}

TEST_F(Tuning, HashesTheAlgorithm) {
  const std::string first = tuned_hash(directory_ / "first", {wide_});
  for (const int slow : {1, 3}) {
    simt::set_duration(("cublasLtMatmul/" + std::to_string(slow)).c_str(), 2);
  }
  EXPECT_NE(tuned_hash(directory_ / "second", {wide_}), first);
}

TEST_F(Tuning, RefusesFilesOfOthers) {
  tuned_hash(file(), {wide_});
  damage("a GPU", "another");
  EXPECT_NE(complaint().find("gpu: found \"another\", expected \"a GPU\"; deleting the file"),
            std::string::npos)
      << complaint();
  damage("another", "a GPU");
  EXPECT_EQ(complaint(), "accepted");
  const std::string version = std::to_string(cublasLtGetVersion());
  damage(version, "120000");
  EXPECT_NE(complaint().find("cublaslt: found version 120000, expected " + version +
                             "; deleting the file makes a new one"),
            std::string::npos)
      << complaint();
}

TEST_F(Tuning, RefusesDamagedFiles) {
  tuned_hash(file(), {wide_});
  const std::string whole = read_file(file());
  const auto expect_complaint = [&](const std::string& from, const std::string& to,
                                    const std::string& what) {
    write_file(file(), whole);
    damage(from, to);
    EXPECT_NE(complaint().find(what), std::string::npos) << complaint();
  };
  expect_complaint("{", "", "not JSON");
  expect_complaint("\"gpu\"", "\"gpus\"", "gpu: found nothing");
  expect_complaint("\"gpu\"", "\"more\": 1, \"gpu\"", "unknown key \"more\"");
  expect_complaint("\"a GPU\"", "7", "gpu: found 7, expected a text");
  expect_complaint("32x32x64", "32x32x65", "hash: found");
  expect_complaint("766974726c740001", "766974726c740002", "hash: found");
  expect_complaint("766974726c740001", "76697", "128 hexadecimal digits");
  expect_complaint("766974726c740001", "766974726c74000g", "128 hexadecimal digits");
  write_file(file(), whole.substr(0, whole.size() / 2));
  EXPECT_NE(complaint().find("not JSON"), std::string::npos) << complaint();
  write_file(file(), whole);
  EXPECT_EQ(complaint(), "accepted");
}

// Made where the workspace was larger.
TEST_F(Tuning, RefusesAlgorithmsThatDoNotRunHere) {
  for (const int slow : {1, 4, 5}) {
    simt::set_duration(("cublasLtMatmul/" + std::to_string(slow)).c_str(), 2);
  }
  tuned_hash(file(), {wide_});
  CublasLtOptions small = options(file());
  small.workspace_bytes = 1024;
  CublasLtMatmul library(small);
  try {
    run(library, Problem(wide_, 151));
    ADD_FAILURE() << "ran in a workspace that is too small";
  } catch (const BadInput& error) {
    EXPECT_NE(std::string(error.what()).find("65536 bytes of workspace"), std::string::npos)
        << error.what();
  }
}

}  // namespace
}  // namespace vitrine::cuda
