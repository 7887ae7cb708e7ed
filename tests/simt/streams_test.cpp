// Streams, events, asynchronous copies and their clock on the emulated device.
#include "simt/streams_test.h"

#include <atomic>
#include <thread>

#include "simt/error.h"

namespace simt {
namespace {

__global__ void disagree() {
  if (threadIdx.x < 3) __syncthreads();
}

TEST_F(StreamsTest, LateWorkRunsWhenItsStreamIsSynchronised) {
  const Values start = draw();
  const Stream stream, other;
  const DeviceValues a(start), b(start);
  add(stream, a.data(), a.data(), 1);
  add(other, b.data(), b.data(), 2);
  EXPECT_EQ(a.now(), start);
  ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  EXPECT_EQ(a.now(), plus(start, 1));
  EXPECT_EQ(b.now(), start);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(b.now(), plus(start, 2));
}

TEST_F(StreamsTest, EagerWorkRunsAtOnce) {
  const Values start = draw();
  set_streams(Streams::eager);
  const Stream stream;
  const DeviceValues a(start);
  add(stream, a.data(), a.data(), 1);
  EXPECT_EQ(a.now(), plus(start, 1));
  const PinnedValues host(draw());
  ASSERT_EQ(upload(stream, a.data(), host.data()), cudaSuccess);
  EXPECT_EQ(a.now(), host.now());
}

TEST_F(StreamsTest, EnvironmentChoosesTheMode) {
  ASSERT_EQ(setenv("VITRINE_SIMT_STREAMS", "eager", 1), 0);
  reset_device();
  const Values start = draw();
  const Stream stream;
  const DeviceValues a(start);
  add(stream, a.data(), a.data(), 1);
  EXPECT_EQ(a.now(), plus(start, 1));
  ASSERT_EQ(setenv("VITRINE_SIMT_STREAMS", "tardy", 1), 0);
  EXPECT_THROW(reset_device(), Error);
  ASSERT_EQ(unsetenv("VITRINE_SIMT_STREAMS"), 0);
  reset_device();
  add(stream, a.data(), a.data(), 1);
  EXPECT_EQ(a.now(), plus(start, 1));
}

TEST_F(StreamsTest, CopiesReadPinnedMemoryWhenTheyRunAndPageableMemoryAtTheCall) {
  const Values early = draw(), late = draw();
  const Stream stream;
  const DeviceValues a(draw()), b(draw());
  PinnedValues pinned(early);
  Values pageable = early;
  ASSERT_EQ(upload(stream, a.data(), pinned.data()), cudaSuccess);
  ASSERT_EQ(upload(stream, b.data(), pageable.data()), cudaSuccess);
  pinned = late;
  pageable = late;
  ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  EXPECT_EQ(a.now(), late);
  EXPECT_EQ(b.now(), early);
}

TEST_F(StreamsTest, CopiesToPageableMemoryWait) {
  const Values start = draw(), other = draw();
  const Stream stream;
  const DeviceValues a(start);
  const PinnedValues pinned(other);
  Values pageable = other;
  ASSERT_EQ(download(stream, pinned.data(), a.data()), cudaSuccess);
  EXPECT_EQ(pinned.now(), other);
  ASSERT_EQ(download(stream, pageable.data(), a.data()), cudaSuccess);
  EXPECT_EQ(pageable, start);
  EXPECT_EQ(pinned.now(), start);
}

TEST_F(StreamsTest, DefaultCopiesFindTheirDirection) {
  const Values first = draw(), second = draw();
  const Stream stream;
  const DeviceValues a(first), b(second);
  const PinnedValues pinned(second);
  const auto copy = [&](void* to, const void* from) {
    return cudaMemcpyAsync(to, from, kBytes, cudaMemcpyDefault, stream);
  };
  reset_counters();
  ASSERT_EQ(copy(b.data(), a.data()), cudaSuccess);
  ASSERT_EQ(copy(pinned.data(), b.data()), cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  EXPECT_EQ(b.now(), first);
  EXPECT_EQ(pinned.now(), first);
  EXPECT_EQ(counters().copies_on_device, 1);
  EXPECT_EQ(counters().copies_to_host, 1);
}

// A synchronous copy and work in the null stream wait for streams that are not
// cudaStreamNonBlocking.
TEST_F(StreamsTest, NullStreamWaitsForBlockingStreamsOnly) {
  const Values start = draw();
  const Stream blocking(cudaStreamDefault), independent;
  const DeviceValues a(start), b(start), c(start);
  Values host(kSize);
  add(blocking, a.data(), a.data(), 1);
  add(independent, b.data(), b.data(), 1);
  ASSERT_EQ(cudaMemcpy(host.data(), a.data(), kBytes, cudaMemcpyDeviceToHost), cudaSuccess);
  EXPECT_EQ(host, plus(start, 1));
  add(blocking, a.data(), a.data(), 10);
  add(nullptr, c.data(), a.data(), 100);
  EXPECT_EQ(c.now(), plus(start, 111));
  add(blocking, a.data(), a.data(), 1000);
  ASSERT_EQ(cudaStreamSynchronize(nullptr), cudaSuccess);
  EXPECT_EQ(a.now(), plus(start, 1011));
  EXPECT_EQ(b.now(), start);
}

TEST_F(StreamsTest, MissingEventWaitGivesOldData) {
  const Values start = draw();
  const Stream producer, consumer;
  const DeviceValues a(start), b(start);
  add(producer, a.data(), a.data(), 5);
  add(consumer, b.data(), a.data(), 0);
  ASSERT_EQ(cudaStreamSynchronize(consumer), cudaSuccess);
  EXPECT_EQ(b.now(), start);
}

TEST_F(StreamsTest, WaitRunsTheOtherStreamUpToTheRecordAndNoFurther) {
  const Values start = draw();
  const Stream producer, consumer;
  const Event ready, unrecorded;
  const DeviceValues a(start), b(start);
  add(producer, a.data(), a.data(), 5);
  ASSERT_EQ(cudaEventRecord(ready, producer), cudaSuccess);
  ASSERT_EQ(cudaStreamWaitEvent(consumer, ready, 0), cudaSuccess);
  ASSERT_EQ(cudaStreamWaitEvent(consumer, unrecorded, 0), cudaSuccess);
  add(producer, a.data(), a.data(), 7);
  ASSERT_EQ(cudaEventRecord(ready, producer), cudaSuccess);  // the wait is for the first record
  add(consumer, b.data(), a.data(), 0);
  ASSERT_EQ(cudaStreamSynchronize(consumer), cudaSuccess);
  EXPECT_EQ(b.now(), plus(start, 5));
  EXPECT_EQ(a.now(), plus(start, 5));
}

TEST_F(StreamsTest, WaitIsForTheLatestRecord) {
  const Values start = draw();
  const Stream producer, consumer;
  const Event ready;
  const DeviceValues a(start), b(start);
  for (int round = 0; round < 2; ++round) {
    add(producer, a.data(), a.data(), 5);
    ASSERT_EQ(cudaEventRecord(ready, producer), cudaSuccess);
  }
  ASSERT_EQ(cudaStreamWaitEvent(consumer, ready, 0), cudaSuccess);
  add(consumer, b.data(), a.data(), 0);
  ASSERT_EQ(cudaStreamSynchronize(consumer), cudaSuccess);
  EXPECT_EQ(b.now(), plus(start, 10));
}

TEST_F(StreamsTest, EventSynchronizeRunsUpToTheRecord) {
  const Values start = draw();
  const Stream stream;
  const Event event, unrecorded;
  const DeviceValues a(start);
  ASSERT_EQ(cudaEventSynchronize(unrecorded), cudaSuccess);
  add(stream, a.data(), a.data(), 1);
  ASSERT_EQ(cudaEventRecord(event, stream), cudaSuccess);
  add(stream, a.data(), a.data(), 10);
  ASSERT_EQ(cudaEventSynchronize(event), cudaSuccess);
  EXPECT_EQ(a.now(), plus(start, 1));
}

TEST_F(StreamsTest, PollingEnds) {
  const Values start = draw();
  const Stream producer, stream;
  const Event ready, done;
  const DeviceValues a(start), b(start);
  add(producer, a.data(), a.data(), 1);
  ASSERT_EQ(cudaEventRecord(ready, producer), cudaSuccess);
  ASSERT_EQ(cudaStreamWaitEvent(stream, ready, 0), cudaSuccess);
  add(stream, b.data(), a.data(), 2);
  ASSERT_EQ(cudaEventRecord(done, stream), cudaSuccess);
  constexpr int kItems = 5;
  for (int i = 0; i < kItems; ++i) EXPECT_EQ(cudaEventQuery(done), cudaErrorNotReady) << i;
  EXPECT_EQ(cudaEventQuery(done), cudaSuccess);
  EXPECT_EQ(b.now(), plus(start, 3));
  EXPECT_EQ(cudaGetLastError(), cudaErrorNotReady);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  add(stream, b.data(), a.data(), 4);
  EXPECT_EQ(cudaStreamQuery(stream), cudaErrorNotReady);
  EXPECT_EQ(cudaStreamQuery(stream), cudaSuccess);
  EXPECT_EQ(b.now(), plus(start, 5));
}

TEST_F(StreamsTest, ReportsOfLateKernelsComeFromTheSynchronisingCall) {
  const Values start = draw();
  const Stream stream, waiting;
  const Event event;
  const DeviceValues a(start);
  vitrine::cuda::launch("disagree", stream, 1, 32, 0, &disagree);
  add(stream, a.data(), a.data(), 1);
  ASSERT_EQ(cudaEventRecord(event, stream), cudaSuccess);
  ASSERT_EQ(cudaStreamWaitEvent(waiting, event, 0), cudaSuccess);
  EXPECT_THROW(cudaStreamSynchronize(waiting), Error);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(cudaEventQuery(event), cudaSuccess);
  EXPECT_EQ(a.now(), start);
  EXPECT_THROW(vitrine::cuda::launch("disagree", nullptr, 1, 32, 0, &disagree), Error);
  EXPECT_THROW(vitrine::cuda::launch("disagree", stream, 1, 2048, 0, &disagree), Error);
}

TEST_F(StreamsTest, LaunchOwnsItsArgumentsAndItsName) {
  const Values start = draw();
  const Stream stream;
  const DeviceValues a(start);
  const std::string expected = "a name that is longer than a short string";
  {
    int* pointer = a.data();
    int amount = 3;
    std::string name = expected;
    add(stream, pointer, pointer, amount, name.c_str());
    vitrine::cuda::launch(name.c_str(), stream, 1, 32, 0, &disagree);
    pointer = nullptr;
    amount = 4;
    name.assign(name.size(), '?');
  }
  try {
    cudaStreamSynchronize(stream);
    ADD_FAILURE() << "no report";
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()).substr(0, expected.size()), expected);
  }
  EXPECT_EQ(a.now(), plus(start, 3));
}

TEST_F(StreamsTest, ElapsedTimeIsTheDurationOfTheWorkBetween) {
  const Values start = draw();
  const Stream stream, other;
  const Event first, second, third, untimed(cudaEventDisableTiming);
  const DeviceValues a(start), b(start);
  set_duration("", 1.0f);
  set_duration("add_slow", 2.5f);
  float milliseconds = -1.0f;
  add(stream, a.data(), a.data(), 1);
  ASSERT_EQ(cudaEventRecord(first, stream), cudaSuccess);
  EXPECT_EQ(cudaEventElapsedTime(&milliseconds, first, second), cudaErrorInvalidResourceHandle);
  add(stream, a.data(), a.data(), 1);
  add(other, b.data(), b.data(), 1);
  add(stream, a.data(), a.data(), 1, "add_slowly");
  ASSERT_EQ(cudaEventRecord(second, stream), cudaSuccess);
  ASSERT_EQ(cudaEventRecord(untimed, stream), cudaSuccess);
  EXPECT_EQ(cudaEventElapsedTime(&milliseconds, first, second), cudaErrorNotReady);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  ASSERT_EQ(cudaEventElapsedTime(&milliseconds, first, second), cudaSuccess);
  EXPECT_FLOAT_EQ(milliseconds, 3.5f);
  EXPECT_EQ(cudaEventElapsedTime(&milliseconds, first, untimed), cudaErrorInvalidResourceHandle);
  ASSERT_EQ(cudaStreamWaitEvent(other, second, 0), cudaSuccess);
  add(other, b.data(), b.data(), 1);
  ASSERT_EQ(cudaEventRecord(third, other), cudaSuccess);
  ASSERT_EQ(cudaEventSynchronize(third), cudaSuccess);
  ASSERT_EQ(cudaEventElapsedTime(&milliseconds, second, third), cudaSuccess);
  EXPECT_FLOAT_EQ(milliseconds, 1.0f);
}

TEST_F(StreamsTest, DurationIsAMicrosecondWithoutASetting) {
  const Stream stream;
  const Event first, second;
  const DeviceValues a(draw());
  ASSERT_EQ(cudaEventRecord(first, stream), cudaSuccess);
  for (int i = 0; i < 3; ++i) add(stream, a.data(), a.data(), 1);
  ASSERT_EQ(cudaEventRecord(second, stream), cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  float milliseconds = -1.0f;
  ASSERT_EQ(cudaEventElapsedTime(&milliseconds, first, second), cudaSuccess);
  EXPECT_FLOAT_EQ(milliseconds, 0.003f);
}

TEST_F(StreamsTest, CountersCount) {
  const Stream stream;
  const DeviceValues a(draw()), b(draw());
  const PinnedValues pinned(draw());
  const Event event;
  reset_counters();
  add(stream, a.data(), a.data(), 1);
  add(nullptr, a.data(), a.data(), 1);
  require(submit(stream, "library", [] {}));
  require(upload(stream, a.data(), pinned.data()));
  require(download(stream, pinned.data(), a.data()));
  require(cudaMemcpyAsync(a.data(), b.data(), 8, cudaMemcpyDeviceToDevice, stream));
  require(cudaMemsetAsync(a.data(), 0, kBytes, stream));
  require(cudaMemset(a.data(), 0, kBytes));
  require(cudaEventRecord(event, stream));
  EXPECT_EQ(counters().host_waits, 0);
  require(cudaEventSynchronize(event));
  require(cudaStreamSynchronize(stream));
  require(cudaDeviceSynchronize());
  Values host(kSize);
  require(cudaMemcpy(host.data(), a.data(), kBytes, cudaMemcpyDeviceToHost));
  require(download(stream, host.data(), a.data()));
  const Counters found = counters();
  EXPECT_EQ(found.launches, 3);
  EXPECT_EQ(found.copies_to_device, 1);
  EXPECT_EQ(found.bytes_to_device, std::int64_t{kBytes});
  EXPECT_EQ(found.copies_to_host, 2);
  EXPECT_EQ(found.bytes_to_host, std::int64_t{2 * kBytes});
  EXPECT_EQ(found.copies_on_device, 1);
  EXPECT_EQ(found.bytes_on_device, 8);
  EXPECT_EQ(found.memsets, 2);
  EXPECT_EQ(found.host_waits, 5);
  EXPECT_EQ(found.allocations, 0);
  const DeviceValues c(draw());
  EXPECT_EQ(counters().allocations, 1);
  reset_counters();
  EXPECT_EQ(counters().memsets, 0);
}

TEST_F(StreamsTest, DestroyedHandlesAreRefused) {
  const Values start = draw();
  const DeviceValues a(start);
  cudaStream_t stream = nullptr;
  cudaEvent_t event = nullptr;
  require(cudaStreamCreate(&stream));
  require(cudaEventCreate(&event));
  add(stream, a.data(), a.data(), 1);
  require(cudaStreamDestroy(stream));
  require(cudaEventDestroy(event));
  EXPECT_EQ(a.now(), plus(start, 1));
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaErrorInvalidResourceHandle);
  EXPECT_EQ(submit(stream, "library", [] {}), cudaErrorInvalidResourceHandle);
  EXPECT_EQ(cudaEventQuery(event), cudaErrorInvalidResourceHandle);
  EXPECT_THROW(add(stream, a.data(), a.data(), 1), Error);
}

// Work that one thread submits and another runs is ordered: ThreadSanitizer has nothing to say.
TEST_F(StreamsTest, AnotherThreadMaySynchronise) {
  const Values start = draw();
  const Stream streams[2];
  const DeviceValues values[] = {DeviceValues(start), DeviceValues(start)};
  constexpr int kRounds = 200;
  std::atomic<int> starting = 2;
  std::vector<std::thread> threads;
  for (int i = 0; i < 2; ++i) {
    threads.emplace_back([&, i] {
      for (--starting; starting > 0;) std::this_thread::yield();
      for (int round = 0; round < kRounds; ++round) {
        add(streams[i], values[i].data(), values[i].data(), 1);
        require(cudaStreamSynchronize(streams[1 - i]));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  require(cudaDeviceSynchronize());
  for (const DeviceValues& value : values) EXPECT_EQ(value.now(), plus(start, kRounds));
}

}  // namespace
}  // namespace simt
