// The token sequence: class token, registers, positions and dropout; and pooling, the way back.
//
//   x = dropout(concat(class_token, registers, patches) + position)    Dosovitskiy et al. 2020,
//   y = mean of x over a window of tokens                              arXiv:2010.11929;
//                                                  registers: Darcet et al. 2024, arXiv:2309.16588
//
// Forward and pooling divide the work by images. The backward of tokens divides it by tokens: one
// thread sums a token over the images in their order, so dclass, dregisters and dposition need no
// partial sums.
// dpatches and a pooled dx are written (=), or added to (+=) where `accumulate` says so.
#include <algorithm>
#include <vector>

#include "cpu/cpu_kernels.h"
#include "cpu/dropout.h"
#include "vitrine/arguments.h"

namespace vitrine::cpu {
namespace {

constexpr std::int64_t kElementsPerTask = 2048;  // of one image, in the backward of tokens

struct Layout {
  std::int64_t tokens;          // T
  std::int64_t class_index;     // -1: no class token
  std::int64_t register_first;  // token of register 0
  std::int64_t patch_first;     // token of patch 0
  std::int64_t position_first;  // token of the first position
  std::int64_t positions;
};

template <typename Args>
Layout layout_of(const Args& args) {
  const std::int64_t class_tokens = args.place == ClassToken::none ? 0 : 1;
  Layout layout{.tokens = args.num_patches + args.num_registers + class_tokens};
  layout.class_index = args.place == ClassToken::last ? layout.tokens - 1 : class_tokens - 1;
  layout.register_first = args.place == ClassToken::first ? 1 : 0;
  layout.patch_first = layout.register_first + args.num_registers;
  layout.position_first = args.patch_positions ? layout.patch_first : 0;
  layout.positions = args.patch_positions ? args.num_patches : layout.tokens;
  return layout;
}

// Factors of the elements of image `image` from token `token` on, of a row of `hidden` each.
void token_factors(const Dropout& dropout, const StepState& state, std::int64_t image,
                   std::int64_t token, const Layout& layout, std::int64_t hidden,
                   std::vector<float>& factors) {
  const std::int64_t row = (state.first_row + image) * layout.tokens + token;
  dropout_factors(factors.data(), static_cast<std::int64_t>(factors.size()),
                  static_cast<std::uint64_t>(row * hidden), dropout, state);
}

// to = from + add, or a copy where there is nothing to add.
void add_or_copy(const float* __restrict from, const float* __restrict add, std::int64_t n,
                 float* __restrict to) {
  if (add == nullptr) {
    std::copy_n(from, n, to);
  } else {
    for (std::int64_t i = 0; i < n; ++i) to[i] = from[i] + add[i];
  }
}

/// The sums of tokens [begin, end), rows of `hidden`.
struct TokenSums {
  std::int64_t begin, end, hidden;
  std::vector<float> sum;

  /// Those of tokens [first, first + count) to the rows of `out`, which may be empty.
  void store(View<float> out, std::int64_t first, std::int64_t count, bool accumulate) const {
    if (!out) return;
    const std::int64_t from = std::max(begin, first), to = std::min(end, first + count);
    for (std::int64_t i = (from - first) * hidden; i < (to - first) * hidden; ++i) {
      out[i] = (accumulate ? out[i] : 0.0f) + sum[(first - begin) * hidden + i];
    }
  }
};

// The gradients of tokens [begin, end), images in their order.
void backward_of_tokens(const TokensBackward& args, const Layout& layout, std::int64_t begin,
                        std::int64_t end) {
  const std::int64_t hidden = args.hidden;
  const std::int64_t n = (end - begin) * hidden;
  const std::int64_t first_patch = std::max(begin - layout.patch_first, std::int64_t{0});
  const std::int64_t last_patch = std::min(end - layout.patch_first, args.num_patches);
  const bool drop = args.dropout.probability > 0.0f;
  std::vector<float> factors(drop ? n : 0), dropped(drop ? n : 0);
  TokenSums sums{begin, end, hidden, std::vector<float>(n, 0.0f)};
  for (std::int64_t image = 0; image < args.batch; ++image) {
    const float* dx = args.dx.f32().data + (image * layout.tokens + begin) * hidden;
    if (drop) {
      token_factors(args.dropout, *args.state, image, begin, layout, hidden, factors);
      for (std::int64_t i = 0; i < n; ++i) dropped[i] = dx[i] * factors[i];
      dx = dropped.data();
    }
    for (std::int64_t i = 0; i < n; ++i) sums.sum[i] += dx[i];
    if (!args.dpatches || first_patch >= last_patch) continue;
    std::copy_n(dx + (first_patch + layout.patch_first - begin) * hidden,
                (last_patch - first_patch) * hidden,
                args.dpatches.f32().data + (image * args.num_patches + first_patch) * hidden);
  }
  sums.store(args.dposition, layout.position_first, layout.positions, args.accumulate);
  sums.store(args.dclass, layout.class_index, 1, args.accumulate);
  sums.store(args.dregisters, layout.register_first, args.num_registers, args.accumulate);
}

}  // namespace

void CpuKernels::tokens_forward(const TokensForward& args) {
  check_arguments(args);
  const Layout layout = layout_of(args);
  const std::int64_t hidden = args.hidden;
  float* x = args.x.f32().data;
  const float* patches = args.patches.f32().data;
  const float* class_token = args.class_token.f32().data;
  const float* registers = args.registers.f32().data;
  const float* position = args.position.f32().data;
  const auto position_of = [&](std::int64_t token) {
    const std::int64_t row = token - layout.position_first;
    const bool has_one = position != nullptr && row >= 0 && row < layout.positions;
    return has_one ? position + row * hidden : nullptr;
  };
  pool_.parallel_for(args.batch, [&](int, std::int64_t image) {
    float* to = x + image * layout.tokens * hidden;
    add_or_copy(patches + image * args.num_patches * hidden, position_of(layout.patch_first),
                args.num_patches * hidden, to + layout.patch_first * hidden);
    if (layout.class_index >= 0) {
      add_or_copy(class_token, position_of(layout.class_index), hidden,
                  to + layout.class_index * hidden);
    }
    if (args.num_registers > 0) {
      add_or_copy(registers, position_of(layout.register_first), args.num_registers * hidden,
                  to + layout.register_first * hidden);
    }
    if (args.dropout.probability == 0.0f) return;
    std::vector<float> factors(hidden);
    for (std::int64_t token = 0; token < layout.tokens; ++token, to += hidden) {
      token_factors(args.dropout, *args.state, image, token, layout, hidden, factors);
      for (std::int64_t i = 0; i < hidden; ++i) to[i] *= factors[i];
    }
  });
}

void CpuKernels::tokens_backward(const TokensBackward& args) {
  check_arguments(args);
  const Layout layout = layout_of(args);
  const std::int64_t hidden = args.hidden;
  const std::int64_t grain = (kElementsPerTask + hidden - 1) / hidden;
  pool_.for_ranges(layout.tokens, grain, [&](std::int64_t begin, std::int64_t end) {
    backward_of_tokens(args, layout, begin, end);
  });
}

void CpuKernels::pool_forward(const PoolForward& args) {
  check_arguments(args);
  const std::int64_t hidden = args.hidden;
  float* y = args.y.f32().data;
  const float* x = args.x.f32().data;
  const float scale = 1.0f / static_cast<float>(args.window.tokens);
  pool_.parallel_for(args.batch, [&](int, std::int64_t image) {
    const float* from = x + (image * args.window.total + args.window.first) * hidden;
    float* to = y + image * hidden;
    std::copy_n(from, hidden, to);
    if (args.window.tokens == 1) return;
    for (std::int64_t token = 1; token < args.window.tokens; ++token) {
      for (std::int64_t i = 0; i < hidden; ++i) to[i] += from[token * hidden + i];
    }
    for (std::int64_t i = 0; i < hidden; ++i) to[i] *= scale;
  });
}

void CpuKernels::pool_backward(const PoolBackward& args) {
  check_arguments(args);
  const std::int64_t hidden = args.hidden;
  const TokenWindow& window = args.window;
  float* dx = args.dx.f32().data;
  const float* dy = args.dy.f32().data;
  const float scale = 1.0f / static_cast<float>(window.tokens);
  pool_.parallel_for(args.batch, [&](int, std::int64_t image) {
    const float* from = dy + image * hidden;
    float* to = dx + image * window.total * hidden;
    float* begin = to + window.first * hidden;
    float* end = begin + window.tokens * hidden;
    if (!args.accumulate) {
      std::fill(to, begin, 0.0f);
      std::fill(end, to + window.total * hidden, 0.0f);
    }
    for (float* token = begin; token < end; token += hidden) {
      for (std::int64_t i = 0; i < hidden; ++i) {
        token[i] = (args.accumulate ? token[i] : 0.0f) + from[i] * scale;
      }
    }
  });
}

}  // namespace vitrine::cpu
