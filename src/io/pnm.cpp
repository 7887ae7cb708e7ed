// PGM and PPM: "P5 width height maxval" in text, one white space, then samples; P2 and P3 have
// their samples in text too.          https://netpbm.sourceforge.net/doc/ppm.html

#include <algorithm>
#include <cctype>

#include "io/image_formats.h"

namespace vitrine {
namespace {

constexpr std::int64_t kMaxSample = 65535;

/// Reads through the text part of a file.
class Scanner {
 public:
  Scanner(const std::string& bytes, const std::string& name) : bytes_(bytes), name_(name) {}

  /// The next decimal number, after white space and comments.
  std::int64_t number(const char* what, std::int64_t limit) {
    skip_space();
    if (position_ == bytes_.size()) fail(std::string("ends before ") + what);
    if (!std::isdigit(byte())) {
      fail(std::string(what) + " is not a number at byte " + std::to_string(position_));
    }
    std::int64_t value = 0;
    while (position_ < bytes_.size() && std::isdigit(byte())) {
      value = value * 10 + (byte() - '0');
      if (value > limit) {
        fail(std::string(what) + " is above " + std::to_string(limit));
      }
      ++position_;
    }
    return value;
  }

  void skip_space() {
    while (position_ < bytes_.size() && (std::isspace(byte()) || byte() == '#')) {
      if (byte() == '#') position_ = std::min(bytes_.find('\n', position_), bytes_.size() - 1);
      ++position_;
    }
  }

  /// The one white space before binary samples.
  void single_space() {
    if (position_ == bytes_.size() || !std::isspace(byte())) fail("no white space after maxval");
    ++position_;
  }

  void skip(std::size_t count) { position_ += count; }
  std::size_t position() const { return position_; }
  std::size_t left() const { return bytes_.size() - position_; }
  [[noreturn]] void fail(const std::string& what) const { throw BadInput(name_ + ": " + what); }

 private:
  unsigned char byte() const { return static_cast<unsigned char>(bytes_[position_]); }

  const std::string& bytes_;
  const std::string& name_;
  std::size_t position_ = 0;
};

}  // namespace

Image decode_pnm(const std::string& bytes, const std::string& name) {
  Scanner scanner(bytes, name);
  const char kind = bytes[1];
  const bool text = kind == '2' || kind == '3';
  const std::int64_t channels = kind == '3' || kind == '6' ? 3 : 1;
  scanner.skip(2);
  const std::int64_t width = scanner.number("width", kMaxImagePixels);
  const std::int64_t height = scanner.number("height", kMaxImagePixels);
  const std::int64_t maxval = scanner.number("maxval", kMaxSample);
  if (maxval < 1) scanner.fail("maxval is 0, expected 1 to 65535");
  const std::size_t sample_bytes = maxval > 255 ? 2 : 1;

  if (!text) scanner.single_space();
  if (height < 1 || width < 1 || height > kMaxImagePixels / width) {
    new_image(channels, height, width, name);  // says so
  }
  const auto samples = static_cast<std::size_t>(channels * height * width);
  const std::size_t needed = text ? 2 * samples - 1 : samples * sample_bytes;
  if (scanner.left() < needed || (!text && scanner.left() > needed)) {
    scanner.fail(std::to_string(scanner.left()) + " bytes of samples, expected " +
                 (text ? "at least " : "") + std::to_string(needed));
  }
  Image image = new_image(channels, height, width, name);
  const std::size_t plane = samples / static_cast<std::size_t>(channels);
  const auto* raw = reinterpret_cast<const unsigned char*>(bytes.data()) + scanner.position();
  for (std::size_t i = 0; i < samples; ++i) {
    std::int64_t value = 0;
    if (text) {
      value = scanner.number("sample", maxval);
    } else {
      value = sample_bytes == 1 ? raw[i] : raw[2 * i] * 256 + raw[2 * i + 1];
      if (value > maxval) scanner.fail("sample is above " + std::to_string(maxval));
    }
    const std::size_t c = i % static_cast<std::size_t>(channels);
    image.pixels[c * plane + i / static_cast<std::size_t>(channels)] =
        static_cast<std::uint8_t>((value * 255 + maxval / 2) / maxval);
  }
  if (text) {
    scanner.skip_space();
    if (scanner.left() > 0) scanner.fail(std::to_string(scanner.left()) + " trailing bytes");
  }
  return image;
}

}  // namespace vitrine
