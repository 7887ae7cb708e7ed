// The team of threads: every piece runs once, nested work runs inline, errors come back.
#include "cpu/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <numeric>
#include <stdexcept>

namespace vitrine::cpu {
namespace {

constexpr int kRepeats = 200;

TEST(ThreadPool, EveryPieceRunsOnceOnAValidWorker) {
  for (int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    for (std::int64_t n : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> runs(static_cast<std::size_t>(n));
      std::atomic<bool> valid{true};
      pool.parallel_for(n, [&](int worker, std::int64_t i) {
        ++runs[static_cast<std::size_t>(i)];
        if (worker < 0 || worker >= threads) valid = false;
      });
      EXPECT_TRUE(valid);
      for (const std::atomic<int>& count : runs) EXPECT_EQ(count, 1);
    }
  }
}

TEST(ThreadPool, ManyShortPiecesOneAfterAnother) {
  ThreadPool pool(3);
  std::int64_t expected = 0;
  std::atomic<std::int64_t> sum{0};
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
    pool.parallel_for(repeat, [&](int, std::int64_t i) { sum += i; });
    expected += static_cast<std::int64_t>(repeat) * (repeat - 1) / 2;
  }
  EXPECT_EQ(sum, expected);
}

TEST(ThreadPool, NestedWorkRunsOnTheSameWorker) {
  ThreadPool pool(3);
  std::atomic<int> pieces{0};
  std::atomic<bool> same{true};
  pool.parallel_for(6, [&](int outer, std::int64_t) {
    pool.parallel_for(5, [&](int inner, std::int64_t) {
      if (inner != outer) same = false;
      ++pieces;
    });
  });
  EXPECT_TRUE(same);
  EXPECT_EQ(pieces, 30);
}

TEST(ThreadPool, TheFirstErrorComesBackAndThePoolGoesOn) {
  ThreadPool pool(2);
  auto failing = [](int, std::int64_t i) {
    if (i == 3) throw std::runtime_error("piece 3");
  };
  EXPECT_THROW(pool.parallel_for(50, failing), std::runtime_error);
  std::atomic<int> pieces{0};
  pool.parallel_for(50, [&](int, std::int64_t) { ++pieces; });
  EXPECT_EQ(pieces, 50);
}

TEST(ThreadPool, RangesCoverAndDependOnSizesAlone) {
  for (int threads : {1, 2, 3}) {
    ThreadPool pool(threads);
    std::vector<int> covered(103, 0);
    std::atomic<int> ranges{0};
    pool.for_ranges(103, 10, [&](std::int64_t begin, std::int64_t end) {
      EXPECT_EQ(begin % 10, 0);
      EXPECT_LE(end - begin, 10);
      for (std::int64_t i = begin; i < end; ++i) ++covered[static_cast<std::size_t>(i)];
      ++ranges;
    });
    EXPECT_EQ(ranges, 11);
    EXPECT_EQ(std::accumulate(covered.begin(), covered.end(), 0), 103);
  }
}

}  // namespace
}  // namespace vitrine::cpu
