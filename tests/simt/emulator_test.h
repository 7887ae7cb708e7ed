// What the tests of the layer itself share: the schedules they run under, which sanitizer they are
// built with, and small launches.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/kernel_device.h"
#include "primitives/cuda.cuh"
#include "simt/schedule.h"

namespace simt {

enum class Build { plain, address, thread };

#ifndef __has_feature
#define __has_feature(feature) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
inline constexpr Build kBuild = Build::address;
#elif defined(__SANITIZE_THREAD__) || __has_feature(thread_sanitizer)
inline constexpr Build kBuild = Build::thread;
#else
inline constexpr Build kBuild = Build::plain;
#endif

inline constexpr Schedule kSchedules[] = {
    {Order::fifo}, {Order::lifo}, {Order::random, 1}, {Order::random, 2}, {Order::random, 3}};

/// Calls `body` once under each schedule; failures say under which.
template <typename Body>
void under_all_schedules(const Body& body) {
  const Schedule before = current_schedule();
  for (Schedule schedule : kSchedules) {
    schedule.workers = before.workers;
    set_schedule(schedule);
    SCOPED_TRACE(to_string(schedule));
    body();
  }
  set_schedule(before);
}

/// What `kernel` wrote to out[0 … size), run on one block.
template <typename T>
std::vector<T> run_block(int threads, std::int64_t size, void (*kernel)(T*),
                         std::size_t shared_bytes = 0) {
  const vitrine::cuda::DeviceArray<T> out(size);
  vitrine::cuda::launch("run_block", nullptr, 1, threads, shared_bytes, kernel, out.data());
  return out.values();
}

}  // namespace simt
