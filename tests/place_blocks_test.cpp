// Blocks in an arena: those that live at the same time never overlap, and little room is lost.
#include <gtest/gtest.h>

#include <algorithm>

#include "vitrine/plan.h"
#include "vitrine/random.h"

namespace vitrine {
namespace {

constexpr std::int64_t kCell = 256;

/// To whole cells.
std::int64_t rounded_up(std::int64_t bytes) {
  return (bytes + kCell - 1) / kCell * kCell;
}

bool overlap(const ArenaBlock& a, const ArenaBlock& b) {
  const bool in_time = a.first <= b.last && b.first <= a.last;
  return in_time && a.bytes > 0 && b.bytes > 0 && a.offset < b.offset + b.bytes &&
         b.offset < a.offset + a.bytes;
}

TEST(PlaceBlocks, NeverOverlapsLiveBlocksAndWastesLittle) {
  double sum_of_ratios = 0;
  constexpr int kRounds = 60;
  for (std::uint64_t seed = 1; seed <= kRounds; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    RandomStream random(seed, 0);
    std::vector<ArenaBlock> blocks(1 + random.below(80));
    for (ArenaBlock& block : blocks) {
      block.bytes = static_cast<std::int64_t>(random.below(random.below(2) ? 300 : 20000));
      block.first = static_cast<int>(random.below(50));
      block.last = block.first + static_cast<int>(random.below(12));
      block.offset = -1;
    }
    const std::int64_t size = place_blocks(blocks);
    std::vector<std::int64_t> live(62, 0);
    std::int64_t end = 0;
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      EXPECT_GE(blocks[i].offset, 0);
      EXPECT_EQ(blocks[i].offset % kCell, 0);
      end = std::max(end, blocks[i].offset + rounded_up(blocks[i].bytes));
      for (std::size_t j = 0; j < i; ++j) EXPECT_FALSE(overlap(blocks[i], blocks[j]));
      for (int t = blocks[i].first; t <= blocks[i].last; ++t) {
        live[t] += rounded_up(blocks[i].bytes);
      }
    }
    EXPECT_EQ(size, end);
    const std::int64_t bound = *std::max_element(live.begin(), live.end());
    EXPECT_LE(static_cast<double>(size), 1.5 * static_cast<double>(bound));
    sum_of_ratios += bound > 0 ? static_cast<double>(size) / static_cast<double>(bound) : 1.0;
  }
  EXPECT_LE(sum_of_ratios / kRounds, 1.1);
}

TEST(PlaceBlocks, OfNothingIsEmpty) {
  std::vector<ArenaBlock> none, empty = {{0, 0, 3}, {0, 1, 2}};
  EXPECT_EQ(place_blocks(none), 0);
  EXPECT_EQ(place_blocks(empty), 0);
}

}  // namespace
}  // namespace vitrine
