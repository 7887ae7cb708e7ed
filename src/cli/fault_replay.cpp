#include "cli/fault_replay.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <vector>

#include "vitrine/error.h"

namespace vitrine {
namespace {

constexpr const char* kVariable = "VITRINE_FAULT_REPLAY";
constexpr const char* kProgram = "/proc/self/exe";
constexpr const char* kCommandLine = "/proc/self/cmdline";

// What the run reported, and why that is all there is to say.
std::string unfound(const Fault& fault, const std::string& reason) {
  return fault.error + " (noticed at " + fault.place + "; " + reason + ")" + advice(fault);
}

std::vector<std::string> command_line() {
  std::ifstream file(kCommandLine);
  std::vector<std::string> words;
  for (std::string word; std::getline(file, word, '\0');) words.push_back(word);
  return words;
}

// A driver's file that stays open would keep the lost context and its memory.
void close_files_with_process() {
  for (const auto& file : std::filesystem::directory_iterator("/proc/self/fd")) {
    const int descriptor = std::atoi(file.path().filename().c_str());
    if (descriptor > STDERR_FILENO) ::fcntl(descriptor, F_SETFD, FD_CLOEXEC);
  }
}

[[noreturn]] void replace_process() {
  std::vector<std::string> words = command_line();
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  close_files_with_process();
  ::execv(kProgram, argv.data());
  throw IoError(std::string(kProgram) + ": cannot run again: " + std::strerror(errno));
}

}  // namespace

std::string advice(const Fault& fault) {
  return fault.checkpoint.empty() ? "" : "; continue with: vitrine train --resume " + fault.run;
}

std::string fault_of(Device& device) {
  try {
    device.synchronize();
  } catch (const DeviceError& fault) {
    return fault.what();
  }
  return "";
}

void start_replay(const Fault& fault) {
  std::fprintf(stderr, "vitrine: %s; looking for the operation, step by step …\n",
               fault.error.c_str());
  std::fflush(nullptr);
  const nlohmann::json json = {{"error", fault.error},
                               {"place", fault.place},
                               {"step", fault.step},
                               {"checkpoint", fault.checkpoint},
                               {"run", fault.run}};
  constexpr auto kAnyName = nlohmann::json::error_handler_t::replace;  // paths need not be UTF-8
  ::setenv(kVariable, json.dump(-1, ' ', /*ensure_ascii=*/false, kAnyName).c_str(), 1);
  replace_process();
}

std::optional<Fault> fault_to_find() {
  const char* text = std::getenv(kVariable);
  if (text == nullptr) return {};
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  Fault fault;
  try {
    json.at("error").get_to(fault.error);
    json.at("place").get_to(fault.place);
    json.at("step").get_to(fault.step);
    json.at("checkpoint").get_to(fault.checkpoint);
    json.at("run").get_to(fault.run);
  } catch (const nlohmann::json::exception&) {
    throw BadInput(std::string(kVariable) + ": found \"" + text +
                   "\", expected nothing: the program sets it for itself");
  }
  return fault;
}

void find_fault(const Fault& fault, const std::function<std::string()>& replay) {
  std::string found;
  try {
    found = replay();
  } catch (const std::exception& error) {
    throw DeviceError(
        unfound(fault, std::string("looking for the operation failed: ") + error.what()));
  }
  if (found.empty()) {
    throw DeviceError(unfound(fault, "it did not come again when every operation was waited for"));
  }
  throw DeviceError(found + advice(fault));
}

}  // namespace vitrine
