#include "cuda/program.h"

namespace vitrine::cuda {

CudaProgram::CudaProgram(const Stream& stream, std::string name, std::function<void()> work,
                         bool records, std::function<void()> on_first_run)
    : stream_(stream),
      name_(std::move(name)),
      work_(std::move(work)),
      records_(records),
      on_first_run_(std::move(on_first_run)) {}

CudaProgram::~CudaProgram() {
  if (recorded_) cudaStreamSynchronize(stream_.get());  // a replay may be under way
}

void CudaProgram::run() {
  if (!warm_ || !records_) {
    work_();
    if (!warm_) on_first_run_();
    warm_ = true;
    return;
  }
  if (!recorded_) record();
  check("cudaGraphLaunch", cudaGraphLaunch(recorded_.get(), stream_.get()));
}

void CudaProgram::record() {
  check("cudaStreamBeginCapture",
        cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal));
  cudaGraph_t graph = nullptr;
  try {
    work_();
  } catch (...) {
    cudaStreamEndCapture(stream_.get(), &graph);
    if (graph != nullptr) cudaGraphDestroy(graph);
    static_cast<void>(cudaGetLastError());
    throw;
  }
  check(name_.c_str(), cudaStreamEndCapture(stream_.get(), &graph));
  const std::unique_ptr<CUgraph_st, Destroy> owned(graph);
  cudaGraphExec_t recorded = nullptr;
  check(name_.c_str(), cudaGraphInstantiate(&recorded, graph, 0));
  recorded_.reset(recorded);
}

}  // namespace vitrine::cuda
