// vitrine data: data sets before anything trains on them.
#include <memory>
#include <utility>
#include <vector>

#include "cli/data_commands.h"

namespace vitrine {

Command add_data(CLI::App& app) {
  CLI::App* data = app.add_subcommand("data", "Inspect, augment, pack and write data sets");
  data->require_subcommand(1);
  std::vector<std::pair<CLI::App*, Command>> commands;
  for (auto add : {add_data_inspect, add_data_augment, add_data_pack, add_data_digits}) {
    Command command = add(*data);
    commands.emplace_back(data->get_subcommands([](CLI::App*) { return true; }).back(),
                          std::move(command));
  }
  return [commands] {
    for (const auto& [parser, command] : commands) {
      if (parser->parsed()) return command();
    }
    return 0;
  };
}

}  // namespace vitrine
