// Matrix products through the stand-in of cuBLASLt: results against a double-precision reference,
// and what is said of products that cannot be.
#include <cuda_runtime_api.h>

#include <random>

#include "cublaslt_problem.h"

namespace vitrine::cuda {
namespace {

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

}  // namespace
}  // namespace vitrine::cuda
