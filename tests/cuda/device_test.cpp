// The CUDA device's parts over an emulated GPU: uploads, readbacks, rings, recorded programs,
// memory.
//
// Streams are late here (see streams.h): work runs only when somebody waits for it, so memory that
// is reused too early and waits that are missing show as wrong numbers.
#include "simt/device.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <numeric>

#include "cuda/staging.h"
#include "simt/gpu.h"
#include "simt/streams.h"
#include "vitrine/random.h"

namespace vitrine {
namespace {

class CudaDeviceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    simt::reset_device();
    device_ = make_simt_device();
  }
  void TearDown() override {
    device_.reset();
    simt::reset_device();
  }

  std::vector<float> numbers_of(const void* data, std::size_t n) {
    std::vector<float> numbers(n, std::numeric_limits<float>::quiet_NaN());
    device_->download(numbers.data(), data, n * sizeof(float));
    return numbers;
  }

  std::unique_ptr<Device> device_;
};

std::vector<float> ramp(std::size_t n, float first) {
  std::vector<float> numbers(n);
  std::iota(numbers.begin(), numbers.end(), first);
  return numbers;
}

/// The first four numbers of a buffer.
View<float> floats(const Buffer& buffer) {
  return {buffer.as<float>(), 4};
}

TEST_F(CudaDeviceTest, FreshMemoryIsZero) {
  const Buffer buffer = device_->allocate(1000, "test");
  EXPECT_EQ(numbers_of(buffer.data(), 250), std::vector<float>(250, 0.0f));
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer.data()) % 256, 0u);
}

// More uploads than the ring has slots, from memory that changes right after each.
TEST_F(CudaDeviceTest, UploadedMemoryMayChangeAtOnce) {
  constexpr int kUploads = 3 * cuda::Staging::kSlots + 1;
  const Buffer buffer = device_->allocate(kUploads * 4 * sizeof(float), "test");
  std::vector<float> host(4);
  for (int i = 0; i < kUploads; ++i) {
    host = ramp(4, 10.0f * static_cast<float>(i));
    device_->upload(buffer.as<float>() + 4 * i, host.data(), 4 * sizeof(float));
  }
  host.assign(4, -1.0f);
  const std::vector<float> found = numbers_of(buffer.data(), kUploads * 4);
  for (int i = 0; i < kUploads; ++i) {
    EXPECT_EQ(std::vector<float>(found.begin() + 4 * i, found.begin() + 4 * i + 4),
              ramp(4, 10.0f * static_cast<float>(i)))
        << i;
  }
}

TEST_F(CudaDeviceTest, UploadsOfAnySize) {
  constexpr std::size_t kSlot = cuda::Staging::kSlotBytes / sizeof(float);
  for (const std::size_t n : {std::size_t{0}, std::size_t{1}, kSlot - 1, kSlot, kSlot + 1,
                              cuda::Staging::kSlots * kSlot, 11 * kSlot + 3}) {
    const Buffer buffer = device_->allocate((n + 1) * sizeof(float), "test");
    const std::vector<float> host = ramp(n, 1.0f);
    device_->upload(buffer.data(), host.data(), n * sizeof(float));
    std::vector<float> expected = host;
    expected.push_back(0.0f);  // nothing beyond was written
    EXPECT_EQ(numbers_of(buffer.data(), n + 1), expected) << n;
  }
}

TEST_F(CudaDeviceTest, AReadbackIsOfItsMoment) {
  const Buffer buffer = device_->allocate(4 * sizeof(float), "test");
  std::vector<std::unique_ptr<Readback>> readbacks;
  for (int i = 0; i < 7; ++i) {
    const std::vector<float> host = ramp(4, static_cast<float>(i));
    device_->upload(buffer.data(), host.data(), 4 * sizeof(float));
    readbacks.push_back(device_->read_back(buffer.data(), 4 * sizeof(float)));
    EXPECT_FALSE(readbacks.back()->ready());
  }
  for (int i = 6; i >= 0; --i) {
    const auto* numbers = static_cast<const float*>(readbacks[i]->wait());
    EXPECT_TRUE(readbacks[i]->ready());
    EXPECT_EQ(std::vector<float>(numbers, numbers + 4), ramp(4, static_cast<float>(i)));
  }
}

// Memory of a readback that nobody waited for is used again.
TEST_F(CudaDeviceTest, ADroppedReadbackHarmsNoOther) {
  const Buffer buffer = device_->allocate(4 * sizeof(float), "test");
  const std::vector<float> first = ramp(4, 1.0f), second = ramp(4, 100.0f);
  device_->upload(buffer.data(), first.data(), 4 * sizeof(float));
  device_->read_back(buffer.data(), 4 * sizeof(float)).reset();
  device_->upload(buffer.data(), second.data(), 4 * sizeof(float));
  const auto readback = device_->read_back(buffer.data(), 4 * sizeof(float));
  const auto* numbers = static_cast<const float*>(readback->wait());
  EXPECT_EQ(std::vector<float>(numbers, numbers + 4), second);
}

// Each slot is read by work submitted after it was sent, while the host fills the next ones.
TEST_F(CudaDeviceTest, WorkSeesItsSlotOfTheRing) {
  constexpr std::size_t kNumbers = 64, kBytes = kNumbers * sizeof(float);
  for (const simt::Streams streams : {simt::Streams::late, simt::Streams::eager}) {
    simt::set_streams(streams);
    const auto ring = device_->make_ring(kBytes, "test");
    constexpr int kBatches = 5 * kTransferSlots + 1;
    const Buffer seen = device_->allocate(kBatches * kBytes, "test");
    for (int i = 0; i < kBatches; ++i) {
      const std::vector<float> batch = ramp(kNumbers, 1000.0f * static_cast<float>(i));
      std::memcpy(ring->fill(), batch.data(), kBytes);
      const int slot = ring->send();
      EXPECT_EQ(slot, i % kTransferSlots);
      device_->copy(seen.as<char>() + i * kBytes,
                    static_cast<const char*>(ring->device_data()) + slot * kBytes, kBytes);
      ring->release();
    }
    for (int i = 0; i < kBatches; ++i) {
      EXPECT_EQ(numbers_of(seen.as<char>() + i * kBytes, kNumbers),
                ramp(kNumbers, 1000.0f * static_cast<float>(i)))
          << i;
    }
  }
}

TEST_F(CudaDeviceTest, AProgramRunsThenRecordsThenReplays) {
  const Buffer source = device_->allocate(16, "test"), target = device_->allocate(64, "test");
  int calls = 0;
  const auto program = device_->program("test", [&] {
    ++calls;
    device_->fill_zero(target.data(), 64);
    device_->copy(target.data(), source.data(), 16);
    device_->kernels().add({floats(target), floats(target), floats(source)});
  });
  for (int i = 0; i < 5; ++i) {
    const std::vector<float> host = ramp(4, static_cast<float>(i));
    device_->upload(source.data(), host.data(), 16);
    simt::reset_counters();
    program->run();
    EXPECT_EQ(calls, i == 0 ? 1 : 2);
    EXPECT_EQ(simt::counters().graph_launches, i == 0 ? 0 : 1);
    EXPECT_EQ(simt::counters().launches, i == 0 ? 1 : 0);
    std::vector<float> expected = ramp(4, static_cast<float>(i));
    for (float& number : expected) number *= 2;
    EXPECT_EQ(numbers_of(target.data(), 4), expected);
  }
}

TEST_F(CudaDeviceTest, WithoutGraphsEveryRunIsLaunchByLaunch) {
  device_ = make_simt_device({.name = "cuda", .cuda_graph = false});
  const Buffer buffer = device_->allocate(16, "test");
  int calls = 0;
  const auto program = device_->program("test", [&] {
    ++calls;
    device_->fill_zero(buffer.data(), 16);
  });
  for (int i = 0; i < 3; ++i) program->run();
  EXPECT_EQ(calls, 3);
  EXPECT_EQ(simt::counters().graph_launches, 0);
}

// Work that waits cannot be recorded. The device says so and goes on.
TEST_F(CudaDeviceTest, WorkThatWaitsCannotBeRecorded) {
  const Buffer buffer = device_->allocate(16, "test");
  const auto program = device_->program("test", [&] {
    device_->fill_zero(buffer.data(), 16);
    device_->synchronize();
  });
  program->run();
  EXPECT_THROW(program->run(), DeviceError);
  const std::vector<float> host = ramp(4, 7.0f);
  device_->upload(buffer.data(), host.data(), 16);
  EXPECT_EQ(numbers_of(buffer.data(), 4), host);
}

TEST_F(CudaDeviceTest, OutOfMemorySaysWhatWasAskedAndWhatIsFree) {
  const std::int64_t free = device_->traits().memory;
  try {
    device_->allocate(static_cast<std::size_t>(2 * free), "activations");
    FAIL() << "allocated more than there is";
  } catch (const OutOfMemory& error) {
    const std::string message = error.what();
    EXPECT_NE(message.find("activations: needed"), std::string::npos) << message;
    EXPECT_NE(message.find("free"), std::string::npos) << message;
    EXPECT_NE(message.find("Emulated GPU"), std::string::npos) << message;
  }
  const Buffer buffer = device_->allocate(16, "test");  // it goes on
  EXPECT_EQ(numbers_of(buffer.data(), 4), std::vector<float>(4, 0.0f));
}

TEST_F(CudaDeviceTest, CountsTheMostThatWasAllocated) {
  const std::int64_t before = device_->peak_bytes();
  { const Buffer a = device_->allocate(1 << 20, "a"), b = device_->allocate(1 << 20, "b"); }
  const Buffer c = device_->allocate(1 << 20, "c");
  EXPECT_EQ(device_->peak_bytes() - before, 2 << 20);
}

// The error comes out of the next call, whatever that is; the class tells that the device is lost.
TEST_F(CudaDeviceTest, FaultsOfSubmittedWorkAreFaults) {
  const Buffer buffer = device_->allocate(16, "test");
  device_->synchronize();
  simt::set_fault("add", 1, cudaErrorIllegalAddress);
  device_->kernels().add({floats(buffer), floats(buffer), floats(buffer)});
  EXPECT_THROW(device_->synchronize(), DeviceFault);
  EXPECT_THROW(device_->fill_zero(buffer.data(), 16), DeviceFault);
}

TEST_F(CudaDeviceTest, CheckedOperationsFailWhereTheyAre) {
  device_ = make_simt_device({.name = "cuda", .check_operations = true});
  const Buffer buffer = device_->allocate(16, "test");
  simt::set_fault("add", 1, cudaErrorMisalignedAddress);
  device_->kernels().add({floats(buffer), floats(buffer), floats(buffer)});
  EXPECT_THROW(device_->operation_done(), DeviceFault);
}

TEST(CudaTraits, AreThoseOfThePlanForAnAbsentDevice) {
  simt::reset_device();
  const auto device = make_simt_device();
  const DeviceTraits& found = device->traits();
  const DeviceTraits expected = cuda_traits(found.memory);
  EXPECT_EQ(found.max_partials, expected.max_partials);
  EXPECT_EQ(found.runtime, expected.runtime);
  EXPECT_EQ(found.chunks, expected.chunks);
  EXPECT_EQ(found.bf16, expected.bf16);
  EXPECT_GT(found.memory, 0);
  EXPECT_EQ(found.held_by_others, 0);
}

}  // namespace
}  // namespace vitrine
