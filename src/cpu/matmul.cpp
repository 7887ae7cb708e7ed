// Matrix product with bias and accumulation, by oneDNN or, where it is small, by a product of our
// own (small_matmul.cpp).
//
//   out = op(a) · op(b) (+ bias) (+ out)
//   bias_gradient[i] = Σ_k a[k, i]       in a pass of its own: column_sum
//
// oneDNN's own threading changes bits with the number of threads, so it is called on one thread and
// all division of work is ours: `row_blocks` nearly equal runs of output rows. The cut depends on m
// and row_blocks alone. With accumulate the output is added to (+=), else written (=).
#include <dnnl.h>
#include <omp.h>

#include <algorithm>
#include <vector>

#include "catalogue/check.h"
#include "cpu/cpu_kernels.h"
#include "cpu/sgemm.h"
#include "cpu/small_matmul.h"
#include "vitrine/arguments.h"

namespace vitrine::cpu {
namespace {

constexpr std::int64_t kCopyElements = 4096;

// The number of threads OpenMP uses is a property of the calling thread.
void use_one_thread() {
  thread_local const bool done = [] {
    omp_set_num_threads(1);
    return true;
  }();
  static_cast<void>(done);
}

// Puts the bias where a product with beta = 1 will be added to it. Rows are written by copying what
// is there already, in runs that grow to kCopyElements.
void start_from_bias(const float* bias, std::int64_t rows, std::int64_t cols, bool accumulate,
                     float* out) {
  if (accumulate) {
    for (std::int64_t row = 0; row < rows; ++row, out += cols) {
      for (std::int64_t col = 0; col < cols; ++col) out[col] += bias[col];
    }
    return;
  }
  std::copy_n(bias, cols, out);
  const std::int64_t total = rows * cols;
  std::int64_t run = cols;
  for (std::int64_t done = cols; done < total;) {
    run = std::min(run, total - done);
    std::copy_n(out, run, out + done);
    done += run;
    if (run < kCopyElements) run = done;
  }
}

// What the small product wants packed of b, in memory of the calling thread that the next product
// takes over; null for nothing.
const float* packed_factor(const Product& product) {
  thread_local std::vector<float> memory;
  const std::int64_t elements = packed_elements(product);
  if (elements == 0) return nullptr;
  if (static_cast<std::int64_t>(memory.size()) < elements) memory.resize(elements);
  pack_factor(product, memory.data());
  return memory.data();
}

}  // namespace

void sgemm(std::int64_t m, std::int64_t n, std::int64_t k, const GemmOperand& a,
           const GemmOperand& b, float beta, float* c, std::int64_t c_stride) {
  use_one_thread();
  const dnnl_status_t status =
      dnnl_sgemm(a.transposed ? 'T' : 'N', b.transposed ? 'T' : 'N', m, n, k, 1.0f, a.data,
                 a.stride, b.data, b.stride, beta, c, c_stride);
  VITRINE_CHECK(status == dnnl_success, "matmul",
                "dnnl_sgemm returned status " + std::to_string(static_cast<int>(status)) +
                    ", expected success");
}

namespace {

void large_matmul(const Product& p) {
  if (p.bias != nullptr) start_from_bias(p.bias, p.m, p.n, p.accumulate, p.c);
  const float beta = p.bias != nullptr || p.accumulate ? 1.0f : 0.0f;
  sgemm(p.m, p.n, p.k, p.a, p.b, beta, p.c, p.c_stride);
}

}  // namespace

void CpuKernels::matmul(const Matmul& args) {
  check_arguments(args);
  Product whole{.m = args.m,
                .n = args.n,
                .k = args.k,
                .a = {args.a.f32().data, args.transpose_a ? args.m : args.k, args.transpose_a},
                .b = {args.b.f32().data, args.transpose_b ? args.k : args.n, args.transpose_b},
                .packed = nullptr,
                .bias = args.bias.f32().data,
                .accumulate = args.accumulate,
                .c = args.out.f32().data,
                .c_stride = args.n};
  const bool small = is_small(whole);
  // A small weight gradient is one piece.
  const std::int64_t blocks =
      small && args.transpose_a ? 1 : std::min<std::int64_t>(args.row_blocks, args.m);
  if (small) whole.packed = packed_factor(whole);

  pool_.parallel_for(blocks, [&](int, std::int64_t block) {
    const std::int64_t begin = args.m * block / blocks;
    Product piece = whole;
    piece.m = args.m * (block + 1) / blocks - begin;
    piece.a.data += args.transpose_a ? begin : begin * args.k;
    piece.c += begin * args.n;
    small ? small_matmul(piece) : large_matmul(piece);
  });
  if (!args.bias_gradient) return;
  column_sum({.out = args.bias_gradient,
              .x = args.a,
              .workspace = args.workspace,
              .rows = args.k,
              .cols = args.m});
}

}  // namespace vitrine::cpu
