// Threads that make items in parallel for one consumer that takes them in order.
//
// Items 0 to n − 1 are handed out one by one. Groups of them share a slot of a ring: the worker
// that makes a group's last item also finishes the group. Nobody makes items of a group before its
// slot is free, so the ring bounds how far the workers run ahead.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

namespace vitrine {

/// One a core that this process may use.
int default_workers();

class OrderedWork {
 public:
  struct Steps {
    /// Makes item `item`, number `place` of the group in `slot`; on `worker`.
    std::function<void(int worker, std::int64_t slot, std::int64_t place, std::int64_t item)> make;
    /// All `count` items of the group in `slot` are made.
    std::function<void(std::int64_t slot, std::int64_t count)> finish;
  };

  /// `steps` may touch what belongs to its worker, slot and place, without locks.
  OrderedWork(int workers, std::int64_t slots, std::int64_t group, Steps steps);
  ~OrderedWork();
  OrderedWork(const OrderedWork&) = delete;
  OrderedWork& operator=(const OrderedWork&) = delete;

  /// Drops what is under way and begins again. Returns once no step runs and none has begun anew.
  void start(std::int64_t items);

  /// Waits for the next group; its slot, which is the caller's until the next call. Nothing at the
  /// end. Rethrows what a step threw at the first item of the group that did, at the group's turn.
  std::optional<std::int64_t> next();

  /// Seconds that `next` has waited.
  double waited() const { return waited_; }

 private:
  struct Slot {
    std::int64_t left = 0;  ///< items not made yet
    bool finished = false;
    std::int64_t error_place = 0;
    std::exception_ptr error;
  };

  std::int64_t groups() const { return (items_ + group_ - 1) / group_; }
  std::int64_t count_of(std::int64_t group) const;
  bool may_take() const;
  void prepare(std::int64_t group);
  void join();
  void work(int worker);
  void make(int worker, std::int64_t item, std::unique_lock<std::mutex>& lock);

  const std::int64_t group_;
  const Steps steps_;
  double waited_ = 0;

  std::mutex mutex_;
  std::condition_variable work_, done_;
  std::vector<Slot> slots_;
  std::int64_t items_ = 0, next_item_ = 0;
  std::int64_t next_group_ = 0;  ///< of the consumer
  std::int64_t released_ = 0;    ///< groups that the consumer is done with
  int busy_ = 0;                 ///< workers inside a step
  bool stop_ = false;
  std::vector<std::thread> workers_;
};

}  // namespace vitrine
