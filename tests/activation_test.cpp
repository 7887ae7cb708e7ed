// Activations on the CPU against a reference in double, and its derivative against differences.
#include "reference/activation.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "cpu/cpu_kernels.h"
#include "cpu/dropout.h"
#include "reference_check.h"

namespace vitrine::cpu {
namespace {

constexpr std::uint64_t kSeeds[] = {3, 13579};
constexpr ActivationKind kKinds[] = {ActivationKind::gelu_erf, ActivationKind::gelu_tanh,
                                     ActivationKind::relu};

View<float> view(std::vector<float>& v) {
  return {v.data(), static_cast<std::int64_t>(v.size())};
}

/// One call's tensors: x spans the whole range of the functions.
struct Case {
  Case(std::int64_t rows_, std::int64_t cols_, std::uint64_t seed)
      : rows(rows_),
        cols(cols_),
        x(random_normal(rows * cols, seed, 1)),
        bias(random_normal(cols, seed, 2)),
        dy(random_normal(rows * cols, seed, 3)) {
    for (float& v : x) v *= 2.5f;
    state.seed = seed;
    state.step = 2;
    state.first_row = 5;
  }

  std::vector<float> factors(const Dropout& dropout) const {
    std::vector<float> out(rows * cols, 1.0f);
    if (dropout.probability == 0.0f) return out;
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::uint64_t element = unpruned_element(r, cols, window, state);
      for (std::int64_t c = 0; c < cols; ++c) {
        const bool keep = keep_element(state.seed, state.step, dropout.operation, element + c,
                                       drop_threshold(dropout.probability));
        out[r * cols + c] = keep ? 1.0f / (1.0f - dropout.probability) : 0.0f;
      }
    }
    return out;
  }

  ActivationForward forward(ActivationKind kind, ActivationSaved saved_kind) {
    ActivationForward args;
    args.x = view(x);
    args.rows = rows;
    args.cols = cols;
    args.kind = kind;
    args.saved_kind = saved_kind;
    args.window = window;
    args.state = &state;
    return args;
  }

  ActivationBackward backward(ActivationKind kind, ActivationSaved saved_kind) {
    ActivationBackward args;
    args.dy = view(dy);
    args.rows = rows;
    args.cols = cols;
    args.kind = kind;
    args.saved_kind = saved_kind;
    args.window = window;
    args.state = &state;
    return args;
  }

  std::int64_t rows, cols;
  std::vector<float> x, bias, dy;
  TokenWindow window{1, 1, 3};
  StepState state;
};

TEST(Activation, ReferenceDerivativeMatchesDifferences) {
  for (const ActivationKind kind : kKinds) {
    for (const float x : random_normal(50, kSeeds[0], 4)) {
      const double h = 1e-6, v = 2.0 * x;
      if (kind == ActivationKind::relu && std::abs(v) < h) continue;
      const double difference =
          (reference::activation(kind, v + h) - reference::activation(kind, v - h)) / (2 * h);
      EXPECT_NEAR(difference, reference::activation_derivative(kind, v), 1e-8) << "x = " << v;
    }
  }
}

TEST(Activation, ForwardMatchesReference) {
  ThreadPool pool(2);
  CpuKernels kernels(pool);
  using enum ActivationSaved;
  for (const std::uint64_t seed : kSeeds) {
    for (const ActivationKind kind : kKinds) {
      for (const std::int64_t cols : {1, 5, 8, 32, 77, 1030}) {
        for (const ActivationSaved saved_kind :
             {nothing, ActivationSaved::derivative, pre_activation}) {
          for (const bool with_bias : {false, true}) {
            const Dropout dropout{(cols + with_bias) % 2 ? 0.25f : 0.0f, 6};
            SCOPED_TRACE("seed " + std::to_string(seed) + " kind " + std::to_string(int(kind)) +
                         " cols " + std::to_string(cols) + " saved " +
                         std::to_string(int(saved_kind)));
            Case c(23, cols, seed);
            auto y = poisoned(23 * cols), saved = poisoned(23 * cols);
            ActivationForward args = c.forward(kind, saved_kind);
            args.y = view(y);
            if (saved_kind != nothing) args.saved = view(saved);
            if (with_bias) args.bias = view(c.bias);
            args.dropout = dropout;
            kernels.activation_forward(args);
            const auto bias = with_bias ? c.bias : std::vector<float>();
            const auto factors = c.factors(dropout);
            const auto naive = reference::activation_forward(kind, c.x, bias, factors);
            const auto reference = reference::activation_forward(kind, converted<double>(c.x),
                                                                 converted<double>(bias), factors);
            expect_close(y, naive.y, reference.y, "y");
            if (saved_kind == ActivationSaved::derivative) {
              expect_close(saved, naive.derivative, reference.derivative, "derivative");
            } else if (saved_kind == pre_activation) {
              EXPECT_TRUE(same_bits(saved, naive.pre_activation));
            }
            // In place: y over x when nothing is saved there, saved over x otherwise.
            auto x = c.x, y2 = poisoned(23 * cols);
            args.x = view(x);
            (saved_kind == nothing ? args.y : args.saved) = view(x);
            if (saved_kind != nothing) args.y = view(y2);
            kernels.activation_forward(args);
            EXPECT_TRUE(same_bits(saved_kind == nothing ? x : y2, y));
            if (saved_kind != nothing) {
              EXPECT_TRUE(same_bits(x, saved));
            }
          }
        }
      }
    }
  }
}

TEST(Activation, BackwardMatchesReference) {
  ThreadPool pool(2);
  CpuKernels kernels(pool);
  for (const std::uint64_t seed : kSeeds) {
    for (const ActivationKind kind : kKinds) {
      for (const std::int64_t cols : {1, 5, 32, 1030}) {
        for (const std::int64_t partials : {0, 1, 3}) {
          SCOPED_TRACE("seed " + std::to_string(seed) + " kind " + std::to_string(int(kind)) +
                       " cols " + std::to_string(cols) + " partials " + std::to_string(partials));
          Case c(41, cols, seed);
          const Dropout dropout{partials == 1 ? 0.0f : 0.4f, 6};
          const auto factors = c.factors(dropout);
          const auto naive = reference::activation_forward(kind, c.x, {}, factors);
          const auto reference =
              reference::activation_forward(kind, converted<double>(c.x), {}, factors);
          std::vector<float> naive_dx(41 * cols), naive_dbias(cols);
          std::vector<double> dx_reference(41 * cols), dbias_reference(cols);
          for (std::int64_t i = 0; i < 41 * cols; ++i) {
            naive_dx[i] = c.dy[i] * naive.derivative[i];
            dx_reference[i] = c.dy[i] * reference.derivative[i];
            naive_dbias[i % cols] += naive_dx[i];
            dbias_reference[i % cols] += dx_reference[i];
          }
          for (const auto saved_kind :
               {ActivationSaved::derivative, ActivationSaved::pre_activation}) {
            auto saved = saved_kind == ActivationSaved::derivative ? naive.derivative : c.x;
            auto dx = poisoned(41 * cols), dbias = poisoned(cols);
            auto workspace = poisoned(partials * cols);
            ActivationBackward args = c.backward(kind, saved_kind);
            args.dx = view(dx);
            args.dbias = view(dbias);
            args.saved = view(saved);
            args.workspace = view(workspace);
            args.dropout = dropout;
            kernels.activation_backward(args);
            expect_close(dx, naive_dx, dx_reference, "dx");
            expect_close(dbias, naive_dbias, dbias_reference, "dbias");

            const auto before = random_normal(cols, seed, 9);
            auto sum = before;
            args.accumulate = true;
            args.dbias = view(sum);
            kernels.activation_backward(args);
            for (std::int64_t i = 0; i < cols; ++i) {
              EXPECT_NEAR(sum[i], before[i] + dbias[i], 1e-5);
            }
            args.dbias = {};
            for (std::vector<float>* place : {&c.dy, &saved}) {
              const auto original = *place;
              args.dx = view(*place);
              kernels.activation_backward(args);
              EXPECT_TRUE(same_bits(*place, dx));
              *place = original;
            }
          }
        }
      }
    }
  }
}

TEST(Activation, BitsDoNotDependOnThreads) {
  std::vector<std::vector<float>> first;
  for (const int threads : {1, 2, 3}) {
    ThreadPool pool(threads);
    CpuKernels kernels(pool);
    Case c(501, 133, 8);
    auto y = poisoned(501 * 133), saved = y, dx = y, dbias = poisoned(133);
    auto workspace = poisoned(4 * 133);
    ActivationForward forward = c.forward(ActivationKind::gelu_erf, ActivationSaved::derivative);
    forward.y = view(y);
    forward.saved = view(saved);
    forward.bias = view(c.bias);
    forward.dropout = {0.1f, 3};
    kernels.activation_forward(forward);
    ActivationBackward args = c.backward(ActivationKind::gelu_erf, ActivationSaved::derivative);
    args.dx = view(dx);
    args.saved = view(saved);
    args.dbias = view(dbias);
    args.workspace = view(workspace);
    kernels.activation_backward(args);
    const std::vector<std::vector<float>> all = {y, saved, dx, dbias};
    if (first.empty()) first = all;
    for (std::size_t i = 0; i < all.size(); ++i) EXPECT_TRUE(same_bits(all[i], first[i])) << i;
  }
}

TEST(Activation, RefusesContradictions) {
  ThreadPool pool(1);
  CpuKernels kernels(pool);
  Case c(4, 6, 1);
  auto y = poisoned(24), saved = poisoned(24), odd = poisoned(7), dbias = poisoned(6);
  const auto forward = [&](auto change, const char* field) {
    ActivationForward args = c.forward(ActivationKind::relu, ActivationSaved::derivative);
    args.y = view(y);
    args.saved = view(saved);
    change(args);
    expect_refused([&] { kernels.activation_forward(args); }, field);
  };
  forward([&](auto& a) { a.rows = 0; }, "rows");
  forward([&](auto& a) { a.y = view(odd); }, "y has");
  forward([&](auto& a) { a.saved = {}; }, "saved");
  forward([&](auto& a) { a.saved = view(y); }, "saved");
  forward([&](auto& a) { a.saved_kind = ActivationSaved::nothing; }, "saved");
  forward([&](auto& a) { a.x = view(odd); }, "x has");
  forward([&](auto& a) { a.bias = view(odd); }, "bias");
  forward([&](auto& a) { a.dropout.probability = -0.5f; }, "dropout");
  const auto backward = [&](auto change, const char* field) {
    ActivationBackward args = c.backward(ActivationKind::relu, ActivationSaved::pre_activation);
    args.dx = view(y);
    args.saved = view(saved);
    args.dbias = view(dbias);
    change(args);
    expect_refused([&] { kernels.activation_backward(args); }, field);
  };
  backward([&](auto& a) { a.cols = 0; }, "cols");
  backward([&](auto& a) { a.dx = view(odd); }, "dx");
  backward([&](auto& a) { a.dbias = view(odd); }, "dbias");
  backward([&](auto& a) { a.dy = {}; }, "dy");
  backward([&](auto& a) { a.saved = view(odd); }, "saved");
  backward([&](auto& a) { a.saved_kind = ActivationSaved::nothing; }, "saved_kind");
  backward([&](auto& a) { a.workspace = view(odd); }, "workspace");
  backward([&](auto& a) { a.dropout.probability = 1.5f; }, "dropout");
}

}  // namespace
}  // namespace vitrine::cpu
