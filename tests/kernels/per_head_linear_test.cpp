// The block-diagonal linear layer in CUDA and its gradients against a double-precision reference.
#include "reference/per_head_linear.h"

#include "kernels/kernel_device.h"

namespace vitrine::cuda {
namespace {

using Case = reference::PerHeadLinearCase;
using Problem = reference::PerHeadLinearProblem;

// The tutorial model's shape (rows cut), head sizes with and without vector accesses, runs without
// rows, one run, and sums of runs that are left to a second launch (the last two).
const std::vector<Case> kCases = {
    {1603, 3, 2, 4, true, false, false, 25}, {7, 1, 3, 4, false, true, true, 1},
    {65, 2, 5, 4, true, true, false, 9},     {3, 3, 1, 4, true, false, true, 5},
    {17, 3, 2, 8, true, false, false, 2},    {601, 2, 3, 1, true, true, true, 3},
    {5, 1, 2, 13, false, false, false, 7},   {101, 3, 3, 5, true, false, true, 4},
    {33, 2, 2, 12, false, true, false, 40},  {49, 3, 3, 64, true, false, true, 2},
    {50, 1, 2, 45, true, true, true, 20}};

class PerHeadLinear : public KernelTest {
 protected:
  struct Outputs {
    std::vector<float> y, dx, dweight, dbias;
  };

  /// Inputs on the device, `first` elements into their memory, and fresh outputs.
  struct Device {
    const Case& c;
    std::int64_t first;
    DeviceTensor x, weight, bias, dy, y, dx;
    DeviceArray<float> dweight, dbias, workspace;

    Device(DType dtype, const Problem& p, std::int64_t first_)
        : c(p.c),
          first(first_),
          x(dtype, shifted(p.x)),
          weight(dtype, shifted(p.weight)),
          bias(dtype, shifted(p.bias)),
          dy(dtype, shifted(p.dy)),
          y(dtype, std::ssize(p.dy) + first),
          dx(dtype, p.c.accumulate_dx ? shifted(p.dx) : poisoned(std::ssize(p.dx) + first)),
          dweight(p.c.accumulate ? p.dweight : poisoned(std::ssize(p.dweight))),
          dbias(p.c.accumulate ? p.dbias : poisoned(std::ssize(p.dbias))),
          workspace(p.c.partials * p.c.parameters()) {}

    std::vector<float> shifted(std::vector<float> values) const {
      values.insert(values.begin(), first, 1.0f);
      return values;
    }
    View<void> view(const DeviceTensor& tensor) const {
      return tensor.view(first, tensor.view().size - first);
    }
    PerHeadLinearForward forward() const {
      PerHeadLinearForward args;
      args.y = view(y);
      args.x = view(x);
      args.weight = view(weight);
      if (c.bias) args.bias = view(bias);
      set_shape(args);
      return args;
    }
    PerHeadLinearBackward backward() const {
      PerHeadLinearBackward args;
      args.dx = view(dx);
      args.dweight = dweight.view();
      if (c.bias) args.dbias = dbias.view();
      args.dy = view(dy);
      args.x = view(x);
      args.weight = view(weight);
      args.workspace = workspace.view();
      args.accumulate_dx = c.accumulate_dx;
      args.accumulate = c.accumulate;
      set_shape(args);
      return args;
    }
    Outputs outputs() const {
      return {back(y.values()), back(dx.values()), dweight.values(), dbias.values()};
    }

   private:
    std::vector<float> back(std::vector<float> values) const {
      values.erase(values.begin(), values.begin() + first);
      return values;
    }
    template <typename Args>
    void set_shape(Args& args) const {
      args.rows = c.rows, args.parts = c.parts, args.heads = c.heads, args.head_size = c.head_size;
    }
  };

  /// Inputs as they are in memory of the type.
  static Problem problem(DType dtype, const Case& c, std::uint64_t seed) {
    Problem p(c, seed);
    for (auto* values : {&p.x, &p.weight, &p.bias, &p.dy, &p.dx}) {
      *values = rounded_to(dtype, *values);
    }
    return p;
  }

  Outputs run(DType dtype, const Problem& p, std::int64_t first = 0) {
    const Device device(dtype, p, first);
    kernels().per_head_linear_forward(device.forward());
    kernels().per_head_linear_backward(device.backward());
    return device.outputs();
  }

  void check(DType dtype, const Case& c, std::uint64_t seed, std::int64_t first = 0) {
    SCOPED_TRACE("type " + std::string(to_string(dtype)) + " rows " + std::to_string(c.rows) +
                 " head_size " + std::to_string(c.head_size) + " seed " + std::to_string(seed));
    const Problem p = problem(dtype, c, seed);
    const reference::PerHeadLinearResult<float> naive(p);
    const reference::PerHeadLinearResult<double> exact(p);
    const Outputs found = run(dtype, p, first);
    expect_close(found.y, rounded_to(dtype, naive.y), exact.y, "y");
    expect_close(found.dx, rounded_to(dtype, naive.dx), exact.dx, "dx");
    expect_close(found.dweight, naive.dweight, exact.dweight, "dweight");
    expect_close(found.dbias, naive.dbias, exact.dbias, "dbias");
    in_another_order([&] {
      const Outputs again = run(dtype, p, first);
      EXPECT_TRUE(same_bits(again.y, found.y));
      EXPECT_TRUE(same_bits(again.dx, found.dx));
      EXPECT_TRUE(same_bits(again.dweight, found.dweight));
      EXPECT_TRUE(same_bits(again.dbias, found.dbias));
    });
  }
};

TEST_F(PerHeadLinear, AgreesWithDoublePrecision) {
  std::uint64_t seed = 2400;
  for (const DType dtype : kFloatTypes) {
    for (const Case& c : kCases) {
      if (kReduced && c.rows > 101) continue;
      check(dtype, c, ++seed);
    }
  }
}

TEST_F(PerHeadLinear, TakesUnalignedViews) {
  for (const DType dtype : kFloatTypes) check(dtype, kCases[2], 2500, 1);
}

TEST_F(PerHeadLinear, RefusesContradictions) {
  const Problem p = problem(DType::f32, kCases[4], 2700);
  const Device device(DType::f32, p, 0);
  const auto forward_refused = [&](const char* field, auto change) {
    PerHeadLinearForward args = device.forward();
    change(args);
    expect_refused([&] { kernels().per_head_linear_forward(args); }, field);
  };
  forward_refused("y has", [](auto& args) { args.y.size = 3; });
  forward_refused("x has", [](auto& args) { args.x = {}; });
  forward_refused("weight", [](auto& args) { args.weight.size = 3; });
  forward_refused("bias", [](auto& args) { args.bias.size = 3; });
  forward_refused("heads", [](auto& args) { args.heads = 0; });
  forward_refused("weight", [](auto& args) { args.weight.dtype = DType::bf16; });
  const auto backward_refused = [&](const char* field, auto change) {
    PerHeadLinearBackward args = device.backward();
    change(args);
    expect_refused([&] { kernels().per_head_linear_backward(args); }, field);
  };
  backward_refused("dx", [](auto& args) { args.dx.size = 3; });
  backward_refused("dweight", [](auto& args) { args.dweight.size = 3; });
  backward_refused("dbias", [](auto& args) { args.dbias.size = 3; });
  backward_refused("dy", [](auto& args) { args.dy.size = 3; });
  backward_refused("x has", [](auto& args) { args.x.size = 3; });
  backward_refused("weight", [](auto& args) { args.weight = {}; });
  backward_refused("workspace", [](auto& args) { args.workspace.size -= 1; });
  backward_refused("parts", [](auto& args) { args.parts = 0; });
}

}  // namespace
}  // namespace vitrine::cuda
