// The program of every benchmark. Its exit status is 1 when a benchmark was wrong or could not run.
#include <oneapi/dnnl/dnnl.h>

#include <cstdio>
#include <exception>
#include <string>
#include <string_view>
#include <vector>

#include "cuda_peers.h"
#include "graph_case.h"

namespace vitrine::bench {
namespace {

std::vector<void (*)()>& registrations() {
  static std::vector<void (*)()> functions;
  return functions;
}

/// Opens no device, which need not be there.
bool lists_only(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == "--benchmark_list_tests" || argument == "--benchmark_list_tests=true") {
      return true;
    }
  }
  return false;
}

/// What tools/compare_kernels.py measures peers with.
void add_context() {
  benchmark::AddCustomContext("seed", std::to_string(kSeed));
  benchmark::AddCustomContext("device", on_gpu() ? "cuda" : "cpu");
  benchmark::AddCustomContext("description", device().traits().description);
  benchmark::AddCustomContext("threads", std::to_string(device().workers()));
  const dnnl_version_t* onednn = dnnl_version();
  benchmark::AddCustomContext("onednn", std::to_string(onednn->major) + "." +
                                            std::to_string(onednn->minor) + "." +
                                            std::to_string(onednn->patch));
  for (const auto& [library, version] : cuda_library_versions()) {
    benchmark::AddCustomContext(library, version);
  }
}

}  // namespace

Registration::Registration(void (*add_all)()) {
  registrations().push_back(add_all);
}

}  // namespace vitrine::bench

int main(int argc, char** argv) {
  using namespace vitrine::bench;
  const bool lists = lists_only(argc, argv);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  try {
    if (!lists) add_context();
    for (void (*const add_all)() : registrations()) add_all();
    if (benchmark::RunSpecifiedBenchmarks() == 0) return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  benchmark::Shutdown();
  return any_failed() ? 1 : 0;
}
