// The flags of a device, and what the program says when there is none or it is lost.
#include "cli/commands.h"
#include "cli/fault_replay.h"
#include "io/files.h"
#include "vitrine/error.h"

namespace vitrine {

void add_device_flags(CLI::App& command, DeviceOptions& options) {
  constexpr int kMostThreads = 4096;
  command.add_option("--device", options.name, "auto, cpu, cuda, cuda:N [" + options.name + "]");
  command.add_option("--threads", options.threads, "threads of the CPU device [all]")
      ->check(CLI::Range(0, kMostThreads));
  command.add_flag("!--no-cuda-graph", options.cuda_graph,
                   "run steps launch by launch, with a range an operation for profilers");
  command.add_option("--tune", options.tune,
                     "measure algorithms of matrix products and keep the choice in this file");
  command.add_flag("--check-operations", options.check_operations,
                   "wait after each operation on the GPU and name the one that fails (slow)");
}

std::unique_ptr<Device> open_device(const DeviceOptions& options) {
  std::string notice;
  std::unique_ptr<Device> device;
  try {
    device = make_device(options, &notice);
  } catch (const OutOfMemory& error) {  // a GPU whose memory others hold
    if (options.name != "auto") throw;
    notice = error.what();
    device = make_cpu_device(options.threads);
  }
  if (!options.tune.empty() && device->traits().name == "cuda") {
    const AtomicFile writable(options.tune);  // measuring is in vain where it cannot be kept
  }
  if (!notice.empty()) std::fprintf(stderr, "vitrine: using the CPU: %s\n", notice.c_str());
  return device;
}

int run_on_device(const DeviceOptions& options, const std::function<int(Device&)>& work) {
  const std::unique_ptr<Device> device = open_device(options);
  try {
    return work(*device);
  } catch (const DeviceError&) {
    if (options.check_operations) throw;
    const std::string fault = fault_of(*device);
    if (fault.empty()) throw;
    throw DeviceError(fault + "; run again with --check-operations to see which operation it was");
  }
}

}  // namespace vitrine
