// Matrix products through the stand-in of cuBLASLt: results against a double-precision reference,
// plans, measured algorithms and their file, bias gradients beside the product, per-head maps.
#include "simt/cublaslt.h"

#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "cuda/cublaslt_matmul.h"
#include "io/files.h"
#include "kernels/kernel_device.h"
#include "reference/per_head_linear.h"
#include "reference/reduce.h"
#include "simt/device.h"
#include "simt/streams.h"
#include "temporary_directory.h"
#include "vit_run.h"

namespace vitrine::cuda {
namespace {

constexpr std::int64_t kSizes[] = {1, 2, 3, 7, 16, 31, 64, 65, 129, 197, 300};

struct Case {
  DType dtype = DType::f32, out_dtype = DType::f32;
  std::int64_t m = 5, n = 7, k = 3, batch = 1;
  bool transpose_a = false, transpose_b = false;
  bool bias = false, accumulate = false, tf32 = false;
  std::int64_t first = 0;    ///< elements before each operand: an alignment smaller than 256
  std::int64_t between = 0;  ///< elements between rows and between matrices

  std::string text() const {
    return std::string(to_string(dtype)) + "->" + std::string(to_string(out_dtype)) + " " +
           std::to_string(m) + "x" + std::to_string(n) + "x" + std::to_string(k) + " batch " +
           std::to_string(batch) + (transpose_a ? " T" : " N") + (transpose_b ? "T" : "N") +
           (bias ? " bias" : "") + (accumulate ? " accumulate" : "") + (tf32 ? " tf32" : "") +
           " first " + std::to_string(first) + " between " + std::to_string(between);
  }
};

/// Matrices one after the other in memory; what is between their elements is NaN.
struct Matrices {
  std::int64_t rows, cols, leading, stride, first;

  Matrices(const Case& c, std::int64_t rows_, std::int64_t cols_)
      : rows(rows_),
        cols(cols_),
        leading(cols + c.between),
        stride(rows * leading + c.between),
        first(c.first) {}
  std::int64_t elements(std::int64_t batch) const { return first + batch * stride; }
  std::int64_t at(std::int64_t matrix, std::int64_t row, std::int64_t col) const {
    return first + matrix * stride + row * leading + col;
  }
  std::vector<float> random(DType dtype, std::int64_t batch, std::uint64_t seed,
                            std::uint64_t stream) const {
    const std::vector<float> normal = random_normal(elements(batch), seed, stream);
    std::vector<float> values = poisoned(elements(batch));
    for (std::int64_t i = 0; i < batch; ++i) {
      for (std::int64_t row = 0; row < rows; ++row) {
        for (std::int64_t col = 0; col < cols; ++col) {
          values[at(i, row, col)] = rounded_to(dtype, normal[at(i, row, col)]);
        }
      }
    }
    return values;
  }
};

struct Problem {
  Case c;
  Matrices a, b, out, bias;
  std::vector<float> a_values, b_values, bias_values, before;

  Problem(const Case& c_, std::uint64_t seed)
      : c(c_),
        a(c, c.transpose_a ? c.k : c.m, c.transpose_a ? c.m : c.k),
        b(c, c.transpose_b ? c.n : c.k, c.transpose_b ? c.k : c.n),
        out(c, c.m, c.n),
        bias(c, 1, c.n),
        a_values(a.random(c.dtype, c.batch, seed, 0)),
        b_values(b.random(c.dtype, c.batch, seed, 1)),
        bias_values(bias.random(c.dtype, c.batch, seed, 2)),
        before(c.accumulate ? out.random(c.out_dtype, c.batch, seed, 3)
                            : poisoned(out.elements(c.batch))) {}

  /// The elements of all outputs, in order, computed in T.
  template <typename T>
  std::vector<T> result() const {
    std::vector<T> values;
    for (std::int64_t i = 0; i < c.batch; ++i) {
      for (std::int64_t row = 0; row < c.m; ++row) {
        for (std::int64_t col = 0; col < c.n; ++col) values.push_back(element<T>(i, row, col));
      }
    }
    return values;
  }
  /// The same elements of what is in memory.
  std::vector<float> packed(const std::vector<float>& memory) const {
    std::vector<float> values;
    for (std::int64_t i = 0; i < c.batch; ++i) {
      for (std::int64_t row = 0; row < c.m; ++row) {
        for (std::int64_t col = 0; col < c.n; ++col) values.push_back(memory[out.at(i, row, col)]);
      }
    }
    return values;
  }

 private:
  template <typename T>
  T element(std::int64_t i, std::int64_t row, std::int64_t col) const {
    T sum = c.accumulate ? T(before[out.at(i, row, col)]) : T(0);
    if (c.bias) sum += T(bias_values[bias.at(i, 0, col)]);
    for (std::int64_t j = 0; j < c.k; ++j) {
      sum += T(a_values[c.transpose_a ? a.at(i, j, row) : a.at(i, row, j)]) *
             T(b_values[c.transpose_b ? b.at(i, col, j) : b.at(i, j, col)]);
    }
    return sum;
  }
};

/// A problem's operands on the device.
struct Device {
  const Problem& p;
  DeviceTensor a, b, bias, out;

  explicit Device(const Problem& problem)
      : p(problem),
        a(p.c.dtype, p.a_values),
        b(p.c.dtype, p.b_values),
        bias(p.c.dtype, p.bias_values),
        out(p.c.out_dtype, p.before) {}

  BatchedMatmul args() const {
    BatchedMatmul args;
    args.out = out.view(p.c.first, 0).data;
    args.a = a.view(p.c.first, 0).data;
    args.b = b.view(p.c.first, 0).data;
    if (p.c.bias) args.bias = bias.view(p.c.first, 0).data;
    args.dtype = p.c.dtype, args.out_dtype = p.c.out_dtype;
    args.m = p.c.m, args.n = p.c.n, args.k = p.c.k, args.batch = p.c.batch;
    args.out_leading = p.out.leading, args.a_leading = p.a.leading, args.b_leading = p.b.leading;
    args.out_stride = p.out.stride, args.a_stride = p.a.stride, args.b_stride = p.b.stride;
    args.bias_stride = p.bias.stride;
    args.transpose_a = p.c.transpose_a, args.transpose_b = p.c.transpose_b;
    args.accumulate = p.c.accumulate, args.tf32 = p.c.tf32;
    return args;
  }
};

class CublasLt : public ::testing::Test {
 protected:
  static constexpr std::size_t kWorkspace = 1 << 16;

  void SetUp() override {
    simt::reset_device();
    simt::reset_lt_calls();
    simt::refuse_lt_algorithm(-1);
    simt::refuse_lt_bias_gradient(false);
    workspace_.emplace(kWorkspace);
    library_.emplace(options());
  }
  CublasLtOptions options(const std::filesystem::path& tuning_file = {}) const {
    return {.workspace = workspace_->data(),
            .workspace_bytes = kWorkspace,
            .tuning_file = tuning_file,
            .gpu = "a GPU"};
  }
  CublasLtMatmul& library() { return *library_; }

  std::vector<float> run(CublasLtMatmul& library, const Problem& problem) {
    const Device device(problem);
    library.run(device.args(), nullptr);
    return device.out.values();
  }
  std::vector<float> run(const Problem& problem) { return run(library(), problem); }

  void check(const Case& c, std::uint64_t seed) {
    SCOPED_TRACE(c.text() + " seed " + std::to_string(seed));
    const Problem problem(c, seed);
    const std::vector<float> memory = run(problem);
    expect_close(problem.packed(memory), rounded_to(c.out_dtype, problem.result<float>()),
                 problem.result<double>(), "out");
    EXPECT_EQ(std::count_if(memory.begin(), memory.end(), [](float v) { return !std::isnan(v); }),
              c.batch * c.m * c.n)
        << "written outside of out";
  }

 private:
  std::optional<DeviceMemory> workspace_;
  std::optional<CublasLtMatmul> library_;
};

struct Types {
  DType dtype, out_dtype;
};
constexpr Types kTypes[] = {{DType::f32, DType::f32},
                            {DType::bf16, DType::bf16},
                            {DType::bf16, DType::f32},
                            {DType::f16, DType::f16},
                            {DType::f16, DType::f32}};

TEST_F(CublasLt, AgreesWithDoublePrecision) {
  std::mt19937_64 random(11);
  const auto size = [&] { return kSizes[random() % std::size(kSizes)]; };
  for (const Types& types : kTypes) {
    for (int bits = 0; bits < 16; ++bits) {
      Case c{.dtype = types.dtype, .out_dtype = types.out_dtype};
      c.transpose_a = bits & 1, c.transpose_b = bits & 2;
      c.bias = (bits & 4) && types.dtype == types.out_dtype;
      c.accumulate = bits & 8;
      for (int repeat = 0; repeat < (kReduced ? 1 : 4); ++repeat) {
        c.m = size(), c.n = size(), c.k = size();
        check(c, random());
      }
    }
  }
}

TEST_F(CublasLt, AgreesForBatchesAndSlices) {
  std::mt19937_64 random(12);
  for (const Types& types : kTypes) {
    for (int bits = 0; bits < 16; ++bits) {
      Case c{.dtype = types.dtype, .out_dtype = types.out_dtype, .m = 17, .n = 33, .k = 12};
      c.transpose_a = bits & 1, c.transpose_b = bits & 2;
      c.bias = (bits & 4) && types.dtype == types.out_dtype;
      c.accumulate = bits & 8;
      for (const std::int64_t between : {0, 3, 8}) {
        c.batch = 1 + random() % 4;
        c.first = random() % 9;
        c.between = between;
        check(c, random());
      }
    }
  }
}

// The stand-in rounds factors to tf32, so the flag shows.
TEST_F(CublasLt, RoundsFactorsToTf32OnRequestOnly) {
  const std::uint64_t seed = 31;
  Case c{.m = 64, .n = 48, .k = 96};
  const Problem exact(c, seed);
  c.tf32 = true;
  const Problem rounded(c, seed);
  const double full = largest_error(run(exact), exact.result<double>());
  const double tf32 = largest_error(run(rounded), rounded.result<double>());
  EXPECT_LT(full, 1e-4);
  EXPECT_GT(tf32, 1e-3);
  EXPECT_LT(tf32, 0.1);
}

TEST_F(CublasLt, MakesOnePlanForOneKindOfProduct) {
  const Problem problem({.dtype = DType::bf16, .out_dtype = DType::bf16, .bias = true}, 41);
  const Device device(problem), other(problem);
  library().run(device.args(), nullptr);
  EXPECT_EQ(library().plans(), 1u);
  EXPECT_EQ(simt::lt_calls().heuristics, 1);
  simt::reset_lt_calls();
  library().run(device.args(), nullptr);
  EXPECT_EQ(simt::lt_calls().all, 1) << "something besides cublasLtMatmul";
  EXPECT_EQ(simt::lt_calls().matmuls, 1);
  library().run(other.args(), nullptr);
  EXPECT_EQ(simt::lt_calls().heuristics, 0);
  EXPECT_EQ(library().plans(), 1u);
  EXPECT_TRUE(same_bits(other.out.values(), device.out.values()));
}

TEST_F(CublasLt, ReadsTheBiasOfEachCall) {
  const Case c{.bias = true};
  const Problem first(c, 51), second(c, 52);
  const Device device(first), other(second);
  library().run(device.args(), nullptr);
  BatchedMatmul args = device.args();
  args.bias = other.args().bias;
  Problem mixed = first;
  mixed.bias_values = second.bias_values;
  library().run(args, nullptr);
  EXPECT_EQ(library().plans(), 1u);
  expect_close(device.out.values(), mixed.result<float>(), mixed.result<double>(), "out");
}

TEST_F(CublasLt, KeepsKindsOfProductsApart) {
  const Case plain{.m = 16, .n = 16, .k = 16, .batch = 2};
  std::vector<Case> cases(11, plain);
  cases[1].transpose_a = true;
  cases[2].transpose_b = true;
  cases[3].bias = true;
  cases[4].accumulate = true;
  cases[5].tf32 = true;
  cases[6].first = 1;
  cases[7].between = 4;
  cases[8].batch = 3;
  cases[9].dtype = cases[9].out_dtype = DType::bf16;
  cases[10].dtype = DType::bf16;
  std::size_t plans = 0;
  for (const Case& c : cases) {
    run(Problem(c, 61));
    EXPECT_EQ(library().plans(), ++plans) << c.text();
  }
  for (const Case& c : cases) {
    if (!c.tf32) check(c, 62);
  }
  EXPECT_EQ(library().plans(), plans);
}

// Every operand's alignment counts, and the reductions that atomics or 16-bit parts would need are
// never taken: algorithms 0 and 2 of the stand-in.
TEST_F(CublasLt, AsksForAlgorithmsThatFit) {
  const Case c{.m = 32, .n = 32, .k = 32, .bias = true};
  const Problem problem(c, 71);
  const Device device(problem);
  const DeviceTensor room(DType::f32, 4 * 1024 + 1);
  library().run(device.args(), nullptr);
  EXPECT_EQ(simt::lt_calls().by_algorithm[1], 1);
  std::size_t plans = 1;
  for (const int operand : {0, 1, 2, 3}) {
    BatchedMatmul args = device.args();
    void* moved = room.view(1, 1).data;
    if (operand == 0) args.out = moved;
    if (operand == 1) args.a = moved;
    if (operand == 2) args.b = moved;
    if (operand == 3) args.bias = moved;
    library().run(args, nullptr);
    EXPECT_EQ(library().plans(), ++plans) << "operand " << operand;
  }
  EXPECT_EQ(simt::lt_calls().by_algorithm[4], 3);  // the bias has no part in it
  EXPECT_EQ(simt::lt_calls().by_algorithm[0] + simt::lt_calls().by_algorithm[2], 0);
}

TEST_F(CublasLt, SaysInOneLineWhatItCannotDo) {
  const auto refused = [&](const BatchedMatmul& args, const std::string& what) {
    try {
      library().run(args, nullptr);
      ADD_FAILURE() << "accepted: " << what;
    } catch (const DeviceError& error) {
      const std::string message = error.what();
      EXPECT_NE(message.find("matmul"), std::string::npos) << message;
      EXPECT_NE(message.find(what), std::string::npos) << message;
      EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    }
  };
  const Problem problem({.dtype = DType::bf16, .out_dtype = DType::bf16, .bias = true}, 81);
  const Device device(problem);
  BatchedMatmul args = device.args();
  args.out_dtype = DType::f32;
  refused(args, "bias is BF16, expected F32 as out");
  args = device.args();
  args.a_leading = args.k - 1;
  refused(args, "5x7x3 NN");
  args = device.args();
  args.a = static_cast<const char*>(args.a) + 1;
  refused(args, "CUBLAS_STATUS_NOT_SUPPORTED");
  args = device.args();
  args.dtype = args.out_dtype = DType::i32;
  refused(args, "type is I32");
  EXPECT_EQ(library().plans(), 0u);
}

TEST_F(CublasLt, SaysThatTheDeviceFailed) {
  const Problem problem({}, 83);
  const Device device(problem);
  library().run(device.args(), nullptr);
  simt::set_fault("cublasLtMatmul", 1, cudaErrorLaunchFailure);
  expect_refused(
      [&] {
        for (int i = 0; i < 2; ++i) library().run(device.args(), nullptr);
      },
      "cublasLtMatmul: CUBLAS_STATUS_EXECUTION_FAILED");
  simt::reset_device();
  library().run(device.args(), nullptr);
}

class Recorded : public CublasLt {
 protected:
  void SetUp() override {
    CublasLt::SetUp();
    require_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  }
  void TearDown() override { require_cuda(cudaStreamDestroy(stream_)); }

  /// What `call` does while the stream is recorded.
  template <typename Call>
  cudaGraph_t record(const Call& call) {
    cudaGraph_t graph = nullptr;
    require_cuda(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
    call();
    require_cuda(cudaStreamEndCapture(stream_, &graph));
    return graph;
  }
  cudaStream_t stream() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

TEST_F(Recorded, RunsWhenReplayed) {
  const Problem problem({.accumulate = true}, 91);
  const Device warm_up(problem), device(problem);
  library().run(warm_up.args(), stream());
  require_cuda(cudaStreamSynchronize(stream()));
  const cudaGraph_t graph = record([&] { library().run(device.args(), stream()); });
  EXPECT_TRUE(same_bits(device.out.values(), problem.before)) << "ran while recorded";
  cudaGraphExec_t replay = nullptr;
  require_cuda(cudaGraphInstantiate(&replay, graph, 0));
  require_cuda(cudaGraphLaunch(replay, stream()));
  require_cuda(cudaStreamSynchronize(stream()));
  EXPECT_TRUE(same_bits(device.out.values(), warm_up.out.values()));
  require_cuda(cudaGraphExecDestroy(replay));
  require_cuda(cudaGraphDestroy(graph));
}

TEST_F(Recorded, RefusesWhatItHasNotSeen) {
  const Problem problem({}, 92);
  const Device device(problem);
  const cudaGraph_t graph = record([&] {
    expect_refused([&] { library().run(device.args(), stream()); }, "first used while recording");
  });
  EXPECT_EQ(library().plans(), 0u);
  require_cuda(cudaGraphDestroy(graph));
}

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
  EXPECT_EQ(again.hash(), hash);
  simt::reset_lt_calls();
  run(again, Problem(wide_, 141));
  EXPECT_EQ(simt::lt_calls().heuristics, 0);
  EXPECT_EQ(simt::lt_calls().matmuls, 1);
  EXPECT_EQ(simt::lt_calls().by_algorithm[4], 1);
  again.save();
  EXPECT_EQ(read_file(file()), text);
}

TEST_F(Tuning, HashesTheContentInAnyOrder) {
  const std::string hash = tuned_hash(directory_ / "one", {wide_, narrow_});
  EXPECT_EQ(tuned_hash(directory_ / "two", {narrow_, wide_}), hash);
  EXPECT_NE(tuned_hash(directory_ / "three", {wide_}), hash);
  EXPECT_EQ(tuned_hash(directory_ / "three", {narrow_}), hash) << "completed";
  EXPECT_EQ(library().hash(), "");
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

/// The gradients of a linear layer's weight, dyᵀ·x, and of its bias, the sums of dy's columns.
class BiasGradient : public Tuning {
 protected:
  static Case product(DType dtype, std::int64_t m, std::int64_t n, std::int64_t k) {
    Case c{.dtype = dtype, .m = m, .n = n, .k = k};
    c.transpose_a = true;
    return c;
  }
  static Matmul arguments(const Device& device, const DeviceArray<float>& dbias,
                          const DeviceArray<float>& workspace) {
    const Case& c = device.p.c;
    return {.out = device.out.view(),
            .bias_gradient = {dbias.data(), c.m},
            .a = device.a.view(),
            .b = device.b.view(),
            .workspace = workspace.view(),
            .m = c.m,
            .n = c.n,
            .k = c.k,
            .transpose_a = true};
  }
  /// What lies behind the m values of `dbias` was NaN and has to be.
  static void expect_gradients(const Problem& p, const std::vector<float>& dweight,
                               std::vector<float> dbias) {
    EXPECT_TRUE(std::all_of(dbias.begin() + p.c.m, dbias.end(), [](float v) {
      return std::isnan(v);
    })) << "written behind the bias gradient";
    dbias.resize(static_cast<std::size_t>(p.c.m));
    expect_close(dweight, p.result<float>(), p.result<double>(), "dweight");
    expect_close(dbias, reference::column_sum(p.a_values, std::vector<float>(dbias.size())),
                 reference::column_sum(p.a_values, std::vector<double>(dbias.size())), "dbias");
  }
};

TEST_F(BiasGradient, AgreesWithDoublePrecision) {
  std::mt19937_64 random(161);
  const auto size = [&] { return kSizes[random() % std::size(kSizes)]; };
  for (const bool refuse : {false, true}) {
    simt::refuse_lt_bias_gradient(refuse);
    for (const DType dtype : kFloatTypes) {
      for (int repeat = 0; repeat < (kReduced ? 2 : 12); ++repeat) {
        CublasLtMatmul library(options());
        const Case c = product(dtype, size(), size(), size());
        const std::uint64_t seed = random();
        SCOPED_TRACE(c.text() + (refuse ? " by a kernel seed " : " seed ") + std::to_string(seed));
        const Problem problem(c, seed);
        const Device device(problem);
        const std::int64_t partials = 1 + static_cast<std::int64_t>(random() % 3);
        const DeviceArray<float> dbias(poisoned(c.m + c.n)), workspace(partials * c.m);
        simt::reset_counters();
        CudaKernels(nullptr, CudaLimits{}, nullptr, &library)
            .matmul(arguments(device, dbias, workspace));
        EXPECT_EQ(simt::counters().launches, refuse ? (partials > 1 ? 3 : 2) : 1);
        expect_gradients(problem, device.out.values(), dbias.values());
      }
    }
  }
}

TEST_F(BiasGradient, StaysWithTheFirstDecision) {
  const Problem problem(product(DType::bf16, 33, 31, 65), 171);
  for (const bool refuse : {false, true}) {
    simt::refuse_lt_bias_gradient(refuse);
    CublasLtMatmul library(options());
    const Device device(problem);
    const DeviceArray<float> first(poisoned(34)), second(poisoned(34));
    BatchedMatmul args = device.args();
    EXPECT_FALSE(library.run(args, nullptr)) << "not asked for";
    args.bias_gradient = first.data();
    EXPECT_EQ(library.run(args, nullptr), !refuse);
    EXPECT_EQ(library.plans(), 2u);
    simt::refuse_lt_bias_gradient(false);
    simt::reset_lt_calls();
    args.bias_gradient = second.data();
    EXPECT_EQ(library.run(args, nullptr), !refuse);
    EXPECT_EQ(library.plans(), 2u);
    EXPECT_EQ(simt::lt_calls().heuristics, 0);
    EXPECT_EQ(simt::lt_calls().matmuls, 1);
    EXPECT_TRUE(same_bits(first.values(), second.values()));
    EXPECT_EQ(std::isnan(second.values().front()), refuse);
    args.bias_gradient = second.data() + 1;  // another alignment is another kind
    EXPECT_TRUE(library.run(args, nullptr));
    EXPECT_EQ(library.plans(), 3u);
  }
}

TEST_F(BiasGradient, HasAKeyOfItsOwn) {
  BatchedMatmul args{.m = 3, .n = 4, .k = 5};
  const MatmulKey plain = key_of(args);
  args.bias_gradient = reinterpret_cast<float*>(std::uintptr_t{256});
  const MatmulKey gradient = key_of(args);
  args.bias_gradient = nullptr;
  args.bias = reinterpret_cast<float*>(std::uintptr_t{256});
  const MatmulKey bias = key_of(args);
  EXPECT_NE(plain, gradient);
  EXPECT_NE(gradient, bias);
  EXPECT_NE(plain.text(), gradient.text());
  EXPECT_NE(gradient.text(), bias.text());
}

// A product that is wrong in itself is not taken for one without an algorithm.
TEST_F(BiasGradient, HidesNoError) {
  const Problem problem(product(DType::f32, 17, 9, 12), 173);
  const Device device(problem);
  const DeviceArray<float> dbias(poisoned(17));
  BatchedMatmul args = device.args();
  args.bias_gradient = dbias.data();
  args.a_leading = args.m - 1;
  expect_refused([&] { library().run(args, nullptr); }, "CUBLAS_STATUS_INVALID_VALUE");
  args = device.args();
  args.bias_gradient = dbias.data();
  args.b = static_cast<const char*>(args.b) + 1;
  expect_refused([&] { library().run(args, nullptr); }, "CUBLAS_STATUS_NOT_SUPPORTED");
}

TEST_F(BiasGradient, IsRecordedEitherWay) {
  const Problem problem(product(DType::f32, 40, 24, 70), 175);
  for (const bool refuse : {false, true}) {
    simt::refuse_lt_bias_gradient(refuse);
    cudaStream_t stream = nullptr;
    require_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    CublasLtMatmul library(options());
    CudaKernels kernels(stream, CudaLimits{}, nullptr, &library);
    const Device warm_up(problem), device(problem);
    const DeviceArray<float> dbias(poisoned(41)), workspace(poisoned(2 * 40));
    kernels.matmul(arguments(warm_up, dbias, workspace));
    require_cuda(cudaStreamSynchronize(stream));
    const std::vector<float> expected = dbias.values();
    require_cuda(cudaMemset(dbias.data(), 0xFF, 41 * sizeof(float)));
    cudaGraph_t graph = nullptr;
    require_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    kernels.matmul(arguments(device, dbias, workspace));
    require_cuda(cudaStreamEndCapture(stream, &graph));
    cudaGraphExec_t replay = nullptr;
    require_cuda(cudaGraphInstantiate(&replay, graph, 0));
    require_cuda(cudaGraphLaunch(replay, stream));
    require_cuda(cudaStreamSynchronize(stream));
    EXPECT_TRUE(same_bits(dbias.values(), expected));
    expect_gradients(problem, device.out.values(), dbias.values());
    require_cuda(cudaGraphExecDestroy(replay));
    require_cuda(cudaGraphDestroy(graph));
    require_cuda(cudaStreamDestroy(stream));
  }
}

TEST_F(BiasGradient, IsMeasuredWhereItCanBeWritten) {
  const Problem problem(product(DType::bf16, 64, 32, 48), 177);
  for (const bool refuse : {false, true}) {
    simt::refuse_lt_bias_gradient(refuse);
    const std::filesystem::path path = directory_ / (refuse ? "refused" : "written");
    for (const bool again : {false, true}) {
      CublasLtMatmul library(options(path));
      const Device device(problem);
      const DeviceArray<float> dbias(poisoned(65)), workspace(poisoned(64));
      simt::reset_lt_calls();
      CudaKernels(nullptr, CudaLimits{}, nullptr, &library)
          .matmul(arguments(device, dbias, workspace));
      expect_gradients(problem, device.out.values(), dbias.values());
      EXPECT_EQ(simt::lt_calls().matmuls > 1, !again) << "measured";
      library.save();
    }
    EXPECT_EQ(read_file(path).find("bias_gradient") != std::string::npos, !refuse);
  }
}

/// A network's gradients, and what the device was asked for.
struct NetworkGradients {
  std::vector<float> values;
  std::int64_t launches = 0, biases = 0;
};

/// Of the same random images `runs` times, added up.
NetworkGradients network_gradients(vitrine::Device& device, Precision precision, int runs) {
  constexpr std::int64_t kImages = 5;
  const VitConfig config = small_vit();
  VitRun run(device, config, {.precision = precision}, {.batch = kImages, .rows = kImages},
             kImages);
  const std::vector<float> weights = random_weights(run.plan(), 181);
  for (int i = 0; i < runs; ++i) {
    simt::reset_counters();
    run.run(weights, Batch(config, kImages, kImages, 182), {.loss_scale = 1.0f / kImages}, kImages,
            i > 0);
  }
  NetworkGradients found{.values = run.gradients(), .launches = simt::counters().launches};
  for (const Node& node : run.plan().graph().nodes()) {
    found.biases += node.phase == Phase::backward && node.operation->name() == "matmul" &&
                    node.outputs.size() > 1 && node.outputs[1] != kNone;
  }
  return found;
}

// Beside the product where nothing is added to; one more launch for each bias otherwise.
TEST_F(BiasGradient, OfANetwork) {
  constexpr double kEpsilons = 200;
  for (const Precision precision : {Precision::fp32, Precision::bf16}) {
    const auto device = make_simt_device();
    const NetworkGradients beside = network_gradients(*device, precision, 1);
    const NetworkGradients twice = network_gradients(*device, precision, 2);
    simt::refuse_lt_bias_gradient(true);
    const auto refusing = make_simt_device();
    const NetworkGradients apart = network_gradients(*refusing, precision, 1);
    simt::refuse_lt_bias_gradient(false);
    EXPECT_GT(beside.biases, 5);
    EXPECT_EQ(apart.launches, beside.launches + beside.biases);
    EXPECT_EQ(twice.launches, beside.launches + beside.biases);
    std::vector<float> doubled = beside.values;
    for (float& value : doubled) value *= 2;
    expect_near_norm(apart.values, beside.values, kEpsilons, "apart");
    expect_near_norm(twice.values, doubled, kEpsilons, "twice");
    if (precision != Precision::fp32) continue;
    const auto cpu = make_cpu_device(1);
    expect_near_norm(beside.values, network_gradients(*cpu, precision, 1).values, kEpsilons, "cpu");
  }
}

/// Per-head maps by the library and by the kernels, both against double precision.
class PerHead : public CublasLt {
 protected:
  using Case = reference::PerHeadLinearCase;
  using Problem = reference::PerHeadLinearProblem;

  struct Outputs {
    std::vector<float> y, dx, dweight, dbias;
  };

  Outputs run(DType dtype, const Problem& p, bool by_library) {
    const Case& c = p.c;
    const DeviceArray<ScratchMemory> scratch(1);
    require_cuda(cudaMemset(scratch.data(), 0, sizeof(ScratchMemory)));
    CudaKernels kernels(nullptr, CudaLimits{}, scratch.data(), by_library ? &library() : nullptr);
    const DeviceTensor x(dtype, p.x), weight(dtype, p.weight), bias(dtype, p.bias), dy(dtype, p.dy);
    const DeviceTensor y(dtype, poisoned(std::ssize(p.dy)));
    const DeviceTensor dx(dtype, c.accumulate_dx ? p.dx : poisoned(std::ssize(p.dx)));
    const DeviceArray<float> dweight(c.accumulate ? p.dweight : poisoned(std::ssize(p.dweight)));
    const DeviceArray<float> dbias(c.accumulate ? p.dbias : poisoned(std::ssize(p.dbias)));
    const DeviceArray<float> workspace(c.partials * c.parameters());
    PerHeadLinearForward forward{.y = y.view(), .x = x.view(), .weight = weight.view()};
    PerHeadLinearBackward backward{.dx = dx.view(),
                                   .dweight = dweight.view(),
                                   .dy = dy.view(),
                                   .x = x.view(),
                                   .weight = weight.view(),
                                   .workspace = workspace.view()};
    if (c.bias) forward.bias = bias.view(), backward.dbias = dbias.view();
    forward.rows = backward.rows = c.rows, forward.parts = backward.parts = c.parts;
    forward.heads = backward.heads = c.heads;
    forward.head_size = backward.head_size = c.head_size;
    backward.accumulate_dx = c.accumulate_dx, backward.accumulate = c.accumulate;
    kernels.per_head_linear_forward(forward);
    kernels.per_head_linear_backward(backward);
    return {y.values(), dx.values(), dweight.values(), dbias.values()};
  }

  /// dx with a rounding to the type after each part, in float.
  static std::vector<float> rounded_parts(DType dtype, const Problem& p) {
    const std::int64_t heads = p.c.heads, d = p.c.head_size;
    std::vector<float> dx = p.c.accumulate_dx ? p.dx : std::vector<float>(p.dx.size());
    for (std::int64_t part = 0; part < p.c.parts; ++part) {
      for (std::int64_t i = 0; i < std::ssize(dx); ++i) {
        const std::int64_t row = i / (heads * d), head = part * heads + i / d % heads, in = i % d;
        for (std::int64_t o = 0; o < d; ++o) {
          dx[i] += p.weight[(head * d + o) * d + in] * p.dy[(row * p.maps + head) * d + o];
        }
      }
      dx = rounded_to(dtype, dx);
    }
    return dx;
  }
};

TEST_F(PerHead, AgreesWithDoublePrecision) {
  const std::vector<Case> cases = {{49, 3, 3, 64, true, false, false, 2},
                                   {101, 3, 2, 32, true, true, true, 5},
                                   {50, 1, 2, 45, false, true, true, 20},
                                   {7, 2, 5, 33, true, false, true, 1},
                                   {33, 3, 1, 40, true, false, false, 3}};
  std::uint64_t seed = 2800;
  for (const DType dtype : kFloatTypes) {
    for (const Case& c : cases) {
      Problem p(c, ++seed);
      SCOPED_TRACE(std::string(to_string(dtype)) + " head_size " + std::to_string(c.head_size) +
                   " seed " + std::to_string(seed));
      for (auto* values : {&p.x, &p.weight, &p.bias, &p.dy, &p.dx}) {
        *values = rounded_to(dtype, *values);
      }
      const reference::PerHeadLinearResult<float> naive(p);
      const reference::PerHeadLinearResult<double> exact(p);
      simt::reset_lt_calls();
      const Outputs found = run(dtype, p, true);
      EXPECT_EQ(simt::lt_calls().matmuls, 3 * c.parts);
      expect_close(found.y, rounded_to(dtype, naive.y), exact.y, "y");
      expect_close(found.dx, rounded_parts(dtype, p), exact.dx, "dx");
      expect_close(found.dweight, naive.dweight, exact.dweight, "dweight");
      expect_close(found.dbias, naive.dbias, exact.dbias, "dbias");
    }
  }
}

TEST_F(PerHead, LeavesSmallHeadsToTheKernels) {
  const Problem p({65, 3, 2, 31, true, true, true, 4}, 2900);
  const Outputs with = run(DType::f32, p, true), without = run(DType::f32, p, false);
  EXPECT_EQ(simt::lt_calls().matmuls, 0);
  EXPECT_TRUE(same_bits(with.y, without.y));
  EXPECT_TRUE(same_bits(with.dx, without.dx));
}

}  // namespace
}  // namespace vitrine::cuda
