// The shared memory of a block: SHARED_ARRAY and DYNAMIC_SHARED of primitives/cuda.cuh.
#pragma once

#include <cstddef>
#include <type_traits>

#include "simt/error.h"

namespace simt {

/// This block's memory of the array that `key` stands for: one place for all its threads, NaN
/// before the first of them writes. Reports a block that needs more than there is.
void* shared_array(const void* key, std::size_t bytes, CallSite site = CallSite::here());
void* dynamic_shared();

}  // namespace simt

#define SHARED_ARRAY(type, name, ...)                              \
  static char name##_key;                                          \
  auto& name = *static_cast<std::add_pointer_t<type __VA_ARGS__>>( \
      simt::shared_array(&name##_key, sizeof(type __VA_ARGS__)))
#define DYNAMIC_SHARED(type, name) type* const name = static_cast<type*>(simt::dynamic_shared())
