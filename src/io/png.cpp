// PNG through libpng.
//
// libpng reports errors by longjmp, which must not pass over C++ objects. The functions that call
// setjmp hold pointers and numbers only; memory is owned by their callers.

#include <png.h>

#include <csetjmp>
#include <cstdio>
#include <cstring>

#include "io/image_formats.h"
#include "vitrine/tensor.h"

namespace vitrine {
namespace {

struct PngReader {
  png_structp png = nullptr;
  png_infop info = nullptr;
  const unsigned char* data = nullptr;
  std::size_t left = 0;
  char message[200] = {};

  PngReader() = default;
  PngReader(const PngReader&) = delete;
  PngReader& operator=(const PngReader&) = delete;
  ~PngReader() { png_destroy_read_struct(&png, &info, nullptr); }
};

[[noreturn]] void on_error(png_structp png, png_const_charp text) {
  auto* reader = static_cast<PngReader*>(png_get_error_ptr(png));
  std::snprintf(reader->message, sizeof reader->message, "%s", text);
  png_longjmp(png, 1);
}

void on_warning(png_structp, png_const_charp) {}

void on_read(png_structp png, png_bytep out, std::size_t bytes) {
  auto* reader = static_cast<PngReader*>(png_get_io_ptr(png));
  if (bytes > reader->left) png_error(png, "the file ends early");
  std::memcpy(out, reader->data, bytes);
  reader->data += bytes;
  reader->left -= bytes;
}

/// Reads up to the pixels and asks for 8-bit samples without palette.
bool read_header(PngReader* reader) {
  if (setjmp(png_jmpbuf(reader->png))) return false;
  png_set_read_fn(reader->png, reader, on_read);
  png_read_info(reader->png, reader->info);
  png_set_expand(reader->png);
  png_set_scale_16(reader->png);
  png_set_interlace_handling(reader->png);
  png_read_update_info(reader->png, reader->info);
  return true;
}

bool read_rows(PngReader* reader, png_bytepp rows) {
  if (setjmp(png_jmpbuf(reader->png))) return false;
  png_read_image(reader->png, rows);
  png_read_end(reader->png, nullptr);
  return true;
}

/// The colour seen through alpha on white, rounded.
std::uint8_t over_white(unsigned colour, unsigned alpha) {
  return static_cast<std::uint8_t>((colour * alpha + 255 * (255 - alpha) + 127) / 255);
}

}  // namespace

Image decode_png(const std::string& bytes, const std::string& name) {
  PngReader reader;
  reader.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &reader, on_error, on_warning);
  if (reader.png != nullptr) reader.info = png_create_info_struct(reader.png);
  if (reader.info == nullptr) throw OutOfMemory(name + ": no memory to decode PNG");
  reader.data = reinterpret_cast<const unsigned char*>(bytes.data());
  reader.left = bytes.size();
  const auto check = [&](bool ok) {
    if (!ok) throw BadInput(name + ": damaged PNG: " + reader.message);
  };
  check(read_header(&reader));

  const std::size_t samples = png_get_channels(reader.png, reader.info);
  const std::size_t channels = samples >= 3 ? 3 : 1;
  Image image =
      new_image(static_cast<std::int64_t>(channels), png_get_image_height(reader.png, reader.info),
                png_get_image_width(reader.png, reader.info), name);
  const std::size_t row_bytes = png_get_rowbytes(reader.png, reader.info);
  const auto height = static_cast<std::size_t>(image.height);
  std::vector<std::uint8_t> buffer(height * row_bytes);
  std::vector<png_bytep> rows(height);
  for (std::size_t y = 0; y < height; ++y) rows[y] = buffer.data() + y * row_bytes;
  check(read_rows(&reader, rows.data()));

  const std::size_t plane = height * static_cast<std::size_t>(image.width);
  for (std::size_t i = 0; i < plane; ++i) {
    const std::uint8_t* pixel = buffer.data() + i * samples;
    const unsigned alpha = samples > channels ? pixel[channels] : 255u;
    for (std::size_t c = 0; c < channels; ++c) {
      image.pixels[c * plane + i] = over_white(pixel[c], alpha);
    }
  }
  return image;
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
