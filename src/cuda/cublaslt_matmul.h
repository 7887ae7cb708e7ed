// Matrix products by cuBLASLt, with one plan for each kind of product.
//
// Matrices are row-major here and column-major there. The same memory read the other way round is
// the transpose, so outᵀ = op(b)ᵀ · op(a)ᵀ is asked for: b as the first factor, a as the second.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cuda/matmul_tuning.h"
#include "cuda_kernels.h"

namespace vitrine::cuda {

struct CublasLtOptions {
  void* workspace = nullptr;  ///< device memory of the caller, aligned to 256 bytes
  std::size_t workspace_bytes = 0;
  std::filesystem::path tuning_file;        ///< empty: the algorithm cuBLASLt would take
  std::string gpu;                          ///< its name, kept in the tuning file
  cudaStream_t measuring_stream = nullptr;  ///< with nothing else on it
};

/// Works for one thread, and on one stream: all products share the workspace.
///
/// The first product of a kind makes its plan; the device may be waited for and memory allocated.
/// Every later one is a call of cublasLtMatmul and nothing else, so it can be recorded in a graph.
///
/// A bias gradient beside the product (the epilogue BGRADB) saves a pass over a and may still cost
/// more than it: backward passes have been seen to take 6600 ms with it where they took 4042 ms
/// (github.com/NVIDIA/CUDALibrarySamples, issue 90), and llm.c sums columns in a kernel of its own.
/// The heuristic does not know. So the product alone is run and `run` returns false, unless a
/// tuning file is there: then product and column sum are measured against the epilogue, and the
/// plan takes the faster way, which the file keeps.
///
/// Types: f32, bf16 and f16 with out of the same type or f32; sums are f32. Throws DeviceError, in
/// one line with the product's shape, when cuBLASLt has no algorithm, when a plan would have to be
/// made while the stream is recorded, and for a 16-bit bias on an f32 out: cuBLASLt has a bias of
/// the type of out only.
class CublasLtMatmul final : public MatmulLibrary {
 public:
  /// On the current device. Reads the tuning file if it is there; throws BadInput as MatmulTuning
  /// does.
  explicit CublasLtMatmul(const CublasLtOptions& options);

  bool run(const BatchedMatmul& args, cudaStream_t stream) override;

  std::size_t plans() const { return plans_.size(); }
  /// Writes what was measured since the last call. Throws IoError.
  void save() { tuning_.save(); }
  /// As MatmulTuning::hash.
  std::string hash() const { return tuning_.hash(); }

 private:
  struct Destroy {
    void operator()(cublasLtHandle_t handle) const { cublasLtDestroy(handle); }
    void operator()(cublasLtMatmulDesc_t operation) const { cublasLtMatmulDescDestroy(operation); }
    void operator()(cublasLtMatrixLayout_t layout) const { cublasLtMatrixLayoutDestroy(layout); }
    void operator()(cublasLtMatmulPreference_t preference) const {
      cublasLtMatmulPreferenceDestroy(preference);
    }
  };
  using Handle = std::unique_ptr<cublasLtContext, Destroy>;
  using Operation = std::unique_ptr<cublasLtMatmulDescOpaque_t, Destroy>;
  using Layout = std::unique_ptr<cublasLtMatrixLayoutOpaque_t, Destroy>;
  using Preference = std::unique_ptr<cublasLtMatmulPreferenceOpaque_t, Destroy>;

  struct Plan {
    Operation operation;  ///< null: the bias gradient is summed apart; the product has another plan
    Layout a, b, out;
    cublasLtMatmulAlgo_t algorithm{};
    const void* bias = nullptr;  ///< or its gradient, as the operation has it
  };

  static Operation make_operation(const BatchedMatmul& args);
  static Layout make_layout(DType dtype, std::int64_t rows, std::int64_t cols, std::int64_t leading,
                            std::int64_t batch, std::int64_t stride);
  Preference make_preference(const MatmulKey& key) const;
  Plan& plan_of(const MatmulKey& key, const BatchedMatmul& args, cudaStream_t stream);
  Plan make_plan(const MatmulKey& key, const BatchedMatmul& args, cudaStream_t stream);
  /// Empty only where a bias gradient is in the way.
  std::vector<cublasLtMatmulHeuristicResult_t> candidates(const MatmulKey& key, const Plan& plan,
                                                          int most) const;
  void use_measured(const MatmulKey& key, const MatmulAlgorithm& algorithm, Plan& plan) const;
  /// Puts the fastest candidate into the plan. Returns its milliseconds, nothing if none runs.
  std::optional<float> take_fastest(const MatmulKey& key, const BatchedMatmul& measured,
                                    Plan& plan) const;
  /// Milliseconds of the product by its own plan and of the column sum after it.
  float time_apart(const BatchedMatmul& measured, const Plan& product) const;
  /// Whether the plan's epilogue is to write the bias gradient.
  bool compare_bias_gradient(const MatmulKey& key, const BatchedMatmul& args, cudaStream_t stream,
                             Plan& plan);
  void measure(const MatmulKey& key, const BatchedMatmul& args, cudaStream_t stream, Plan& plan);
  /// Puts an algorithm into the plan. False: the bias gradient is summed apart.
  bool choose_algorithm(const MatmulKey& key, const BatchedMatmul& args, cudaStream_t stream,
                        Plan& plan);
  cublasStatus_t submit(const Plan& plan, const BatchedMatmul& args, cudaStream_t stream) const;

  CublasLtOptions options_;
  MatmulTuning tuning_;
  Handle handle_;
  std::map<MatmulKey, Plan> plans_;
};

}  // namespace vitrine::cuda
