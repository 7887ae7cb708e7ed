// A branch on a subset of the samples in CUDA against its definition.
#include "reference/samples.h"

#include "kernels/kernel_device.h"

namespace vitrine::cuda {
namespace {

using namespace reference::samples;

constexpr float kScale = 1.75f;

class Samples : public KernelTest {
 protected:
  Subset choose(std::int64_t batch, std::int64_t count, std::uint32_t operation,
                const StepState& state) {
    const DeviceArray<std::int32_t> samples(count), slots(batch);
    const DeviceArray<StepState> device_state(state);
    kernels().choose_samples({.samples = samples.view(),
                              .slots = slots.view(),
                              .batch = batch,
                              .count = count,
                              .operation = operation,
                              .state = device_state.data()});
    return {samples.values(), slots.values()};
  }
  void expect_chosen(std::int64_t batch, std::int64_t count, std::uint32_t operation,
                     const StepState& state) {
    SCOPED_TRACE("batch " + std::to_string(batch) + " count " + std::to_string(count) + " seed " +
                 std::to_string(state.seed));
    const Subset expected = chosen(batch, count, operation, state);
    const Subset found = choose(batch, count, operation, state);
    EXPECT_TRUE(found.samples == expected.samples);
    EXPECT_TRUE(found.slots == expected.slots);
  }

  /// A problem on the device, of views that start `shift` elements into their memory.
  struct OnDevice {
    Case c;
    Subset subset;
    std::int64_t shift;
    std::vector<float> x, part;
    DeviceTensor x_there, part_there;
    DeviceArray<std::int32_t> samples, slots;

    OnDevice(const Case& c_, std::uint64_t seed, DType dtype, std::int64_t shift_ = 0)
        : c(c_),
          subset(chosen(c.batch, c.count, 4, {.seed = seed, .first_row = 3})),
          shift(shift_),
          x(rounded_to(dtype, random_normal(c.batch * c.cols, seed, 1))),
          part(rounded_to(dtype, random_normal(c.count * c.cols, seed, 2))),
          x_there(dtype, shifted(x)),
          part_there(dtype, shifted(part)),
          samples(subset.samples),
          slots(subset.slots) {}

    std::vector<float> shifted(const std::vector<float>& values) const {
      std::vector<float> all(static_cast<std::size_t>(shift), 0.0f);
      all.insert(all.end(), values.begin(), values.end());
      return all;
    }
    View<void> view(const DeviceTensor& tensor, std::int64_t samples_of) const {
      return tensor.view(shift, samples_of * c.cols);
    }
    std::vector<float> values(const DeviceTensor& tensor) const {
      std::vector<float> all = tensor.values();
      all.erase(all.begin(), all.begin() + shift);
      return all;
    }
  };

  std::vector<float> take(const OnDevice& p) {
    const DeviceTensor out(p.x_there.dtype(), p.c.count * p.c.cols + p.shift);
    kernels().take_samples({.out = p.view(out, p.c.count),
                            .x = p.view(p.x_there, p.c.batch),
                            .samples = p.samples.view(),
                            .batch = p.c.batch,
                            .count = p.c.count,
                            .cols = p.c.cols,
                            .scale = kScale});
    return p.values(out);
  }
  enum class Stream { apart, inside, none };
  std::vector<float> add(const OnDevice& p, Stream stream) { return add(p, stream, p.x_there); }
  std::vector<float> add(const OnDevice& p, Stream stream, const DeviceTensor& x) {
    const DeviceTensor apart(p.x_there.dtype(), p.c.batch * p.c.cols + p.shift);
    const DeviceTensor& out = stream == Stream::inside ? x : apart;
    AddSamples args{.out = p.view(out, p.c.batch),
                    .part = p.view(p.part_there, p.c.count),
                    .slots = p.slots.view(),
                    .batch = p.c.batch,
                    .count = p.c.count,
                    .cols = p.c.cols,
                    .scale = kScale};
    if (stream != Stream::none) args.x = p.view(x, p.c.batch);
    kernels().add_samples(args);
    return p.values(out);
  }

  void run(const Case& c, std::uint64_t seed, DType dtype, std::int64_t shift = 0) {
    SCOPED_TRACE("type " + std::string(to_string(dtype)) + " batch " + std::to_string(c.batch) +
                 " count " + std::to_string(c.count) + " cols " + std::to_string(c.cols) +
                 " seed " + std::to_string(seed));
    const OnDevice p(c, seed, dtype, shift);
    const std::vector<float> out = take(p), with = add(p, Stream::apart),
                             without = add(p, Stream::none);
    expect_close(out, rounded_to(dtype, taken<float>(p.subset, p.x, c.cols, kScale)),
                 taken<double>(p.subset, p.x, c.cols, kScale), "taken");
    expect_close(with, rounded_to(dtype, added<float>(p.subset, p.x, p.part, c.cols, kScale)),
                 added<double>(p.subset, p.x, p.part, c.cols, kScale), "added");
    expect_close(without, rounded_to(dtype, added<float>(p.subset, {}, p.part, c.cols, kScale)),
                 added<double>(p.subset, {}, p.part, c.cols, kScale), "added to zeros");
    in_another_order([&] {
      EXPECT_TRUE(same_bits(take(p), out));
      EXPECT_TRUE(same_bits(add(p, Stream::inside), with));
    });
  }
};

TEST_F(Samples, AreChosenByTheirWords) {
  std::uint64_t seed = 4000;
  for (const Case& c : kCases) {
    const StepState state{
        .seed = ++seed, .step = 5, .first_row = static_cast<std::int64_t>(seed % 7)};
    expect_chosen(c.batch, c.count, 11, state);
    in_another_order([&] { expect_chosen(c.batch, c.count, 11, state); });
  }
}

// Several strips and tiles, the last of them not full.
TEST_F(Samples, OfLargeBatches) {
  for (const std::int64_t batch : {1023, 1024, 1025, 5000}) {
    for (const std::int64_t count : {std::int64_t{1}, batch / 3, batch}) {
      expect_chosen(batch, count, 2, {.seed = 91, .step = 2, .first_row = 1000003});
    }
  }
  if (!kReduced) expect_chosen(20001, 9000, 2, {.seed = 92, .step = 2, .first_row = 2});
}

TEST_F(Samples, OfEqualWordsTheEarlierIsChosen) {
  const auto word = words(kEqualBatch, kEqualOperation, kEqualWords);
  ASSERT_EQ(word[kEarlier], word[kLater]);
  const auto larger =
      std::count_if(word.begin(), word.end(), [&](std::uint32_t w) { return w > word[kEarlier]; });
  expect_chosen(kEqualBatch, larger + 1, kEqualOperation, kEqualWords);
}

TEST_F(Samples, AreTakenAndAddedBack) {
  std::uint64_t seed = 4100;
  for (const Case& c : kCases) {
    for (const DType dtype : kFloatTypes) run(c, ++seed, dtype);
  }
}

// Views that start off a 16-byte boundary take the narrow path.
TEST_F(Samples, OfUnalignedViews) {
  for (const DType dtype : kFloatTypes) run({9, 4, 24}, 4200, dtype, 1);
}

// In place: what is outside of the subset keeps its bits, NaN here.
TEST_F(Samples, InPlaceLeavesTheOthers) {
  for (const DType dtype : kFloatTypes) {
    for (const std::int64_t cols : {7, 48}) {
      const OnDevice p({40, 13, cols}, 4300, dtype);
      std::vector<float> x = p.x;
      for (std::int64_t i = 0; i < std::ssize(x); ++i) {
        if (p.subset.slots[i / cols] < 0) x[i] = std::numeric_limits<float>::quiet_NaN();
      }
      const std::vector<float> out = add(p, Stream::inside, DeviceTensor(dtype, x));
      for (std::int64_t i = 0; i < std::ssize(out); ++i) {
        ASSERT_EQ(std::isnan(out[i]), p.subset.slots[i / cols] < 0) << i;
      }
    }
  }
}

TEST_F(Samples, RefuseContradictions) {
  const DeviceTensor x(DType::f32, 12), other(DType::bf16, 8);
  const DeviceArray<std::int32_t> samples(std::int64_t{2}), slots(std::int64_t{3});
  expect_refused([&] { kernels().choose_samples({samples.view(), slots.view(), 3, 2}); }, "state");
  expect_refused(
      [&] {
        kernels().take_samples({other.view(), x.view(), samples.view(), 3, 2, 4});
      },
      "x");
  expect_refused(
      [&] {
        kernels().add_samples({x.view(), x.view(), other.view(), slots.view(), 3, 2, 4});
      },
      "part");
}

}  // namespace
}  // namespace vitrine::cuda
