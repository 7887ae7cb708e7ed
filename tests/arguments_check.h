// For tests of the catalogue's argument checks: views whose pointers lead nowhere, so that a check
// that read memory would crash, and checks that an argument of another type is refused by name.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <utility>

#include "reference_check.h"
#include "vitrine/arguments.h"

namespace vitrine {

/// A pointer to memory that nobody may read, another one at each call.
template <typename T>
T* nowhere() {
  static std::uintptr_t page = 0;
  return reinterpret_cast<T*>(4096 + 64 * (page++ % 64));
}

inline View<float> floats(std::int64_t n) {
  return {nowhere<float>(), n};
}

/// A view of the working type, whose dtype `expect_one_type` sets.
inline View<void> working(std::int64_t n) {
  return {nowhere<void>(), n, DType::f32};
}

template <typename Args, typename Any>
struct Field {
  const char* name;
  Any Args::*view;
};
template <typename Args, typename Any>
Field(const char*, Any Args::*) -> Field<Args, Any>;

template <typename Args, typename Any>
void expect_dtype_refused(Args args, Field<Args, Any> field, DType dtype,
                          const std::string& message) {
  (args.*field.view).dtype = dtype;
  expect_refused([&] { check_arguments(args); }, message);
}

/// Of one field in another working type the message names both fields of two, and says which one is
/// wrong of three or more.
template <typename Args, typename... Any>
void expect_one_type(Args args, Field<Args, Any>... fields) {
  for (const auto& [dtype, other] :
       {std::pair(DType::f32, DType::bf16), {DType::bf16, DType::f16}, {DType::f16, DType::f32}}) {
    (((args.*fields.view).dtype = dtype), ...);
    EXPECT_NO_THROW(check_arguments(args)) << to_string(dtype);
    (expect_dtype_refused(args, fields, DType::i32,
                          std::string(": ") + fields.name + " is I32, expected F32, BF16 or F16"),
     ...);
    if constexpr (sizeof...(fields) > 2) {
      const std::string found(to_string(other)), expected(to_string(dtype));
      (expect_dtype_refused(
           args, fields, other,
           std::string(": ") + fields.name + " is " + found + ", expected " + expected + " as "),
       ...);
    } else if constexpr (sizeof...(fields) == 2) {
      (expect_dtype_refused(args, fields, other, fields.name), ...);
    }
  }
}

}  // namespace vitrine
