#include "simt/schedule.h"

#include <charconv>
#include <cstdlib>
#include <mutex>
#include <optional>
#include <string_view>

#include "simt/error.h"

namespace simt {
namespace {

template <typename Number>
Number number_of(std::string_view text, const char* variable) {
  Number number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || end != text.data() + text.size()) {
    throw Error(std::string(variable) + ": expected a number, found \"" + std::string(text) + "\"");
  }
  return number;
}

Schedule schedule_of_environment() {
  Schedule schedule;
  if (const char* value = std::getenv("VITRINE_SIMT"); value != nullptr && *value != '\0') {
    constexpr std::string_view kRandom = "random:";
    const std::string_view text = value;
    if (text == "fifo") {
      schedule.order = Order::fifo;
    } else if (text == "lifo") {
      schedule.order = Order::lifo;
    } else if (text.substr(0, kRandom.size()) == kRandom) {
      schedule.seed = number_of<std::uint64_t>(text.substr(kRandom.size()), "VITRINE_SIMT");
    } else {
      throw Error("VITRINE_SIMT: expected fifo, lifo or random:<seed>, found \"" +
                  std::string(text) + "\"");
    }
  }
  if (const char* value = std::getenv("VITRINE_SIMT_WORKERS"); value != nullptr) {
    schedule.workers = number_of<int>(value, "VITRINE_SIMT_WORKERS");
  }
  return schedule;
}

constinit std::mutex mutex;
constinit std::optional<Schedule> current;  // none before the first question

}  // namespace

Schedule current_schedule() {
  const std::lock_guard lock(mutex);
  if (!current) current = schedule_of_environment();
  return *current;
}

void set_schedule(const Schedule& schedule) {
  const std::lock_guard lock(mutex);
  current = schedule;
}

std::string to_string(const Schedule& schedule) {
  std::string text = "VITRINE_SIMT=";
  switch (schedule.order) {
    case Order::fifo:
      text += "fifo";
      break;
    case Order::lifo:
      text += "lifo";
      break;
    case Order::random:
      text += "random:" + std::to_string(schedule.seed);
      break;
  }
  if (schedule.workers > 0) text += " VITRINE_SIMT_WORKERS=" + std::to_string(schedule.workers);
  return text;
}

}  // namespace simt
