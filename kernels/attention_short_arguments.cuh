// Arguments of the kernels for short sequences: those of the catalogue in the types that the
// kernels count with.
#pragma once

#include <limits>

#include "attention_tile.cuh"
#include "primitives/vector.cuh"
#include "vitrine/kernels.h"

namespace vitrine::cuda {

/// Throws DeviceError where a stride or the number of pairs does not fit in 32 bits.
template <typename Args>
HeadShape head_shape(const char* operation, const Args& args) {
  const auto narrow = [&](const char* field, std::int64_t value) {
    if (value > std::numeric_limits<int>::max()) {
      throw DeviceError(std::string(operation) + ": " + field + " is " + std::to_string(value) +
                        ", expected less than 2^31");
    }
    return static_cast<int>(value);
  };
  narrow("batch * heads", args.batch * args.heads);
  return {narrow("heads", args.heads), narrow("window.tokens", args.window.tokens),
          narrow("window.total", args.window.total), narrow("q_stride", args.q_stride),
          narrow("kv_stride", args.kv_stride)};
}

struct ShortForwardArguments {
  bf16* out;           // [B, Tq, H, d]
  float* log_sum_exp;  // [B, H, Tq], null: not asked for
  const bf16 *q, *k, *v;
  HeadShape shape;

  explicit ShortForwardArguments(const AttentionForward& args)
      : out(elements<bf16>(args.out)),
        log_sum_exp(args.log_sum_exp.data),
        q(elements<bf16>(args.q)),
        k(elements<bf16>(args.k)),
        v(elements<bf16>(args.v)),
        shape(head_shape("attention_forward", args)) {}
};

struct ShortBackwardArguments {
  bf16 *dq, *dk, *dv;
  const bf16 *dout, *out;    // [B, Tq, H, d]
  const float* log_sum_exp;  // [B, H, Tq]
  const bf16 *q, *k, *v;
  HeadShape shape;
  unsigned pairs;  // B · H

  explicit ShortBackwardArguments(const AttentionBackward& args)
      : dq(elements<bf16>(args.dq)),
        dk(elements<bf16>(args.dk)),
        dv(elements<bf16>(args.dv)),
        dout(elements<bf16>(args.dout)),
        out(elements<bf16>(args.out)),
        log_sum_exp(args.log_sum_exp.data),
        q(elements<bf16>(args.q)),
        k(elements<bf16>(args.k)),
        v(elements<bf16>(args.v)),
        shape(head_shape("attention_backward", args)),
        pairs(static_cast<unsigned>(args.batch * args.heads)) {}
};

}  // namespace vitrine::cuda
