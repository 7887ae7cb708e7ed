// Normal numbers, as many at a time as a vector has lanes: a ViT-B has 86 million of them.
//
//   n = √(-2 ln(1 - u)) · cos(2π v)        Box and Muller 1958, doi:10.1214/aoms/1177706645
//
// Number i is made of the four words of Philox at counter i, as RandomStream::normal makes it. A
// lane of 64 bits holds a word of 32.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/random.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// After highway.h.
#include "hwy/contrib/math/math-inl.h"
#include "vitrine/random.h"

HWY_BEFORE_NAMESPACE();
namespace vitrine::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using Words = hn::ScalableTag<std::uint64_t>;
using Doubles = hn::ScalableTag<double>;
using Word = hn::Vec<Words>;
using Double = hn::Vec<Doubles>;

// The full product of two words.
HWY_INLINE Word Product(Word a, Word b) {
#if HWY_TARGET == HWY_SCALAR
  return hn::Set(Words(), hn::GetLane(a) * hn::GetLane(b));
#else
  const hn::Repartition<std::uint32_t, Words> halves;
  return hn::MulEven(hn::BitCast(halves, a), hn::BitCast(halves, b));
#endif
}

struct Counter {
  Word word[4];
};

// philox4x32 of vitrine/random.h, a counter a lane.
HWY_INLINE Counter Philox(Counter c, std::uint64_t key) {
  const Words d;
  const Word low = hn::Set(d, 0xFFFFFFFFull);
  auto k0 = static_cast<std::uint32_t>(key), k1 = static_cast<std::uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const Word product0 = Product(hn::Set(d, 0xD2511F53ull), c.word[0]);
    const Word product1 = Product(hn::Set(d, 0xCD9E8D57ull), c.word[2]);
    c.word[0] = hn::Xor(hn::Xor(hn::ShiftRight<32>(product1), c.word[1]),
                        hn::Set(d, static_cast<std::uint64_t>(k0)));
    c.word[2] = hn::Xor(hn::Xor(hn::ShiftRight<32>(product0), c.word[3]),
                        hn::Set(d, static_cast<std::uint64_t>(k1)));
    c.word[1] = hn::And(product1, low);
    c.word[3] = hn::And(product0, low);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c;
}

// In [0, 1) with 53 bits.
HWY_INLINE Double Uniform(Word high, Word low) {
  const Doubles d;
  const hn::RebindToSigned<Doubles> integers;
  const Word bits = hn::Add(hn::ShiftLeft<26>(hn::ShiftRight<5>(high)), hn::ShiftRight<6>(low));
  return hn::Mul(hn::ConvertTo(d, hn::BitCast(integers, bits)), hn::Set(d, 0x1p-53));
}

void Fill(std::uint64_t seed, std::uint64_t stream, std::int64_t first, std::int64_t count,
          double deviation, float* out) {
  constexpr double kTwoPi = 6.283185307179586;
  const Words words;
  const Doubles d;
  const hn::Rebind<float, Doubles> floats;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const Word low = hn::Set(words, 0xFFFFFFFFull);
  for (std::int64_t i = 0; i < count; i += lanes) {
    const Word index = hn::Iota(words, static_cast<std::uint64_t>(first + i));
    const Counter c = Philox(
        {{hn::And(index, low), hn::ShiftRight<32>(index), hn::Set(words, stream & 0xFFFFFFFFull),
          hn::Set(words, 0x80000000ull | (stream >> 32))}},
        seed);
    const Double u = Uniform(c.word[0], c.word[1]), v = Uniform(c.word[2], c.word[3]);
    const Double radius =
        hn::Sqrt(hn::Mul(hn::Set(d, -2.0), hn::CallLog(d, hn::Sub(hn::Set(d, 1.0), u))));
    const Double angle = hn::CallCos(d, hn::Mul(hn::Set(d, kTwoPi), v));
    const auto normal =
        hn::DemoteTo(floats, hn::Mul(hn::Set(d, deviation), hn::Mul(radius, angle)));
    if (i + lanes <= count) {
      hn::StoreU(normal, floats, out + i);
    } else {
      float rest[hn::MaxLanes(Doubles())];
      hn::StoreU(normal, floats, rest);
      for (std::int64_t j = i; j < count; ++j) out[j] = rest[j - i];
    }
  }
}

}  // namespace
}  // namespace vitrine::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vitrine {

HWY_EXPORT(Fill);

void fill_normal(std::uint64_t seed, std::uint64_t stream, std::int64_t first, std::int64_t count,
                 double deviation, float* out) {
  HWY_DYNAMIC_DISPATCH(Fill)(seed, stream, first, count, deviation, out);
}

}  // namespace vitrine
#endif  // HWY_ONCE
