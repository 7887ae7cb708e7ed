// A branch on a subset of the samples, on the CPU: which samples, how often each and each pair,
// what is taken and added back.
#include "reference/samples.h"

#include <gtest/gtest.h>

#include <iostream>
#include <set>

#include "cpu/cpu_kernels.h"
#include "cpu/dropout.h"
#include "for_targets.h"
#include "reference_check.h"

namespace vitrine::cpu {
namespace {

using namespace reference::samples;

constexpr float kScale = 1.75f;

template <typename T>
View<T> view(std::vector<T>& values) {
  return {values.data(), std::ssize(values)};
}

Subset choose(std::int64_t batch, std::int64_t count, std::uint32_t operation,
              const StepState& state) {
  ThreadPool pool(1);
  Subset subset{std::vector<std::int32_t>(static_cast<std::size_t>(count), -77),
                std::vector<std::int32_t>(static_cast<std::size_t>(batch), -77)};
  CpuKernels(pool).choose_samples({.samples = view(subset.samples),
                                   .slots = view(subset.slots),
                                   .batch = batch,
                                   .count = count,
                                   .operation = operation,
                                   .state = &state});
  return subset;
}

std::vector<float> take(Subset s, std::vector<float> x, std::int64_t cols, int threads = 2) {
  ThreadPool pool(threads);
  std::vector<float> out = poisoned(std::ssize(s.samples) * cols);
  CpuKernels(pool).take_samples({.out = view(out),
                                 .x = view(x),
                                 .samples = view(s.samples),
                                 .batch = std::ssize(s.slots),
                                 .count = std::ssize(s.samples),
                                 .cols = cols,
                                 .scale = kScale});
  return out;
}

/// x is empty: there is none. `inside`: x is where the result goes.
std::vector<float> add(Subset s, std::vector<float> x, std::vector<float> part, std::int64_t cols,
                       bool inside = false, int threads = 2) {
  ThreadPool pool(threads);
  std::vector<float> apart = poisoned(std::ssize(s.slots) * cols);
  std::vector<float>& out = inside ? x : apart;
  CpuKernels(pool).add_samples({.out = view(out),
                                .x = x.empty() ? View<float>{} : view(x),
                                .part = view(part),
                                .slots = view(s.slots),
                                .batch = std::ssize(s.slots),
                                .count = std::ssize(s.samples),
                                .cols = cols,
                                .scale = kScale});
  return out;
}

TEST(Samples, MatchReference) {
  std::uint64_t seed = 3000;
  for (const Case& c : kCases) {
    const StepState state{
        .seed = ++seed, .step = 5, .first_row = static_cast<std::int64_t>(seed % 7)};
    SCOPED_TRACE("batch " + std::to_string(c.batch) + " count " + std::to_string(c.count) +
                 " cols " + std::to_string(c.cols) + " seed " + std::to_string(seed));
    const Subset expected = chosen(c.batch, c.count, 11, state);
    const Subset found = choose(c.batch, c.count, 11, state);
    EXPECT_EQ(found.samples, expected.samples);
    EXPECT_EQ(found.slots, expected.slots);
    const auto x = random_normal(c.batch * c.cols, seed, 1);
    const auto part = random_normal(c.count * c.cols, seed, 2);
    for_targets([&] {
      expect_close(take(found, x, c.cols), taken<float>(found, x, c.cols, kScale),
                   taken<double>(found, x, c.cols, kScale), "taken");
      for (const std::vector<float>& stream : {x, std::vector<float>{}}) {
        expect_close(add(found, stream, part, c.cols),
                     added<float>(found, stream, part, c.cols, kScale),
                     added<double>(found, stream, part, c.cols, kScale), "added");
      }
    });
  }
}

TEST(Samples, LargeBatches) {
  const StepState state{.seed = 91, .step = 2, .first_row = 1000003};
  for (const std::int64_t count : {1, 30000, 65535, 65536}) {
    const Subset found = choose(65536, count, 2, state);
    const Subset expected = chosen(65536, count, 2, state);
    EXPECT_TRUE(found.samples == expected.samples && found.slots == expected.slots) << count;
  }
}

// Of equal words the earlier sample's goes first.
TEST(Samples, OfEqualWordsTheEarlierIsChosen) {
  const auto word = words(kEqualBatch, kEqualOperation, kEqualWords);
  ASSERT_EQ(word[kEarlier], word[kLater]);
  const auto larger =
      std::count_if(word.begin(), word.end(), [&](std::uint32_t w) { return w > word[kEarlier]; });
  const Subset found = choose(kEqualBatch, larger + 1, kEqualOperation, kEqualWords);
  EXPECT_EQ(found.slots, chosen(kEqualBatch, larger + 1, kEqualOperation, kEqualWords).slots);
  EXPECT_GE(found.slots[kEarlier], 0);
  EXPECT_EQ(found.slots[kLater], -1);
}

// Where drop-path's mask keeps k samples, the subset of k samples is what the mask keeps.
TEST(Samples, AreThoseThatDropPathKeeps) {
  constexpr std::int64_t kBatch = 11;
  const Dropout drop_path{0.4f, 23};
  std::set<std::int64_t> counts;
  for (std::uint32_t step = 0; step < 200; ++step) {
    const StepState state{.seed = 17, .step = step, .first_row = 6};
    std::vector<bool> kept;
    for (std::int64_t i = 0; i < kBatch; ++i) {
      const auto sample = static_cast<std::uint64_t>(state.first_row + i);
      kept.push_back(drop_path_factor(sample, drop_path, state) > 0);
    }
    const auto count = std::count(kept.begin(), kept.end(), true);
    if (count == 0) continue;
    counts.insert(count);
    const Subset found = choose(kBatch, count, drop_path.operation, state);
    for (std::int64_t i = 0; i < kBatch; ++i) EXPECT_EQ(found.slots[i] >= 0, kept[i]) << step;
  }
  EXPECT_GT(counts.size(), 5u);
}

// Counts of samples and of pairs are binomial; the bound is five standard deviations.
TEST(Samples, EachSampleAndEachPairAsOftenAsTheOthers) {
  constexpr std::int64_t kBatch = 7, kDraws = 40000;
  constexpr std::uint64_t kSeeds[] = {1, 20261122, 0xFFFFFFFF12345678ull};
  for (const std::uint64_t seed : kSeeds) {
    for (const std::int64_t count : {2, 5}) {
      std::cout << "seed " << seed << ", " << count << " of " << kBatch << "\n";
      std::int64_t pairs[kBatch][kBatch] = {};  // a sample with itself: the sample
      for (std::uint32_t draw = 0; draw < kDraws; ++draw) {
        // Steps, places of the model and places of the batch take turns.
        const StepState state{.seed = seed, .step = draw / 8, .first_row = draw % 4 * 1001};
        const Subset found = choose(kBatch, count, 3 + draw / 4 % 2, state);
        ASSERT_EQ(std::set<std::int32_t>(found.samples.begin(), found.samples.end()).size(),
                  static_cast<std::size_t>(count));
        for (const std::int32_t a : found.samples) {
          for (const std::int32_t b : found.samples) ++pairs[a][b];
        }
      }
      for (std::int64_t a = 0; a < kBatch; ++a) {
        for (std::int64_t b = 0; b < kBatch; ++b) {
          const double k = static_cast<double>(count), n = static_cast<double>(kBatch);
          const double p = a == b ? k / n : k * (k - 1) / (n * (n - 1));
          const double deviation = std::sqrt(kDraws * p * (1 - p));
          EXPECT_NEAR(static_cast<double>(pairs[a][b]), kDraws * p, 5 * deviation)
              << "samples " << a << " and " << b;
        }
      }
    }
  }
}

// In place: what is outside of the subset keeps its bits, NaN here.
TEST(Samples, InPlaceLeavesTheOthers) {
  const Case c{40, 13, 333};
  const Subset s = choose(c.batch, c.count, 4, {.seed = 77});
  auto x = random_normal(c.batch * c.cols, 78, 1);
  const auto part = random_normal(c.count * c.cols, 78, 2);
  EXPECT_TRUE(same_bits(add(s, x, part, c.cols, true), add(s, x, part, c.cols)));
  for (std::int64_t i = 0; i < std::ssize(x); ++i) {
    if (s.slots[i / c.cols] < 0) x[i] = std::numeric_limits<float>::quiet_NaN();
  }
  const std::vector<float> out = add(s, x, part, c.cols, true);
  for (std::int64_t i = 0; i < std::ssize(x); ++i) {
    ASSERT_EQ(std::isnan(out[i]), s.slots[i / c.cols] < 0) << i;
  }
}

TEST(Samples, BitsDoNotDependOnThreads) {
  const Case c{37, 19, 4099};
  const Subset s = choose(c.batch, c.count, 4, {.seed = 79});
  const auto x = random_normal(c.batch * c.cols, 80, 1);
  const auto part = random_normal(c.count * c.cols, 80, 2);
  for (const int threads : {2, 3}) {
    EXPECT_TRUE(same_bits(take(s, x, c.cols, threads), take(s, x, c.cols, 1)));
    EXPECT_TRUE(
        same_bits(add(s, x, part, c.cols, false, threads), add(s, x, part, c.cols, false, 1)));
  }
}

TEST(Samples, RefuseContradictions) {
  ThreadPool pool(1);
  CpuKernels kernels(pool);
  std::vector<float> x(12), part(8);
  std::vector<std::int32_t> samples(2), slots(3);
  const StepState state;
  const auto choose = [&](const auto& change, const std::string& field) {
    ChooseSamples args{view(samples), view(slots), 3, 2, 1, &state};
    change(args);
    expect_refused([&] { kernels.choose_samples(args); }, field);
  };
  choose([](auto& a) { a.count = 0; }, "count is 0");
  choose([](auto& a) { a.count = 4; }, "count is 4");
  choose([](auto& a) { a.batch = 0; }, "batch is 0");
  choose([](auto& a) { a.samples.size = 3; }, "samples");
  choose([](auto& a) { a.slots = {}; }, "slots");
  choose([](auto& a) { a.state = nullptr; }, "state");
  const auto take = [&](const auto& change, const std::string& field) {
    TakeSamples args{view(part), view(x), view(samples), 3, 2, 4};
    change(args);
    expect_refused([&] { kernels.take_samples(args); }, field);
  };
  take([](auto& a) { a.cols = 0; }, "cols");
  take([](auto& a) { a.out.size = 7; }, "out");
  take([](auto& a) { a.x = {}; }, "x");
  take([](auto& a) { a.samples.size = 1; }, "samples");
  take([](auto& a) { a.count = 4; }, "count is 4");
  const auto add = [&](const auto& change, const std::string& field) {
    AddSamples args{view(x), view(x), view(part), view(slots), 3, 2, 4};
    change(args);
    expect_refused([&] { kernels.add_samples(args); }, field);
  };
  add([](auto& a) { a.cols = 0; }, "cols");
  add([](auto& a) { a.x.size = 11; }, "x");
  add([](auto& a) { a.part.size = 12; }, "part");
  add([](auto& a) { a.slots.size = 2; }, "slots");
  add([](auto& a) { a.out.dtype = DType::bf16; }, "out");
}

}  // namespace
}  // namespace vitrine::cpu
