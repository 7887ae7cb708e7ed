#include "simt/gpu.h"

#include <cstdlib>
#include <mutex>
#include <string_view>

#include "simt/environment.h"

namespace simt {
namespace {

constexpr const char* kVariable = "VITRINE_SIMT_GPU";

std::size_t size_in(std::string_view text) {
  int shift = 0;
  switch (text.empty() ? '\0' : text.back()) {
    case 'k':
      shift = 10;
      break;
    case 'm':
      shift = 20;
      break;
    case 'g':
      shift = 30;
      break;
    default:
      return number_in<std::size_t>(kVariable, text);
  }
  text.remove_suffix(1);
  return number_in<std::size_t>(kVariable, text) << shift;
}

void set_capability(Gpu& gpu, std::string_view value) {
  const std::size_t point = std::min(value.find('.'), value.size());
  gpu.major = number_in<int>(kVariable, value.substr(0, point));
  gpu.minor = point == value.size() ? 0 : number_in<int>(kVariable, value.substr(point + 1));
}

void set_field(Gpu& gpu, std::string_view key, std::string_view value) {
  if (key == "devices") {
    gpu.devices = number_in<int>(kVariable, value);
  } else if (key == "error") {
    gpu.error = static_cast<cudaError_t>(number_in<int>(kVariable, value));
  } else if (key == "driver") {
    gpu.driver_version = number_in<int>(kVariable, value);
  } else if (key == "runtime") {
    gpu.runtime_version = number_in<int>(kVariable, value);
  } else if (key == "capability") {
    set_capability(gpu, value);
  } else if (key == "multiprocessors") {
    gpu.multiprocessors = number_in<int>(kVariable, value);
  } else if (key == "shared") {
    gpu.shared_memory_per_block = static_cast<int>(size_in(value));
  } else if (key == "memory") {
    gpu.memory = size_in(value);
  } else if (key == "used") {
    gpu.used_by_others = size_in(value);
  } else if (key == "name") {
    gpu.name = value;
  } else {
    throw Error(std::string(kVariable) + ": unknown key \"" + std::string(key) +
                "\", expected devices, error, driver, runtime, capability, multiprocessors, "
                "shared, memory, used or name");
  }
}

Gpu gpu_of_environment() {
  Gpu gpu;
  const char* text = std::getenv(kVariable);
  if (text == nullptr) return gpu;
  for (const std::string_view field : split(text, ';')) {
    const std::size_t equals = std::min(field.find('='), field.size());
    set_field(gpu, field.substr(0, equals), field.substr(std::min(equals + 1, field.size())));
  }
  return gpu;
}

constinit std::mutex mutex;
Gpu* current = nullptr;  // none before the first question; never freed, helpers may outlive main

}  // namespace

Gpu gpu() {
  const std::lock_guard lock(mutex);
  if (current == nullptr) current = new Gpu(gpu_of_environment());
  return *current;
}

void set_gpu(const Gpu& gpu) {
  const std::lock_guard lock(mutex);
  if (current == nullptr) current = new Gpu;
  *current = gpu;
}

void reset_gpu() {
  set_gpu(gpu_of_environment());
}

}  // namespace simt
