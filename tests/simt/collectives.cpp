#include "simt/collectives.h"

#include <cstring>

#include "simt/multiprocessor.h"

namespace simt {
namespace {

bool same(CallSite a, CallSite b) {
  return a.line == b.line && (a.file == b.file || std::strcmp(a.file, b.file) == 0);
}

/// Calls `visit(lane)` for each lane of the mask.
template <typename Visit>
void for_lanes(unsigned mask, const Visit& visit) {
  for (; mask != 0; mask &= mask - 1) visit(static_cast<unsigned>(__builtin_ctz(mask)));
}

void check_mask(Multiprocessor& self, const Warp& warp, const Collective& collective, unsigned mask,
                unsigned lane, CallSite site) {
  const char* name = collective.name;
  if ((mask >> lane & 1) == 0) {
    self.fail(site, "%s with mask %08x is called by lane %u", name, mask, lane);
  }
  if ((mask & ~warp.lanes) != 0) {
    self.fail(site, "%s with mask %08x: the warp has only lanes %08x", name, mask, warp.lanes);
  }
  if ((mask & warp.finished) != 0) {
    self.fail(site, "%s with mask %08x: lanes %08x have exited", name, mask, mask & warp.finished);
  }
}

/// Reports a meeting that shares lanes with `mask`, unless it is this very one.
[[gnu::noinline]] void check_agreement(Multiprocessor& self, const Warp& warp,
                                       const Collective& collective, unsigned mask, CallSite site) {
  for_lanes(warp.open, [&](unsigned first_lane) {
    const Meeting& other = warp.meetings[first_lane];
    if ((other.mask & mask) == 0) return;
    if (other.mask == mask && other.collective == &collective && same(other.site, site)) return;
    self.fail(site,
              "%s with mask %08x meets %s with mask %08x at %s:%d: lanes of one warp disagree",
              collective.name, mask, other.collective->name, other.mask, other.site.file,
              other.site.line);
  });
}

/// Adds this thread to those that come to a meeting or barrier.
void come(sanitizer::Clock& clock, bool first) {
  first ? clock.release_anew() : clock.release();
}

void exchange_nothing(void* const*, unsigned) {}

/// A lane outside the mask has no value to give: what the device leaves open is NaN here.
void exchange_shuffle(void* const* arguments, unsigned mask) {
  for_lanes(mask, [&](unsigned lane) {
    auto& mine = *static_cast<ShuffleArguments*>(arguments[lane]);
    const bool there = (mask >> mine.source & 1) != 0;
    mine.received =
        there ? static_cast<ShuffleArguments*>(arguments[mine.source])->given : ~std::uint64_t{0};
  });
}

struct VoteArguments {
  bool predicate;
  unsigned result = 0;
};

void exchange_votes(void* const* arguments, unsigned mask) {
  unsigned result = 0;
  for_lanes(mask, [&](unsigned lane) {
    if (static_cast<VoteArguments*>(arguments[lane])->predicate) result |= 1u << lane;
  });
  for_lanes(mask,
            [&](unsigned lane) { static_cast<VoteArguments*>(arguments[lane])->result = result; });
}

unsigned first_lane_of_group(int width, CallSite site) {
  if (width < 1 || width > static_cast<int>(kWarpSize) || (width & (width - 1)) != 0) {
    Multiprocessor::current().fail(site, "a shuffle of width %d", width);
  }
  return this_thread->lane & ~(static_cast<unsigned>(width) - 1);
}

}  // namespace

const Collective kSyncwarp{"__syncwarp", &exchange_nothing, true};
const Collective kShuffle{"__shfl_sync", &exchange_shuffle, false};
const Collective kShuffleUp{"__shfl_up_sync", &exchange_shuffle, false};
const Collective kShuffleDown{"__shfl_down_sync", &exchange_shuffle, false};
const Collective kShuffleXor{"__shfl_xor_sync", &exchange_shuffle, false};
const Collective kBallot{"__ballot_sync", &exchange_votes, false};
const Collective kAny{"__any_sync", &exchange_votes, false};
const Collective kAll{"__all_sync", &exchange_votes, false};

void meet_warp(const Collective& collective, unsigned mask, void* arguments, CallSite site) {
  Multiprocessor& self = Multiprocessor::current();
  const Thread& thread = Multiprocessor::current_thread();
  Warp& warp = *thread.warp;
  check_mask(self, warp, collective, mask, thread.lane, site);

  const int slot = __builtin_ctz(mask);
  Meeting& meeting = warp.meetings[slot];
  const bool only_this_one = warp.open == 1u << slot && meeting.mask == mask &&
                             meeting.collective == &collective && meeting.site.file == site.file &&
                             meeting.site.line == site.line;
  if (warp.open != 0 && !only_this_one) check_agreement(self, warp, collective, mask, site);

  sanitizer::Clock& clock = meeting.clocks[meeting.round % 2];
  if (meeting.arrived == 0) {
    meeting.collective = &collective;
    meeting.mask = mask;
    meeting.site = site;
    warp.open |= 1u << slot;
  }
  if (collective.orders_memory) come(clock, meeting.arrived == 0);
  meeting.arguments[thread.lane] = arguments;
  meeting.arrived |= 1u << thread.lane;
  if (meeting.arrived != mask) {
    self.wait(collective.name, site);
  } else {
    {
      const sanitizer::IgnoreRaces ignore;
      collective.exchange(meeting.arguments, mask);
    }
    meeting.arrived = 0;
    ++meeting.round;
    warp.open &= ~(1u << slot);
    for_lanes(mask & ~(1u << thread.lane), [&](unsigned lane) { self.wake(*warp.threads[lane]); });
    self.yield();
  }
  if (collective.orders_memory) clock.acquire();
}

void meet_block(CallSite site) {
  Multiprocessor& self = Multiprocessor::current();
  const Thread& thread = Multiprocessor::current_thread();
  Barrier& barrier = self.barrier();
  if (self.finished_count() > 0) {
    self.fail(site, "__syncthreads: %u threads of the block have exited", self.finished_count());
  }
  if (barrier.arrived > 0 && !same(barrier.site, site)) {
    self.fail(site, "divergent barrier: %u threads wait at __syncthreads at %s:%d", barrier.arrived,
              barrier.site.file, barrier.site.line);
  }
  barrier.site = site;
  sanitizer::Clock& clock = barrier.clocks[barrier.round % 2];
  come(clock, barrier.arrived == 0);
  if (++barrier.arrived < self.thread_count()) {
    self.wait("__syncthreads", site);
  } else {
    barrier.arrived = 0;
    ++barrier.round;
    for (unsigned number = 0; number < self.thread_count(); ++number) {
      if (number != thread.number) self.wake(self.thread(number));
    }
    self.yield();
  }
  clock.acquire();
}

unsigned source_of_shuffle(int lane, int width, CallSite site) {
  return first_lane_of_group(width, site) + (static_cast<unsigned>(lane) & (width - 1u));
}

unsigned source_of_shuffle_up(unsigned delta, int width, CallSite site) {
  const unsigned lane = this_thread->lane;
  return lane - first_lane_of_group(width, site) < delta ? lane : lane - delta;
}

unsigned source_of_shuffle_down(unsigned delta, int width, CallSite site) {
  const unsigned lane = this_thread->lane;
  const unsigned left = first_lane_of_group(width, site) + width - lane;
  return delta >= left ? lane : lane + delta;
}

unsigned source_of_shuffle_xor(int lane_mask, int width, CallSite site) {
  const unsigned lane = this_thread->lane;
  const unsigned source = lane ^ static_cast<unsigned>(lane_mask);
  return source >= first_lane_of_group(width, site) + width ? lane : source;
}

unsigned vote(const Collective& collective, unsigned mask, int predicate, CallSite site) {
  VoteArguments arguments{predicate != 0};
  meet_warp(collective, mask, &arguments, site);
  return arguments.result;
}

}  // namespace simt
