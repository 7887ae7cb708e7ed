// Parsing, and errors as one line with an exit code: 2 for bad input, 1 for the machine's failures.
#include <csignal>
#include <cstdio>
#include <new>
#include <utility>
#include <vector>

#include "cli/commands.h"
#include "io/json_fields.h"
#include "vitrine/error.h"

namespace vitrine {

std::atomic<bool> interrupted{false};

namespace {

constexpr int kFailure = 1;
constexpr int kBadInput = 2;

// The second Ctrl-C ends the program at once.
void on_interrupt(int) {
  interrupted = true;
  std::signal(SIGINT, SIG_DFL);
}

int report(const std::string& message, int code) {
  std::string line = "vitrine: " + message;
  std::replace(line.begin(), line.end(), '\n', ' ');
  std::fprintf(stderr, "%s\n", line.c_str());
  return code;
}

int run_guarded(const Command& command) {
  try {
    return command();
  } catch (const BadInput& error) {
    return report(error.what(), kBadInput);
  } catch (const std::bad_alloc&) {
    return report("out of memory", kFailure);
  } catch (const std::exception& error) {
    return report(error.what(), kFailure);
  }
}

// "--batchsize" → "; the nearest known one is --batch-size"
std::string nearest_flag(const CLI::App& command, const std::string& message) {
  const auto start = message.find("--");
  if (start == std::string::npos) return "";
  const std::string word = message.substr(start, message.find_first_of(" =", start) - start);
  std::vector<std::string> known;
  for (const CLI::Option* option : command.get_options()) {
    for (const std::string& name : option->get_lnames()) known.push_back("--" + name);
  }
  return known.empty() ? "" : "; the nearest known one is " + nearest(word, known);
}

// "trian" → the nearest command
std::string unknown_command(const CLI::App& app, const std::string& word) {
  std::vector<std::string> known;
  std::string list;
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    known.push_back(command->get_name());
    list += (list.empty() ? "" : ", ") + known.back();
  }
  return "found \"" + word + "\", expected one of " + list + "; the nearest known one is " +
         nearest(word, known);
}

}  // namespace

int run_program(int argc, const char* const* argv) {
  CLI::App app{"Vitrine trains Vision Transformers.", "vitrine"};
  app.require_subcommand(1);
  app.set_version_flag("--version", "vitrine 0.1.0");
  std::vector<std::pair<CLI::App*, Command>> commands;
  for (auto add : {add_train, add_eval, add_predict, add_attention, add_inspect, add_data, add_step,
                   add_export, add_profile}) {
    Command command = add(app);
    commands.emplace_back(app.get_subcommands([](CLI::App*) { return true; }).back(),
                          std::move(command));
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {
    return app.exit(success);
  } catch (const CLI::ExtrasError& error) {
    const auto chosen = app.get_subcommands();
    return report(error.what() + nearest_flag(chosen.empty() ? app : *chosen[0], error.what()),
                  kBadInput);
  } catch (const CLI::ParseError& error) {
    if (app.get_subcommands().empty() && !app.remaining().empty()) {
      return report(unknown_command(app, app.remaining()[0]), kBadInput);
    }
    return report(error.what() + std::string("; vitrine --help lists the commands and flags"),
                  kBadInput);
  }
  std::signal(SIGINT, on_interrupt);
  for (const auto& [parser, command] : commands) {
    if (parser->parsed()) return run_guarded(command);
  }
  return kBadInput;
}

}  // namespace vitrine
