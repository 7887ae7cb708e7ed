// A piece of work that is the same at every step, recorded as a CUDA graph.
//
// The first run submits it launch by launch: kernels are loaded and matmul plans made, which cannot
// be done while recording. The second records it, and from then on a run is one launch. The bits
// are the same each way: it is the same work on the same memory in the same order.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "cuda/runtime.h"
#include "vitrine/device.h"

namespace vitrine::cuda {

class CudaProgram final : public Program {
 public:
  /// `records` false: every run is launch by launch. `on_first_run` is called after the first.
  CudaProgram(const Stream& stream, std::string name, std::function<void()> work, bool records,
              std::function<void()> on_first_run);
  ~CudaProgram() override;

  void run() override;

 private:
  struct Destroy {
    void operator()(cudaGraph_t graph) const { cudaGraphDestroy(graph); }
    void operator()(cudaGraphExec_t graph) const { cudaGraphExecDestroy(graph); }
  };

  void record();

  const Stream& stream_;
  std::string name_;
  std::function<void()> work_;
  bool records_;
  std::function<void()> on_first_run_;
  bool warm_ = false;
  std::unique_ptr<CUgraphExec_st, Destroy> recorded_;
};

}  // namespace vitrine::cuda
