// Threads that make items in parallel for one consumer that takes them in order.
#include "data/ordered_work.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace vitrine {

int default_workers() {
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

OrderedWork::OrderedWork(int workers, std::int64_t slots, std::int64_t group, Steps steps)
    : group_(group), steps_(std::move(steps)), slots_(static_cast<std::size_t>(slots)) {
  try {
    for (int worker = 0; worker < workers; ++worker) {
      workers_.emplace_back([this, worker] { work(worker); });
    }
  } catch (...) {  // the system has no more threads
    join();
    throw;
  }
}

OrderedWork::~OrderedWork() {
  join();
}

void OrderedWork::join() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  work_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

std::int64_t OrderedWork::count_of(std::int64_t group) const {
  return std::min(group_, items_ - group * group_);
}

/// Readies the slot of a group for the workers.
void OrderedWork::prepare(std::int64_t group) {
  if (group >= groups()) return;
  slots_[static_cast<std::size_t>(group) % slots_.size()] = {.left = count_of(group)};
}

void OrderedWork::start(std::int64_t items) {
  std::unique_lock lock(mutex_);
  next_item_ = items_;  // nobody takes more of the old ones
  done_.wait(lock, [this] { return busy_ == 0; });
  items_ = items;
  next_item_ = next_group_ = released_ = 0;
  for (std::size_t slot = 0; slot < slots_.size(); ++slot) {
    prepare(static_cast<std::int64_t>(slot));
  }
  work_.notify_all();
}

std::optional<std::int64_t> OrderedWork::next() {
  const auto begin = std::chrono::steady_clock::now();
  std::unique_lock lock(mutex_);
  if (next_group_ > released_) {  // the caller had one
    prepare(released_ + static_cast<std::int64_t>(slots_.size()));
    ++released_;
    work_.notify_all();
  }
  if (next_group_ >= groups()) return std::nullopt;
  const std::size_t index = static_cast<std::size_t>(next_group_) % slots_.size();
  Slot& slot = slots_[index];
  done_.wait(lock, [&slot] { return slot.finished; });
  ++next_group_;
  waited_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  if (slot.error) std::rethrow_exception(slot.error);
  return static_cast<std::int64_t>(index);
}

bool OrderedWork::may_take() const {
  return next_item_ < items_ &&
         next_item_ / group_ < released_ + static_cast<std::int64_t>(slots_.size());
}

void OrderedWork::work(int worker) {
  std::unique_lock lock(mutex_);
  while (true) {
    work_.wait(lock, [this] { return stop_ || may_take(); });
    if (stop_) return;
    make(worker, next_item_++, lock);
  }
}

/// Called with the lock held, which is open while a step runs.
void OrderedWork::make(int worker, std::int64_t item, std::unique_lock<std::mutex>& lock) {
  const std::int64_t group = item / group_, place = item % group_;
  const auto index = group % static_cast<std::int64_t>(slots_.size());
  Slot& slot = slots_[static_cast<std::size_t>(index)];
  const auto run = [&](const auto& step) {
    lock.unlock();
    std::exception_ptr error;
    try {
      step();
    } catch (...) {
      error = std::current_exception();
    }
    lock.lock();
    if (error && (!slot.error || place < slot.error_place)) {
      slot.error = error;
      slot.error_place = place;
    }
  };
  ++busy_;
  run([&] { steps_.make(worker, index, place, item); });
  if (--slot.left == 0) {
    if (!slot.error) run([&] { steps_.finish(index, count_of(group)); });
    slot.finished = true;
  }
  --busy_;
  if (slot.finished || busy_ == 0) done_.notify_one();
}

}  // namespace vitrine
