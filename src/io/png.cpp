// PNG through libpng.
//
// libpng reports errors by longjmp, which must not pass over C++ objects. The functions that call
// setjmp touch members and numbers only.
//
// Rows stream through one row of memory; of an interlaced file the rows of the box are kept, since
// each of its seven passes touches them.

#include <png.h>

#include <csetjmp>
#include <cstdio>
#include <cstring>

#include "io/image_formats.h"
#include "vitrine/image.h"
#include "vitrine/tensor.h"

namespace vitrine {
namespace {

class PngDecoder : public FormatDecoder {
 public:
  PngDecoder() = default;
  PngDecoder(const PngDecoder&) = delete;
  PngDecoder& operator=(const PngDecoder&) = delete;
  ~PngDecoder() override { close(); }

  PictureInfo open(std::span<const unsigned char> file, const std::string& name) override;
  void read(const std::string& name, const StoredRequest& request, RowSink& sink,
            std::vector<std::uint8_t>& pixels) override;

 private:
  [[noreturn]] static void on_error(png_structp png, png_const_charp text);
  static void on_warning(png_structp, png_const_charp) {}
  static void on_read(png_structp png, png_bytep out, std::size_t bytes);

  // These return false with `message_` set.
  bool read_header();
  bool expand();
  bool read_rows(png_bytep row, std::int64_t count);
  bool read_passes(std::int64_t begin, std::int64_t end);
  bool read_end();

  void check(bool ok, const std::string& name) {
    if (!ok) fail_decoding(name, std::string("damaged PNG: ") + message_);
  }
  int orientation();
  void close() { png_destroy_read_struct(&png_, &info_, nullptr); }

  png_structp png_ = nullptr;
  png_infop info_ = nullptr;
  std::span<const unsigned char> left_;
  char message_[200] = {};
  std::int64_t height_ = 0;
  std::vector<std::uint8_t> rows_;  ///< one, or those of the box
  std::vector<unsigned char> exif_;
};

void PngDecoder::on_error(png_structp png, png_const_charp text) {
  auto* self = static_cast<PngDecoder*>(png_get_error_ptr(png));
  std::snprintf(self->message_, sizeof self->message_, "%s", text);
  png_longjmp(png, 1);
}

void PngDecoder::on_read(png_structp png, png_bytep out, std::size_t bytes) {
  auto* self = static_cast<PngDecoder*>(png_get_io_ptr(png));
  if (bytes > self->left_.size()) png_error(png, "the file ends early");
  std::memcpy(out, self->left_.data(), bytes);
  self->left_ = self->left_.subspan(bytes);
}

bool PngDecoder::read_header() {
  if (setjmp(png_jmpbuf(png_))) return false;
  png_set_user_limits(png_, PNG_UINT_31_MAX, PNG_UINT_31_MAX);  // ours are checked afterwards
  png_set_read_fn(png_, this, on_read);
  png_read_info(png_, info_);
  return true;
}

/// Asks for 8-bit samples without palette.
bool PngDecoder::expand() {
  if (setjmp(png_jmpbuf(png_))) return false;
  png_set_expand(png_);
  png_set_scale_16(png_);
  png_set_interlace_handling(png_);
  png_read_update_info(png_, info_);
  return true;
}

bool PngDecoder::read_rows(png_bytep row, std::int64_t count) {
  if (setjmp(png_jmpbuf(png_))) return false;
  for (std::int64_t i = 0; i < count; ++i) png_read_row(png_, row, nullptr);
  return true;
}

bool PngDecoder::read_passes(std::int64_t begin, std::int64_t end) {
  if (setjmp(png_jmpbuf(png_))) return false;
  const std::size_t row_bytes = png_get_rowbytes(png_, info_);
  for (int pass = 0; pass < PNG_INTERLACE_ADAM7_PASSES; ++pass) {
    for (std::int64_t y = 0; y < height_; ++y) {
      const bool wanted = y >= begin && y < end;
      png_bytep row = rows_.data() + (wanted ? static_cast<std::size_t>(y - begin) * row_bytes : 0);
      png_read_row(png_, wanted ? row : nullptr, nullptr);
    }
  }
  return true;
}

bool PngDecoder::read_end() {
  if (setjmp(png_jmpbuf(png_))) return false;
  png_read_end(png_, nullptr);
  return true;
}

/// Of a chunk before the pixels.
int PngDecoder::orientation() {
  png_bytep exif = nullptr;
  png_uint_32 bytes = 0;
  if (!png_get_eXIf_1(png_, info_, &bytes, &exif)) return 1;
  constexpr unsigned char kStart[] = {'E', 'x', 'i', 'f', 0, 0};
  exif_.assign(std::begin(kStart), std::end(kStart));
  exif_.insert(exif_.end(), exif, exif + bytes);
  return exif_orientation(exif_);
}

PictureInfo PngDecoder::open(std::span<const unsigned char> file, const std::string& name) {
  close();
  png_ = png_create_read_struct(PNG_LIBPNG_VER_STRING, this, on_error, on_warning);
  if (png_ != nullptr) info_ = png_create_info_struct(png_);
  if (info_ == nullptr) throw OutOfMemory(one_line(name) + ": no memory to decode PNG");
  left_ = file;
  check(read_header(), name);
  height_ = png_get_image_height(png_, info_);
  const std::int64_t width = png_get_image_width(png_, info_);
  check_image_size(height_, width, name);
  const bool colour = png_get_color_type(png_, info_) & PNG_COLOR_MASK_COLOR;
  return {"PNG", height_, width, colour ? 3 : 1, orientation()};
}

void PngDecoder::read(const std::string& name, const StoredRequest& request, RowSink& sink,
                      std::vector<std::uint8_t>& pixels) {
  const bool interlaced = png_get_interlace_type(png_, info_) != PNG_INTERLACE_NONE;
  check(expand(), name);
  constexpr Samples kSamples[] = {Samples::grey, Samples::grey_alpha, Samples::rgb,
                                  Samples::rgb_alpha};
  const std::int64_t samples = png_get_channels(png_, info_);
  const AxisPart y = plan_axis(request.y, height_, 8);
  const AxisPart x = plan_axis(request.x, png_get_image_width(png_, info_), 8);
  const std::size_t row_bytes = png_get_rowbytes(png_, info_);
  const std::int64_t count = y.end - y.begin;
  rows_.resize(row_bytes * (interlaced ? static_cast<std::size_t>(count) : 1));
  if (interlaced) {
    check(read_passes(y.begin, y.end), name);
  } else {
    check(read_rows(nullptr, y.begin), name);
  }
  sink.start(kSamples[samples - 1], request.channels, y, x, pixels);
  for (std::int64_t i = 0; i < count; ++i) {
    std::uint8_t* row = rows_.data() + (interlaced ? static_cast<std::size_t>(i) * row_bytes : 0);
    if (!interlaced) check(read_rows(row, 1), name);
    sink.add(row + x.begin * samples);
  }
  if (interlaced || y.end == height_) check(read_end(), name);
  close();
}

}  // namespace

std::unique_ptr<FormatDecoder> make_png_decoder() {
  return std::make_unique<PngDecoder>();
}

std::vector<std::uint8_t> encode_png(const Image& image) {
  const auto channels = static_cast<std::size_t>(image.channels);
  const std::size_t plane = static_cast<std::size_t>(image.height * image.width);
  if ((channels != 1 && channels != 3) || plane == 0 || image.pixels.size() != channels * plane) {
    throw BadInput("encode_png: " + std::to_string(image.pixels.size()) + " bytes for " +
                   Shape({image.channels, image.height, image.width}).str() +
                   ", expected 1 or 3 channels");
  }
  std::vector<std::uint8_t> interleaved(image.pixels.size());
  for (std::size_t i = 0; i < image.pixels.size(); ++i) {
    interleaved[i % plane * channels + i / plane] = image.pixels[i];
  }
  png_image png{};
  png.version = PNG_IMAGE_VERSION;
  png.width = static_cast<png_uint_32>(image.width);
  png.height = static_cast<png_uint_32>(image.height);
  png.format = channels == 1 ? PNG_FORMAT_GRAY : PNG_FORMAT_RGB;
  png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(png);
  std::vector<std::uint8_t> bytes(size);
  // libpng's simplified writer: errors are returned, not thrown.
  if (!png_image_write_to_memory(&png, bytes.data(), &size, 0, interleaved.data(), 0, nullptr)) {
    throw OutOfMemory(std::string("encode_png: ") + png.message);
  }
  bytes.resize(size);
  return bytes;
}

}  // namespace vitrine
