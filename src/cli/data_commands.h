// The commands below `vitrine data`.
#pragma once

#include <CLI/CLI.hpp>

#include "cli/commands.h"

namespace vitrine {

Command add_data_augment(CLI::App& data);
Command add_data_digits(CLI::App& data);
Command add_data_inspect(CLI::App& data);
Command add_data_pack(CLI::App& data);

}  // namespace vitrine
