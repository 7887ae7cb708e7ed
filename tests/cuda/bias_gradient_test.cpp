// Bias gradients beside the product or by a kernel after it: results against a double-precision
// reference, the library's decision, recording, measuring, and whole networks.
#include <cuda_runtime_api.h>

#include <random>

#include "cublaslt_problem.h"
#include "io/files.h"
#include "reference/reduce.h"
#include "simt/device.h"
#include "temporary_directory.h"
#include "vit_run.h"

namespace vitrine::cuda {
namespace {

/// How a bias gradient comes about: summed apart, untold or because that is faster, or beside the
/// product because that is.
enum class Way { untuned, apart, beside };
constexpr Way kWays[] = {Way::untuned, Way::apart, Way::beside};

std::string text(Way way) {
  return way == Way::untuned ? "untuned" : way == Way::apart ? "apart" : "beside";
}

/// The gradients of a linear layer's weight, dyᵀ·x, and of its bias, the sums of dy's columns.
class BiasGradient : public CublasLt {
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
  /// A tuning file that measures so, none for `untuned`. Sums that take no time are as fast as the
  /// epilogue, which then does not pay.
  std::filesystem::path file(Way way, const std::string& name = "tune") {
    simt::set_duration("column_sum", way == Way::beside ? 1.0f : 0.0f);
    return way == Way::untuned ? std::filesystem::path() : directory_ / (name + text(way));
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

  TemporaryDirectory directory_;
};

TEST_F(BiasGradient, AgreesWithDoublePrecision) {
  std::mt19937_64 random(161);
  const auto size = [&] { return kSizes[random() % std::size(kSizes)]; };
  int files = 0;
  for (const Way way : kWays) {
    for (const DType dtype : kFloatTypes) {
      for (int repeat = 0; repeat < (kReduced || way != Way::untuned ? 2 : 12); ++repeat) {
        CublasLtMatmul library(options(file(way, std::to_string(++files))));
        CudaKernels kernels(nullptr, CudaLimits{}, nullptr, &library);
        const Case c = product(dtype, size(), size(), size());
        const std::uint64_t seed = random();
        SCOPED_TRACE(c.text() + " " + text(way) + " seed " + std::to_string(seed));
        const Problem problem(c, seed);
        const Device first(problem), device(problem);
        const std::int64_t partials = 1 + static_cast<std::int64_t>(random() % 3);
        const DeviceArray<float> dbias(poisoned(c.m + c.n)), again(poisoned(c.m + c.n)),
            workspace(partials * c.m);
        kernels.matmul(arguments(first, dbias, workspace));
        expect_gradients(problem, first.out.values(), dbias.values());
        simt::reset_counters();
        kernels.matmul(arguments(device, again, workspace));
        EXPECT_EQ(simt::counters().launches, way == Way::beside ? 1 : (partials > 1 ? 3 : 2));
        expect_gradients(problem, device.out.values(), again.values());
        EXPECT_TRUE(same_bits(again.values(), dbias.values()));
      }
    }
  }
}

// The heuristic would offer the epilogue.
TEST_F(BiasGradient, IsLeftToTheCallerWithoutATuningFile) {
  const Problem problem(product(DType::bf16, 33, 31, 65), 169);
  const Device device(problem);
  const DeviceArray<float> dbias(poisoned(33));
  BatchedMatmul args = device.args();
  args.bias_gradient = dbias.data();
  EXPECT_FALSE(library().run(args, nullptr));
  EXPECT_EQ(simt::lt_calls().heuristics, 1) << "of the product";
  EXPECT_EQ(simt::lt_calls().matmuls, 1);
  EXPECT_TRUE(std::isnan(dbias.values().front()));
  expect_close(device.out.values(), problem.result<float>(), problem.result<double>(), "dweight");
}

TEST_F(BiasGradient, StaysWithTheFirstDecision) {
  const Problem problem(product(DType::bf16, 33, 31, 65), 171);
  for (const Way way : {Way::apart, Way::beside}) {
    SCOPED_TRACE(text(way));
    const bool beside = way == Way::beside;
    CublasLtMatmul library(options(file(way)));
    const Device device(problem);
    const DeviceArray<float> first(poisoned(34)), second(poisoned(34));
    BatchedMatmul args = device.args();
    EXPECT_FALSE(library.run(args, nullptr)) << "not asked for";
    args.bias_gradient = first.data();
    EXPECT_EQ(library.run(args, nullptr), beside);
    EXPECT_EQ(library.plans(), 2u);
    file(beside ? Way::apart : Way::beside);
    simt::reset_lt_calls();
    args.bias_gradient = second.data();
    EXPECT_EQ(library.run(args, nullptr), beside);
    EXPECT_EQ(library.plans(), 2u);
    EXPECT_EQ(simt::lt_calls().heuristics, 0);
    EXPECT_EQ(simt::lt_calls().matmuls, 1);
    EXPECT_EQ(std::isnan(second.values().front()), !beside);
    args.bias_gradient = second.data() + 1;  // another alignment is another kind
    EXPECT_EQ(library.run(args, nullptr), !beside);
    EXPECT_EQ(library.plans(), 3u);
  }
}

// Three ways are timed; the column sum as the caller would have it, in as many runs.
TEST_F(BiasGradient, IsComparedWithTheSumOfTheCaller) {
  constexpr int kRuns = 8;  // of one measurement
  const Problem problem(product(DType::bf16, 64, 32, 48), 172);
  std::int64_t launches[2] = {};
  for (const bool cut : {false, true}) {
    CublasLtMatmul library(options(file(Way::beside, cut ? "cut" : "whole")));
    const Device device(problem);
    const DeviceArray<float> dbias(poisoned(65)), workspace(poisoned((cut ? 3 : 1) * 64));
    simt::reset_counters();
    CudaKernels(nullptr, CudaLimits{}, nullptr, &library)
        .matmul(arguments(device, dbias, workspace));
    launches[cut] = simt::counters().launches;
  }
  EXPECT_EQ(launches[1], launches[0] + kRuns);
}

TEST_F(BiasGradient, CountsTheSumAndNotTheProductAlone) {
  const Problem problem(product(DType::bf16, 64, 32, 48), 174);
  for (const float sum : {0.0f, 0.0005f, 1.0f}) {
    file(Way::beside);
    simt::set_duration("column_sum", sum);
    CublasLtMatmul library(options(directory_ / std::to_string(sum)));
    const Device device(problem);
    const DeviceArray<float> dbias(poisoned(64));
    BatchedMatmul args = device.args();
    args.bias_gradient = dbias.data();
    EXPECT_EQ(library.run(args, nullptr), sum > 0.0f) << sum;
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
  for (const Way way : {Way::untuned, Way::beside}) {
    CublasLtMatmul library(options(file(way)));
    BatchedMatmul wrong = args;
    wrong.a_leading = args.m - 1;
    expect_refused([&] { library.run(wrong, nullptr); }, "CUBLAS_STATUS_INVALID_VALUE");
    wrong = args;
    wrong.b = static_cast<const char*>(args.b) + 1;
    expect_refused([&] { library.run(wrong, nullptr); }, "CUBLAS_STATUS_NOT_SUPPORTED");
  }
}

TEST_F(BiasGradient, SaysThatMeasuringNeedsMemory) {
  const Problem problem(product(DType::f32, 32, 32, 16), 176);
  const Device device(problem);
  const DeviceArray<float> dbias(poisoned(32));
  BatchedMatmul args = device.args();
  args.bias_gradient = dbias.data();
  args.bias_gradient_partials = 5;
  const char* const kBytes[] = {" 4096 bytes", " 4096 bytes", " 640 bytes"};
  for (int nth = 1; nth <= 3; ++nth) {
    CublasLtMatmul library(options(file(Way::beside, std::to_string(nth))));
    simt::set_fault("cudaMalloc", nth, cudaErrorMemoryAllocation);
    try {
      library.run(args, nullptr);
      ADD_FAILURE() << "measured without memory " << nth;
    } catch (const OutOfMemory& error) {
      EXPECT_NE(std::string(error.what()).find(kBytes[nth - 1]), std::string::npos) << error.what();
    }
    EXPECT_EQ(library.plans(), 0u);
    EXPECT_TRUE(library.run(args, nullptr));
  }
}

TEST_F(BiasGradient, IsRecordedEitherWay) {
  const Problem problem(product(DType::f32, 40, 24, 70), 175);
  for (const Way way : kWays) {
    SCOPED_TRACE(text(way));
    cudaStream_t stream = nullptr;
    require_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    CublasLtMatmul library(options(file(way)));
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

// The second process does not measure, not even where the file says that the sum is faster, or that
// nothing can write the gradient.
TEST_F(BiasGradient, IsMeasuredOnce) {
  const Problem problem(product(DType::bf16, 64, 32, 48), 177);
  for (const bool refuse : {false, true}) {
    for (const Way way : {Way::apart, Way::beside}) {
      const bool beside = way == Way::beside && !refuse;
      SCOPED_TRACE(text(way) + (refuse ? " refused" : ""));
      const std::filesystem::path path = file(way, refuse ? "refused" : "offered");
      simt::refuse_lt_bias_gradient(refuse);
      std::string hash, saved;
      for (const bool again : {false, true}) {
        CublasLtMatmul library(options(path));
        const Device device(problem);
        const DeviceArray<float> dbias(poisoned(65)), workspace(poisoned(64));
        simt::reset_lt_calls();
        CudaKernels(nullptr, CudaLimits{}, nullptr, &library)
            .matmul(arguments(device, dbias, workspace));
        expect_gradients(problem, device.out.values(), dbias.values());
        EXPECT_EQ(simt::lt_calls().matmuls > 1, !again) << "measured";
        EXPECT_EQ(simt::lt_calls().heuristics > 0, !again);
        EXPECT_EQ(library.plans(), beside ? 1u : 2u);
        library.save();
        if (again) {
          EXPECT_EQ(library.hash(), hash);
          EXPECT_EQ(read_file(path), saved);
        }
        hash = library.hash();
        saved = read_file(path);
        file(way == Way::apart ? Way::beside : Way::apart);
      }
      EXPECT_EQ(saved.find(std::string(128, '0')) == std::string::npos, beside) << saved;
    }
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

// Apart without a tuning file. With one, here, beside the product where nothing is added to: one
// launch less for each bias.
TEST_F(BiasGradient, OfANetwork) {
  constexpr double kEpsilons = 200;
  for (const Precision precision : {Precision::fp32, Precision::bf16}) {
    const auto untuned = make_simt_device();
    const NetworkGradients apart = network_gradients(*untuned, precision, 1);
    const auto tuned = make_simt_device(
        {.name = "cuda", .tune = file(Way::beside, precision == Precision::fp32 ? "32" : "16")});
    network_gradients(*tuned, precision, 2);  // measures
    const NetworkGradients beside = network_gradients(*tuned, precision, 1);
    const NetworkGradients twice = network_gradients(*tuned, precision, 2);
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

}  // namespace
}  // namespace vitrine::cuda
