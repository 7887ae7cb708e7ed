// Pixels as a whole PGM (P5) or PPM (P6) file in memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace vitrine {

/// `pixels` [channels, height, width], one channel or three; `file` is replaced.
inline void write_pnm(const std::uint8_t* pixels, std::int64_t channels, std::int64_t height,
                      std::int64_t width, std::vector<std::byte>& file) {
  const std::string header = std::string(channels == 1 ? "P5 " : "P6 ") + std::to_string(width) +
                             " " + std::to_string(height) + " 255\n";
  const auto plane = static_cast<std::size_t>(height * width);
  const auto step = static_cast<std::size_t>(channels);
  file.resize(header.size() + step * plane);
  std::memcpy(file.data(), header.data(), header.size());
  for (std::size_t c = 0; c < step; ++c) {
    std::byte* out = file.data() + header.size() + c;
    for (std::size_t i = 0; i < plane; ++i) out[i * step] = std::byte{pixels[c * plane + i]};
  }
}

}  // namespace vitrine
