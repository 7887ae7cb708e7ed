#include "simt/arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>

#include "simt/launch.h"
#include "simt/sanitizer.h"

namespace simt {
namespace {

constexpr std::size_t kAlignment = 128;
constexpr std::size_t kGapBytes = 128;
constexpr std::size_t kPageBytes = 4096;
constexpr int kUnwritten = 0xFF;

constexpr std::size_t round_up(std::size_t bytes, std::size_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

// Room for the largest block and the gaps between as many arrays as an arena takes.
constexpr std::size_t kArenaBytes =
    round_up(kSharedBytesPerBlock + 64 * (kGapBytes + kAlignment) + kGapBytes, kPageBytes);

void* map_pages(void* where, std::size_t bytes) {
  const int fixed = where == nullptr ? 0 : MAP_FIXED;
  void* pages =
      ::mmap(where, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | fixed, -1, 0);
  if (pages == MAP_FAILED) throw std::bad_alloc();
  return pages;
}

}  // namespace

Arena::Arena() : memory_(static_cast<unsigned char*>(map_pages(nullptr, kArenaBytes))) {
  std::memset(memory_, kUnwritten, kArenaBytes);
}

Arena::~Arena() {
  sanitizer::unpoison(memory_, kArenaBytes);
  ::munmap(memory_, kArenaBytes);
}

void Arena::start_block(std::size_t dynamic_bytes) {
  sanitizer::unpoison(memory_, kArenaBytes);
  if (sanitizer::sees_races() && written_ > 0) {
    // New pages have no history: ThreadSanitizer does not hold this block's accesses against those
    // of the block before.
    written_ = round_up(written_, kPageBytes);
    map_pages(memory_, written_);
  }
  std::memset(memory_, kUnwritten, written_);
  dynamic_bytes_ = dynamic_bytes;
  static_bytes_ = 0;
  array_count_ = 0;
  end_ = dynamic_bytes;
  written_ = end_ + kGapBytes;
  sanitizer::poison(memory_ + end_, kArenaBytes - end_);
}

void* Arena::array(const void* key, std::size_t bytes) {
  for (std::size_t i = 0; i < array_count_; ++i) {
    if (arrays_[i].key == key) return memory_ + arrays_[i].first;
  }
  static_bytes_ += bytes;
  if (array_count_ == kMaxArrays || static_bytes_ > kStaticSharedBytesPerBlock ||
      bytes_in_use() > kSharedBytesPerBlock) {
    return nullptr;
  }
  const std::size_t first = round_up(end_ + kGapBytes, kAlignment);
  arrays_[array_count_++] = {key, first, bytes};
  end_ = first + bytes;
  written_ = end_ + kGapBytes;
  sanitizer::unpoison(memory_ + first, bytes);
  return memory_ + first;
}

bool Arena::contains(const void* address, std::size_t bytes) const {
  const unsigned char* first = static_cast<const unsigned char*>(address);
  return first >= memory_ && first + bytes <= memory_ + end_;
}

bool Arena::gap_was_written() const {
  const auto written = [this](std::size_t first, std::size_t end) {
    return std::any_of(memory_ + first, memory_ + end,
                       [](unsigned char byte) { return byte != kUnwritten; });
  };
  std::size_t end = dynamic_bytes_;
  for (std::size_t i = 0; i < array_count_; ++i) {
    if (written(end, arrays_[i].first)) return true;
    end = arrays_[i].first + arrays_[i].bytes;
  }
  return written(end, written_);
}

}  // namespace simt
