// The program of every benchmark. Its exit status is 1 when a benchmark was wrong or could not run.
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "graph_case.h"

namespace vitrine::bench {
namespace {

std::vector<void (*)()>& registrations() {
  static std::vector<void (*)()> functions;
  return functions;
}

}  // namespace

Registration::Registration(void (*add_all)()) {
  registrations().push_back(add_all);
}

}  // namespace vitrine::bench

int main(int argc, char** argv) {
  using namespace vitrine::bench;
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::AddCustomContext("seed", std::to_string(kSeed));
  try {
    for (void (*const add_all)() : registrations()) add_all();
    if (benchmark::RunSpecifiedBenchmarks() == 0) return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  benchmark::Shutdown();
  return any_failed() ? 1 : 0;
}
