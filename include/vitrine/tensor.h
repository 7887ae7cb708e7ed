// Data types, shapes and non-owning views of contiguous memory.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "vitrine/error.h"

namespace vitrine {

/// Element types. The CPU device computes in f32; u8 are stored images, i32 labels.
enum class DType : std::uint8_t { f32, bf16, f16, u8, i32, i64 };

/// Bytes of one element.
constexpr std::int64_t size_of(DType type) {
  switch (type) {
    case DType::f32:
    case DType::i32:
      return 4;
    case DType::bf16:
    case DType::f16:
      return 2;
    case DType::u8:
      return 1;
    case DType::i64:
      return 8;
  }
  return 0;
}

/// The name safetensors uses: "F32", "BF16", "F16", "U8", "I32", "I64".
constexpr std::string_view to_string(DType type) {
  constexpr std::array<std::string_view, 6> kNames = {"F32", "BF16", "F16", "U8", "I32", "I64"};
  return kNames[static_cast<std::size_t>(type)];
}

/// How a model computes. fp32: all in f32. tf32: the same, but matrix products may round their
/// factors to tf32. bf16: working weights, activations and their gradients are bf16; sums inside
/// products, statistics, softmax, loss, parameter gradients, master weights and moments are f32.
enum class Precision : std::uint8_t { fp32, tf32, bf16 };

/// The type of activations and working weights.
constexpr DType working_type(Precision precision) {
  return precision == Precision::bf16 ? DType::bf16 : DType::f32;
}

/// Sizes of the dimensions, outermost first; row-major. Rank 0 is a scalar.
class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<std::int64_t> sizes) : sizes_(sizes) {}
  explicit Shape(std::vector<std::int64_t> sizes) : sizes_(std::move(sizes)) {}

  int rank() const { return static_cast<int>(sizes_.size()); }
  /// Size of dimension `i`; negative counts from the end.
  std::int64_t operator[](int i) const { return sizes_.at(i < 0 ? sizes_.size() + i : i); }
  /// Number of elements, 1 for a scalar.
  std::int64_t elements() const {
    std::int64_t n = 1;
    for (std::int64_t s : sizes_) n *= s;
    return n;
  }
  std::span<const std::int64_t> sizes() const { return sizes_; }
  /// "[2, 197, 192]"
  std::string str() const {
    std::string text = "[";
    for (std::size_t i = 0; i < sizes_.size(); ++i) {
      text += (i ? ", " : "") + std::to_string(sizes_[i]);
    }
    return text + "]";
  }
  bool operator==(const Shape&) const = default;

 private:
  std::vector<std::int64_t> sizes_;
};

/// A contiguous run of `size` elements that somebody else owns.
template <typename T>
struct View {
  T* data = nullptr;
  std::int64_t size = 0;

  View() = default;
  View(T* data_, std::int64_t size_) : data(data_), size(size_) {}
  template <typename U>
  requires std::is_same_v<T, const U> View(const View<U>& other)
      : data(other.data), size(other.size) {}
  constexpr explicit operator bool() const { return data != nullptr; }
  constexpr T& operator[](std::int64_t i) const { return data[i]; }
};

template <typename T>
using ConstView = View<const T>;

/// A view whose element type is known at run time: activations in the working precision, or
/// stored images.
template <typename Void>
struct AnyView {
  Void* data = nullptr;
  std::int64_t size = 0;  ///< elements
  DType dtype = DType::f32;

  AnyView() = default;
  AnyView(Void* data_, std::int64_t size_, DType dtype_)
      : data(data_), size(size_), dtype(dtype_) {}
  constexpr explicit operator bool() const { return data != nullptr; }

  /// The same memory as float. Throws DeviceError when the elements are of another type.
  auto f32() const {
    using T = std::conditional_t<std::is_const_v<Void>, const float, float>;
    if (data != nullptr && dtype != DType::f32) {
      throw DeviceError("expected F32 elements, found " + std::string(to_string(dtype)));
    }
    return View<T>(static_cast<T*>(data), size);
  }
};

template <>
struct View<void> : AnyView<void> {
  using AnyView<void>::AnyView;
  View() = default;
  View(View<float> v) : AnyView<void>(v.data, v.size, DType::f32) {}
};

template <>
struct View<const void> : AnyView<const void> {
  using AnyView<const void>::AnyView;
  View() = default;
  View(View<float> v) : AnyView<const void>(v.data, v.size, DType::f32) {}
  View(View<const float> v) : AnyView<const void>(v.data, v.size, DType::f32) {}
  View(View<const std::uint8_t> v) : AnyView<const void>(v.data, v.size, DType::u8) {}
  View(View<void> v) : AnyView<const void>(v.data, v.size, v.dtype) {}
};

}  // namespace vitrine
