#include "cuda/stopwatch.h"

namespace vitrine::cuda {

CudaStopwatch::CudaStopwatch(const Stream& stream, std::int64_t points)
    : stream_(stream),
      start_(make_event()),
      points_(static_cast<std::size_t>(points)),
      seconds_(static_cast<std::size_t>(points)) {}

CudaStopwatch::TimedEvent CudaStopwatch::make_event() {
  cudaEvent_t event = nullptr;
  check("cudaEventCreate", cudaEventCreate(&event));
  return TimedEvent(event);
}

void CudaStopwatch::start() {
  check("cudaEventRecord", cudaEventRecord(start_.get(), stream_.get()));
}

void CudaStopwatch::mark(std::int64_t i) {
  TimedEvent& event = points_[static_cast<std::size_t>(i)];
  if (!event) event = make_event();
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check("cudaStreamIsCapturing", cudaStreamIsCapturing(stream_.get(), &status));
  // The flag is refused outside a capture, and without it a captured event has no time.
  const unsigned flags =
      status == cudaStreamCaptureStatusNone ? cudaEventRecordDefault : cudaEventRecordExternal;
  check("cudaEventRecordWithFlags", cudaEventRecordWithFlags(event.get(), stream_.get(), flags));
}

const std::vector<double>& CudaStopwatch::seconds() {
  stream_.synchronize();
  for (std::size_t i = 0; i < points_.size(); ++i) {
    if (!points_[i]) continue;
    float milliseconds = 0.0f;
    check("cudaEventElapsedTime",
          cudaEventElapsedTime(&milliseconds, start_.get(), points_[i].get()));
    seconds_[i] = static_cast<double>(milliseconds) * 1e-3;
  }
  return seconds_;
}

}  // namespace vitrine::cuda
