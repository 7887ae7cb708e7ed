// Operating system threads that help with launches. They are started once and kept.
#pragma once

#include <functional>

namespace simt {

/// Calls `work` on this thread and, as they come free, on up to `helpers` others at the same time.
/// Returns when all calls have returned; helpers that have not come by then do not come. Any
/// number of threads may call.
void work_together(int helpers, const std::function<void()>& work);

}  // namespace simt
