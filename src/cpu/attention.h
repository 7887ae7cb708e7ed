// The two ways attention runs on the CPU; `attention.cpp` chooses by shape.
#pragma once

#include <cstdint>

#include "vitrine/kernels.h"

namespace vitrine::cpu {

/// Working memory of the calling thread, aligned to the widest vectors; kept between calls. A few
/// hundred KB for the shapes people train: both paths are built around what stays in cache.
float* attention_scratch(std::int64_t floats);

/// `floats` rounded up so that the array behind it in scratch is aligned too.
constexpr std::int64_t scratch_size(std::int64_t floats) {
  return (floats + 31) / 32 * 32;
}

/// One pair; pair = image · heads + head.
void attention_pair_forward(const AttentionForward& args, std::int64_t pair);
void attention_pair_backward(const AttentionBackward& args, std::int64_t pair);

/// Whether a shape suits `attention_lanes_*`: a small head, and packed copies that stay in cache.
/// They know neither dropout nor `probabilities`.
bool attention_lanes_suit(std::int64_t tokens, std::int64_t head_size);

/// How many (image, head) pairs run side by side in the lanes of a vector.
std::int64_t attention_lanes();

/// Pairs group · attention_lanes() and the following.
void attention_lanes_forward(const AttentionForward& args, std::int64_t group);
void attention_lanes_backward(const AttentionBackward& args, std::int64_t group);

}  // namespace vitrine::cpu
