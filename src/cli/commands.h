// The commands of the program. Each adds itself to the parser and returns what to run.
#pragma once

#include <CLI/CLI.hpp>
#include <atomic>
#include <functional>
#include <memory>

#include "vitrine/device.h"

namespace vitrine {

/// Set by Ctrl-C: the running step is finished, a checkpoint written, and the program exits 130.
extern std::atomic<bool> interrupted;

/// Exit code of a program that Ctrl-C ended.
inline constexpr int kInterrupted = 130;

/// Adds the command; the returned function runs it and gives the exit code.
using Command = std::function<int()>;
Command add_train(CLI::App& app);
Command add_eval(CLI::App& app);
Command add_predict(CLI::App& app);
Command add_attention(CLI::App& app);
Command add_inspect(CLI::App& app);
Command add_data(CLI::App& app);
Command add_step(CLI::App& app);
Command add_export(CLI::App& app);
Command add_profile(CLI::App& app);

/// The flags that all commands with a device share; `options` holds the defaults.
void add_device_flags(CLI::App& command, DeviceOptions& options);

/// make_device, with a line on standard error when "auto" finds a reason to take the CPU.
std::unique_ptr<Device> open_device(const DeviceOptions& options);

/// Runs `work` on the device of `options`. Where the device is lost to an operation that nobody
/// waited for, the DeviceError says which flag names it.
int run_on_device(const DeviceOptions& options, const std::function<int(Device&)>& work);

/// Parses and runs; errors become one line on stderr and the exit code.
int run_program(int argc, const char* const* argv);

}  // namespace vitrine
