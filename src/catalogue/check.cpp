// The parts of argument checks that need no template, and the messages of all.
#include "catalogue/check.h"

#include <algorithm>

namespace vitrine {
namespace {

bool is_working_type(DType dtype) {
  return dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f16;
}

[[noreturn]] void fail_mixed_dtypes(const char* operation, std::initializer_list<NamedView> views) {
  const auto count = [&](DType dtype) {
    return std::ranges::count_if(
        views, [=](const NamedView& named) { return named.view && named.view.dtype == dtype; });
  };
  const NamedView* expected = nullptr;
  for (const NamedView& named : views) {
    if (!named.view) continue;
    if (expected == nullptr || count(named.view.dtype) > count(expected->view.dtype)) {
      expected = &named;
    }
  }
  const NamedView* odd = std::ranges::find_if(views, [=](const NamedView& named) {
    return named.view && named.view.dtype != expected->view.dtype;
  });
  fail(operation, std::string(odd->field) + " is " + std::string(to_string(odd->view.dtype)) +
                      ", expected " + std::string(to_string(expected->view.dtype)) + " as " +
                      expected->field);
}

}  // namespace

void fail(const char* operation, const std::string& message) {
  throw DeviceError(std::string(operation) + ": " + message);
}

void check_dtypes(const char* operation, std::initializer_list<NamedView> views) {
  const NamedView* first = nullptr;
  for (const NamedView& named : views) {
    if (!named.view) continue;
    VITRINE_CHECK(is_working_type(named.view.dtype), operation,
                  std::string(named.field) + " is " + std::string(to_string(named.view.dtype)) +
                      ", expected F32, BF16 or F16");
    if (first == nullptr) first = &named;
    if (named.view.dtype != first->view.dtype) [[unlikely]]
      fail_mixed_dtypes(operation, views);
  }
}

void check_dropout(const char* operation, const char* field, const Dropout& dropout,
                   std::int64_t rows, const TokenWindow& window, const StepState* state) {
  const float p = dropout.probability;
  VITRINE_CHECK(p >= 0.0f && p < 1.0f, operation,
                std::string(field) + ".probability is " + std::to_string(p) + ", expected [0, 1)");
  if (p == 0.0f) return;
  VITRINE_CHECK(state != nullptr, operation, std::string("state is null, needed by ") + field);
  VITRINE_CHECK(window.tokens > 0 && rows % window.tokens == 0, operation,
                "window.tokens is " + std::to_string(window.tokens) +
                    ", expected a divisor of rows = " + std::to_string(rows));
  VITRINE_CHECK(
      window.first >= 0 && window.first + window.tokens <= window.total, operation,
      "window.total is " + std::to_string(window.total) +
          ", expected at least first + tokens = " + std::to_string(window.first + window.tokens));
}

}  // namespace vitrine
