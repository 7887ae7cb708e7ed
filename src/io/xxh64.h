// XXH64: a checksum of files at the speed of memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace vitrine {

/// With the seed 0.
std::uint64_t xxh64(std::span<const std::byte> bytes);

}  // namespace vitrine
