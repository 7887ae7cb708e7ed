// An element of a matrix product by its definition.
#pragma once

#include <cstdint>

namespace vitrine::reference {

/// sum_l a[i, l] · b[l, j], in T; the factors are functions of row and column.
template <typename T, typename A, typename B>
T product_element(std::int64_t i, std::int64_t j, std::int64_t k, const A& a, const B& b) {
  T sum = 0;
  for (std::int64_t l = 0; l < k; ++l) sum += T(a(i, l)) * T(b(l, j));
  return sum;
}

}  // namespace vitrine::reference
