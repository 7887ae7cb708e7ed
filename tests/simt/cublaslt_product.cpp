#include "simt/cublaslt_product.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <bit>
#include <cstring>
#include <limits>
#include <vector>

#include "cpu/sgemm.h"

namespace simt::lt {
namespace {

/// The length of the sum.
std::uint64_t inner(const Problem& p) {
  return p.operation.transpose_a == CUBLAS_OP_N ? p.a.cols : p.a.rows;
}

bool epilogue_supported(const Problem& p) {
  return has_vector(p) || p.operation.epilogue == CUBLASLT_EPILOGUE_DEFAULT;
}

bool types_supported(const Problem& p) {
  const cudaDataType_t in = p.a.type, out = p.d.type;
  if (p.operation.scale != CUDA_R_32F || p.b.type != in || p.c.type != out) return false;
  if (has_vector(p) && p.operation.bias_type != -1 && p.operation.bias_type != out) return false;
  switch (p.operation.compute) {
    case CUBLAS_COMPUTE_32F:
      return (in == CUDA_R_32F || in == CUDA_R_16BF || in == CUDA_R_16F) &&
             (out == CUDA_R_32F || out == in);
    case CUBLAS_COMPUTE_32F_FAST_TF32:
      return in == CUDA_R_32F && out == CUDA_R_32F;
    default:
      return false;
  }
}

bool layout_valid(const Layout& layout, std::int32_t batch) {
  return layout.rows > 0 && layout.cols > 0 && layout.batch == batch &&
         layout.leading >= static_cast<std::int64_t>(layout.rows);
}

bool shapes_fit(const Problem& p) {
  const bool plain_a = p.operation.transpose_a == CUBLAS_OP_N;
  const bool plain_b = p.operation.transpose_b == CUBLAS_OP_N;
  for (const Layout* layout : {&p.a, &p.b, &p.c, &p.d}) {
    if (!layout_valid(*layout, p.d.batch)) return false;
  }
  const bool overwrites_itself = p.d.batch > 1 && p.d.stride == 0;
  return !overwrites_itself && (plain_a ? p.a.rows : p.a.cols) == p.d.rows &&
         (plain_b ? p.b.cols : p.b.rows) == p.d.cols &&
         (plain_b ? p.b.rows : p.b.cols) == inner(p) && p.c.rows == p.d.rows &&
         p.c.cols == p.d.cols;
}

/// Rounded to the 10 bits of mantissa that tf32 has, to nearest, ties to even.
float rounded_to_tf32(float value) {
  auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7f800000u) == 0x7f800000u) return value;  // infinite or NaN
  bits += 0xfffu + ((bits >> 13) & 1u);
  return std::bit_cast<float>(bits & ~0x1fffu);
}

float load(const void* data, cudaDataType_t type, std::int64_t i) {
  switch (type) {
    case CUDA_R_16BF:
      return __bfloat162float(static_cast<const __nv_bfloat16*>(data)[i]);
    case CUDA_R_16F:
      return __half2float(static_cast<const __half*>(data)[i]);
    default:
      return static_cast<const float*>(data)[i];
  }
}

void store(void* data, cudaDataType_t type, std::int64_t i, float value) {
  switch (type) {
    case CUDA_R_16BF:
      static_cast<__nv_bfloat16*>(data)[i] = __float2bfloat16_rn(value);
      break;
    case CUDA_R_16F:
      static_cast<__half*>(data)[i] = __float2half_rn(value);
      break;
    default:
      static_cast<float*>(data)[i] = value;
  }
}

/// op(matrix), row-major and packed, as float.
std::vector<float> factor(const void* data, const Layout& layout, std::int32_t transpose,
                          std::int64_t batch, bool tf32) {
  const auto rows = static_cast<std::int64_t>(layout.rows);
  const auto cols = static_cast<std::int64_t>(layout.cols);
  const bool plain = transpose == CUBLAS_OP_N;
  std::vector<float> values(static_cast<std::size_t>(rows * cols));
  for (std::int64_t col = 0; col < cols; ++col) {
    for (std::int64_t row = 0; row < rows; ++row) {
      const float value =
          load(data, layout.type, batch * layout.stride + col * layout.leading + row);
      values[plain ? row * cols + col : col * rows + row] = tf32 ? rounded_to_tf32(value) : value;
    }
  }
  return values;
}

// Of the factor as the product reads it: rounded to tf32 if that is.
void sum_columns(const Problem& p, const std::vector<float>& right, std::int64_t k,
                 std::int64_t cols, std::int64_t batch) {
  for (std::int64_t col = 0; col < cols; ++col) {
    float sum = 0.0f;
    for (std::int64_t i = 0; i < k; ++i) sum += right[i * cols + col];
    store(const_cast<void*>(p.operation.bias), p.d.type, batch * p.operation.bias_stride + col,
          sum);
  }
}

void run_one(const Call& call, std::int64_t batch) {
  const Problem& p = call.problem;
  const bool tf32 = p.operation.compute == CUBLAS_COMPUTE_32F_FAST_TF32;
  const auto rows = static_cast<std::int64_t>(p.d.rows), cols = static_cast<std::int64_t>(p.d.cols);
  const auto k = static_cast<std::int64_t>(inner(p));
  const std::vector<float> left = factor(call.a, p.a, p.operation.transpose_a, batch, tf32);
  const std::vector<float> right = factor(call.b, p.b, p.operation.transpose_b, batch, tf32);
  std::vector<float> sums(static_cast<std::size_t>(rows * cols));
  vitrine::cpu::sgemm(rows, cols, k, {left.data(), k}, {right.data(), cols}, 0.0f, sums.data(),
                      cols);
  if (p.operation.epilogue == CUBLASLT_EPILOGUE_BGRADB) sum_columns(p, right, k, cols, batch);
  for (std::int64_t col = 0; col < cols; ++col) {
    for (std::int64_t row = 0; row < rows; ++row) {
      float value = call.alpha * sums[row * cols + col];
      if (call.beta != 0.0f) {
        value += call.beta * load(call.c, p.c.type, batch * p.c.stride + col * p.c.leading + row);
      }
      if (p.operation.epilogue == CUBLASLT_EPILOGUE_BIAS) {
        value += load(p.operation.bias, p.d.type, batch * p.operation.bias_stride + row);
      }
      store(call.d, p.d.type, batch * p.d.stride + col * p.d.leading + row, value);
    }
  }
}

}  // namespace

std::int64_t size_of(cudaDataType_t type) {
  return type == CUDA_R_32F ? 4 : 2;
}

bool has_vector(const Problem& p) {
  return p.operation.epilogue == CUBLASLT_EPILOGUE_BIAS ||
         p.operation.epilogue == CUBLASLT_EPILOGUE_BGRADB;
}

cublasStatus_t documented_status(const Problem& p) {
  if (!shapes_fit(p)) return CUBLAS_STATUS_INVALID_VALUE;
  if (has_vector(p) && p.operation.bias == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  if (!epilogue_supported(p)) return CUBLAS_STATUS_NOT_SUPPORTED;
  for (const Layout* layout : {&p.a, &p.b, &p.c, &p.d}) {
    constexpr std::uint64_t kMost = std::numeric_limits<std::int32_t>::max();
    if (layout->order != CUBLASLT_ORDER_COL || layout->rows > kMost || layout->cols > kMost) {
      return CUBLAS_STATUS_NOT_SUPPORTED;
    }
  }
  return types_supported(p) ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

void Call::run() const {
  // Nothing of a workspace survives its use.
  if (workspace_used > 0) std::memset(workspace, 0xFF, workspace_used);
  for (std::int64_t batch = 0; batch < problem.d.batch; ++batch) run_one(*this, batch);
}

}  // namespace simt::lt
