#include "simt/faults.h"

#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <memory>

#include "simt/multiprocessor.h"

namespace simt {
namespace {

/// Writes to standard error which thread is running; nothing outside kernels.
void write_position(const char* before, const char* after) {
  if (this_block == nullptr || this_thread == nullptr) return;
  char line[256];
  const int length =
      std::snprintf(line, sizeof(line), "simt: %s in block (%u,%u,%u) thread (%u,%u,%u)%s\n",
                    before, this_block->index.x, this_block->index.y, this_block->index.z,
                    this_thread->index.x, this_thread->index.y, this_thread->index.z, after);
  if (length > 0 && ::write(STDERR_FILENO, line, static_cast<std::size_t>(length)) < 0) return;
}

void on_fault(int signal, siginfo_t* fault, void*) {
  const bool overflow =
      this_block != nullptr && Multiprocessor::current().overflowed_stack(fault->si_addr);
  write_position("memory fault", overflow ? ": its frames do not fit the stack" : "");
  ::signal(signal, SIG_DFL);
  ::raise(signal);
}

void on_sanitizer_report(const char*) {
  write_position("the error above is", "");
}

/// The thread's own stack may be what ran over.
class SignalStack {
 public:
  SignalStack() {
    stack_t stack{};
    stack.ss_sp = memory_.get();
    stack.ss_size = kBytes;
    ::sigaltstack(&stack, nullptr);
  }
  ~SignalStack() {
    stack_t stack{};
    stack.ss_flags = SS_DISABLE;
    ::sigaltstack(&stack, nullptr);
  }

 private:
  static constexpr std::size_t kBytes = 64 * 1024;
  std::unique_ptr<char[]> memory_{new char[kBytes]};
};

bool handle_faults() {
  struct sigaction action {};
  action.sa_sigaction = &on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  ::sigaction(SIGSEGV, &action, nullptr);
  ::sigaction(SIGBUS, &action, nullptr);
  return true;
}

}  // namespace

void report_faults_on_this_thread() {
  if (sanitizer::sees_addresses()) {
    __asan_set_error_report_callback(&on_sanitizer_report);
  } else if (!sanitizer::sees_races()) {
    [[maybe_unused]] static const bool once = handle_faults();
    [[maybe_unused]] static thread_local const SignalStack stack;
  }
}

}  // namespace simt
