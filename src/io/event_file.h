// Event files, as TensorBoard reads them.
//
// A file is a sequence of TFRecords: length (u64), CRC of it, bytes, CRC of them. Each holds one
// `Event` message of TensorFlow's event.proto, in the wire format of protocol buffers:
//
//   Event { double wall_time = 1; int64 step = 2; string file_version = 3; Summary summary = 5; }
//   Summary { repeated Value value = 1; }
//   Value { string tag = 1; float simple_value = 2; Image image = 4; }
//   Image { int32 height = 1; int32 width = 2; int32 colorspace = 3; bytes encoded_image = 4; }
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "vitrine/image.h"

namespace vitrine {

/// CRC-32C (Castagnoli 1993), as TFRecords have it before masking.
std::uint32_t crc32c(std::string_view bytes);

class EventFile {
 public:
  /// A new file "events.out.tfevents.SECONDS.vitrine" in `directory`; a counter follows where there
  /// is one already. Throws IoError.
  explicit EventFile(const std::filesystem::path& directory);

  using Scalars = std::vector<std::pair<std::string, double>>;  // tag, value
  void add(std::int64_t step, const Scalars& scalars);
  void add(std::int64_t step, const std::string& tag, const Image& image);
  /// Everything so far is where readers see it. Throws IoError.
  void flush();

 private:
  void write(const std::string& event);

  std::filesystem::path path_;
  std::ofstream file_;
};

}  // namespace vitrine
