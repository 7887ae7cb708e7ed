// Sums by their definition: row after row, part after part.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

namespace vitrine::reference {

/// out[c] += sum_r x[r, c], in T.
template <typename T>
std::vector<T> column_sum(const std::vector<float>& x, std::vector<T> out) {
  for (std::size_t i = 0; i < x.size(); ++i) out[i % out.size()] += T(x[i]);
  return out;
}

/// out[i] = sum_p parts[p, i], bit for bit.
inline std::vector<float> sum_parts(const std::vector<float>& parts, std::int64_t n) {
  std::vector<float> out(parts.begin(), parts.begin() + n);
  for (std::size_t i = n; i < parts.size(); ++i) out[i % n] += parts[i];
  return out;
}

/// sqrt(sum_i x[i]^2), with more digits than double where the compiler has them.
inline double norm(const std::vector<float>& x) {
  long double sum = 0.0L;
  for (const float value : x) sum += static_cast<long double>(value) * value;
  return static_cast<double>(std::sqrt(sum));
}

}  // namespace vitrine::reference
