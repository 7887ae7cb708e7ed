// The header of a safetensors file: parsing it, and what makes it valid.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/one_line.h"
#include "vitrine/tensor.h"

namespace vitrine::safetensors {

constexpr std::uint64_t kLengthBytes = 8;  ///< the header's length, before the header
constexpr const char* kMetadataKey = "__metadata__";

/// A tensor as the header describes it.
struct HeaderEntry {
  std::string name;
  DType dtype = DType::f32;
  std::vector<std::int64_t> shape;
  std::vector<std::int64_t> offsets;  ///< of the first byte, and behind the last

  std::uint64_t begin() const { return static_cast<std::uint64_t>(offsets[0]); }
  std::uint64_t end() const { return static_cast<std::uint64_t>(offsets[1]); }
};

struct Header {
  std::vector<HeaderEntry> entries;  ///< sorted by offset
  std::map<std::string, std::string> metadata;
  std::uint64_t bytes = 0;  ///< with its padding, without the length before it
};

/// Bytes of a tensor; nullopt when they do not fit 63 bits.
std::optional<std::uint64_t> byte_size(const std::vector<std::int64_t>& shape, DType dtype);

/// Parses and validates the header of the file whose bytes these are. `file` is its name in
/// messages. Throws BadInput.
Header parse_header(std::string_view bytes, const std::string& file);

inline std::string in_quotes(const std::string& text) {
  return std::string("'").append(one_line(text, 100)).append("'");
}

}  // namespace vitrine::safetensors
