// What argument checks are made of: a launcher given fields that contradict each other says which.
#pragma once

#include <initializer_list>
#include <string>

#include "vitrine/kernels.h"

namespace vitrine {

/// Throws DeviceError: "operation: message".
[[noreturn]] void fail(const char* operation, const std::string& message);

/// Throws DeviceError unless `view` is empty-and-optional or has exactly `expected` elements.
template <typename View>
void check_size(const char* operation, const char* field, const View& view, std::int64_t expected,
                bool optional = false) {
  if (optional && !view) return;
  if (!view || view.size != expected) [[unlikely]] {
    fail(operation, std::string(field) + " has " + std::to_string(view ? view.size : 0) +
                        " elements, expected " + std::to_string(expected));
  }
}

/// A view of working type T and the name of its field.
struct NamedView {
  const char* field;
  ConstView<void> view;
};

/// Throws DeviceError unless all views that are present have one dtype among f32, bf16 and f16.
/// The message names the first view whose dtype is not that of most of them.
void check_dtypes(const char* operation, std::initializer_list<NamedView> views);

/// Throws DeviceError unless `dropout` can be drawn for `rows` rows of the window; with probability
/// 0 neither window nor state is looked at.
void check_dropout(const char* operation, const char* field, const Dropout& dropout,
                   std::int64_t rows, const TokenWindow& window, const StepState* state);

/// The same for both fields of an argument struct that describe a residual branch.
template <typename Args>
void check_branch(const char* operation, const Args& args) {
  check_dropout(operation, "dropout", args.dropout, args.rows, args.window, args.state);
  check_dropout(operation, "drop_path", args.drop_path, args.rows, args.window, args.state);
}

}  // namespace vitrine

/// Throws DeviceError with `message` unless `condition` holds. A macro, so that the message is put
/// together only then: operations of small models take a few microseconds, as long as such a text.
#define VITRINE_CHECK(condition, operation, message) \
  do {                                               \
    if (!(condition)) [[unlikely]] {                 \
      ::vitrine::fail(operation, message);           \
    }                                                \
  } while (false)
