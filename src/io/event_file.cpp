#include "io/event_file.h"

#include <array>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "vitrine/error.h"

namespace vitrine {
namespace {

/// Wire types of protocol buffers.
enum class Wire : std::uint32_t { varint = 0, fixed64 = 1, bytes = 2, fixed32 = 5 };

template <typename T>
std::string little_endian(T number) {
  std::string bytes(sizeof number, '\0');
  for (char& byte : bytes) {
    byte = static_cast<char>(number & 0xFF);
    number = static_cast<T>(static_cast<std::uint64_t>(number) >> 8);
  }
  return bytes;
}

std::string varint(std::uint64_t number) {
  std::string bytes;
  for (; number >= 0x80; number >>= 7) bytes += static_cast<char>(number | 0x80);
  return bytes + static_cast<char>(number);
}

std::string key(std::uint32_t field, Wire wire) {
  return varint(field << 3 | static_cast<std::uint32_t>(wire));
}

std::string field(std::uint32_t number, std::int64_t value) {
  return key(number, Wire::varint) + varint(static_cast<std::uint64_t>(value));
}
std::string field(std::uint32_t number, double value) {
  return key(number, Wire::fixed64) + little_endian(std::bit_cast<std::uint64_t>(value));
}
std::string field(std::uint32_t number, float value) {
  return key(number, Wire::fixed32) + little_endian(std::bit_cast<std::uint32_t>(value));
}
std::string field(std::uint32_t number, const std::string& bytes) {
  return key(number, Wire::bytes) + varint(bytes.size()) + bytes;
}

double now() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::uint32_t masked(std::uint32_t crc) {
  return std::rotr(crc, 15) + 0xA282EAD8u;
}

std::string summary(std::int64_t step, const std::string& values) {
  return field(1, now()) + field(2, step) + field(5, values);
}

std::filesystem::path new_path(const std::filesystem::path& directory) {
  const std::string name =
      "events.out.tfevents." + std::to_string(static_cast<std::int64_t>(now())) + ".vitrine";
  std::filesystem::path path = directory / name;
  for (int i = 1; std::filesystem::exists(path); ++i) {
    path = directory / (name + "." + std::to_string(i));
  }
  return path;
}

}  // namespace

std::uint32_t crc32c(std::string_view bytes) {
  static const std::array<std::uint32_t, 256> table = [] {
    std::array<std::uint32_t, 256> entries{};
    for (std::uint32_t i = 0; i < 256; ++i) {
      entries[i] = i;
      for (int bit = 0; bit < 8; ++bit) {
        entries[i] = entries[i] >> 1 ^ ((entries[i] & 1) != 0 ? 0x82F63B78u : 0);
      }
    }
    return entries;
  }();
  std::uint32_t crc = ~0u;
  for (const char byte : bytes) {
    crc = table[(crc ^ static_cast<unsigned char>(byte)) & 0xFF] ^ crc >> 8;
  }
  return ~crc;
}

EventFile::EventFile(const std::filesystem::path& directory)
    : path_(new_path(directory)), file_(path_, std::ios::binary) {
  if (!file_) throw IoError(path_.string() + ": cannot create: " + std::strerror(errno));
  write(field(1, now()) + field(3, std::string("brain.Event:2")));
}

void EventFile::add(std::int64_t step, const Scalars& scalars) {
  std::string values;
  for (const auto& [tag, value] : scalars) {
    values += field(1, field(1, tag) + field(2, static_cast<float>(value)));
  }
  write(summary(step, values));
}

void EventFile::add(std::int64_t step, const std::string& tag, const Image& image) {
  const std::vector<std::uint8_t> png = encode_png(image);
  const std::string picture = field(1, image.height) + field(2, image.width) +
                              field(3, image.channels) +
                              field(4, std::string(png.begin(), png.end()));
  write(summary(step, field(1, field(1, tag) + field(4, picture))));
}

void EventFile::write(const std::string& event) {
  const std::string length = little_endian(static_cast<std::uint64_t>(event.size()));
  file_ << length << little_endian(masked(crc32c(length))) << event
        << little_endian(masked(crc32c(event)));
}

void EventFile::flush() {
  file_.flush();
  if (!file_) throw IoError(path_.string() + ": cannot write: " + std::strerror(errno));
}

}  // namespace vitrine
