// The token sequence: class token, positions and dropout; and pooling, the way back.
//
//   x = dropout(concat(class_token, patches) + position)       Dosovitskiy et al. 2020,
//   y = mean of x over a window of tokens                      arXiv:2010.11929
//
// Forward and pooling divide the work by images. The backward of tokens divides it by tokens: one
// thread sums a token over the images in their order, so dclass and dposition need no partial sums.
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
  std::int64_t tokens;       // T
  std::int64_t class_index;  // -1: no class token
  std::int64_t patch_first;  // token of patch 0
};

Layout layout_of(ClassToken place, std::int64_t num_patches) {
  switch (place) {
    case ClassToken::first:
      return {num_patches + 1, 0, 1};
    case ClassToken::last:
      return {num_patches + 1, num_patches, 0};
    case ClassToken::none:
      break;
  }
  return {num_patches, -1, 0};
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

void store(const std::vector<float>& sum, std::int64_t first, bool accumulate, View<float> out,
           std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) out[i] = (accumulate ? out[i] : 0.0f) + sum[first + i];
}

// The gradients of tokens [begin, end), images in their order.
void backward_of_tokens(const TokensBackward& args, const Layout& layout, std::int64_t begin,
                        std::int64_t end) {
  const std::int64_t hidden = args.hidden;
  const std::int64_t n = (end - begin) * hidden;
  const std::int64_t first_patch = std::max(begin - layout.patch_first, std::int64_t{0});
  const std::int64_t last_patch = std::min(end - layout.patch_first, args.num_patches);
  const bool drop = args.dropout.probability > 0.0f;
  std::vector<float> factors(drop ? n : 0), dropped(drop ? n : 0), sum(n, 0.0f);
  for (std::int64_t image = 0; image < args.batch; ++image) {
    const float* dx = args.dx.f32().data + (image * layout.tokens + begin) * hidden;
    if (drop) {
      token_factors(args.dropout, *args.state, image, begin, layout, hidden, factors);
      for (std::int64_t i = 0; i < n; ++i) dropped[i] = dx[i] * factors[i];
      dx = dropped.data();
    }
    for (std::int64_t i = 0; i < n; ++i) sum[i] += dx[i];
    if (!args.dpatches || first_patch >= last_patch) continue;
    std::copy_n(dx + (first_patch + layout.patch_first - begin) * hidden,
                (last_patch - first_patch) * hidden,
                args.dpatches.f32().data + (image * args.num_patches + first_patch) * hidden);
  }
  if (args.dposition) {
    store(sum, 0, args.accumulate, {args.dposition.data + begin * hidden, n}, n);
  }
  if (args.dclass && layout.class_index >= begin && layout.class_index < end) {
    store(sum, (layout.class_index - begin) * hidden, args.accumulate, args.dclass, hidden);
  }
}

}  // namespace

void CpuKernels::tokens_forward(const TokensForward& args) {
  check_arguments(args);
  const Layout layout = layout_of(args.place, args.num_patches);
  const std::int64_t hidden = args.hidden;
  float* x = args.x.f32().data;
  const float* patches = args.patches.f32().data;
  const float* class_token = args.class_token.f32().data;
  const float* position = args.position.f32().data;
  const auto position_of = [&](std::int64_t token) {
    return position == nullptr ? nullptr : position + token * hidden;
  };
  pool_.parallel_for(args.batch, [&](int, std::int64_t image) {
    float* to = x + image * layout.tokens * hidden;
    add_or_copy(patches + image * args.num_patches * hidden, position_of(layout.patch_first),
                args.num_patches * hidden, to + layout.patch_first * hidden);
    if (layout.class_index >= 0) {
      add_or_copy(class_token, position_of(layout.class_index), hidden,
                  to + layout.class_index * hidden);
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
  const Layout layout = layout_of(args.place, args.num_patches);
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
