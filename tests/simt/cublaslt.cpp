// cuBLASLt as its header documents it: descriptors, algorithms and calls; products and their
// arithmetic are in cublaslt_product.h. Besides what the library refuses, by status, so is a
// workspace smaller than the algorithm's, and, although the library might get along with it, a
// pointer aligned to less than the heuristic was told.
#include "simt/cublaslt.h"

#include <cublasLt.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>

#include "simt/cublaslt_product.h"
#include "simt/streams.h"

namespace {

using simt::lt::Call, simt::lt::Layout, simt::lt::Operation, simt::lt::Problem;
using simt::lt::size_of;

simt::LtCalls counts;
int refused_algorithm = -1;
bool refuses_bias_gradient = false;

struct Preference {
  std::uint64_t workspace = 0;
  std::uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_MASK;
  std::uint32_t a = 256, b = 256, c = 256, d = 256;  ///< alignments
};

/// What an algorithm asks for. Fast ones come first, as the heuristic would have it.
struct Algorithm {
  const char* name;
  std::uint32_t alignment;  ///< of addresses, leading dimensions and strides; 1: of the element
  std::size_t workspace;
  std::uint32_t reduction;
};

constexpr Algorithm kAlgorithms[simt::kLtAlgorithms] = {
    {"cublasLtMatmul/0", 16, 0, CUBLASLT_REDUCTION_SCHEME_INPLACE},
    {"cublasLtMatmul/1", 16, 0, CUBLASLT_REDUCTION_SCHEME_NONE},
    {"cublasLtMatmul/2", 16, 1 << 16, CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE},
    {"cublasLtMatmul/3", 16, 1 << 16, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE},
    {"cublasLtMatmul/4", 1, 1 << 14, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE},
    {"cublasLtMatmul/5", 1, 0, CUBLASLT_REDUCTION_SCHEME_NONE}};

/// What the 64 bytes of an algorithm hold.
struct Choice {
  static constexpr std::uint64_t kMark = 0x766974726c740001;

  std::uint64_t mark = 0;
  std::uint64_t index = 0;
  std::uint32_t a = 0, b = 0, c = 0, d = 0, bias = 0;  ///< alignments promised
  std::uint32_t unused[7] = {};

  bool valid() const { return mark == kMark && index < simt::kLtAlgorithms; }
  const Algorithm& algorithm() const { return kAlgorithms[index]; }
};
static_assert(sizeof(Choice) == sizeof(cublasLtMatmulAlgo_t));

/// The opaque descriptors are pointers to ours.
template <typename Ours, typename Opaque>
Ours& ours(Opaque opaque) {
  return *reinterpret_cast<Ours*>(opaque);
}

template <typename Opaque, typename Ours>
cublasStatus_t create(Opaque* opaque, const Ours& value) {
  ++counts.all;
  *opaque = reinterpret_cast<Opaque>(new Ours(value));
  return CUBLAS_STATUS_SUCCESS;
}

template <typename Ours, typename Opaque>
cublasStatus_t destroy(Opaque opaque) {
  ++counts.all;
  delete &ours<Ours>(opaque);
  return CUBLAS_STATUS_SUCCESS;
}

template <typename T>
cublasStatus_t put(T& member, const void* value, std::size_t bytes) {
  if (value == nullptr || bytes != sizeof(T)) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(&member, value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

Problem problem_of(cublasLtMatmulDesc_t operation, cublasLtMatrixLayout_t a,
                   cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d) {
  return {ours<Operation>(operation), ours<Layout>(a), ours<Layout>(b), ours<Layout>(c),
          ours<Layout>(d)};
}

cublasStatus_t status_of(const Problem& p) {
  const cublasStatus_t status = documented_status(p);
  const bool refused = refuses_bias_gradient && p.operation.epilogue == CUBLASLT_EPILOGUE_BGRADB;
  return status == CUBLAS_STATUS_SUCCESS && refused ? CUBLAS_STATUS_NOT_SUPPORTED : status;
}

std::uint32_t alignment_of(const void* pointer) {
  const auto bits = reinterpret_cast<std::uintptr_t>(pointer) | 256;
  return static_cast<std::uint32_t>(bits & (~bits + 1));
}

/// Whether the algorithm can walk a matrix that begins at a multiple of `promised` bytes.
bool can_walk(const Algorithm& algorithm, const Layout& layout, std::uint32_t promised) {
  const std::int64_t size = size_of(layout.type);
  const std::int64_t needed = std::max<std::int64_t>(algorithm.alignment, size);
  return promised >= needed && layout.leading * size % needed == 0 &&
         (layout.batch == 1 || layout.stride * size % needed == 0);
}

bool can_run(const Choice& choice, const Problem& p) {
  const Algorithm& algorithm = choice.algorithm();
  return can_walk(algorithm, p.a, choice.a) && can_walk(algorithm, p.b, choice.b) &&
         can_walk(algorithm, p.c, choice.c) && can_walk(algorithm, p.d, choice.d);
}

bool allowed(const Algorithm& algorithm, const Preference& preference) {
  const bool reduces = algorithm.reduction != CUBLASLT_REDUCTION_SCHEME_NONE;
  return algorithm.workspace <= preference.workspace &&
         (!reduces || (algorithm.reduction & preference.reductions) != 0);
}

bool keeps_promises(const Choice& choice, const Call& call) {
  const Operation& operation = call.problem.operation;
  return alignment_of(call.a) >= choice.a && alignment_of(call.b) >= choice.b &&
         alignment_of(call.c) >= choice.c && alignment_of(call.d) >= choice.d &&
         (!has_vector(call.problem) || alignment_of(operation.bias) >= choice.bias);
}

}  // namespace

namespace simt {

LtCalls lt_calls() {
  return counts;
}

void reset_lt_calls() {
  counts = {};
}

void refuse_lt_algorithm(int algorithm) {
  refused_algorithm = algorithm;
}

void refuse_lt_bias_gradient(bool refuse) {
  refuses_bias_gradient = refuse;
}

}  // namespace simt

extern "C" {

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  return create(handle, int{});
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  return destroy<int>(handle);
}

std::size_t cublasLtGetVersion() {
  ++counts.all;
  return 130100;
}

const char* cublasLtGetStatusName(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS:
      return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_INVALID_VALUE:
      return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_NOT_SUPPORTED:
      return "CUBLAS_STATUS_NOT_SUPPORTED";
    case CUBLAS_STATUS_EXECUTION_FAILED:
      return "CUBLAS_STATUS_EXECUTION_FAILED";
    default:
      return "CUBLAS_STATUS_INTERNAL_ERROR";
  }
}

const char* cublasLtGetStatusString(cublasStatus_t status) {
  return status == CUBLAS_STATUS_SUCCESS ? "success" : "the stand-in refused";
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* operation,
                                        cublasComputeType_t compute, cudaDataType_t scale) {
  return create(operation, Operation{.compute = compute, .scale = scale});
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t operation) {
  return destroy<Operation>(operation);
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t operation,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, std::size_t bytes) {
  ++counts.all;
  auto& described = ours<Operation>(operation);
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
      return put(described.transpose_a, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB:
      return put(described.transpose_b, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
      return put(described.epilogue, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
      return put(described.bias, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE:
      return put(described.bias_stride, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
      return put(described.bias_type, value, bytes);
    default:
      return CUBLAS_STATUS_INVALID_VALUE;
  }
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType_t type,
                                          std::uint64_t rows, std::uint64_t cols,
                                          std::int64_t leading) {
  return create(layout, Layout{.type = type, .rows = rows, .cols = cols, .leading = leading});
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  return destroy<Layout>(layout);
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t attribute,
                                                const void* value, std::size_t bytes) {
  ++counts.all;
  auto& described = ours<Layout>(layout);
  switch (attribute) {
    case CUBLASLT_MATRIX_LAYOUT_ORDER:
      return put(described.order, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT:
      return put(described.batch, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET:
      return put(described.stride, value, bytes);
    default:
      return CUBLAS_STATUS_INVALID_VALUE;
  }
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  return create(preference, Preference{});
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  return destroy<Preference>(preference);
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void* value, std::size_t bytes) {
  ++counts.all;
  auto& described = ours<Preference>(preference);
  switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
      return put(described.workspace, value, bytes);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
      return put(described.reductions, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
      return put(described.a, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
      return put(described.b, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
      return put(described.c, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
      return put(described.d, value, bytes);
    default:
      return CUBLAS_STATUS_INVALID_VALUE;
  }
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t operation,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int most,
                                              cublasLtMatmulHeuristicResult_t results[],
                                              int* count) {
  ++counts.all;
  ++counts.heuristics;
  *count = 0;
  if (most <= 0) return CUBLAS_STATUS_INVALID_VALUE;
  const Problem problem = problem_of(operation, a, b, c, d);
  const cublasStatus_t status = status_of(problem);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  const auto& preferred = ours<Preference>(preference);
  for (std::uint64_t i = 0; i < simt::kLtAlgorithms && *count < most; ++i) {
    const Choice choice{.mark = Choice::kMark,
                        .index = i,
                        .a = preferred.a,
                        .b = preferred.b,
                        .c = preferred.c,
                        .d = preferred.d,
                        .bias = alignment_of(problem.operation.bias)};
    if (!allowed(choice.algorithm(), preferred) || !can_run(choice, problem)) continue;
    results[(*count)++] = {.algo = std::bit_cast<cublasLtMatmulAlgo_t>(choice),
                           .workspaceSize = choice.algorithm().workspace,
                           .state = CUBLAS_STATUS_SUCCESS};
  }
  return *count > 0 ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t, cublasLtMatmulDesc_t operation,
                                       cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                       cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t* algorithm,
                                       cublasLtMatmulHeuristicResult_t* result) {
  ++counts.all;
  const auto choice = std::bit_cast<Choice>(*algorithm);
  if (!choice.valid()) return CUBLAS_STATUS_INVALID_VALUE;
  const Problem problem = problem_of(operation, a, b, c, d);
  const cublasStatus_t status = status_of(problem);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  if (!can_run(choice, problem)) return CUBLAS_STATUS_NOT_SUPPORTED;
  result->workspaceSize = choice.algorithm().workspace;
  result->state = CUBLAS_STATUS_SUCCESS;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t operation, const void* alpha,
                              const void* a, cublasLtMatrixLayout_t a_layout, const void* b,
                              cublasLtMatrixLayout_t b_layout, const void* beta, const void* c,
                              cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t* algorithm, void* workspace,
                              std::size_t workspace_bytes, cudaStream_t stream) {
  ++counts.all;
  ++counts.matmuls;
  const auto choice = std::bit_cast<Choice>(*algorithm);
  if (!choice.valid()) return CUBLAS_STATUS_INVALID_VALUE;
  ++counts.by_algorithm[choice.index];
  const std::size_t needed = choice.algorithm().workspace;
  const Call call{.problem = problem_of(operation, a_layout, b_layout, c_layout, d_layout),
                  .alpha = *static_cast<const float*>(alpha),
                  .beta = *static_cast<const float*>(beta),
                  .a = a,
                  .b = b,
                  .c = c,
                  .d = d,
                  .workspace = workspace,
                  .workspace_used = needed};
  const cublasStatus_t status = status_of(call.problem);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  const bool has_workspace = needed == 0 || (needed <= workspace_bytes && workspace != nullptr &&
                                             alignment_of(workspace) >= 16);
  if (!has_workspace || !keeps_promises(choice, call)) return CUBLAS_STATUS_INVALID_VALUE;
  const bool refused = static_cast<int>(choice.index) == refused_algorithm;
  if (refused || !can_run(choice, call.problem)) return CUBLAS_STATUS_NOT_SUPPORTED;
  const cudaError_t error = simt::submit(stream, choice.algorithm().name, [call] { call.run(); });
  return error == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}

}  // extern "C"
