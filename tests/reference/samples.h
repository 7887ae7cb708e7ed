// A subset of the samples by its definition, and what is taken and added back, in T.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "reference/inputs.h"
#include "vitrine/step_state.h"

namespace vitrine::reference::samples {

struct Case {
  std::int64_t batch, count, cols;
};

inline const std::vector<Case> kCases = {{1, 1, 1},  {2, 1, 3},    {7, 3, 8},   {5, 5, 24},
                                         {33, 1, 5}, {64, 63, 40}, {9, 4, 771}, {100, 37, 16}};

/// Nine samples of which two have the same word.
inline constexpr StepState kEqualWords{.seed = 8, .step = 3, .first_row = 3541155};
inline constexpr std::uint32_t kEqualOperation = 9;
inline constexpr std::int64_t kEqualBatch = 9, kEarlier = 3, kLater = 5;

/// The words by which drop-path keeps or drops the samples of a chunk.
inline std::vector<std::uint32_t> words(std::int64_t batch, std::uint32_t operation,
                                        const StepState& state) {
  std::vector<std::uint32_t> result;
  for (std::int64_t i = 0; i < batch; ++i) {
    const auto element = static_cast<std::uint64_t>(state.first_row + i);
    result.push_back(
        random_words(state.seed, state.step, operation, element / 4).word[element % 4]);
  }
  return result;
}

struct Subset {
  std::vector<std::int32_t> samples, slots;
};

inline Subset chosen(std::int64_t batch, std::int64_t count, std::uint32_t operation,
                     const StepState& state) {
  const std::vector<std::uint32_t> word = words(batch, operation, state);
  Subset subset;
  subset.samples.resize(static_cast<std::size_t>(batch));
  std::iota(subset.samples.begin(), subset.samples.end(), 0);
  std::stable_sort(subset.samples.begin(), subset.samples.end(),
                   [&](std::int32_t a, std::int32_t b) { return word[a] > word[b]; });
  subset.samples.resize(static_cast<std::size_t>(count));
  std::sort(subset.samples.begin(), subset.samples.end());
  subset.slots.assign(static_cast<std::size_t>(batch), -1);
  for (std::int32_t i = 0; i < count; ++i) subset.slots[subset.samples[i]] = i;
  return subset;
}

template <typename T>
std::vector<T> taken(const Subset& s, const std::vector<float>& x, std::int64_t cols, float scale) {
  std::vector<T> out;
  for (const std::int32_t sample : s.samples) {
    for (std::int64_t c = 0; c < cols; ++c) out.push_back(T(scale) * T(x[sample * cols + c]));
  }
  return out;
}

/// No x: zeros.
template <typename T>
std::vector<T> added(const Subset& s, const std::vector<float>& x, const std::vector<float>& part,
                     std::int64_t cols, float scale) {
  std::vector<T> out(x.begin(), x.end());
  out.resize(s.slots.size() * static_cast<std::size_t>(cols), T(0));
  for (std::size_t slot = 0; slot < s.samples.size(); ++slot) {
    for (std::int64_t c = 0; c < cols; ++c) {
      out[s.samples[slot] * cols + c] += T(scale) * T(part[slot * cols + c]);
    }
  }
  return out;
}

}  // namespace vitrine::reference::samples
