// Counter-based random numbers: a number is a function of (seed, step, operation, position).
//
//   Philox4x32-10    Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3"
//
// Nothing is stored and nothing is drawn in order, so a run that was stopped and resumed, or that
// is cut into chunks, sees the same numbers. Host and device include this header.
#pragma once

#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define VITRINE_HOST_DEVICE __host__ __device__
#else
#define VITRINE_HOST_DEVICE
#endif

namespace vitrine {

/// Four 32-bit words.
struct PhiloxWords {
  std::uint32_t word[4];
};

/// Philox4x32 with 10 rounds of the 128-bit counter under the 64-bit key.
VITRINE_HOST_DEVICE constexpr PhiloxWords philox4x32(PhiloxWords counter, std::uint64_t key) {
  auto k0 = static_cast<std::uint32_t>(key);
  auto k1 = static_cast<std::uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t product0 = 0xD2511F53ull * counter.word[0];
    const std::uint64_t product1 = 0xCD9E8D57ull * counter.word[2];
    counter = {{static_cast<std::uint32_t>(product1 >> 32) ^ counter.word[1] ^ k0,
                static_cast<std::uint32_t>(product1),
                static_cast<std::uint32_t>(product0 >> 32) ^ counter.word[3] ^ k1,
                static_cast<std::uint32_t>(product0)}};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return counter;
}

/// The four words that serve elements 4·quad … 4·quad+3 of one random operation in one step.
VITRINE_HOST_DEVICE constexpr PhiloxWords random_words(std::uint64_t seed, std::uint32_t step,
                                                       std::uint32_t operation,
                                                       std::uint64_t quad) {
  return philox4x32(
      {{static_cast<std::uint32_t>(quad), static_cast<std::uint32_t>(quad >> 32), operation, step}},
      seed);
}

/// An element survives dropout with probability p when its word is at least this.
VITRINE_HOST_DEVICE constexpr std::uint32_t drop_threshold(float p) {
  return static_cast<std::uint32_t>(p * 4294967296.0f);  // exact: p < 1
}

/// Whether element `element` is kept: word (element mod 4) ≥ p·2³².
VITRINE_HOST_DEVICE constexpr bool keep_element(std::uint64_t seed, std::uint32_t step,
                                                std::uint32_t operation, std::uint64_t element,
                                                std::uint32_t threshold) {
  return random_words(seed, step, operation, element / 4).word[element % 4] >= threshold;
}

/// Attention probabilities are counted by rows that start on a multiple of four, so that one call
/// serves four neighbouring keys whatever T is: quad = row · ceil(keys / 4) + key / 4,
/// word = key mod 4, row = (sample · heads + head) · queries + query (of the unpruned tensor).
VITRINE_HOST_DEVICE constexpr std::uint64_t attention_quad(std::uint64_t row, std::uint64_t keys,
                                                           std::uint64_t key) {
  return row * ((keys + 3) / 4) + key / 4;
}

/// A sequence of random numbers for host-side work (initialisation, shuffling, augmentation).
/// `stream` tells uses of one seed apart.
class RandomStream {
 public:
  RandomStream(std::uint64_t seed, std::uint64_t stream) : seed_(seed), stream_(stream) {}

  std::uint32_t next_u32() {
    if (index_ % 4 == 0) {
      words_ = philox4x32(
          {{static_cast<std::uint32_t>(index_ / 4), static_cast<std::uint32_t>(index_ / 4 >> 32),
            static_cast<std::uint32_t>(stream_),
            0x80000000u | static_cast<std::uint32_t>(stream_ >> 32)}},
          seed_);
    }
    return words_.word[index_++ % 4];
  }
  /// Uniform in [0, 1) with 53 bits.
  double uniform() {
    const std::uint64_t high = next_u32() >> 5;
    const std::uint64_t low = next_u32() >> 6;
    return static_cast<double>(high * 67108864 + low) / 9007199254740992.0;
  }
  double uniform(double low, double high) { return low + (high - low) * uniform(); }
  /// Uniform in [0, n), without modulo bias.
  std::uint64_t below(std::uint64_t n) { return static_cast<std::uint64_t>(uniform() * double(n)); }
  /// Standard normal (Box and Muller 1958).
  double normal() {
    constexpr double kTwoPi = 6.283185307179586;
    const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));
    return radius * std::cos(kTwoPi * uniform());
  }

 private:
  std::uint64_t seed_;
  std::uint64_t stream_;
  std::uint64_t index_ = 0;
  PhiloxWords words_{};
};

/// Numbers `first` to `first + count` of RandomStream(seed, stream).normal(), times `deviation`:
/// many at a time, and each by itself, so that threads can share the work. Equal to the stream's
/// within the rounding of a double.
void fill_normal(std::uint64_t seed, std::uint64_t stream, std::int64_t first, std::int64_t count,
                 double deviation, float* out);

}  // namespace vitrine
