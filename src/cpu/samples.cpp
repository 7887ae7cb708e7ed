// A branch on a subset of the samples: which they are, into the branch and back into the stream.
//
//   out[i] = scale · x[s_i]      out[s_i] = x[s_i] + scale · part[i]      arXiv:2304.07193, sec. 5
//
// A sample's key is its random word, and of equal words the earlier sample's is larger: the subset
// is what is not below the count-th largest key. Outputs are written (=); of an `out` that is x,
// samples outside of the subset are left as they are.
#include <algorithm>
#include <functional>
#include <vector>

#include "cpu/branch.h"
#include "cpu/cpu_kernels.h"
#include "vitrine/arguments.h"
#include "vitrine/random.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/samples.cpp"
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "cpu/for_vectors-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace vitrine::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// out = scale · in
void scale_piece(float* out, const float* in, float scale, std::int64_t n) {
  for_vectors(n, [=](auto d, std::int64_t i) HWY_ATTR {
    hn::StoreU(hn::Mul(hn::LoadU(d, in + i), hn::Set(d, scale)), d, out + i);
  });
}

/// out = x + scale · part
void add_piece(float* out, const float* x, const float* part, float scale, std::int64_t n) {
  for_vectors(n, [=](auto d, std::int64_t i) HWY_ATTR {
    const auto sum = hn::MulAdd(hn::LoadU(d, part + i), hn::Set(d, scale), hn::LoadU(d, x + i));
    hn::StoreU(sum, d, out + i);
  });
}

}  // namespace vitrine::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vitrine::cpu {

HWY_EXPORT(scale_piece);
HWY_EXPORT(add_piece);

namespace {

/// Calls apply(sample, first, n) for the pieces of samples of `cols` elements that cover
/// `samples · cols` elements, threads side by side.
template <typename Apply>
void for_samples(ThreadPool& pool, std::int64_t samples, std::int64_t cols, const Apply& apply) {
  pool.for_ranges(samples * cols, row_grain(1), [&](std::int64_t begin, std::int64_t end) {
    while (begin < end) {
      const std::int64_t sample = begin / cols, first = begin % cols;
      const std::int64_t n = std::min(end - begin, cols - first);
      apply(sample, first, n);
      begin += n;
    }
  });
}

}  // namespace

void CpuKernels::choose_samples(const ChooseSamples& args) {
  check_arguments(args);
  std::vector<std::uint64_t> keys(static_cast<std::size_t>(args.batch));
  const auto first = static_cast<std::uint64_t>(args.state->first_row);
  for (std::int64_t i = 0; i < args.batch; ++i) {
    const std::uint64_t element = first + static_cast<std::uint64_t>(i);
    const PhiloxWords words =
        random_words(args.state->seed, args.state->step, args.operation, element / 4);
    keys[i] = std::uint64_t{words.word[element % 4]} << 32 | static_cast<std::uint32_t>(~i);
  }
  std::vector<std::uint64_t> largest = keys;
  std::nth_element(largest.begin(), largest.begin() + (args.count - 1), largest.end(),
                   std::greater<>());
  const std::uint64_t least = largest[args.count - 1];
  std::int32_t slot = 0;
  for (std::int64_t i = 0; i < args.batch; ++i) {
    const bool chosen = keys[i] >= least;
    args.slots[i] = chosen ? slot : -1;
    if (chosen) args.samples[slot++] = static_cast<std::int32_t>(i);
  }
}

void CpuKernels::take_samples(const TakeSamples& args) {
  check_arguments(args);
  float* out = args.out.f32().data;
  const float* x = args.x.f32().data;
  const auto scale = HWY_DYNAMIC_DISPATCH(scale_piece);
  for_samples(
      pool_, args.count, args.cols, [&](std::int64_t slot, std::int64_t first, std::int64_t n) {
        const std::int64_t sample = args.samples[slot];
        scale(out + slot * args.cols + first, x + sample * args.cols + first, args.scale, n);
      });
}

void CpuKernels::add_samples(const AddSamples& args) {
  check_arguments(args);
  float* out = args.out.f32().data;
  const float* x = args.x.f32().data;
  const float* part = args.part.f32().data;
  const auto scale = HWY_DYNAMIC_DISPATCH(scale_piece);
  const auto add = HWY_DYNAMIC_DISPATCH(add_piece);
  for_samples(pool_, args.batch, args.cols,
              [&](std::int64_t sample, std::int64_t first, std::int64_t n) {
                const std::int64_t at = sample * args.cols + first, slot = args.slots[sample];
                if (slot < 0) {
                  if (x == nullptr) std::fill_n(out + at, n, 0.0f);
                  if (x != nullptr && x != out) std::copy_n(x + at, n, out + at);
                  return;
                }
                const float* added = part + slot * args.cols + first;
                if (x == nullptr) {
                  scale(out + at, added, args.scale, n);
                } else {
                  add(out + at, x + at, added, args.scale, n);
                }
              });
}

}  // namespace vitrine::cpu
#endif  // HWY_ONCE
