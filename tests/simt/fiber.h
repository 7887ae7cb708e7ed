// A stack of its own and the switch between stacks.
//
//   Boost.Context, detail::make_fcontext and detail::jump_fcontext
#pragma once

#include <boost/context/detail/fcontext.hpp>
#include <cstddef>

#include "simt/sanitizer.h"

namespace simt {

/// Where execution can be left and taken up again, on one operating system thread at a time.
class Fiber {
 public:
  /// The stack that is running now.
  Fiber();
  /// A new stack, its top shifted by `color` cache lines: equal tops would share cache sets.
  explicit Fiber(int color);
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  /// The next switch to this fiber calls `entry`, which never returns.
  void start(void (*entry)());
  /// Leaves this fiber, which is running, for `target`. `for_ever`: never to come back.
  void switch_to(Fiber& target, bool for_ever = false);

  void* race_identity() const { return race_identity_; }
  bool guards(const void* address) const;  ///< whether the address lies just below the stack

 private:
  /// Tells the fiber that is arrived at where the jump came from.
  struct Jump {
    Fiber& from;
    Fiber& to;
  };

  static Fiber& arrive(const boost::context::detail::transfer_t& transfer, void* fake_stack);
  static void begin(boost::context::detail::transfer_t transfer);

  void* context_ = nullptr;
  char* mapping_ = nullptr;
  const void* stack_ = nullptr;
  std::size_t stack_bytes_ = 0;
  int color_ = 0;
  void* race_identity_ = nullptr;
  void (*entry_)() = nullptr;
};

// Inline, as all on the way from a kernel to a switch: the processor predicts returns from the
// calls that came before on whatever stack, so after a switch each one costs a misprediction.
[[gnu::always_inline]] inline Fiber& Fiber::arrive(
    const boost::context::detail::transfer_t& transfer, void* fake_stack) {
  const Jump& jump = *static_cast<Jump*>(transfer.data);
  Fiber& from = jump.from;
  Fiber& to = jump.to;
  from.context_ = transfer.fctx;
  if (__sanitizer_finish_switch_fiber != nullptr) {
    const void* stack = nullptr;
    std::size_t bytes = 0;
    __sanitizer_finish_switch_fiber(fake_stack, &stack, &bytes);
    if (from.mapping_ == nullptr) {  // a stack that is not ours: only now its bounds are known
      from.stack_ = stack;
      from.stack_bytes_ = bytes;
    }
  }
  return to;
}

[[gnu::always_inline]] inline void Fiber::switch_to(Fiber& target, bool for_ever) {
  void* fake_stack = nullptr;
  if (__sanitizer_start_switch_fiber != nullptr) {
    __sanitizer_start_switch_fiber(for_ever ? nullptr : &fake_stack, target.stack_,
                                   target.stack_bytes_);
  }
  if (sanitizer::sees_races()) {
    __tsan_switch_to_fiber(target.race_identity_, sanitizer::ActAs::kOrdersNothing);
  }
  Jump jump{*this, target};
  arrive(boost::context::detail::jump_fcontext(target.context_, &jump), fake_stack);
}

}  // namespace simt
