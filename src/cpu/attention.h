// The three ways attention runs on the CPU; `attention.cpp` chooses by shape.
#pragma once

#include <cstdint>

#include "vitrine/kernels.h"

namespace vitrine::cpu {

/// Working memory of the calling thread, aligned to the widest vectors; kept between calls. A few
/// hundred KB for the shapes people train: all three are built around what stays in cache.
float* attention_scratch(std::int64_t floats);

/// `floats` rounded up so that the array behind it in scratch is aligned too.
constexpr std::int64_t scratch_size(std::int64_t floats) {
  return (floats + 31) / 32 * 32;
}

/// One pair; pair = image · heads + head.
void attention_pair_forward(const AttentionForward& args, std::int64_t pair);
void attention_pair_backward(const AttentionBackward& args, std::int64_t pair);

/// Heads of 8, 12 or 16 channels, one pair. Neither dropout nor `probabilities`.
void attention_small_forward(const AttentionForward& args, std::int64_t pair);
void attention_small_backward(const AttentionBackward& args, std::int64_t pair);

/// How many (image, head) pairs run side by side in the lanes of a vector.
std::int64_t attention_lanes();

/// Heads of 4 channels, pairs group · attention_lanes() and the following. Neither dropout nor
/// `probabilities`.
void attention_lanes_forward(const AttentionForward& args, std::int64_t group);
void attention_lanes_backward(const AttentionBackward& args, std::int64_t group);

}  // namespace vitrine::cpu
