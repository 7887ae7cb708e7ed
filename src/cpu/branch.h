// A residual branch on its way into the stream: dropout per element, drop-path per sample.
#pragma once

#include "cpu/check.h"
#include "cpu/dropout.h"
#include "vitrine/kernels.h"

namespace vitrine::cpu {

/// Throws DeviceError unless `dropout` can be drawn for `rows` rows of the window; with probability
/// 0 neither window nor state is looked at.
inline void check_dropout(const char* operation, const char* field, const Dropout& dropout,
                          std::int64_t rows, const TokenWindow& window, const StepState* state) {
  const float p = dropout.probability;
  VITRINE_CHECK(p >= 0.0f && p < 1.0f, operation,
                std::string(field) + ".probability is " + std::to_string(p) + ", expected [0, 1)");
  if (p == 0.0f) return;
  VITRINE_CHECK(state != nullptr, operation, std::string("state is null, needed by ") + field);
  VITRINE_CHECK(window.tokens > 0 && rows % window.tokens == 0, operation,
                "window.tokens is " + std::to_string(window.tokens) +
                    ", expected a divisor of rows = " + std::to_string(rows));
  VITRINE_CHECK(
      window.first >= 0 && window.first + window.tokens <= window.total, operation,
      "window.total is " + std::to_string(window.total) +
          ", expected at least first + tokens = " + std::to_string(window.first + window.tokens));
}

/// The zeroing and scaling of one operation's branch [rows, cols].
class Branch {
 public:
  /// Takes the fields of an argument struct that describe a branch. Throws DeviceError.
  template <typename Args>
  Branch(const char* operation, const Args& args)
      : cols_(args.cols),
        dropout_(args.dropout),
        drop_path_(args.drop_path),
        window_(args.window),
        state_(args.state) {
    check_dropout(operation, "dropout", dropout_, args.rows, window_, state_);
    check_dropout(operation, "drop_path", drop_path_, args.rows, window_, state_);
  }

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
