// Devices by name.
#include "vitrine/device.h"

namespace vitrine {

namespace {

// For cuBLASLt, which asks for 32 MiB on Hopper, and cuDNN. What a context takes is gone before
// memory is counted.
constexpr std::int64_t kLibraryWorkspace = std::int64_t{64} << 20;

}  // namespace

DeviceTraits cuda_traits(std::int64_t memory) {
  return {.name = "cuda",
          .memory = memory,
          .runtime = kLibraryWorkspace,
          .chunks = false,
          .reads_host_memory = false,
          .asynchronous = true,
          .bf16 = true,
          .fuse_bias_gradient = true,
          .max_partials = 512,
          .max_row_blocks = 1};
}

std::unique_ptr<Device> make_device(const DeviceOptions& options, std::string* notice) {
  const std::string& name = options.name;
  if (name == "cpu") return make_cpu_device(options.threads);
  if (name == "auto") {
    try {
      return make_cuda_device(options);
    } catch (const DeviceError& error) {
      if (notice != nullptr && built_with_cuda()) *notice = error.what();
      return make_cpu_device(options.threads);
    }
  }
  const std::string number = name.starts_with("cuda:") ? name.substr(5) : "0";
  const bool is_number = !number.empty() && number.size() < 4 &&
                         number.find_first_not_of("0123456789") == std::string::npos;
  if (name != "cuda" && !(name.starts_with("cuda:") && is_number)) {
    throw BadInput("--device: found \"" + name + "\", expected auto, cpu, cuda or cuda:N");
  }
  return make_cuda_device(options);
}

}  // namespace vitrine
