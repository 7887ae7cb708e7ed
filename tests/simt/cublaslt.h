// The stand-in of cuBLASLt that programs of the emulator link: what a test may ask it.
//
// It has kLtAlgorithms algorithms, which differ in what they need and never in their result. Work
// is submitted under the name "cublasLtMatmul/<algorithm>", by which set_duration knows it.
#pragma once

#include <array>
#include <cstddef>

namespace simt {

inline constexpr int kLtAlgorithms = 6;

/// Calls since the start or reset_lt_calls().
struct LtCalls {
  int all = 0;  ///< of any function that begins with cublasLt
  int heuristics = 0;
  int matmuls = 0;
  std::array<int, kLtAlgorithms> by_algorithm{};  ///< the matmuls
};

LtCalls lt_calls();
void reset_lt_calls();

/// Lets cublasLtMatmul refuse an algorithm that the heuristic offers all the same; -1: none.
void refuse_lt_algorithm(int algorithm);

/// Lets no algorithm write a bias gradient.
void refuse_lt_bias_gradient(bool refuse);

}  // namespace simt
