// Which algorithm a matrix product runs by, measured once and kept in a file (`--tune FILE`).
//
// An algorithm is what cuBLASLt calls one: 64 opaque bytes that mean the same as long as GPU and
// library version are the same. Sums are taken in an order that belongs to the algorithm, so the
// same algorithms give the same bits; hash() says which ones they were.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <compare>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>

#include "cuda_kernels.h"

namespace vitrine::cuda {

/// All that decides which algorithms can run a product and how fast they are.
struct MatmulKey {
  std::int64_t m = 0, n = 0, k = 0, batch = 1;
  std::int64_t out_leading = 0, a_leading = 0, b_leading = 0;
  std::int64_t out_stride = 0, a_stride = 0, b_stride = 0, bias_stride = 0;
  DType dtype = DType::f32, out_dtype = DType::f32;
  bool transpose_a = false, transpose_b = false;
  bool bias = false, bias_gradient = false, accumulate = false, tf32 = false;
  /// The largest power of two, at most 256, that divides the address; of the bias or its gradient,
  /// 256 without either.
  std::uint32_t out_alignment = 0, a_alignment = 0, b_alignment = 0, bias_alignment = 0;

  auto operator<=>(const MatmulKey&) const = default;
  /// One line, different for different keys.
  std::string text() const;
};

/// Strides of a single product are 0 in its key, whatever `args` say.
MatmulKey key_of(const BatchedMatmul& args);

/// cublasLtMatmulAlgo_t.
using MatmulAlgorithm = std::array<std::uint64_t, 8>;

/// Under the key of a product with a bias gradient: the gradient is a column sum of its own, and
/// the product runs by the algorithm of the key without it.
inline constexpr MatmulAlgorithm kSeparateBiasGradient{};

/// Product → algorithm, and the file that holds it.
class MatmulTuning {
 public:
  /// Without a file: nothing is measured or remembered.
  MatmulTuning() = default;
  /// Reads the file if it is there. Throws BadInput for a damaged file and for one that was made on
  /// another GPU or by another version of the library.
  MatmulTuning(std::filesystem::path path, std::string gpu, std::uint64_t library_version);

  bool has_file() const { return !path_.empty(); }
  /// Null when the product has not been measured.
  const MatmulAlgorithm* find(const MatmulKey& key) const;
  void add(const MatmulKey& key, const MatmulAlgorithm& algorithm);
  /// From now on hash() covers the product's algorithm, if there is one.
  void use(const MatmulKey& key);
  /// Writes the file, whole or not at all, if something was added. Throws IoError.
  void save();
  /// FNV-1a of GPU, version and the algorithms in use, in the order of their keys: 16 hexadecimal
  /// digits; "" without a file. What else the file holds, of other models or of what has not run
  /// yet, changes nothing, and it is the same whether the algorithms were measured or read.
  std::string hash() const;
  /// "FILE: what; deleting the file makes a new one".
  std::string complaint(const std::string& what) const;

 private:
  using Algorithms = std::map<std::string, MatmulAlgorithm>;

  void read();
  std::string hash_of(const Algorithms& algorithms) const;

  std::filesystem::path path_;
  std::string gpu_;
  std::uint64_t library_version_ = 0;
  Algorithms algorithms_;
  Algorithms used_;  ///< of them
  bool changed_ = false;
};

/// Milliseconds `run` takes on `stream`: the median of seven runs after one to warm up. Waits for
/// the stream; not while it is recorded.
float measured_milliseconds(cudaStream_t stream, const std::function<void()>& run);

}  // namespace vitrine::cuda
