// Matrix products for tests of the library over the stand-in of cuBLASLt: cases, random operands on
// the host and on the device, what the result has to be.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "cuda/cublaslt_matmul.h"
#include "kernels/kernel_device.h"
#include "simt/cublaslt.h"
#include "simt/streams.h"

namespace vitrine::cuda {

inline constexpr std::int64_t kSizes[] = {1, 2, 3, 7, 16, 31, 64, 65, 129, 197, 300};

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

/// A library without a tuning file; the emulated GPU and the stand-in as they are at the start.
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

}  // namespace vitrine::cuda
