// A residual branch on its way into the stream: dropout per element, drop-path per sample.
#pragma once

#include "cpu/dropout.h"
#include "vitrine/kernels.h"

namespace vitrine::cpu {

/// The zeroing and scaling of one operation's branch [rows, cols].
class Branch {
 public:
  /// Takes the fields of an argument struct that describe a branch.
  template <typename Args>
  explicit Branch(const Args& args)
      : cols_(args.cols),
        dropout_(args.dropout),
        drop_path_(args.drop_path),
        window_(args.window),
        state_(args.state) {}

  /// out = x + factor · branch for rows [begin, end); pointers to row 0, `out` may be an input.
  void add(float* out, const float* x, const float* branch, std::int64_t begin,
           std::int64_t end) const;
  /// out = factor · in for rows [begin, end); pointers to row 0, `out` may be `in`.
  void scale(float* out, const float* in, std::int64_t begin, std::int64_t end) const;

 private:
  template <typename Apply>
  void for_pieces(std::int64_t begin, std::int64_t end, const Apply& apply) const;

  std::int64_t cols_;
  Dropout dropout_, drop_path_;
  TokenWindow window_;
  const StepState* state_;
};

/// Rows of a piece of work for one thread: about 64 KB of one tensor.
inline std::int64_t row_grain(std::int64_t cols) {
  constexpr std::int64_t kElements = 16384;
  return cols < kElements ? kElements / cols : 1;
}

}  // namespace vitrine::cpu
