// What threads of a warp or a block do together: barriers, shuffles, votes.
//
//   CUDA C++ Programming Guide, "Synchronization Functions", "Warp Vote Functions", "Warp Shuffle
//   Functions"
//
// Each lane hands in a pointer to its arguments; the last lane to arrive works for all of them.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "simt/error.h"
#include "simt/position.h"

namespace simt {

constexpr unsigned kWarpSize = 32;

/// One kind of operation of a warp. `exchange` sees the arguments of the lanes in `mask`, by lane.
struct Collective {
  const char* name;
  void (*exchange)(void* const* arguments, unsigned mask);
  bool orders_memory;
};

/// Blocks until all lanes of `mask` have come with the same collective, mask and site.
void meet_warp(const Collective& collective, unsigned mask, void* arguments, CallSite site);
/// Blocks until all threads of the block have come to the same site.
void meet_block(CallSite site);

extern const Collective kSyncwarp, kShuffle, kShuffleUp, kShuffleDown, kShuffleXor, kBallot, kAny,
    kAll;

/// The lane whose value a shuffle hands to this lane, in groups of `width`.
unsigned source_of_shuffle(int lane, int width, CallSite site);
unsigned source_of_shuffle_up(unsigned delta, int width, CallSite site);
unsigned source_of_shuffle_down(unsigned delta, int width, CallSite site);
unsigned source_of_shuffle_xor(int lane_mask, int width, CallSite site);

struct ShuffleArguments {
  unsigned source;
  std::uint64_t given = 0, received = 0;
};

// Inline for the sake of return prediction, see fiber.h.
template <typename T>
[[gnu::always_inline]] inline T shuffle(const Collective& collective, unsigned mask, T value,
                                        unsigned source, CallSite site) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= sizeof(std::uint64_t));
  ShuffleArguments arguments{source};
  std::memcpy(&arguments.given, &value, sizeof(T));
  meet_warp(collective, mask, &arguments, site);
  std::memcpy(static_cast<void*>(&value), &arguments.received, sizeof(T));
  return value;
}

/// The lanes of `mask` whose predicate is not zero.
unsigned vote(const Collective& collective, unsigned mask, int predicate, CallSite site);

}  // namespace simt

[[gnu::always_inline]] inline void __syncthreads(simt::CallSite site = simt::CallSite::here()) {
  simt::meet_block(site);
}
[[gnu::always_inline]] inline void __syncwarp(unsigned mask = 0xffffffffu,
                                              simt::CallSite site = simt::CallSite::here()) {
  simt::meet_warp(simt::kSyncwarp, mask, nullptr, site);
}

template <typename T>
[[gnu::always_inline]] inline T __shfl_sync(unsigned mask, T value, int lane,
                                            int width = simt::kWarpSize,
                                            simt::CallSite site = simt::CallSite::here()) {
  return simt::shuffle(simt::kShuffle, mask, value, simt::source_of_shuffle(lane, width, site),
                       site);
}
template <typename T>
[[gnu::always_inline]] inline T __shfl_up_sync(unsigned mask, T value, unsigned delta,
                                               int width = simt::kWarpSize,
                                               simt::CallSite site = simt::CallSite::here()) {
  return simt::shuffle(simt::kShuffleUp, mask, value,
                       simt::source_of_shuffle_up(delta, width, site), site);
}
template <typename T>
[[gnu::always_inline]] inline T __shfl_down_sync(unsigned mask, T value, unsigned delta,
                                                 int width = simt::kWarpSize,
                                                 simt::CallSite site = simt::CallSite::here()) {
  return simt::shuffle(simt::kShuffleDown, mask, value,
                       simt::source_of_shuffle_down(delta, width, site), site);
}
template <typename T>
[[gnu::always_inline]] inline T __shfl_xor_sync(unsigned mask, T value, int lane_mask,
                                                int width = simt::kWarpSize,
                                                simt::CallSite site = simt::CallSite::here()) {
  return simt::shuffle(simt::kShuffleXor, mask, value,
                       simt::source_of_shuffle_xor(lane_mask, width, site), site);
}

[[gnu::always_inline]] inline unsigned __ballot_sync(unsigned mask, int predicate,
                                                     simt::CallSite site = simt::CallSite::here()) {
  return simt::vote(simt::kBallot, mask, predicate, site);
}
[[gnu::always_inline]] inline int __any_sync(unsigned mask, int predicate,
                                             simt::CallSite site = simt::CallSite::here()) {
  return simt::vote(simt::kAny, mask, predicate, site) != 0;
}
[[gnu::always_inline]] inline int __all_sync(unsigned mask, int predicate,
                                             simt::CallSite site = simt::CallSite::here()) {
  return simt::vote(simt::kAll, mask, predicate, site) == mask;
}
