// Tensors of the stand-in for cuDNN (cudnn.cpp): elements of three types in any strides.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cudnn.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>

namespace simt {

inline constexpr int kN = 0, kC = 1, kH = 2, kW = 3;
using Four = std::array<std::int64_t, 4>;

/// A tensor's type, sizes and strides, as tensor and filter descriptors hold them.
struct Layout {
  cudnnDataType_t type = CUDNN_DATA_FLOAT;
  Four sizes{}, strides{};
  bool is_set = false;

  bool valid() const {
    const auto positive = [](std::int64_t i) { return i > 0; };
    return (type == CUDNN_DATA_FLOAT || type == CUDNN_DATA_BFLOAT16 || type == CUDNN_DATA_HALF) &&
           std::all_of(sizes.begin(), sizes.end(), positive) &&
           std::all_of(strides.begin(), strides.end(), positive);
  }
  std::int64_t at(std::int64_t n, std::int64_t c, std::int64_t h, std::int64_t w) const {
    return n * strides[kN] + c * strides[kC] + h * strides[kH] + w * strides[kW];
  }
  template <typename Body>
  void for_each(const Body& body) const {
    for (std::int64_t n = 0; n < sizes[kN]; ++n) {
      for (std::int64_t c = 0; c < sizes[kC]; ++c) {
        for (std::int64_t h = 0; h < sizes[kH]; ++h) {
          for (std::int64_t w = 0; w < sizes[kW]; ++w) body(n, c, h, w);
        }
      }
    }
  }
};

inline Layout packed(cudnnDataType_t type, const Four& sizes) {
  const auto [n, c, h, w] = sizes;
  return {type, sizes, {c * h * w, h * w, w, 1}, true};
}

inline float load(const Layout& layout, const void* data, std::int64_t i) {
  switch (layout.type) {
    case CUDNN_DATA_BFLOAT16:
      return __bfloat162float(static_cast<const __nv_bfloat16*>(data)[i]);
    case CUDNN_DATA_HALF:
      return __half2float(static_cast<const __half*>(data)[i]);
    default:
      return static_cast<const float*>(data)[i];
  }
}

inline void store(const Layout& layout, void* data, std::int64_t i, float value) {
  switch (layout.type) {
    case CUDNN_DATA_BFLOAT16:
      static_cast<__nv_bfloat16*>(data)[i] = __float2bfloat16_rn(value);
      break;
    case CUDNN_DATA_HALF:
      static_cast<__half*>(data)[i] = __float2half_rn(value);
      break;
    default:
      static_cast<float*>(data)[i] = value;
  }
}

/// data[i] = alpha · value + beta · data[i]
struct Blend {
  float alpha, beta;

  Blend(const void* alpha_, const void* beta_)
      : alpha(*static_cast<const float*>(alpha_)), beta(*static_cast<const float*>(beta_)) {}
  void store(const Layout& layout, void* data, std::int64_t i, float value) const {
    const float before = beta == 0.0f ? 0.0f : beta * load(layout, data, i);
    simt::store(layout, data, i, alpha * value + before);
  }
};

/// To 10 bits of mantissa, ties to even.
inline float to_tf32(float value) {
  constexpr std::uint32_t kDropped = 13;
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t odd = bits >> kDropped & 1u;
  const std::uint32_t half = (1u << (kDropped - 1)) - 1u;
  return std::bit_cast<float>((bits + half + odd) >> kDropped << kDropped);
}

}  // namespace simt

// What cuDNN's handles point to.
struct cudnnContext {
  cudaStream_t stream = nullptr;
};
struct cudnnTensorStruct : simt::Layout {};
