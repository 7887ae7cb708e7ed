// The patch projection as a convolution: against the sum that defines it in double, and against the
// other road, unfold and matmul.
#include "reference/patch_convolution.h"

#include <gtest/gtest.h>

#include <latch>
#include <thread>

#include "cpu/cpu_kernels.h"
#include "reference_check.h"
#include "vitrine/graph.h"

namespace vitrine::cpu {
namespace {

using namespace reference::patch_convolution;

View<float> view(std::vector<float>& values) {
  return {values.data(), std::ssize(values)};
}

template <typename Args>
void set_geometry(const Case& c, Args& args) {
  args.batch = c.batch, args.channels = c.channels, args.hidden = c.hidden;
  args.height = c.height, args.width = c.width, args.patch_size = c.patch_size;
}

PatchConvolutionForward arguments(Problem& p, bool with_bias, std::vector<float>& y,
                                  std::vector<float>& workspace) {
  y = poisoned(p.c.y_size());
  workspace = poisoned(p.c.y_size());
  PatchConvolutionForward args{.y = view(y),
                               .images = view(p.images),
                               .weight = view(p.weight),
                               .workspace = view(workspace)};
  if (with_bias) args.bias = view(p.bias);
  set_geometry(p.c, args);
  return args;
}

PatchConvolutionBackward arguments(Problem& p, bool accumulate, std::vector<float>& dweight,
                                   std::vector<float>& workspace, const std::vector<float>& dy) {
  dweight = accumulate ? p.dweight_before : poisoned(p.c.weight_size());
  workspace = poisoned(p.c.y_size() + p.c.weight_size());
  PatchConvolutionBackward args{.dweight = view(dweight),
                                .dy = ConstView<float>(dy.data(), std::ssize(dy)),
                                .images = view(p.images),
                                .workspace = view(workspace),
                                .accumulate = accumulate};
  set_geometry(p.c, args);
  return args;
}

std::vector<float> run_forward(Problem& p, bool with_bias, int threads = 1) {
  ThreadPool pool(threads);
  std::vector<float> y, workspace;
  CpuKernels(pool).patch_convolution_forward(arguments(p, with_bias, y, workspace));
  return y;
}

std::vector<float> run_backward(Problem& p, bool accumulate, int threads = 1) {
  ThreadPool pool(threads);
  std::vector<float> dweight, workspace;
  CpuKernels(pool).patch_convolution_backward(arguments(p, accumulate, dweight, workspace, p.dy));
  return dweight;
}

std::vector<float> unfolded(Problem& p) {
  const Case& c = p.c;
  std::vector<BatchRow> rows;
  for (std::int64_t b = 0; b < c.batch; ++b) {
    rows.push_back({.image = b,
                    .crop_width = static_cast<float>(c.width),
                    .crop_height = static_cast<float>(c.height)});
  }
  std::vector<float> patches = poisoned(c.image_size()), mean(c.channels, 0.0f),
                     std(c.channels, 1.0f);
  ThreadPool pool(1);
  CpuKernels(pool).patch_embed_forward({.patches = view(patches),
                                        .images = view(p.images),
                                        .rows = {rows.data(), std::ssize(rows)},
                                        .mean = view(mean),
                                        .std = view(std),
                                        .channels = c.channels,
                                        .height = c.height,
                                        .width = c.width,
                                        .patch_size = c.patch_size,
                                        .source_height = c.height,
                                        .source_width = c.width});
  return patches;
}

TEST(PatchConvolution, ForwardAgreesWithDoublePrecision) {
  std::uint64_t seed = 4100;
  for (const Case& c : kCases) {
    Problem p(c, ++seed);
    for (const bool with_bias : {false, true}) {
      SCOPED_TRACE("seed " + std::to_string(seed) + " bias " + std::to_string(with_bias));
      expect_close(run_forward(p, with_bias), forward<float>(p, with_bias),
                   forward<double>(p, with_bias), "y");
    }
  }
}

TEST(PatchConvolution, BackwardAgreesWithDoublePrecision) {
  std::uint64_t seed = 4200;
  for (const Case& c : kCases) {
    Problem p(c, ++seed);
    for (const bool accumulate : {false, true}) {
      SCOPED_TRACE("seed " + std::to_string(seed) + " accumulate " + std::to_string(accumulate));
      expect_close(run_backward(p, accumulate), weight_gradient<float>(p, accumulate),
                   weight_gradient<double>(p, accumulate), "dweight");
    }
  }
}

/// Forward and weight gradient by convolution and by unfold and matmul.
void expect_unfold_and_matmul(const Case& c, bool with_bias, std::uint64_t seed) {
  SCOPED_TRACE("seed " + std::to_string(seed));
  Problem p(c, seed);
  std::vector<float> patches = unfolded(p);
  const std::int64_t m = c.batch * c.patches(), k = c.weight_size() / c.hidden;
  std::vector<float> y = poisoned(c.y_size()), dweight = poisoned(c.weight_size());
  ThreadPool pool(1);
  CpuKernels kernels(pool);
  kernels.matmul({.out = view(y),
                  .a = view(patches),
                  .b = view(p.weight),
                  .bias = with_bias ? view(p.bias) : View<float>{},
                  .m = m,
                  .n = c.hidden,
                  .k = k,
                  .transpose_b = true});
  kernels.matmul({.out = view(dweight),
                  .a = view(p.dy),
                  .b = view(patches),
                  .m = c.hidden,
                  .n = k,
                  .k = m,
                  .transpose_a = true});
  expect_close(run_forward(p, with_bias), y, forward<double>(p, with_bias), "y");
  expect_close(run_backward(p, false), dweight, weight_gradient<double>(p, false), "dweight");
}

TEST(PatchConvolution, IsUnfoldAndMatmul) {
  std::uint64_t seed = 4300;
  for (const Case& c : kCases) expect_unfold_and_matmul(c, true, ++seed);
}

TEST(PatchConvolution, NotesEncoderByUnfoldAndByConvolutionAgree) {
  expect_unfold_and_matmul({5, 3, 8, 8, 4, 8}, false, 4350);
}

TEST(PatchConvolution, D2l224ByUnfoldAndByConvolutionAgree) {
  expect_unfold_and_matmul({1, 3, 224, 224, 16, 768}, true, 4351);
}

// <dy, forward(weight)> is linear in the weights; its slope is what backward returns.
TEST(PatchConvolution, BackwardIsTheSlopeOfForward) {
  Problem p({2, 3, 4, 6, 2, 5}, 4400);
  const std::vector<float> dweight = run_backward(p, false);
  const auto value = [&] {
    const std::vector<float> y = run_forward(p, true);
    double sum = 0.0;
    for (std::size_t i = 0; i < y.size(); ++i) {
      sum += static_cast<double>(y[i]) * static_cast<double>(p.dy[i]);
    }
    return sum;
  };
  for (std::size_t i = 0; i < p.weight.size(); ++i) {
    const float weight = p.weight[i];
    p.weight[i] = weight + 1.0f;
    const double up = value(), up_at = static_cast<double>(p.weight[i]);
    p.weight[i] = weight - 1.0f;
    const double down = value(), down_at = static_cast<double>(p.weight[i]);
    p.weight[i] = weight;
    EXPECT_NEAR(dweight[i], (up - down) / (up_at - down_at), 2e-5) << "seed 4400, weight " << i;
  }
}

// Each differs in one size from the first, which has run before.
TEST(PatchConvolution, EverySizeHasItsOwnPlan) {
  const Case first{2, 3, 12, 8, 4, 48};
  std::uint64_t seed = 4450;
  for (const Case& c :
       {first, Case{1, 3, 12, 8, 4, 48}, Case{2, 2, 12, 8, 4, 48}, Case{2, 3, 8, 8, 4, 48},
        Case{2, 3, 12, 4, 4, 48}, Case{2, 3, 12, 8, 2, 48}, Case{2, 3, 12, 8, 4, 47}, first}) {
    SCOPED_TRACE("seed " + std::to_string(++seed));
    Problem p(c, seed);
    expect_close(run_forward(p, true), forward<float>(p, true), forward<double>(p, true), "y");
    expect_close(run_backward(p, false), weight_gradient<float>(p, false),
                 weight_gradient<double>(p, false), "dweight");
  }
}

TEST(PatchConvolution, BitsDoNotDependOnThreads) {
  for (const Case& c : kCases) {
    Problem p(c, 4500);
    for (const int threads : {2, 3}) {
      EXPECT_TRUE(same_bits(run_forward(p, true), run_forward(p, true, threads)));
      EXPECT_TRUE(same_bits(run_backward(p, false), run_backward(p, false, threads)));
    }
  }
}

TEST(PatchConvolution, IsReentrant) {
  constexpr int kThreads = 4, kRounds = 200;
  std::vector<Problem> problems;
  std::vector<std::vector<float>> y, dweight;
  for (int i = 0; i < kThreads; ++i) {
    problems.emplace_back(Case{4, 3, 24, 32, 4, 48}, 4600 + i);
    y.push_back(run_forward(problems[i], true));
    dweight.push_back(run_backward(problems[i], true));
  }
  ThreadPool pool(1);
  CpuKernels kernels(pool);
  std::vector<int> wrong(kThreads, 0);
  std::latch all_started(kThreads);
  std::vector<std::thread> team;
  for (int i = 0; i < kThreads; ++i) {
    team.emplace_back([&, i] {
      std::vector<float> out, workspace;
      all_started.arrive_and_wait();
      for (int round = 0; round < kRounds; ++round) {
        kernels.patch_convolution_forward(arguments(problems[i], true, out, workspace));
        wrong[i] += !same_bits(out, y[i]);
        kernels.patch_convolution_backward(
            arguments(problems[i], true, out, workspace, problems[i].dy));
        wrong[i] += !same_bits(out, dweight[i]);
      }
    });
  }
  for (std::thread& thread : team) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(kThreads, 0));
}

TEST(PatchConvolution, RefusesContradictions) {
  ThreadPool pool(1);
  CpuKernels kernels(pool);
  Problem p({2, 3, 8, 4, 2, 5}, 4700);
  std::vector<float> out, workspace;
  const auto refused = [&](const char* field, auto change) {
    PatchConvolutionForward args = arguments(p, true, out, workspace);
    change(args);
    expect_refused([&] { kernels.patch_convolution_forward(args); }, field);
  };
  refused("y has", [](auto& args) { args.y.size -= 1; });
  refused("images has", [](auto& args) { args.images.size += 1; });
  refused("weight has", [](auto& args) { args.weight = {}; });
  refused("bias has", [](auto& args) { args.bias.size = 4; });
  refused("workspace has", [](auto& args) { args.workspace.size -= 1; });
  refused("patch_size is 3", [](auto& args) { args.patch_size = 3; });
  refused("hidden are", [](auto& args) { args.hidden = 0; });
  refused("patch_size are", [](auto& args) { args.patch_size = 0; });
  refused("weight is BF16", [](auto& args) { args.weight.dtype = DType::bf16; });
  refused("expected F32", [](auto& args) {
    args.images.dtype = args.weight.dtype = args.bias.dtype = DType::f16;
    args.y.dtype = DType::f16;
  });

  const auto backward_refused = [&](const char* field, auto change) {
    PatchConvolutionBackward args = arguments(p, false, out, workspace, p.dy);
    change(args);
    expect_refused([&] { kernels.patch_convolution_backward(args); }, field);
  };
  backward_refused("dweight has", [](auto& args) { args.dweight.size -= 1; });
  backward_refused("dy has", [](auto& args) { args.dy = {}; });
  backward_refused("images has", [](auto& args) { args.images.size -= 1; });
  backward_refused("workspace has", [](auto& args) { args.workspace.size += 1; });
  backward_refused("expected F16 as dy", [](auto& args) { args.dy.dtype = DType::f16; });
}

// The operation in a graph -----------------------------------------------------------------------

/// Runs all nodes in order, every value in memory of its own. NaN until something is written.
class GraphRun final : public Operands {
 public:
  explicit GraphRun(const Graph& graph) : graph_(graph) {
    for (const Value& value : graph.values()) {
      values_.push_back(poisoned((value.bytes() + 3) / static_cast<std::int64_t>(sizeof(float))));
    }
  }

  std::vector<float>& operator[](ValueId id) { return values_.at(id); }
  void run() {
    ThreadPool pool(1);
    CpuKernels kernels(pool);
    for (const Node& node : graph_.nodes()) {
      node_ = &node;
      workspace_ = poisoned(node.operation->workspace(graph_, node, traits_));
      node.operation->run(kernels, *this);
    }
  }

  View<void> out(int i) const override { return operand(node_->outputs.at(i)); }
  ConstView<void> in(int i) const override { return operand(node_->inputs.at(i)); }
  View<float> workspace() const override { return view(workspace_); }
  const StepState* state() const override { return nullptr; }
  Metrics* metrics() const override { return nullptr; }
  bool accumulate() const override { return false; }
  const DeviceTraits& traits() const override { return traits_; }

 private:
  View<void> operand(ValueId id) const {
    if (id == kNone) return {};
    const Value& value = graph_.value(id);
    return {values_.at(id).data(), value.shape.elements(), value.dtype};
  }

  const Graph& graph_;
  const Node* node_ = nullptr;
  DeviceTraits traits_;
  mutable std::vector<std::vector<float>> values_;
  mutable std::vector<float> workspace_;
};

PatchEmbedOptions options_of(const Case& c, std::int64_t patch_size) {
  return {.channels = c.channels,
          .height = c.height,
          .width = c.width,
          .patch_size = patch_size,
          .source_height = c.height,
          .source_width = c.width};
}

// Images as patch_embed makes them of one patch an image. The gradient of y is y, so the loss is
// |y|² / 2, a parabola along each weight: central differences are exact but for rounding.
TEST(PatchConvolution, GraphDifferentiates) {
  constexpr double kStep = 0.25;
  const Case c{2, 3, 4, 6, 2, 5};
  const Problem p(c, 4800);
  Graph graph;
  const ValueId images = graph.input("images", {2, 1, 72}, DType::f32, ValueKind::row_input),
                weight = graph.parameter("weight", {5, 3, 2, 2}),
                bias = graph.parameter("bias", {5}),
                y = patch_convolution(graph, "y", images, weight, bias, options_of(c, 2));
  EXPECT_EQ(graph.shape(y), Shape({2, 6, 5}));
  EXPECT_EQ(graph.cost(graph.nodes().back()).flops, 2.0 * 2 * 6 * 5 * 3 * 2 * 2);
  graph.backward(y);
  EXPECT_EQ(graph.find("images.grad"), kNone);

  GraphRun run(graph);
  run[images] = p.images, run[weight] = p.weight, run[bias] = p.bias;
  run.run();
  expect_close(run[y], forward<float>(p, true), forward<double>(p, true), "y");
  const std::vector<float> dweight = run[graph.find("weight.grad")],
                           dbias = run[graph.find("bias.grad")];
  const auto slope = [&](float& at) {
    const float before = at;
    const auto loss = [&](double step) {
      at = before + static_cast<float>(step);
      run.run();
      double sum = 0.0;
      for (const float value : run[y]) sum += 0.5 * static_cast<double>(value) * value;
      return sum / (2.0 * kStep);
    };
    const double difference = loss(kStep) - loss(-kStep);
    at = before;
    return difference;
  };
  for (std::size_t i = 0; i < dweight.size(); ++i) {
    EXPECT_NEAR(dweight[i], slope(run[weight][i]), 2e-3) << "seed 4800, weight " << i;
  }
  for (std::size_t i = 0; i < dbias.size(); ++i) {
    EXPECT_NEAR(dbias[i], slope(run[bias][i]), 2e-3) << "seed 4800, bias " << i;
  }
}

TEST(PatchConvolution, GraphRefusesWhatDoesNotFit) {
  const Case c{2, 3, 8, 4, 2, 5};
  const auto refused = [&](const std::string& words, const Shape& images, const Shape& weight,
                           const Shape& bias, std::int64_t patch_size) {
    Graph graph;
    try {
      patch_convolution(graph, "node",
                        graph.input("images", images, DType::f32, ValueKind::row_input),
                        graph.parameter("weight", weight), graph.parameter("bias", bias),
                        options_of(c, patch_size));
      ADD_FAILURE() << "accepted: " << words;
    } catch (const BadInput& error) {
      EXPECT_EQ(std::string(error.what()).rfind("node: ", 0), 0u) << error.what();
      EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
    }
  };
  refused("not divisible by patch size 3", {2, 3, 8, 4}, {5, 3, 3, 3}, {5}, 3);
  refused("expected [B, 3, 8, 4]", {2, 3, 8, 5}, {5, 3, 2, 2}, {5}, 2);
  refused("weight [5, 3, 2, 3]", {2, 3, 8, 4}, {5, 3, 2, 3}, {5}, 2);
  refused("bias", {2, 1, 96}, {5, 3, 2, 2}, {6}, 2);

  Graph graph;
  const ValueId images = graph.parameter("images", {2, 3, 8, 4});
  const ValueId y = patch_convolution(graph, "node", images, graph.parameter("w", {5, 3, 2, 2}),
                                      kNone, options_of(c, 2));
  EXPECT_THROW(graph.backward(y), BadInput);
}

}  // namespace
}  // namespace vitrine::cpu
