// XXH64: four lanes of 64 bits, each lane ← rotate(lane + word · P2, 31) · P1 over stripes of 32
// bytes; then the lanes, the length and the rest are mixed.
//
//   Collet, xxHash fast digest algorithm      https://github.com/Cyan4973/xxHash,
//   doc/xxhash_spec.md
#include "io/xxh64.h"

#include <bit>
#include <cstring>

namespace vitrine {
namespace {

static_assert(std::endian::native == std::endian::little, "words are read as they lie");

constexpr std::uint64_t kPrime1 = 0x9E3779B185EBCA87, kPrime2 = 0xC2B2AE3D27D4EB4F,
                        kPrime3 = 0x165667B19E3779F9, kPrime4 = 0x85EBCA77C2B2AE63,
                        kPrime5 = 0x27D4EB2F165667C5;
constexpr std::size_t kLanes = 4, kStripe = kLanes * 8;

template <typename Word>
std::uint64_t word_at(const std::byte* bytes) {
  Word word;
  std::memcpy(&word, bytes, sizeof word);
  return word;
}

std::uint64_t round_of(std::uint64_t lane, std::uint64_t word) {
  return std::rotl(lane + word * kPrime2, 31) * kPrime1;
}

std::uint64_t avalanche(std::uint64_t hash) {
  hash = (hash ^ hash >> 33) * kPrime2;
  hash = (hash ^ hash >> 29) * kPrime3;
  return hash ^ hash >> 32;
}

}  // namespace

std::uint64_t xxh64(std::span<const std::byte> bytes) {
  const std::byte* next = bytes.data();
  std::size_t left = bytes.size();
  std::uint64_t hash = kPrime5;
  if (left >= kStripe) {
    std::uint64_t lanes[kLanes] = {kPrime1 + kPrime2, kPrime2, 0, 0 - kPrime1};
    for (; left >= kStripe; next += kStripe, left -= kStripe) {
      for (std::size_t i = 0; i < kLanes; ++i) {
        lanes[i] = round_of(lanes[i], word_at<std::uint64_t>(next + 8 * i));
      }
    }
    hash = std::rotl(lanes[0], 1) + std::rotl(lanes[1], 7) + std::rotl(lanes[2], 12) +
           std::rotl(lanes[3], 18);
    for (const std::uint64_t lane : lanes) hash = (hash ^ round_of(0, lane)) * kPrime1 + kPrime4;
  }
  hash += bytes.size();
  for (; left >= 8; next += 8, left -= 8) {
    hash ^= round_of(0, word_at<std::uint64_t>(next));
    hash = std::rotl(hash, 27) * kPrime1 + kPrime4;
  }
  if (left >= 4) {
    hash ^= word_at<std::uint32_t>(next) * kPrime1;
    hash = std::rotl(hash, 23) * kPrime2 + kPrime3;
    next += 4;
    left -= 4;
  }
  for (; left > 0; ++next, --left) {
    hash = std::rotl(hash ^ word_at<std::uint8_t>(next) * kPrime5, 11) * kPrime1;
  }
  return avalanche(hash);
}

}  // namespace vitrine
