// Matrix products by cuBLASLt: plans, and the choice of their algorithms.
//
// The heuristic is asked for algorithms that sum in one sequence or that cut k and add the parts in
// f32 in a second step, in a fixed order. Ruled out are sums in place and parts in the type of out:
// bf16 parts would be rounded once more each.
#include "cuda/cublaslt_matmul.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "cuda/check.h"

namespace vitrine::cuda {
namespace {

constexpr int kCandidates = 16;  ///< measured for a tuning file
constexpr std::uint32_t kReductions =
    CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;

cudaDataType_t data_type(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return CUDA_R_32F;
    case DType::bf16:
      return CUDA_R_16BF;
    case DType::f16:
      return CUDA_R_16F;
    default:
      throw DeviceError("matmul: type is " + std::string(to_string(dtype)) +
                        ", expected F32, BF16 or F16");
  }
}

template <typename T>
void set(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t attribute, const T& value) {
  check("cublasLtMatmulDescSetAttribute",
        cublasLtMatmulDescSetAttribute(operation, attribute, &value, sizeof(value)));
}

template <typename T>
void set(cublasLtMatrixLayout_t layout, cublasLtMatrixLayoutAttribute_t attribute, const T& value) {
  check("cublasLtMatrixLayoutSetAttribute",
        cublasLtMatrixLayoutSetAttribute(layout, attribute, &value, sizeof(value)));
}

template <typename T>
void set(cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute,
         const T& value) {
  check("cublasLtMatmulPreferenceSetAttribute",
        cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof(value)));
}

[[noreturn]] void fail(const MatmulKey& key, const std::string& message) {
  throw DeviceError("matmul " + key.text() + ": " + message);
}

std::string name(cublasStatus_t status) {
  return cublasLtGetStatusName(status);
}

/// Device memory for results that nobody reads.
class Scratch {
 public:
  explicit Scratch(std::size_t bytes) {
    if (cudaMalloc(&data_, bytes) == cudaSuccess) return;
    cudaGetLastError();  // the runtime would report it again
    throw OutOfMemory("tuning a matmul: found no " + std::to_string(bytes) +
                      " bytes of device memory for its results, expected them free");
  }
  ~Scratch() { cudaFree(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  void* data() const { return data_; }

 private:
  void* data_ = nullptr;
};

/// The epilogue's vector: a bias that is read, or a bias gradient that is written.
const void* bias_pointer(const BatchedMatmul& args) {
  return args.bias_gradient != nullptr ? args.bias_gradient : args.bias;
}

/// The same without its bias gradient.
BatchedMatmul without_bias_gradient(BatchedMatmul args) {
  args.bias_gradient = nullptr;
  return args;
}

/// Bytes from the first to the last element of out.
std::size_t extent(const BatchedMatmul& args) {
  const std::int64_t last =
      (args.batch - 1) * args.out_stride + (args.m - 1) * args.out_leading + args.n;
  return static_cast<std::size_t>(last * size_of(args.out_dtype));
}

}  // namespace

CublasLtMatmul::CublasLtMatmul(const CublasLtOptions& options)
    : options_(options), tuning_(options.tuning_file, options.gpu, cublasLtGetVersion()) {
  cublasLtHandle_t handle = nullptr;
  check("cublasLtCreate", cublasLtCreate(&handle));
  handle_.reset(handle);
}

CublasLtMatmul::Operation CublasLtMatmul::make_operation(const BatchedMatmul& args) {
  const bool tf32 = args.tf32 && args.dtype == DType::f32;
  cublasLtMatmulDesc_t created = nullptr;
  check("cublasLtMatmulDescCreate",
        cublasLtMatmulDescCreate(&created, tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F,
                                 CUDA_R_32F));
  Operation operation(created);
  const cublasOperation_t first = args.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N;
  const cublasOperation_t second = args.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N;
  set(created, CUBLASLT_MATMUL_DESC_TRANSA, first);
  set(created, CUBLASLT_MATMUL_DESC_TRANSB, second);
  if (bias_pointer(args) == nullptr) return operation;
  // The columns summed are those of a, and a is the second factor: B.
  const bool gradient = args.bias_gradient != nullptr;
  set(created, CUBLASLT_MATMUL_DESC_EPILOGUE,
      gradient ? CUBLASLT_EPILOGUE_BGRADB : CUBLASLT_EPILOGUE_BIAS);
  set(created, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, gradient ? CUDA_R_32F : data_type(args.dtype));
  // The heuristic looks at the alignment of the address, so it has to be there before.
  set(created, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias_pointer(args));
  if (args.batch > 1) set(created, CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE, args.bias_stride);
  return operation;
}

CublasLtMatmul::Layout CublasLtMatmul::make_layout(DType dtype, std::int64_t rows,
                                                   std::int64_t cols, std::int64_t leading,
                                                   std::int64_t batch, std::int64_t stride) {
  // A row-major [rows, cols] is a column-major [cols, rows].
  cublasLtMatrixLayout_t created = nullptr;
  check("cublasLtMatrixLayoutCreate",
        cublasLtMatrixLayoutCreate(&created, data_type(dtype), static_cast<std::uint64_t>(cols),
                                   static_cast<std::uint64_t>(rows), leading));
  Layout layout(created);
  if (batch > 1) {
    set(created, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, static_cast<std::int32_t>(batch));
    set(created, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, stride);
  }
  return layout;
}

CublasLtMatmul::Preference CublasLtMatmul::make_preference(const MatmulKey& key) const {
  cublasLtMatmulPreference_t created = nullptr;
  check("cublasLtMatmulPreferenceCreate", cublasLtMatmulPreferenceCreate(&created));
  Preference preference(created);
  set(created, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
      static_cast<std::uint64_t>(options_.workspace_bytes));
  set(created, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, kReductions);
  set(created, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key.b_alignment);
  set(created, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key.a_alignment);
  set(created, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key.out_alignment);
  set(created, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key.out_alignment);
  return preference;
}

std::vector<cublasLtMatmulHeuristicResult_t> CublasLtMatmul::candidates(const MatmulKey& key,
                                                                        const Plan& plan,
                                                                        int most) const {
  const Preference preference = make_preference(key);
  std::vector<cublasLtMatmulHeuristicResult_t> results(static_cast<std::size_t>(most));
  int count = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
      handle_.get(), plan.operation.get(), plan.b.get(), plan.a.get(), plan.out.get(),
      plan.out.get(), preference.get(), most, results.data(), &count);
  results.resize(status == CUBLAS_STATUS_SUCCESS ? static_cast<std::size_t>(count) : 0);
  std::erase_if(results, [](const auto& result) { return result.state != CUBLAS_STATUS_SUCCESS; });
  const bool unsupported = status == CUBLAS_STATUS_SUCCESS ||
                           status == CUBLAS_STATUS_NOT_SUPPORTED ||
                           status == CUBLAS_STATUS_INVALID_VALUE;
  if (key.bias_gradient && unsupported) return results;
  if (results.empty()) fail(key, "cuBLASLt has no algorithm: " + name(status) + ", expected one");
  return results;
}

void CublasLtMatmul::use_measured(const MatmulKey& key, const MatmulAlgorithm& algorithm,
                                  Plan& plan) const {
  plan.algorithm = std::bit_cast<cublasLtMatmulAlgo_t>(algorithm);
  cublasLtMatmulHeuristicResult_t result{};
  const cublasStatus_t status =
      cublasLtMatmulAlgoCheck(handle_.get(), plan.operation.get(), plan.b.get(), plan.a.get(),
                              plan.out.get(), plan.out.get(), &plan.algorithm, &result);
  if (status == CUBLAS_STATUS_SUCCESS && result.workspaceSize <= options_.workspace_bytes) return;
  throw BadInput(tuning_.complaint("algorithms: " + key.text() + ": found one that needs " +
                                   std::to_string(result.workspaceSize) + " bytes of workspace (" +
                                   name(status) + "), expected one that runs in " +
                                   std::to_string(options_.workspace_bytes)));
}

std::optional<float> CublasLtMatmul::take_fastest(const MatmulKey& key,
                                                  const BatchedMatmul& measured, Plan& plan) const {
  std::optional<float> fastest;
  cublasLtMatmulAlgo_t best{};
  for (const auto& candidate : candidates(key, plan, kCandidates)) {
    plan.algorithm = candidate.algo;
    cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
    const float time = measured_milliseconds(options_.measuring_stream, [&] {
      const cublasStatus_t now = submit(plan, measured, options_.measuring_stream);
      if (now != CUBLAS_STATUS_SUCCESS) status = now;
    });
    if (status != CUBLAS_STATUS_SUCCESS) continue;  // the heuristic only guesses what can run
    if (fastest && time >= *fastest) continue;
    fastest = time;
    best = candidate.algo;
  }
  plan.algorithm = best;
  return fastest;
}

// The old contents of out must outlive the measurement, and be added to once.
void CublasLtMatmul::measure(const MatmulKey& key, const BatchedMatmul& args, cudaStream_t stream,
                             Plan& plan) {
  check("cudaStreamSynchronize", cudaStreamSynchronize(stream));  // the workspace is in use there
  const Scratch out(extent(args));
  BatchedMatmul measured = args;
  measured.out = out.data();
  if (!take_fastest(key, measured, plan)) {
    fail(key, "none of cuBLASLt's algorithms runs, expected one");
  }
  tuning_.add(key, std::bit_cast<MatmulAlgorithm>(plan.algorithm));
}

float CublasLtMatmul::time_apart(const BatchedMatmul& measured, const Plan& product) const {
  const std::int64_t sums = measured.bias_gradient_partials * measured.m;
  const Scratch workspace(static_cast<std::size_t>(sums * size_of(DType::f32)));
  CudaKernels kernels(options_.measuring_stream, CudaLimits{}, nullptr);
  return measured_milliseconds(options_.measuring_stream, [&] {
    check("cublasLtMatmul", submit(product, measured, options_.measuring_stream));
    kernels.column_sum({.out = {measured.bias_gradient, measured.m},
                        .x = {measured.a, measured.k * measured.m, measured.dtype},
                        .workspace = {static_cast<float*>(workspace.data()), sums},
                        .rows = measured.k,
                        .cols = measured.m});
  });
}

// The product comes first: what is wrong with it in itself is told as of any other. The gradient
// itself is written over and over: nothing is ever added to it here.
bool CublasLtMatmul::compare_bias_gradient(const MatmulKey& key, const BatchedMatmul& args,
                                           cudaStream_t stream, Plan& plan) {
  const BatchedMatmul alone = without_bias_gradient(args);
  const Plan product = make_plan(key_of(alone), alone, stream);
  check("cudaStreamSynchronize", cudaStreamSynchronize(stream));
  const Scratch out(extent(args));
  BatchedMatmul measured = args;
  measured.out = out.data();
  const std::optional<float> beside = take_fastest(key, measured, plan);
  const bool pays = beside && *beside < time_apart(measured, product);
  tuning_.add(key, pays ? std::bit_cast<MatmulAlgorithm>(plan.algorithm) : kSeparateBiasGradient);
  return pays;
}

bool CublasLtMatmul::choose_algorithm(const MatmulKey& key, const BatchedMatmul& args,
                                      cudaStream_t stream, Plan& plan) {
  if (const MatmulAlgorithm* algorithm = tuning_.find(key)) {
    if (key.bias_gradient && *algorithm == kSeparateBiasGradient) return false;
    use_measured(key, *algorithm, plan);
  } else if (key.bias_gradient) {
    return tuning_.has_file() && compare_bias_gradient(key, args, stream, plan);
  } else if (tuning_.has_file()) {
    measure(key, args, stream, plan);
  } else {
    plan.algorithm = candidates(key, plan, 1).front().algo;
  }
  return true;
}

CublasLtMatmul::Plan CublasLtMatmul::make_plan(const MatmulKey& key, const BatchedMatmul& args,
                                               cudaStream_t stream) {
  if (args.bias != nullptr && args.out_dtype != args.dtype) {
    fail(key, "bias is " + std::string(to_string(args.dtype)) + ", expected " +
                  std::string(to_string(args.out_dtype)) + " as out");
  }
  // A product's first launch may load code and, with a tuning file, waits and allocates: CUDA
  // forbids it there. The run that warms up before the recording has made all plans.
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  check("cudaStreamIsCapturing", cudaStreamIsCapturing(stream, &capture));
  if (capture != cudaStreamCaptureStatusNone) fail(key, "first used while recording");

  const std::int64_t a_rows = args.transpose_a ? args.k : args.m;
  const std::int64_t b_rows = args.transpose_b ? args.n : args.k;
  Plan plan;
  plan.operation = make_operation(args);
  plan.bias = bias_pointer(args);
  plan.a = make_layout(args.dtype, a_rows, args.m + args.k - a_rows, args.a_leading, args.batch,
                       args.a_stride);
  plan.b = make_layout(args.dtype, b_rows, args.n + args.k - b_rows, args.b_leading, args.batch,
                       args.b_stride);
  plan.out =
      make_layout(args.out_dtype, args.m, args.n, args.out_leading, args.batch, args.out_stride);
  if (!choose_algorithm(key, args, stream, plan)) return {};
  return plan;
}

cublasStatus_t CublasLtMatmul::submit(const Plan& plan, const BatchedMatmul& args,
                                      cudaStream_t stream) const {
  const float alpha = 1.0f, beta = args.accumulate ? 1.0f : 0.0f;
  return cublasLtMatmul(handle_.get(), plan.operation.get(), &alpha, args.b, plan.b.get(), args.a,
                        plan.a.get(), &beta, args.out, plan.out.get(), args.out, plan.out.get(),
                        &plan.algorithm, options_.workspace, options_.workspace_bytes, stream);
}

CublasLtMatmul::Plan& CublasLtMatmul::plan_of(const MatmulKey& key, const BatchedMatmul& args,
                                              cudaStream_t stream) {
  const auto found = plans_.find(key);
  if (found != plans_.end()) return found->second;
  Plan& plan = plans_.emplace(key, make_plan(key, args, stream)).first->second;
  tuning_.use(key);
  return plan;
}

bool CublasLtMatmul::run(const BatchedMatmul& args, cudaStream_t stream) {
  const MatmulKey key = key_of(args);
  Plan& plan = plan_of(key, args, stream);
  if (plan.operation == nullptr) return run(without_bias_gradient(args), stream);
  if (plan.bias != bias_pointer(args)) {
    plan.bias = bias_pointer(args);
    set(plan.operation.get(), CUBLASLT_MATMUL_DESC_BIAS_POINTER, plan.bias);
  }
  const cublasStatus_t status = submit(plan, args, stream);
  if (status != CUBLAS_STATUS_SUCCESS) fail(key, "cublasLtMatmul: " + name(status));
  return args.bias_gradient != nullptr;
}

}  // namespace vitrine::cuda
