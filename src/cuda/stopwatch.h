// Points in a stream, timed by the GPU.
#pragma once

#include <memory>
#include <vector>

#include "cuda/runtime.h"
#include "vitrine/device.h"

namespace vitrine::cuda {

/// An event a point. While a stream is recorded a point becomes a node of the graph, so that every
/// replay times it anew ("external" events of the CUDA runtime).
class CudaStopwatch final : public Stopwatch {
 public:
  CudaStopwatch(const Stream& stream, std::int64_t points);

  void start() override;
  void mark(std::int64_t i) override;
  const std::vector<double>& seconds() override;

 private:
  struct Destroy {
    void operator()(cudaEvent_t event) const { cudaEventDestroy(event); }
  };
  using TimedEvent = std::unique_ptr<CUevent_st, Destroy>;
  static TimedEvent make_event();

  const Stream& stream_;
  TimedEvent start_;
  std::vector<TimedEvent> points_;  // made when first marked
  std::vector<double> seconds_;
};

}  // namespace vitrine::cuda
