// Dropout and drop-path factors: Philox4x32-10, one counter per lane of 64 bits.
//
//   Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3"
//
// A vector of 64-bit lanes holds one 32-bit word of as many counters, in the low halves; the high
// halves are never read by the 32 × 32 → 64 bit products, so they need no clearing. The bits are
// those of vitrine/random.h.
#include "cpu/dropout.h"

#include <algorithm>

#include "vitrine/random.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/dropout.cpp"
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace vitrine::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// factors[4·i + word] for the quads first_quad + i, i in [0, quads). Returns the number of quads
/// done: what is left is less than two vectors.
std::int64_t quad_factors(float* HWY_RESTRICT factors, std::int64_t quads, std::uint64_t first_quad,
                          std::uint64_t seed, std::uint32_t operation, std::uint32_t step,
                          std::uint32_t threshold, float scale) {
#if HWY_TARGET == HWY_SCALAR
  (void)factors, (void)quads, (void)first_quad, (void)seed, (void)operation, (void)step;
  (void)threshold, (void)scale;
  return 0;
#else
  const hn::ScalableTag<std::uint64_t> d64;
  const hn::Repartition<std::uint32_t, decltype(d64)> d32;
  const hn::Repartition<float, decltype(d64)> df;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d64));
  const auto multiplier0 = hn::Set(d32, 0xD2511F53u);
  const auto multiplier1 = hn::Set(d32, 0xCD9E8D57u);
  const auto weyl0 = hn::Set(d64, 0x9E3779B9u);
  const auto weyl1 = hn::Set(d64, 0xBB67AE85u);
  const auto first_key0 = hn::Set(d64, seed);
  const auto first_key1 = hn::Set(d64, seed >> 32);
  const auto scale_bits = hn::BitCast(d32, hn::Set(df, scale));
  const auto limit = hn::Set(d32, threshold);
  const auto low_half = hn::Set(d64, 0xFFFFFFFFu);

  // Word `even` of each counter in the low half, the next one in the high half, as factors.
  const auto to_factors = [&](auto even, auto odd) HWY_ATTR {
    const auto words = hn::BitCast(d32, hn::Or(hn::And(even, low_half), hn::ShiftLeft<32>(odd)));
    const auto kept = hn::Eq(hn::Max(words, limit), words);
    return hn::BitCast(d64, hn::IfThenElseZero(kept, scale_bits));
  };

  // Two vectors of counters side by side, to hide the latency of the products.
  constexpr int kWays = 2;
  using V = hn::VFromD<decltype(d64)>;
  std::int64_t i = 0;
  for (; i + kWays * lanes <= quads; i += kWays * lanes) {
    V w0[kWays], w1[kWays], w2[kWays], w3[kWays];
    for (int way = 0; way < kWays; ++way) {
      w0[way] = hn::Iota(d64, first_quad + static_cast<std::uint64_t>(i + way * lanes));
      w1[way] = hn::ShiftRight<32>(w0[way]);
      w2[way] = hn::Set(d64, operation);
      w3[way] = hn::Set(d64, step);
    }
    V k0 = first_key0, k1 = first_key1;
    for (int round = 0; round < 10; ++round) {
      for (int way = 0; way < kWays; ++way) {
        const V product0 = hn::MulEven(multiplier0, hn::BitCast(d32, w0[way]));
        const V product1 = hn::MulEven(multiplier1, hn::BitCast(d32, w2[way]));
        w0[way] = hn::Xor(hn::ShiftRight<32>(product1), hn::Xor(w1[way], k0));
        w1[way] = product1;
        w2[way] = hn::Xor(hn::ShiftRight<32>(product0), hn::Xor(w3[way], k1));
        w3[way] = product0;
      }
      k0 = hn::Add(k0, weyl0);
      k1 = hn::Add(k1, weyl1);
    }
    for (int way = 0; way < kWays; ++way) {
      hn::StoreInterleaved2(to_factors(w0[way], w1[way]), to_factors(w2[way], w3[way]), d64,
                            reinterpret_cast<std::uint64_t*>(factors + 4 * (i + way * lanes)));
    }
  }
  return i;
#endif
}

}  // namespace vitrine::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vitrine::cpu {
namespace {

HWY_EXPORT(quad_factors);

struct Draw {
  Draw(const Dropout& dropout, const StepState& state)
      : threshold(drop_threshold(dropout.probability)),
        scale(1.0f / (1.0f - dropout.probability)),
        operation(dropout.operation),
        step(state.step),
        seed(state.seed) {}

  float factor(std::uint32_t word) const { return word >= threshold ? scale : 0.0f; }

  /// `n` factors from word `word` of quad `quad` on.
  void write(float* factors, std::int64_t n, std::uint64_t quad, std::uint64_t word) const {
    const auto partial = [&](std::int64_t count) {
      const PhiloxWords words = random_words(seed, step, operation, quad++);
      for (std::int64_t i = 0; i < count; ++i) *factors++ = factor(words.word[word + i]);
      n -= count;
      word = 0;
    };
    if (word != 0) partial(std::min<std::int64_t>(n, 4 - word));
    const std::int64_t done = HWY_DYNAMIC_DISPATCH(quad_factors)(factors, n / 4, quad, seed,
                                                                 operation, step, threshold, scale);
    factors += 4 * done;
    quad += done;
    n -= 4 * done;
    while (n > 0) partial(std::min<std::int64_t>(n, 4));
  }

  std::uint32_t threshold;
  float scale;
  std::uint32_t operation;
  std::uint32_t step;
  std::uint64_t seed;
};

}  // namespace

void dropout_factors(float* factors, std::int64_t n, std::uint64_t first_element,
                     const Dropout& dropout, const StepState& state) {
  Draw(dropout, state).write(factors, n, first_element / 4, first_element % 4);
}

void attention_dropout_factors(float* factors, std::int64_t keys, std::uint64_t row,
                               const Dropout& dropout, const StepState& state) {
  Draw(dropout, state)
      .write(factors, keys, attention_quad(row, static_cast<std::uint64_t>(keys), 0), 0);
}

float drop_path_factor(std::uint64_t sample, const Dropout& drop_path, const StepState& state) {
  float factor = 0.0f;
  dropout_factors(&factor, 1, sample, drop_path, state);
  return factor;
}

}  // namespace vitrine::cpu
#endif  // HWY_ONCE
