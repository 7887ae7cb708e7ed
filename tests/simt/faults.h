// Which CUDA thread it was when the process dies: on a wild pointer, a stack that ran over, or a
// sanitizer's report.
#pragma once

namespace simt {

/// Call once on each operating system thread that runs kernels; calls after the first do nothing.
void report_faults_on_this_thread();

}  // namespace simt
