// Plans of matrix products: one for each kind of product, algorithms that fit its operands, and
// products recorded in a graph.
#include <cuda_runtime_api.h>

#include "cublaslt_problem.h"

namespace vitrine::cuda {
namespace {

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

}  // namespace
}  // namespace vitrine::cuda
