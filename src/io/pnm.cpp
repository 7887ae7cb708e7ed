// PGM and PPM: "P5 width height maxval" in text, one white space, then samples; P2 and P3 have
// their samples in text too.          https://netpbm.sourceforge.net/doc/ppm.html

#include <cctype>

#include "io/image_formats.h"

namespace vitrine {
namespace {

constexpr std::int64_t kMaxSample = 65535;

/// Reads through the text part of a file.
class Scanner {
 public:
  Scanner(std::span<const unsigned char> bytes, const std::string& name, std::size_t position)
      : bytes_(bytes), name_(name), position_(position) {}

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
      if (byte() == '#') {
        while (position_ + 1 < bytes_.size() && byte() != '\n') ++position_;
      }
      ++position_;
    }
  }

  /// The one white space before binary samples.
  void single_space() {
    if (position_ == bytes_.size() || !std::isspace(byte())) fail("no white space after maxval");
    ++position_;
  }

  std::size_t position() const { return position_; }
  std::size_t left() const { return bytes_.size() - position_; }
  [[noreturn]] void fail(const std::string& what) const { fail_decoding(name_, what); }

 private:
  unsigned char byte() const { return bytes_[position_]; }

  std::span<const unsigned char> bytes_;
  const std::string& name_;
  std::size_t position_ = 0;
};

class PnmDecoder : public FormatDecoder {
 public:
  PictureInfo open(std::span<const unsigned char> file, const std::string& name) override;
  void read(const std::string& name, const StoredRequest& request, RowSink& sink,
            std::vector<std::uint8_t>& pixels) override;

 private:
  /// Bytes or text from the first sample on, as long as the header says.
  void check_length(const Scanner& scanner) const;
  const std::uint8_t* binary_row(const Scanner& scanner, std::int64_t y, const AxisPart& x);
  const std::uint8_t* text_row(Scanner& scanner, const AxisPart& x);
  std::uint8_t to_byte(std::int64_t value) const {
    return static_cast<std::uint8_t>((value * 255 + maxval_ / 2) / maxval_);
  }

  std::span<const unsigned char> file_;
  std::size_t samples_at_ = 0;
  std::int64_t channels_ = 0, height_ = 0, width_ = 0, maxval_ = 0;
  bool text_ = false;
  std::vector<std::uint8_t> row_;
};

PictureInfo PnmDecoder::open(std::span<const unsigned char> file, const std::string& name) {
  const unsigned char kind = file[1];
  file_ = file;
  text_ = kind == '2' || kind == '3';
  channels_ = kind == '3' || kind == '6' ? 3 : 1;
  Scanner scanner(file, name, 2);
  width_ = scanner.number("width", kMaxImagePixels);
  height_ = scanner.number("height", kMaxImagePixels);
  maxval_ = scanner.number("maxval", kMaxSample);
  if (maxval_ < 1) scanner.fail("maxval is 0, expected 1 to 65535");
  if (!text_) scanner.single_space();
  check_image_size(height_, width_, name);
  samples_at_ = scanner.position();
  return {channels_ == 1 ? "PGM" : "PPM", height_, width_, channels_, 1};
}

void PnmDecoder::check_length(const Scanner& scanner) const {
  const auto samples = static_cast<std::size_t>(channels_ * height_ * width_);
  const std::size_t needed = text_ ? 2 * samples - 1 : samples * (maxval_ > 255 ? 2 : 1);
  if (scanner.left() < needed || (!text_ && scanner.left() > needed)) {
    scanner.fail(std::to_string(scanner.left()) + " bytes of samples, expected " +
                 (text_ ? "at least " : "") + std::to_string(needed));
  }
}

const std::uint8_t* PnmDecoder::binary_row(const Scanner& scanner, std::int64_t y,
                                           const AxisPart& x) {
  const std::int64_t sample_bytes = maxval_ > 255 ? 2 : 1;
  const unsigned char* raw =
      file_.data() + samples_at_ + (y * width_ + x.begin) * channels_ * sample_bytes;
  if (maxval_ == 255) return raw;
  for (std::uint8_t& sample : row_) {
    const std::int64_t value = sample_bytes == 1 ? raw[0] : raw[0] * 256 + raw[1];
    if (value > maxval_) scanner.fail("sample is above " + std::to_string(maxval_));
    sample = to_byte(value);
    raw += sample_bytes;
  }
  return row_.data();
}

/// Numbers can only be read one after another; those outside x are dropped.
const std::uint8_t* PnmDecoder::text_row(Scanner& scanner, const AxisPart& x) {
  for (std::int64_t i = 0; i < width_ * channels_; ++i) {
    const std::uint8_t value = to_byte(scanner.number("sample", maxval_));
    const std::int64_t at = i - x.begin * channels_;
    if (at >= 0 && at < static_cast<std::int64_t>(row_.size())) {
      row_[static_cast<std::size_t>(at)] = value;
    }
  }
  return row_.data();
}

void PnmDecoder::read(const std::string& name, const StoredRequest& request, RowSink& sink,
                      std::vector<std::uint8_t>& pixels) {
  Scanner scanner(file_, name, samples_at_);
  check_length(scanner);
  const AxisPart y = plan_axis(request.y, height_, 8);
  const AxisPart x = plan_axis(request.x, width_, 8);
  row_.resize(static_cast<std::size_t>((x.end - x.begin) * channels_));
  sink.start(channels_ == 1 ? Samples::grey : Samples::rgb, request.channels, y, x, pixels);
  for (std::int64_t i = text_ ? 0 : y.begin; i < y.end; ++i) {
    const std::uint8_t* row = text_ ? text_row(scanner, x) : binary_row(scanner, i, x);
    if (i >= y.begin) sink.add(row);
  }
  if (text_ && y.end == height_) {
    scanner.skip_space();
    if (scanner.left() > 0) scanner.fail(std::to_string(scanner.left()) + " trailing bytes");
  }
}

}  // namespace

std::unique_ptr<FormatDecoder> make_pnm_decoder() {
  return std::make_unique<PnmDecoder>();
}

}  // namespace vitrine
