// A product of the stand-in for cuBLASLt (cublaslt.cpp), of column-major matrices of f32, bf16 and
// f16: whether the library would take it, and its arithmetic.
//
//   D = alpha · op(A) · op(B) + beta · C (+ bias, one value a row of D)
//   bias gradient (BGRADB), one value a column of D: the sum of op(B) over k
//
// Sums are float, by oneDNN. With beta = 0 the contents of C are not read.
#pragma once

#include <cublasLt.h>

#include <cstddef>
#include <cstdint>

namespace simt::lt {

/// What an operation descriptor holds.
struct Operation {
  cublasComputeType_t compute;
  cudaDataType_t scale;
  std::int32_t transpose_a = CUBLAS_OP_N, transpose_b = CUBLAS_OP_N;
  std::uint32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  const void* bias = nullptr;
  std::int64_t bias_stride = 0;
  std::int32_t bias_type = -1;
};

/// What a matrix layout holds.
struct Layout {
  cudaDataType_t type;
  std::uint64_t rows, cols;
  std::int64_t leading;
  std::int32_t order = CUBLASLT_ORDER_COL;
  std::int32_t batch = 1;
  std::int64_t stride = 0;
};

struct Problem {
  Operation operation;
  Layout a, b, c, d;
};

/// Bytes of an element.
std::int64_t size_of(cudaDataType_t type);

/// Whether the epilogue reads or writes a vector by the bias pointer.
bool has_vector(const Problem& problem);

/// Refused as the library does: factors that do not fit, leading dimensions too small, combinations
/// of types that its documentation does not list.
cublasStatus_t documented_status(const Problem& problem);

/// A call of cublasLtMatmul, to be run later.
struct Call {
  Problem problem;
  float alpha, beta;
  const void *a, *b, *c;
  void *d, *workspace;
  std::size_t workspace_used;

  void run() const;
};

}  // namespace simt::lt
