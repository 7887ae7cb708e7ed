// Memory of the emulated CUDA runtime. Device memory and pinned memory are host memory of exactly
// the size asked for, so that sanitizers see overruns, and NaN when new. What is allocated counts
// against the memory of the GPU that gpu.h describes.
//
// An asynchronous copy reads pageable memory at the call, as CUDA stages it, and pinned memory when
// the copy runs. A copy whose kind contradicts its pointers, or that leaves an allocation, is an
// invalid value.
#include <cstdlib>
#include <cstring>
#include <map>

#include "simt/gpu.h"
#include "simt/runtime.h"

namespace simt {
namespace {

constexpr std::size_t kAlignment = 256;
constexpr int kUnwritten = 0xFF;

enum class Place { device, pinned, pageable };

struct Allocation {
  std::size_t bytes;
  Place place;
  int device;
};
std::map<const char*, Allocation>& allocations = *new std::map<const char*, Allocation>;

std::size_t free_memory() {
  const Gpu device = gpu();
  const int current = current_device();
  std::size_t used = device.used_by_others;
  for (const auto& [start, allocation] : allocations) {
    if (allocation.place == Place::device && allocation.device == current) used += allocation.bytes;
  }
  return used < device.memory ? device.memory - used : 0;
}

cudaError_t allocate(void** memory, std::size_t bytes, Place place) {
  if (memory == nullptr) return cudaErrorInvalidValue;
  *memory = nullptr;
  if (const cudaError_t status = refuse_while_capturing(); status != cudaSuccess) return status;
  ++runtime.counters.allocations;
  if (bytes == 0) return cudaSuccess;
  if (place == Place::device && bytes > free_memory()) return cudaErrorMemoryAllocation;
  if (::posix_memalign(memory, kAlignment, bytes) != 0) return cudaErrorMemoryAllocation;
  std::memset(*memory, kUnwritten, bytes);
  allocations[static_cast<const char*>(*memory)] = {bytes, place, current_device()};
  return cudaSuccess;
}

/// After a sticky error the call fails and the memory is freed all the same: CUDA's goes with the
/// process, this would be reported as leaked.
cudaError_t release(const char* name, void* memory, Place place) {
  const auto lock = lock_runtime();
  const cudaError_t status = call(name, [&] {
    const cudaError_t refused = refuse_while_capturing();
    if (refused == cudaSuccess) run_everything();
    return refused;
  });
  if (memory == nullptr || (status != cudaSuccess && status != runtime.sticky)) return status;
  const auto found = allocations.find(static_cast<const char*>(memory));
  if (found == allocations.end() || found->second.place != place) {
    return note_error(status == cudaSuccess ? cudaErrorInvalidValue : status);
  }
  allocations.erase(found);
  std::free(memory);
  return status;
}

/// Where [start, start + bytes) lies; false if only a part of it lies in an allocation.
bool find_place(const void* start, std::size_t bytes, Place& place) {
  const char* const first = static_cast<const char*>(start);
  place = Place::pageable;
  auto next = allocations.upper_bound(first);
  if (next != allocations.end() && first + bytes > next->first) return false;
  if (next == allocations.begin()) return true;
  const auto& [own_first, allocation] = *--next;
  if (first >= own_first + allocation.bytes) return true;
  place = allocation.place;
  return first + bytes <= own_first + allocation.bytes;
}

struct Copy {
  void* target;
  const void* source;
  std::size_t bytes;
  Place from, to;
  cudaMemcpyKind kind;
};

cudaMemcpyKind kind_of(Place from, Place to) {
  if (from == Place::device) {
    return to == Place::device ? cudaMemcpyDeviceToDevice : cudaMemcpyDeviceToHost;
  }
  return to == Place::device ? cudaMemcpyHostToDevice : cudaMemcpyHostToHost;
}

/// False if no such copy is possible.
bool find_places(Copy& copy) {
  if (copy.bytes == 0) return true;
  if (!find_place(copy.source, copy.bytes, copy.from) ||
      !find_place(copy.target, copy.bytes, copy.to)) {
    return false;
  }
  const cudaMemcpyKind kind = kind_of(copy.from, copy.to);
  if (copy.kind != cudaMemcpyDefault && copy.kind != kind) return false;
  copy.kind = kind;
  return true;
}

bool captures(cudaStream_t stream) {
  const CUstream_st* found = find_stream(stream);
  return found != nullptr && found->capture != nullptr;
}

/// The copy as work, with its own copy of a source that CUDA would stage.
Work work_of(const Copy& copy, bool snapshot) {
  Work work{"cudaMemcpyAsync", nullptr, Work::Kind::copy, copy.kind, copy.bytes};
  if (snapshot) {
    const char* const source = static_cast<const char*>(copy.source);
    work.run = [copy, staged = std::vector<char>(source, source + copy.bytes)] {
      std::memcpy(copy.target, staged.data(), copy.bytes);
    };
  } else {
    work.run = [copy] { std::memmove(copy.target, copy.source, copy.bytes); };
  }
  return work;
}

cudaError_t copy_async(Copy copy, cudaStream_t stream) {
  if (!find_places(copy)) return cudaErrorInvalidValue;
  if (copy.bytes == 0) return cudaSuccess;
  const bool captured = captures(stream);
  const cudaError_t status = give(stream, work_of(copy, !captured && copy.from == Place::pageable));
  const bool waits = !captured && copy.to == Place::pageable;
  if (status != cudaSuccess || !waits) return status;
  ++runtime.counters.host_waits;
  run_through(*find_stream(stream));
  return runtime.sticky;
}

cudaError_t copy_now(Copy copy) {
  if (const cudaError_t status = refuse_while_capturing(); status != cudaSuccess) return status;
  if (const cudaError_t status = refuse_implicit_wait(); status != cudaSuccess) return status;
  if (!find_places(copy)) return cudaErrorInvalidValue;
  ++runtime.counters.host_waits;
  run_blocking_streams();
  if (runtime.sticky == cudaSuccess && copy.bytes > 0) {
    std::memmove(copy.target, copy.source, copy.bytes);
  }
  return runtime.sticky;
}

cudaError_t fill(const char* name, void* target, int value, std::size_t bytes,
                 cudaStream_t stream) {
  Place place = Place::device;
  if (bytes > 0 && (!find_place(target, bytes, place) || place == Place::pageable)) {
    return cudaErrorInvalidValue;
  }
  if (bytes == 0) return cudaSuccess;
  return give(stream, {name, [=] { std::memset(target, value, bytes); }, Work::Kind::memset});
}

}  // namespace
}  // namespace simt

extern "C" {

cudaError_t cudaMalloc(void** memory, std::size_t bytes) {
  return simt::call("cudaMalloc",
                    [&] { return simt::allocate(memory, bytes, simt::Place::device); });
}

cudaError_t cudaMallocHost(void** memory, std::size_t bytes) {
  return simt::call("cudaMallocHost",
                    [&] { return simt::allocate(memory, bytes, simt::Place::pinned); });
}

cudaError_t cudaHostAlloc(void** memory, std::size_t bytes, unsigned) {
  return simt::call("cudaHostAlloc",
                    [&] { return simt::allocate(memory, bytes, simt::Place::pinned); });
}

cudaError_t cudaFree(void* memory) {
  return simt::release("cudaFree", memory, simt::Place::device);
}

cudaError_t cudaFreeHost(void* memory) {
  return simt::release("cudaFreeHost", memory, simt::Place::pinned);
}

cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  return simt::call("cudaMemGetInfo", [&] {
    *free = simt::free_memory();
    *total = simt::gpu().memory;
    return cudaSuccess;
  });
}

cudaError_t cudaMemcpy(void* target, const void* source, std::size_t bytes, cudaMemcpyKind kind) {
  return simt::call("cudaMemcpy", [&] {
    return simt::copy_now({target, source, bytes, {}, {}, kind});
  });
}

cudaError_t cudaMemcpyAsync(void* target, const void* source, std::size_t bytes,
                            cudaMemcpyKind kind, cudaStream_t stream) {
  const auto lock = simt::lock_runtime();
  return simt::note_error(simt::copy_async({target, source, bytes, {}, {}, kind}, stream));
}

cudaError_t cudaMemset(void* target, int value, std::size_t bytes) {
  const auto lock = simt::lock_runtime();
  if (const cudaError_t status = simt::refuse_while_capturing(); status != cudaSuccess) {
    return simt::note_error(status);
  }
  return simt::note_error(simt::fill("cudaMemset", target, value, bytes, nullptr));
}

cudaError_t cudaMemsetAsync(void* target, int value, std::size_t bytes, cudaStream_t stream) {
  const auto lock = simt::lock_runtime();
  return simt::note_error(simt::fill("cudaMemsetAsync", target, value, bytes, stream));
}

}  // extern "C"
